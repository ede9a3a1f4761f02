"""What travels with the script."""

import os
import subprocess
import sys
import tarfile

import pytest

from tfspawner.errors import ConfigurationError
from tfspawner.jobs.packing import UNASKED_LIMIT_BYTES, mentions, pack


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "project"
    for name in ("train.py", "lib/a.py", "data/x.bin", "runs/old/report.json", ".git/config", "lib/__pycache__/a.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(code):
    """The archive's names; the code is kept alive meanwhile, since its file has no other name."""
    with tarfile.open(fileobj=code.open()) as archive:
        return sorted(archive.getnames())


def packed(folder, **options):
    return pack(folder, **{"out": folder / "runs", "is_named": False, **options})


def test_all_but_what_is_never_code_travels(folder):
    assert names(packed(folder)) == ["data/x.bin", "lib/a.py", "train.py"]


def test_tfspawnerignore_is_in_gitignores_notation(folder):
    (folder / ".tfspawnerignore").write_text("# data\n/data/\n*.tmp\n!keep.tmp\n")
    (folder / "a.tmp").touch()
    (folder / "keep.tmp").touch()
    assert names(packed(folder)) == [".tfspawnerignore", "keep.tmp", "lib/a.py", "train.py"]


def test_a_virtual_environment_stays_here(folder):
    (folder / "env/lib").mkdir(parents=True)
    (folder / "env/pyvenv.cfg").touch()
    (folder / "env/lib/big.so").touch()
    assert not [name for name in names(packed(folder)) if name.startswith("env")]


def test_links_are_followed_and_loops_end(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/shared.py").write_text("x")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "broken").symlink_to("nowhere")
    assert names(packed(folder)) == ["data/x.bin", "lib/a.py", "linked/shared.py", "train.py"]


def test_code_that_lies_where_the_runs_go_travels_without_them(folder):
    (folder / "old-job").mkdir()
    (folder / "old-job/.job-id").touch()
    (folder / "old-job/report.json").touch()
    found = names(packed(folder, out=folder))
    assert "train.py" in found
    assert not [name for name in found if name.startswith("old-job")]


@pytest.mark.parametrize("link", ["a-link", "z-link"])
def test_a_folder_and_a_link_to_it_both_travel(folder, link):
    (folder / link).symlink_to("lib")
    assert names(packed(folder)) == sorted(["data/x.bin", "lib/a.py", f"{link}/a.py", "train.py"])


def test_links_that_lead_round_in_a_ring_end(folder):
    (folder / "data/to-lib").symlink_to("../lib")
    (folder / "lib/to-data").symlink_to("../data")
    (folder / "self").symlink_to("self")
    (folder / "train-too.py").symlink_to("train.py")
    found = names(packed(folder))
    assert {"data/x.bin", "lib/a.py", "train.py", "train-too.py"} <= set(found)
    assert len(found) < 20


def test_what_is_no_file_and_odd_names_do_no_harm(folder):
    os.mkfifo(folder / "pipe")
    odd = ["a b", "n\nl", "\u96ea.py", os.fsdecode(b"\xff.py"), "-x", "x" * 200]
    for name in odd:
        (folder / name).write_text(name, errors="surrogateescape")
    code = packed(folder)
    assert code.file_count == 9
    with tarfile.open(fileobj=code.open()) as archive:
        assert {name: archive.extractfile(name).read() for name in odd} == {name: os.fsencode(name) for name in odd}


def test_an_ignored_link_to_a_folder_stays_here(folder):
    (folder / ".tfspawnerignore").write_text("data\nlink/\n")
    (folder / "link").symlink_to("lib")
    assert names(packed(folder)) == [".tfspawnerignore", "lib/a.py", "train.py"]


@pytest.mark.parametrize("data", [b"data\r\nlib\r\n", b"\xef\xbb\xbfdata\nlib\n", b"data\nlib\n# \xff\n"])
def test_tfspawnerignore_may_come_from_any_editor(folder, data):
    (folder / ".tfspawnerignore").write_bytes(data)
    assert names(packed(folder)) == [".tfspawnerignore", "train.py"]


@pytest.mark.parametrize("out", ["lib", "data/../lib", "link"])
def test_the_out_folder_stays_here_under_any_name(folder, out):
    (folder.parent / "link").symlink_to(folder / "lib")
    found = names(packed(folder, out=folder.parent / "link" if out == "link" else folder / out))
    assert found == ["data/x.bin", "runs/old/report.json", "train.py"]


def test_the_out_folder_stays_here_where_a_link_leads_to_it(folder, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/old.h5").touch()
    (folder / "results").symlink_to(tmp_path / "results")
    assert "results/old.h5" not in names(packed(folder, out=tmp_path / "results"))


def test_a_script_at_a_virtual_environments_top_travels(folder):
    (folder / "pyvenv.cfg").touch()
    assert "train.py" in names(packed(folder))


def test_files_are_packed_in_the_order_of_their_names(folder):
    for name in "hbgcfdea":
        (folder / "lib" / f"{name}.py").touch()
    code = packed(folder)
    with tarfile.open(fileobj=code.open()) as archive:
        assert [name for name in archive.getnames() if name[:4] == "lib/"] == [f"lib/{name}.py" for name in "abcdefgh"]


def test_code_beside_its_runs_travels(folder):
    assert "train.py" in names(packed(folder, out=folder))
    assert "train.py" in names(packed(folder, out=folder.parent))


def test_the_same_files_make_the_same_bytes(folder, tmp_path):
    for name in ("lib/b.py", "lib/c.py"):
        (folder / name).write_text(name)
    first = packed(folder)
    assert first.open().read()[4:8] == bytes(4)  # gzip's time of packing
    os.utime(folder / "train.py", (1, 1))
    (folder / "train.py").chmod(0o640)
    assert packed(folder).sha256 == first.sha256
    other = tmp_path / "elsewhere"
    for name in ("train.py", "lib/c.py", "lib/b.py", "lib/a.py", "data/x.bin"):  # in another order and place
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text(name)
    again = packed(other)
    assert (again.sha256, again.open().read()) == (first.sha256, first.open().read())
    assert (again.size_bytes, again.file_count) == (len(first.open().read()), 5)
    (folder / "train.py").write_text("other")
    assert packed(folder).sha256 != first.sha256


@pytest.mark.parametrize("change", ["name", "mode", "more"])
def test_any_change_of_the_files_changes_the_bytes(folder, change):
    first = packed(folder)
    if change == "name":
        (folder / "lib/a.py").rename(folder / "lib/b.py")
    elif change == "mode":
        (folder / "lib/a.py").chmod(0o755)
    else:
        (folder / "lib/empty.py").touch()
    assert packed(folder).sha256 != first.sha256


def test_an_executable_stays_one(folder):
    (folder / "train.py").chmod(0o755)
    code = packed(folder)
    with tarfile.open(fileobj=code.open()) as archive:
        assert {member.name: member.mode for member in archive}["train.py"] == 0o755
        assert archive.getmember("lib/a.py").mode == 0o644


def test_a_huge_folder_travels_only_when_it_was_named(folder, monkeypatch):
    assert UNASKED_LIMIT_BYTES == 512 * 1024**2
    monkeypatch.setattr("tfspawner.jobs.packing.UNASKED_LIMIT_BYTES", 53 * 1024**2)  # half a GiB takes seconds to pack
    with open(folder / "huge", "wb") as file:
        file.truncate(54 * 1024**2)
    with pytest.raises(ConfigurationError, match=r"holds 0\.1 GiB") as error:
        packed(folder)
    assert ".tfspawnerignore" in error.value.hint
    assert f"--workdir {folder}" in error.value.hint
    assert "huge" in names(packed(folder, is_named=True))
    (folder / ".tfspawnerignore").write_text("huge\n")
    assert "huge" not in names(packed(folder))


def test_wheels_travel_in_a_folder_of_their_own(folder, tmp_path):
    wheel = tmp_path / "x-1-py3-none-any.whl"
    wheel.touch()
    assert ".tfspawner/x-1-py3-none-any.whl" in names(packed(folder, wheels=(wheel,)))


def test_an_archive_leaves_nothing_in_tmp(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    code = packed(folder)
    assert code.open().read()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_files_that_mention_a_word_are_found(folder):
    (folder / "lib/model.py").write_text("import keras")
    (folder / "data/x.bin").write_text("keras")
    assert mentions(folder, "keras", out=folder / "runs") == [folder / "lib/model.py"]


# ---- what cannot be read, or written ------------------------------------------------------------

READERS = """
import sys
from pathlib import Path
from tfspawner.jobs.packing import digests, mentions, pack
from tfspawner.errors import ConfigurationError
from tfspawner.plan.secrecy import Known
folder = Path(sys.argv[1])
out = folder / "runs"
for made in (lambda: pack(folder, out=out, is_named=False), lambda: digests(folder, out=out), lambda: mentions(folder, "x", out=out),
             lambda: pack(folder, out=out, is_named=False, known=Known({"KEY": "a-long-value"}))):
    try:
        made()
        print("done")
    except ConfigurationError as error:
        print(error.message, "|", error.hint)
"""


# Root may read all; without these two rights it is its files' owner, like anyone else.
AS_OWNER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []


def told_by_readers(folder):
    """What their owner is told of the folder by all that read it."""
    words = [*AS_OWNER, sys.executable, "-c", READERS, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["lib/a.py", "lib", "data"])
def test_a_file_or_folder_that_cannot_be_read_is_refused_by_its_name(folder, name):
    (folder / name).chmod(0)
    try:
        told = told_by_readers(folder)
        (folder / ".tfspawnerignore").write_text(f"/{name}\n")
        ignored = told_by_readers(folder)
    finally:
        (folder / name).chmod(0o755)
    assert len(told) == 4
    for line in told:
        assert line == f"{name}, in the folder that travels, cannot be read: Permission denied | name it in .tfspawnerignore if the script does not need it"  # fmt: skip
    assert ignored == ["done"] * 4


def test_a_file_that_becomes_shorter_or_vanishes_while_it_is_packed_is_told(folder, monkeypatch):
    (folder / "data/x.bin").write_bytes(bytes(200_000))
    real, fstat = os.fstat, lambda fd: real(fd)

    def shrinking(descriptor):
        status = fstat(descriptor)
        if status.st_size == 200_000:
            os.truncate(folder / "data/x.bin", 100)
        return status

    monkeypatch.setattr("tfspawner.jobs.packing.os.fstat", shrinking)
    with pytest.raises(ConfigurationError, match=r"data/x\.bin, in the folder that travels, became shorter"):
        packed(folder)
    monkeypatch.undo()
    monkeypatch.setattr("tfspawner.jobs.packing._size", lambda file: (folder / "lib/a.py").unlink(missing_ok=True) or 0)
    with pytest.raises(ConfigurationError, match=r"lib/a\.py, .* No such file or directory"):
        packed(folder)


def test_a_full_folder_for_temporary_files_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda prefix: open("/dev/full", "w+b"))
    (folder / "data/x.bin").write_bytes(os.urandom(200_000))
    with pytest.raises(ConfigurationError, match=r"cannot be written to .*: No space left on device") as error:
        packed(folder)
    assert "TMPDIR" in error.value.hint


@pytest.mark.parametrize(
    ("script", "lines", "why"),
    [("train.py", "train.py", "is left out by .tfspawnerignore"), ("lib/a.py", "lib/", "is left out by .tfspawnerignore"),
     ("id_train", "", r"looks like a key \(id_train\)"), ("lib/__pycache__/a.pyc", "", "is in a folder that never travels")],
)  # fmt: skip
def test_a_script_that_would_not_travel_is_refused(folder, script, lines, why):
    (folder / script).touch()
    (folder / ".tfspawnerignore").write_text(f"{lines}\n")
    with pytest.raises(ConfigurationError, match=f"the script {script} {why}"):
        packed(folder, script=script)


def test_the_line_that_brings_a_script_back_does(folder):
    (folder / ".tfspawnerignore").write_text("*.py\n!/train.py\n")
    assert "train.py" in names(packed(folder, script="train.py"))
