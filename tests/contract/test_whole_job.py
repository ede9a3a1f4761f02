"""One job with every role and much of what a job can ask for; each test looks at one side of how it went."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPLICAS = ["chief-0", "worker-0", "worker-1", "ps-0", "evaluator-0"]
TRAINERS = ["chief-0", "worker-0", "worker-1"]
SECRET_BY_FILE, SECRET_BY_FLAG = "s3cret=of the file #1", "s3cret-of-the-flag"
BAR = b" 3/10 [========>.....................] - ETA: 1s - loss: 0.5000"
SCRIPT = r"""
import hashlib, json, os, socket, sys, time
config = json.loads(os.environ["TF_CONFIG"])
role, index = config["task"]["type"], config["task"]["index"]
me = f"{role}-{index}".encode()
out = os.environ["TFSPAWNER_OUTPUT"]

def put(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)

def command_line(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read().split("\0")

seen = {
    "env": dict(os.environ),
    "args": sys.argv[1:],
    "host": socket.gethostname(),
    "ip": socket.gethostbyname(socket.gethostname()),
    "argv": command_line("self") + command_line(os.getppid()),
    "here": sorted(os.path.relpath(os.path.join(top, name)) for top, _, names in os.walk(".") for name in names),
}
put(f"{out}/seen.json", json.dumps(seen).encode())
put(f"{out}/model/deep/weights.bin", hashlib.sha256(me).digest() * 5000)
put(f"{out}/empty", b"")
os.makedirs(f"{out}/an/empty/folder")
os.symlink("/etc/passwd", f"{out}/link")
os.symlink("/etc", f"{out}/folder-link")
put("./new-in-workdir.txt", b"new " + me)
with open("data/notes.txt", "a") as notes:
    notes.write("changed")
while role == "chief" and not os.path.exists(os.environ["GATE"]):
    time.sleep(0.02)  # where there are parameter servers, the chief's end is everybody's
pattern = sys.argv[sys.argv.index("--elsewhere") + 1]
put(f"{pattern}-{me.decode()}/kept.txt", b"elsewhere " + me)
os.write(1, me + b" writes \xff\xfe bytes that are no text\r\n")
os.write(2, b"to stderr as well, with \x1b[31mcolour\x1b[0m\n")
os.write(1, b"Epoch 1/1\n")
for step in range(1, 11):
    os.write(1, b"\r%2d/10 [========>.....................] - ETA: 1s - loss: 0.5000" % step)
os.write(1, b"\n")
for step in range(1, 10):
    os.write(1, b" %d/10 [========>.....................] - ETA: 1s - loss: 0.5000\n" % step)
os.write(1, b"no newline at the end of " + me)
while role == "ps":
    time.sleep(60)
"""


def log_of(replica: str) -> bytes:
    """What the script writes there, byte for byte."""
    me = replica.encode()
    return (
        me + b" writes \xff\xfe bytes that are no text\r\n"
        b"to stderr as well, with \x1b[31mcolour\x1b[0m\n"
        b"Epoch 1/1\n"
        + b"".join(b"\r%2d" % step + BAR[2:] for step in range(1, 11))
        + b"\n"
        + b"".join(b" %d" % step + BAR[2:] + b"\n" for step in range(1, 10))
        + b"no newline at the end of "
        + me
    )


@dataclass
class WholeJob:
    place: Any
    done: Any
    elsewhere: str

    @property
    def record(self) -> Path:
        return Path(self.place.runs / "whole")

    def file(self, replica: str, name: str) -> Path:
        return self.record / "files" / replica / name

    def seen(self, replica: str) -> dict[str, Any]:
        return dict(json.loads(self.file(replica, "seen.json").read_text()))


@pytest.fixture(scope="module")
def whole(shared_place, tmp_path_factory, wait_until) -> WholeJob:
    place = shared_place
    script = place.script(SCRIPT)
    folder = script.parent
    (folder / "data/raw/deep").mkdir(parents=True)
    (folder / "data/notes.txt").write_text("as it travelled; ")
    (folder / "data/raw/deep/shard").write_bytes(b"\0\1\2")
    (folder / "package").mkdir()
    (folder / "package/__init__.py").touch()
    (folder / "ignored-folder").mkdir()
    (folder / "ignored-folder/big").write_text("stays at home")
    (folder / "trace.log").write_text("stays at home")
    (folder / "keep.log").write_text("travels")
    (folder / ".tfspawnerignore").write_text("# what is not code\nignored-folder/\n*.log\n!keep.log\n")
    env_file = place.folder / "env"
    env_file.write_text(f"# by file\n\nBY_FILE='{SECRET_BY_FILE}'\nBOTH=from the file\n")
    elsewhere = f"/tmp/{tmp_path_factory.mktemp('elsewhere').name}-{place.folder.parent.name}"
    running = place.start_run(
        script, "--name", "whole", "--chief", "-w", "2", "--ps", "1", "--evaluator", "--keep", "-t", "some-tag",
        "-e", env_file, "--env", f"BY_FLAG={SECRET_BY_FLAG}", "--env", "BOTH=from the flag",
        "--env", f"GATE={place.gate}", "--collect", f"{elsewhere}*", "--", "--elsewhere", elsewhere, "--an arg", "with spaces",
    )  # fmt: skip
    running.prints("worker-0 | ", "worker-1 | ", "evaluator-0 | ", "ps-0 | ")
    wait_until(lambda: all_but_the_chief_are_done(place), "all but the chief are done")
    place.open_gate("whole", "chief-0")
    yield WholeJob(place=place, done=running.done(), elsewhere=elsewhere)
    subprocess.run(["sh", "-c", f"rm -rf {elsewhere}-*"])


def all_but_the_chief_are_done(place) -> bool:
    lines = place.of("status", "whole", "--output", "json").json["replicas"]
    ended = {line["replica"] for line in lines if line["state"] == "succeeded"}
    log = place.of("logs", "whole", "--replica", "ps-0").stdout
    return ended == {"worker-0", "worker-1", "evaluator-0"} and log == log_of("ps-0")


def test_it_exits_with_0_and_says_where_logs_and_files_are(whole):
    assert whole.done.code == 0, whole.done.err
    assert f"logs:  {whole.record}/logs" in whole.done.err
    assert f"files: {whole.record}/files" in whole.done.err


@pytest.mark.parametrize("replica", REPLICAS)
def test_each_replicas_log_is_here_byte_for_byte(whole, replica):
    assert (whole.record / f"logs/{replica}.log").read_bytes() == log_of(replica)


def test_stdout_carries_every_line_under_its_replicas_name(whole):
    """Byte for byte, since it is a pipe."""
    lines = whole.done.stdout.splitlines()
    for replica in map(str.encode, REPLICAS):
        own = [line.removeprefix(replica + b" | ") for line in lines if line.startswith(replica + b" | ")]
        assert own == [
            replica + b" writes \xff\xfe bytes that are no text",
            b"to stderr as well, with \x1b[31mcolour\x1b[0m",
            b"Epoch 1/1",
            b"10/10 [========>.....................] - ETA: 1s - loss: 0.5000",
            b"no newline at the end of " + replica,
        ]


def test_stdout_has_no_progress_bar_and_nothing_else_than_log_lines(whole):
    lines = whole.done.stdout.decode(errors="replace").splitlines()
    assert [line for line in lines if re.search(r"\b[1-9]/10 \[", line)] == []
    assert [line for line in lines if not line.startswith(tuple(f"{replica} | " for replica in REPLICAS))] == []


@pytest.mark.parametrize("replica", REPLICAS)
def test_tensorflows_own_resolver_reads_the_right_cluster_from_tf_config(whole, replica, monkeypatch):
    tensorflow = pytest.importorskip("tensorflow")
    monkeypatch.setenv("TF_CONFIG", whole.seen(replica)["env"]["TF_CONFIG"])
    resolver = tensorflow.distribute.cluster_resolver.TFConfigClusterResolver()
    role, _, index = replica.rpartition("-")
    assert (resolver.task_type, resolver.task_id) == (role, int(index))
    cluster = resolver.cluster_spec().as_dict()
    if role == "evaluator":  # it stands outside of the cluster that trains
        assert {name: len(hosts) for name, hosts in cluster.items()} == {"evaluator": 1}
        return
    assert {name: len(hosts) for name, hosts in cluster.items()} == {"chief": 1, "worker": 2, "ps": 1}
    addresses = [host for hosts in cluster.values() for host in hosts]
    assert len(set(addresses)) == 4
    if whole.place.on == "kubernetes":
        assert whole.seen(replica)["host"] == f"whole-{replica}"
        assert cluster[role][int(index)] == f"{whole.seen(replica)['ip']}:2222"
    assert json.loads(whole.seen("ps-0")["env"]["TF_CONFIG"])["cluster"] == cluster


def test_the_originals_variables_are_set(whole):
    numbers = [whole.seen(replica)["env"]["WORKER_NUMBER"] for replica in REPLICAS]
    assert numbers == ["0", "1", "2", "3", "4"]
    assert {whole.seen(replica)["env"]["TOT_WORKERS"] for replica in REPLICAS} == {"5"}


def test_arguments_reach_the_script_as_they_were_given(whole):
    for replica in REPLICAS:
        assert whole.seen(replica)["args"] == ["--elsewhere", whole.elsewhere, "--an arg", "with spaces"]


def test_values_of_env_file_and_env_reach_every_script_and_flags_win(whole):
    for replica in REPLICAS:
        env = whole.seen(replica)["env"]
        assert env["BY_FILE"] == SECRET_BY_FILE
        assert env["BY_FLAG"] == SECRET_BY_FLAG
        assert env["BOTH"] == "from the flag"


def test_the_jobs_token_does_not_reach_the_script(whole):
    for replica in REPLICAS:
        assert [key for key in whole.seen(replica)["env"] if "TOKEN" in key] == []


def test_no_value_stands_in_a_command_line_of_the_replicas(whole):
    for replica in REPLICAS:
        argv = whole.seen(replica)["argv"]
        assert "--role" in argv, "the agent's own command line was not read"
        assert [word for word in argv if "s3cret" in word] == []


def test_no_value_stands_in_the_runs_record(whole):
    record = [p for p in whole.record.rglob("*") if p.is_file() and "files" not in p.relative_to(whole.record).parts]
    assert record
    for path in record:
        assert b"s3cret" not in path.read_bytes(), path


def test_no_value_stands_in_an_object_but_the_secret(whole):
    if whole.place.on == "local":
        folder = Path(whole.place.env["XDG_STATE_HOME"]) / "tf-spawner/jobs/whole"
        stored = {p: p.read_bytes() for p in folder.glob("*") if p.is_file()}
    else:
        kinds = ("jobs", "pods", "services", "configmaps", "networkpolicies", "events")
        get = ("-n", whole.place.namespace, "get")
        stored = {kind: whole.place.kubectl(*get, kind, "-o", "yaml").encode() for kind in kinds}
    assert stored
    for what, text in stored.items():
        assert b"s3cret" not in text, what


@pytest.mark.parametrize("replica", REPLICAS)
def test_output_folders_come_whole_from_every_replica(whole, replica):
    expected = hashlib.sha256(replica.encode()).digest() * 5000
    assert whole.file(replica, "model/deep/weights.bin").read_bytes() == expected
    assert whole.file(replica, "empty").read_bytes() == b""
    assert whole.file(replica, "an/empty/folder").is_dir()


def test_new_and_changed_files_of_the_working_folder_come_and_old_ones_do_not(whole):
    for replica in REPLICAS:
        workdir = whole.file(replica, "workdir")
        assert (workdir / "new-in-workdir.txt").read_text() == f"new {replica}"
        assert (workdir / "data/notes.txt").read_text() == "as it travelled; changed"
        assert sorted(str(p.relative_to(workdir)) for p in workdir.rglob("*") if p.is_file()) == [
            "data/notes.txt",
            "new-in-workdir.txt",
        ]


def test_files_elsewhere_come_by_collect(whole):
    replica = "worker-1"
    found = whole.file(replica, f"collected{whole.elsewhere}-{replica}/kept.txt")
    assert found.read_text() == f"elsewhere {replica}"


def test_links_are_not_followed_and_are_told(whole):
    for replica in REPLICAS:
        names = {str(p.relative_to(whole.file(replica, ""))) for p in whole.file(replica, "").rglob("*")}
        assert "link" not in names
        assert not any(name.startswith("folder-link") for name in names)
    assert "links and devices do not travel" in whole.done.err
    assert not [p for p in whole.record.rglob("*") if p.is_symlink()]


def test_the_folder_travels_with_its_sub_folders_and_without_what_tfspawnerignore_names(whole):
    for replica in REPLICAS:
        assert [name for name in whole.seen(replica)["here"] if not name.startswith(".")] == [
            "data/notes.txt",
            "data/raw/deep/shard",
            "keep.log",
            "package/__init__.py",
            "train.py",
        ]


def test_the_report_tells_result_replicas_times_and_files(whole):
    report = json.loads((whole.record / "report.json").read_text())
    assert (report["job"], report["result"]) == ("whole", "succeeded")
    states = {line["replica"]: line["state"] for line in report["replicas"]}
    assert states == dict.fromkeys(REPLICAS, "succeeded") | {"ps-0": "stopped"}
    times = report["times"]
    assert times["launched"] <= times["forming"] <= times["running"] <= times["stopping"] <= times["ended"]
    for replica, files in report["files"].items():
        for file in files:
            data = whole.file(replica, file["path"]).read_bytes()
            assert (file["size"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert set(report["files"]) == set(REPLICAS)


def test_keep_leaves_the_objects_and_list_shows_the_job_with_its_tag(whole):
    assert whole.place.leftovers() != []
    (entry,) = whole.place.of("list", "--output", "json").json
    assert (entry["job"], entry["tag"]) == ("whole", "some-tag")
    assert entry["roles"] == {"chief": 1, "worker": 2, "ps": 1, "evaluator": 1}
    assert "whole" not in whole.place.of("list", "-t", "another-tag").out
