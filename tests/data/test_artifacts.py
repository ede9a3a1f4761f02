"""--artifacts: what a run leaves is in the bucket as it is in the run's folder."""

import hashlib
import json
import shutil
import threading

import pytest

from tfspawner.replica.bucket import Store

SAVES = """
import os, pathlib
output = pathlib.Path(os.environ["TFSPAWNER_OUTPUT"])
(output / "deep").mkdir()
(output / "model").write_bytes(os.environ["WORKER_NUMBER"].encode() * 20_000_000)
(output / "deep/with blank").write_text("x")
print("trained")
"""


@pytest.fixture
def env_file(place, reachable_s3):
    path = place.folder / "s3.env"
    path.write_text("".join(f"{name}={value}\n" for name, value in reachable_s3.variables.items()))
    return path


def files_below(folder) -> dict[str, str]:
    """{relative path: SHA-256}"""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and ".sgwtmp" not in path.parts
    }


def test_the_bucket_holds_what_the_runs_folder_holds(place, reachable_s3, env_file):
    done = place.run(
        place.script(SAVES), "-w", "2", "-e", env_file, "--artifacts", "s3://bucket/models", "--name", "kept"
    )
    assert done.code == 0, done.err
    assert "s3://bucket/models/kept/" in done.err
    bucket = files_below(reachable_s3.folder / "bucket/models/kept")
    here = files_below(place.runs / "kept")
    assert len(bucket) == 6
    assert bucket == {name: here[name] for name in here if name.startswith(("files/", "logs/"))}
    assert json.loads((place.runs / "kept/report.json").read_text())["artifacts"] == "s3://bucket/models/kept/"
    assert reachable_s3.variables["AWS_SECRET_ACCESS_KEY"] not in done.out + done.err
    again = place.run(
        place.script(SAVES), "-w", "1", "-e", env_file, "--artifacts", "s3://bucket/models", "--name", "kept"
    )
    assert again.code == 125
    assert "s3://bucket/models/kept/ holds files already" in again.err
    assert "trained" not in again.out
    assert place.leftovers() == []


def test_a_failed_runs_log_and_files_are_kept_as_well(place, reachable_s3, env_file):
    script = place.script(SAVES + "raise SystemExit('a bug')\n")
    done = place.run(script, "-w", "1", "-e", env_file, "--artifacts", "s3://bucket", "--name", "failed")
    assert done.code == 125
    kept = files_below(reachable_s3.folder / "bucket/failed")
    assert sorted(kept) == ["files/worker-0/deep/with blank", "files/worker-0/model", "logs/worker-0.log"]
    assert b"a bug" in (reachable_s3.folder / "bucket/failed/logs/worker-0.log").read_bytes()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refuses the secret of access key the-access-key"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer"),
        ({"AWS_ENDPOINT_URL": "nonsense://x"}, "the S3 endpoint is 'nonsense://x'"),
    ],
)
def test_what_cannot_be_put_there_is_told_before_training(place, reachable_s3, env_file, variables, words):
    more = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    done = place.run(place.script(SAVES), "-w", "2", "-e", env_file, *more, "--artifacts", "s3://bucket/models")
    assert done.code == 125
    assert words in done.err
    assert "hint: " in done.err
    assert "trained" not in done.out
    assert place.leftovers() == []


def test_a_bucket_that_is_gone_after_training_is_told_and_the_files_are_here(place, reachable_s3, env_file):
    gated = "import os, time\nprint('waits')\nwhile not os.path.exists(GATE): time.sleep(0.02)\n".replace(
        "GATE", repr(place.gate)
    )
    running = place.start_run(
        place.script(gated + SAVES), "-w", "1", "-e", env_file, "--artifacts", "s3://bucket/models", "--name", "gone"
    )
    running.prints("waits")
    shutil.rmtree(reachable_s3.folder / "bucket")
    place.open_gate("gone")
    done = running.done()
    assert done.code == 5, done.err
    assert (
        "worker-0 could not put all into s3://bucket/models/gone/: 3 of 3 files: there is no bucket 'bucket'"
        in done.err
    )
    assert (place.runs / "gone/files/worker-0/model").stat().st_size == 20_000_000
    assert place.leftovers() == []


def test_a_server_that_is_away_for_a_while_gets_all_in_the_end(place, reachable_s3, env_file, gateway):
    gated = "import os, time\nprint('waits')\nwhile not os.path.exists(GATE): time.sleep(0.02)\n".replace(
        "GATE", repr(place.gate)
    )
    running = place.start_run(
        place.script(gated + SAVES), "-w", "1", "-e", env_file, "--artifacts", "s3://bucket", "--name", "away"
    )
    running.prints("waits")
    reachable_s3.stop()
    place.open_gate("away")
    running.prints("worker-0: storing: s3://bucket/away/", stream="stderr")
    reachable_s3.start(gateway)
    done = running.done()
    assert done.code == 0, done.err
    assert len(files_below(reachable_s3.folder / "bucket/away")) == 3


def test_a_detached_job_puts_them_by_itself(place, reachable_s3, env_file):
    launched = place.run(
        place.script(SAVES), "-w", "1", "-e", env_file, "--artifacts", "s3://bucket", "--name", "alone", "--detach"
    )
    assert launched.code == 0, launched.err
    waited = place.of("wait", "alone")
    assert waited.code == 0, waited.err
    assert len(files_below(reachable_s3.folder / "bucket/alone")) == 3
    assert place.of("delete", "alone").code == 0


@pytest.mark.parametrize("uri", ["/tmp/x", "s3://", "s3:///x", "s3://bucket/part-*", "gs://bucket/x"])
def test_what_is_no_folder_of_a_bucket_is_refused(place, uri):
    done = place.run(place.script(SAVES), "--artifacts", uri)
    assert done.code == 2
    assert f"artifacts is {uri!r}" in done.err


@pytest.fixture
def store(s3_server) -> Store:
    return Store("s3://bucket/stored", "job", s3_server.variables)


def test_what_is_there_already_is_not_sent_again(store, s3_server, tmp_path):
    files = []
    for name in "ab":
        path = tmp_path / name
        path.write_text(name)
        files.append((name, str(path), 1, hashlib.sha256(name.encode()).hexdigest()))
    assert store.put_all(files[:1], threading.Event()) is None
    sent = s3_server.folder / "bucket/stored/job/a"
    before = sent.stat().st_mtime_ns
    assert store.put_all(files, threading.Event()) is None
    assert sent.stat().st_mtime_ns == before
    (tmp_path / "a").write_text("c")  # another content under the same name
    changed = ("a", str(tmp_path / "a"), 1, hashlib.sha256(b"c").hexdigest())
    assert store.put_all([changed], threading.Event()) is None
    assert sent.read_text() == "c"


def test_a_replica_that_is_told_to_end_says_what_is_missing(store, tmp_path):
    stop = threading.Event()
    stop.set()
    (tmp_path / "a").write_text("a")
    assert store.put_all([("a", str(tmp_path / "a"), 1, "")], stop) == "1 of 1 files: the replica was told to end"
