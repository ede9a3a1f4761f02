"""A job's folder is removed whatever is in it, and nothing else, whatever has taken its place."""

import errno
import json
import os

import pytest

from tfspawner.backends.local.backend import LocalBackend
from tfspawner.backends.local.removing import remove_folder
from tfspawner.errors import ClusterError, NotFoundError


@pytest.fixture
def precious(tmp_path):
    """A folder beside the jobs that has to stay as it is."""
    folder = tmp_path / "precious"
    (folder / "inner").mkdir(parents=True)
    (folder / "file").write_text("keep")
    (folder / "inner/file").write_text("keep")
    yield folder
    assert (folder / "file").read_text() == (folder / "inner/file").read_text() == "keep"


def test_a_link_in_the_place_of_a_jobs_folder_is_no_job_and_is_not_followed(tmp_path, precious):
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "x").symlink_to(precious)
    backend = LocalBackend(jobs)
    assert backend.jobs() == []
    assert backend.left_out() == [f"{jobs}/x: it is a link, or no folder, and so no job's"]
    with pytest.raises(NotFoundError):
        backend.find("x")
    backend.delete("x", 5)
    with pytest.raises(ClusterError, match="jobs/x cannot be removed"):
        remove_folder(jobs / "x")


def test_links_in_a_jobs_folder_are_removed_and_not_followed(tmp_path, precious):
    job = tmp_path / "job"
    (job / "worker-0/output").mkdir(parents=True)
    for place in (job / "link", job / "worker-0/link", job / "worker-0/output/link"):
        place.symlink_to(precious)
    (job / "worker-0/dangling").symlink_to("nowhere")
    remove_folder(job)
    assert not job.exists()


def test_folders_of_any_depth_and_length_of_path_are_removed(tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    here = os.open(job, os.O_RDONLY)
    try:
        for number in range(3000):
            name = "d" * (200 if number < 40 else 1)
            os.mkdir(name, dir_fd=here)
            inner = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(os.open("file" * 50, os.O_CREAT | os.O_WRONLY, dir_fd=inner))
            os.close(here)
            here = inner
    finally:
        os.close(here)
    (job / "meta.json").write_text("{}")
    remove_folder(job)
    assert not job.exists()


def test_what_cannot_be_removed_is_named_where_it_lay_and_the_job_is_found_again(tmp_path, monkeypatch):
    job = tmp_path / "job"
    (job / "a/b").mkdir(parents=True)
    (job / "a/b/stays").write_text("x")
    (job / "meta.json").write_text("{}")
    true_unlink = os.unlink

    def unlink(path, **where):
        if path == "stays":
            raise OSError(errno.EPERM, "Operation not permitted")
        true_unlink(path, **where)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(ClusterError, match=r"job/a/b/stays cannot be removed: Operation not permitted"):
        remove_folder(job)
    assert (job / "meta.json").exists()
    monkeypatch.undo()
    remove_folder(job)
    assert not job.exists()


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_a_log_that_is_no_file_hangs_nobody_and_is_not_followed(tmp_path, precious, kind):
    root = tmp_path / "jobs/x/worker-0"
    root.mkdir(parents=True)
    for name in ("log", "agent.log"):
        os.mkfifo(root / name) if kind == "fifo" else (root / name).symlink_to(precious / "file")
    backend = LocalBackend(tmp_path / "jobs")
    assert backend.last_output("x", "worker-0") is None
    assert backend._last_words("x", "worker-0") == ""


def test_a_state_folder_that_is_none_is_told(tmp_path):
    (tmp_path / "jobs").write_text("x")
    with pytest.raises(ClusterError, match="cannot be listed: Not a directory"):
        LocalBackend(tmp_path / "jobs").jobs()


LONG_LINES = "error: done\nhint: rm -rf /\n\x1b[2J\u2028\u202e" + "x" * 500_000


@pytest.mark.parametrize(
    "forged",
    [
        json.dumps({"code": 1, "message": LONG_LINES}), json.dumps({"code": LONG_LINES, "message": "m"}),
        '{"code": 1' + "0" * 5000 + ', "message": "m"}', '{"code": 1e999, "message": "m"}',
        json.dumps({"code": 1, "message": [LONG_LINES]}), json.dumps({LONG_LINES: 1}), json.dumps([LONG_LINES]), LONG_LINES,
        json.dumps({"code": True, "message": "m"}), json.dumps({"code": 1.5, "message": None}), "[" * 100_000,
        "\x00" * 100, "\ufeff{}",
    ],
    ids=lambda text: ascii(text[:20]),
)  # fmt: skip
@pytest.mark.parametrize("name", ["exit.json", "agent.log"])
def test_what_a_script_writes_in_its_agents_place_is_told_in_one_short_line(tmp_path, forged, name):
    root = tmp_path / "jobs/x/worker-0"
    root.mkdir(parents=True)
    (root / name).write_text(forged, errors="surrogatepass")
    state, message = LocalBackend(tmp_path / "jobs")._state("x", "worker-0")
    assert state in ("failed", "gone")
    assert message.isprintable()
    assert len(message) < 1200
