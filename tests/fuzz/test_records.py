"""Records that were cut, damaged or made up: one line that names the file, and nothing read or written but the run's own."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from random import Random

import click
import pytest
from click.testing import CliRunner, Result
from mutating import changed, damaged

from tfspawner.backends.local.backend import LocalBackend
from tfspawner.cli import main as cli
from tfspawner.cli import running
from tfspawner.cli.target import complete_run
from tfspawner.errors import NotFoundError, SpawnerError
from tfspawner.jobs import sweep_plan, tensorboard
from tfspawner.jobs import sweeps as sweeping
from tfspawner.jobs.job import attach
from tfspawner.jobs.prepare import prepare as prepare_job
from tfspawner.pages.charts import usage_charts
from tfspawner.pages.run import page
from tfspawner.pages.timeline import timeline
from tfspawner.plan.grid import Sweep
from tfspawner.plan.spec import JobSpec
from tfspawner.record import reading as recorded
from tfspawner.record.slowest import slowest_to_start, starts, trained, used
from tfspawner.record.writing import Record

SHA = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
SPEC = {
    "job": "good", "code_sha256": SHA, "script": "train.py", "args": ["--lr", "1"], "workers": 2, "chief": False, "ps": 0,
    "evaluator": False, "gpus": 0, "on": "local", "name": "good", "tag": "nightly", "timeout_s": 60.0, "env": [], "out": "runs",
    "restarts": 0, "restart_on": ["lost", "stalled"], "hold_s": 86400.0, "keep": False, "detach": False, "legacy_keras": True,
}  # fmt: skip
REPLICA = {
    "replica": "worker-0", "state": "failed", "node": "vm", "since": 1795993563.2, "message": "ended with exit code 1",
    "progress": {"epoch": 2, "metrics": {"loss": 0.79, "accuracy": math.nan}}, "usage": {}, "exit_code": 1, "stored": None,
}  # fmt: skip
REPORT = {
    "job": "good", "result": "failed", "seconds": 6.327,
    "cause": {"replica": "worker-0", "message": "ended with exit code 1: ValueError: no events", "exit_code": 1, "hint": "look",
              "tail": ["Epoch 1/2", "ValueError: no events"]},
    "restarts": [{"replica": "worker-0", "message": "ended with exit code 1", "kind": "failed", "generation": 1, "time": 1795993560.1}],
    "times": {"began": 1795993556.9}, "replicas": [REPLICA, {**REPLICA, "replica": "worker-1", "exit_code": None}],
    "files": {"worker-0": [{"path": "a/m.h5", "size": 1, "sha256": SHA}]}, "artifacts": None, "missing": None,
}  # fmt: skip
EVENTS = [
    {"time": 1795993556.6, "event": "launched", "seconds": 0.031},
    {"time": 1795993556.7, "event": "pod", "replica": "worker-0", "state": "running", "node": "vm"},
    {"time": 1795993556.9, "event": "phase", "phase": "forming"},
    {"time": 1795993557.1, "event": "phase", "phase": "running"},
    {"time": 1795993557.1, "event": "replica", "replica": "worker-0", "state": "running"},
    {"time": 1795993558.1, "event": "usage", "replica": "worker-0", "cpu": 0.01, "memory": 8839168, "gpus": [50.0], "gpu_memory": 5},
    {"time": 1795993559.1, "event": "usage", "replica": "worker-0", "cpu": 0.02, "memory": 8839169},
    {"time": 1795993560.1, "event": "restart", "replica": "worker-0", "message": "ended", "kind": "failed", "generation": 1},
    {"time": 1795993563.3, "event": "replica", "replica": "worker-0", "state": "failed", "message": "ended", "exit_code": 1},
    {"time": 1795993563.5, "event": "collected", "files": 2},
]  # fmt: skip
POINT = {"values": {"lr": "1"}, "id": "885885676974efd1", "result": "succeeded", "error": "", "seconds": 3.1}
SWEEP = {
    "sweep": "sw", "id": "9b0bff84d82221e6", "grid": {"lr": ["1", "2"]}, "parallel": 2,
    "spec": {**SPEC, "job": "sw", "name": "sw", "args": [], "tag": None}, "files": {"train.py": SHA},
    "points": [{**POINT, "job": "sw-1", "metrics": {"loss": 0.79, "accuracy": math.nan}},
               {**POINT, "job": "sw-2", "values": {"lr": "2"}, "metrics": {"loss": 0.5}}],
}  # fmt: skip
LOG = "Epoch 1/2\n22/22 - 2s - loss: 1.96 - accuracy: 0.38\nEpoch 2/2\n22/22 - 0s - loss: 0.79 - accuracy: nan\n"
STATE = {
    "meta.json": {"id": "885885676974efd1", "created": 1795993556.6, "tag": "", "agents": {"worker-0": "127.0.0.1:1"}},
    "job.json": {"job": "odd", "roles": {"worker": 1}},
    "pids.json": {"worker-0": [4194305, 1, 4194306, 1]},
    "worker-0/exit.json": {"code": 1, "message": "ended with exit code 1"},
}
OPENED: list[tuple[str, bool]] | None = None


def _watch(event: str, words: tuple) -> None:
    """Notes what is opened, and whether to be written."""
    if OPENED is not None and event == "open" and isinstance(words[0], str | bytes):
        OPENED.append((os.path.abspath(os.fsdecode(words[0])), bool(words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))))


sys.addaudithook(_watch)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A place with the records of a run and of a sweep, and with two local jobs, one of which is odd."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("TFSPAWNER_IMAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("print()\n")
    for name in ("good", "sw-1", "sw-2"):
        (tmp_path / f"runs/{name}/logs").mkdir(parents=True)
        (tmp_path / f"runs/{name}/.job-id").write_text(POINT["id"])
        (tmp_path / f"runs/{name}/spec.json").write_text(json.dumps(SPEC))
        (tmp_path / f"runs/{name}/report.json").write_text(json.dumps({**REPORT, "job": name}))
        (tmp_path / f"runs/{name}/events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
        (tmp_path / f"runs/{name}/logs/worker-0.log").write_text(LOG)
    Path("runs/sw").mkdir()
    Path("runs/sw/sweep.json").write_text(json.dumps(SWEEP))
    for job in ("odd", "other"):
        for name, value in STATE.items():
            path = tmp_path / "state/tf-spawner/jobs" / job / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value))
        path.parent.with_name("token").write_text("a-token")
    monkeypatch.setattr(running, "_run", lambda asked, output: ASKED.append(asked))
    ASKED.clear()
    return tmp_path


ASKED: list[JobSpec | Sweep] = []


def is_one_line(text: str) -> bool:
    return text.isprintable() and 0 < len(text) < 1000


def call(*words: str, file: str = "", inside: Path | None = None) -> Result:
    """Calls tf-spawner, which ends well, or by one line that names the file; nothing is opened but what lies inside."""
    global OPENED
    OPENED = []
    try:
        done = CliRunner().invoke(cli.cli, list(words), standalone_mode=False)
    finally:
        opened, OPENED = OPENED, None
    if done.exception:
        assert isinstance(done.exception, SpawnerError | click.ClickException), f"{words}: {done.exception!r}"
        assert is_one_line(str(done.exception)), str(done.exception)[:500]
        assert file in str(done.exception)
    if inside:
        ours = tuple(
            map(
                str,
                (
                    inside,
                    Path(cli.__file__).parents[1],
                    *map(Path, sys.path[1:]),
                    "/dev",
                    "/proc",
                    "/usr",
                    "/etc/localtime",
                ),
            )
        )
        assert [path for path, written in opened if not path.startswith(str(inside) if written else ours)] == []
    return done


def mutated(text: str, rng: Random) -> bytes:
    """A file with changed values, or with changed bytes."""
    lines = text.splitlines() if "\n{" in text else [text]
    if rng.random() < 0.3:
        return damaged(text.encode(), rng)
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(changed(json.loads(lines[at]), rng))
    return "\n".join([*lines, ""]).encode()


VERBS = {
    "good/report.json": (("report", "good"), ("compare", "good", "--page", "page.html")),
    "good/spec.json": (("report", "good"), ("compare", "good", "sw-1", "--page", "page.html"), ("rerun", "good")),
    "good/events.jsonl": (("report", "good"),),
    "sw/sweep.json": (("report", "sw"), ("compare", "sw"), ("rerun", "sw")),
}


@pytest.mark.parametrize("kind", VERBS)
def test_changed_records_end_in_one_line_that_names_the_file(fuzz, here, kind):
    path = here / "runs" / kind
    text = path.read_text()
    for rng in fuzz.rounds(300):
        path.write_bytes(mutated(text, rng))
        named = "" if path.suffix == ".jsonl" else f"runs/{path.parent.name}"
        call(*rng.choice(VERBS[kind]), file=named, inside=here)


@pytest.mark.parametrize("kind", VERBS)
def test_records_cut_at_any_byte_end_in_one_line_that_names_the_file(here, kind):
    path = here / "runs" / kind
    data = path.read_bytes()
    read = {
        "report.json": recorded.read_report,
        "spec.json": recorded.read_spec,
        "sweep.json": recorded.read_sweep,
    }.get(path.name)
    for end in range(len(data.rstrip())):
        path.write_bytes(data[:end])
        if read is None:
            notes: list[str] = []
            looked_at(recorded.read_events(path.parent, notes.append))
            assert notes == []  # a launcher that was killed leaves that
            continue
        with pytest.raises(SpawnerError, match=path.name) as raised:
            read(path.parent)
        assert is_one_line(str(raised.value))
    for words in VERBS[kind]:
        path.write_bytes(data[: len(data) // 2])
        done = call(*words, file=path.name)
        assert bool(done.exception) == (read is not None)


def looked_at(events: list[dict]) -> None:
    """All that a page makes of events."""
    timeline(events), usage_charts(events), starts(events), trained(events), used(events), slowest_to_start(events)


def test_what_rerun_runs_is_what_the_record_says(fuzz, here):
    path = here / "runs/good/spec.json"
    ran = 0
    for rng in fuzz.rounds(300):
        told = changed(SPEC, rng)
        path.write_text(json.dumps(told))
        ASKED.clear()
        if call("rerun", "good", file="runs/good").exception:
            continue
        (asked,) = ASKED
        ran += 1
        assert asked.out == Path("runs")  # where the record lies, whatever it says
        others = ("name", "env", "detach", "node_selector", "out")
        for name in (field.name for field in fields(JobSpec) if field.name not in others):
            value = getattr(asked, name)
            assert (
                str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            ) == told.get(name, [] if isinstance(value, tuple) else None), name
        assert told["env"] == []
    assert ran


def test_a_sweep_is_taken_up_as_it_was_or_refused(fuzz, here, monkeypatch):
    spec = JobSpec(script=Path("train.py"), name="sw", workers=2, timeout_s=60.0)
    asked = Sweep(spec=spec, grid={"lr": ["1", "2"]}, parallel=2)
    backend, plan = prepare_job(spec)
    monkeypatch.setattr(sweep_plan, "prepare_job", lambda spec, at_once: (backend, plan))
    path = here / "runs/sw/sweep.json"
    taken = 0
    for rng in fuzz.rounds(300):
        path.write_bytes(mutated(json.dumps(SWEEP), rng))
        planned, refused = None, ""
        try:
            planned = sweeping.prepare(asked)
        except SpawnerError as error:
            refused = str(error)
        assert planned or is_one_line(refused)
        taken += bool(planned)
        assert not planned or all(point.job.startswith("sw-") and "/" not in point.job for point in planned.points)
    assert taken


@pytest.mark.parametrize("name", [*STATE, "token"])
def test_a_damaged_local_job_is_named_and_the_others_go_on(fuzz, here, name, monkeypatch):
    signalled = []
    monkeypatch.setattr(os, "kill", lambda pid, how: signalled.append(pid))
    monkeypatch.setattr(os, "killpg", lambda pid, how: signalled.append(pid))
    path = here / "state/tf-spawner/jobs/odd" / name
    data = path.read_bytes()

    def look() -> None:
        done = call("list", "--on", "local", inside=here)
        assert [line.split()[2] for line in done.stdout.splitlines() if line.startswith("other ")] == ["failed"]
        assert "\nodd " in done.stdout
        assert all(is_one_line(line) for line in done.output.splitlines())
        assert "damaged" not in done.stdout or f"odd/{name}" in done.stderr
        call("status", "odd", "--on", "local", file="odd", inside=here)
        assert not call("status", "other", "--on", "local", inside=here).exception

    def look_within() -> None:
        """The same by the functions behind it, which is quicker."""
        odd, other = sorted(LocalBackend().jobs(), key=lambda summary: summary.job)
        assert (odd.job, other.job, other.state) == ("odd", "other", "failed")
        assert odd.state != "damaged" or (f"odd/{name}" in odd.warning and is_one_line(odd.warning))
        try:
            attach("odd", on="local").status()
        except SpawnerError as error:
            refused = str(error)
        else:
            refused = "job odd cannot be asked: it can"
        assert is_one_line(refused)
        assert "job odd cannot be asked: " in refused

    for rng in fuzz.rounds(300):
        is_text = name == "token" or rng.random() < 0.3
        path.write_bytes(damaged(data, rng) if is_text else json.dumps(changed(json.loads(data), rng)).encode())
        look() if rng.random() < 0.03 else look_within()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        look_within()
    call("delete", "odd", "--on", "local", inside=here)
    assert not path.parents[0].exists()
    assert signalled == []


NOT_THE_JOBS = {"none": 0, "all": -1, "init": 1, "this": os.getpid(), "parent": os.getppid(), "group": -os.getppid()}


@pytest.mark.parametrize("pid", NOT_THE_JOBS.values(), ids=NOT_THE_JOBS)
def test_no_process_but_the_jobs_own_is_ever_signalled(here, pid, monkeypatch):
    signalled = []
    monkeypatch.setattr(os, "kill", lambda pid, how: signalled.append(pid))
    monkeypatch.setattr(os, "killpg", lambda pid, how: signalled.append(pid))
    try:
        started = int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[19])
    except OSError:
        started = 1
    (here / "state/tf-spawner/jobs/odd/pids.json").write_text(json.dumps({"worker-0": [pid, started] * 2}))
    LocalBackend().delete("odd", 5)
    assert signalled == []
    assert [job.job for job in LocalBackend().jobs()] == ["other"]


LEADS_OUT: dict[str, Callable[[dict], object]] = {
    "report.json": lambda value: value["replicas"][0].update(replica="../../../secret/worker-0"),
    "report.json files": lambda value: value["files"]["worker-0"][0].update(path="../../../secret/worker-0.log"),
    "report.json absolute": lambda value: value["files"]["worker-0"][0].update(path="javascript:alert(1)//../x"),
    "sweep.json": lambda value: value["points"][0].update(job="../secret"),
}


@pytest.mark.parametrize("case", LEADS_OUT)
def test_a_name_in_a_record_leads_nowhere(here, case):
    name = case.split()[0]
    folder = Path("runs", "sw" if name == "sweep.json" else "good")
    value = json.loads((folder / name).read_text())
    LEADS_OUT[case](value)
    (folder / name).write_text(json.dumps(value))
    for verb in ("report", "compare"):
        assert "must be" in str(call(verb, folder.name, file=f"{folder}/{name}", inside=here).exception)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("report.json", "spec.json", "events.jsonl") for kind in ("link", "pipe", "folder")]
    + [("logs", "link"), ("logs", "pipe")],
)
def test_what_is_no_file_of_the_run_is_not_read(here, name, kind):
    path, secret = here / "runs/good" / name, here.parent / f"{here.name}-secret"
    os.rename(path, secret)
    {"link": lambda: path.symlink_to(secret), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    for words in (("report", "good"), ("compare", "good", "--page", "page.html")):
        if words[0] == "report" or name != "events.jsonl":
            assert f"runs/good/{name}" in str(call(*words, file=f"runs/good/{name}", inside=here).exception)


def test_nothing_is_written_through_a_link_in_a_record(here):
    outside = here.parent / f"{here.name}-outside"
    outside.mkdir()
    folder = here / "runs/good"
    for name in (".report.html.part", "report.html", ".lock", "logs/worker-1.log", "events.jsonl"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside / name.replace("/", "-"))
    with pytest.raises(SpawnerError, match="cannot be made"):
        Record(folder, POINT["id"])
    (folder / ".lock").unlink()
    (folder / "events.jsonl").unlink()
    assert not call("report", "good").exception
    record = Record(folder, POINT["id"])
    with pytest.raises(SpawnerError, match="worker-1"):
        record.append_log("worker-1", 0, b"x")
    record.close()
    shutil.rmtree(folder / "logs")
    (folder / "logs").symlink_to(outside)
    with pytest.raises(SpawnerError, match="runs/good/logs is not a folder of the run"):
        Record(folder, POINT["id"])
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", [".lock", "events.jsonl", "logs/worker-0.log"])
def test_a_pipe_in_a_records_place_holds_nobody_up(here, name):
    path = here / "runs/good" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(SpawnerError, match=r"runs/good(/\S+)? cannot be (made|written)"):
        write_into(here / "runs/good")


def test_damaged_places_of_logs_are_told_or_the_log_goes_on(fuzz, here):
    path, told = here / "runs/good/logs/.bases", 0
    bases = {"worker-0": [1795993557 << 32, 3], "worker-1": [0, 0]}
    for rng in fuzz.rounds(300):
        path.write_bytes(mutated(json.dumps(bases), rng))
        refused = ""
        try:
            write_into(here / "runs/good")
        except SpawnerError as error:
            refused = str(error)
        told += "runs/good/logs/.bases: " in refused
        assert not refused or is_one_line(refused)
        assert not refused or "logs/.bases" in refused or refused.endswith("are missing")
    assert told


def test_a_points_damaged_report_is_told_before_a_sweep_goes_on(here):
    point = sweeping.Point(job="sw-1", values={"lr": "1"}, id=POINT["id"])
    assert not sweeping.is_done(here / "runs", point)
    (here / "runs/sw-1/report.json").write_text('{"result": "succeeded"}')
    with pytest.raises(SpawnerError, match=r"runs/sw-1/report\.json: job is missing"):
        sweeping.is_done(here / "runs", point)


def write_into(folder: Path) -> None:
    record = Record(folder, POINT["id"])
    try:
        record.event("launched")
        record.append_log("worker-0", 0, b"x")
        record.replace_log("worker-0", b"xyz")
    finally:
        record.close()


def test_a_launcher_that_was_killed_left_half_an_event_and_the_next_one_begins_a_line(here):
    path = here / "runs/good/events.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    record = Record(path.parent, POINT["id"])
    record.event("taken over")
    record.close()
    notes: list[str] = []
    assert [event["event"] for event in recorded.read_events(path.parent, notes.append)][-2:] == [
        "replica",
        "taken over",
    ]
    assert len(notes) == 1


def test_a_process_of_another_job_is_not_signalled_and_ones_own_is(here):
    jobs = here / "state/tf-spawner/jobs"
    alive = []
    for job in ("odd", "other"):
        command = [sys.executable, "-c", "import time; time.sleep(60)", "--config", str(jobs / job)]
        alive.append(subprocess.Popen(command, start_new_session=True))
    own, foreign = alive
    try:
        stat = Path(f"/proc/{foreign.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        (jobs / "odd/pids.json").write_text(json.dumps({"worker-0": [foreign.pid, int(stat[19])] * 2}))
        LocalBackend().delete("odd", 20)
        assert own.wait(10) == -signal.SIGKILL
        assert foreign.poll() is None
    finally:
        for process in alive:
            process.kill()
            process.wait()


def test_tensorboard_shows_no_file_that_a_link_leads_to(here):
    def attach(name: str) -> None:
        raise NotFoundError("there is none")

    secret, files = here / "secret", here / "runs/good/files"
    secret.mkdir()
    (secret / "events.out.tfevents.1").touch()
    (here / "logs").mkdir()
    files.symlink_to(secret)
    with pytest.raises(SpawnerError, match="runs/good/files is a link"):
        tensorboard.place("good", here / "logs", attach, here / "runs", print, 1)
    files.unlink()
    (files / "worker-0").mkdir(parents=True)
    (files / "worker-0/a.tfevents.1").symlink_to(secret / "events.out.tfevents.1")
    with pytest.raises(SpawnerError, match="has no event files"):
        tensorboard.place("good", here / "logs", attach, here / "runs", print, 1)


def test_completion_of_runs_is_silent_and_gives_no_name_that_a_shell_would_obey(here):
    (here / "runs/good\x1b[2J").mkdir()
    (here / "runs/good\x1b[2J/spec.json").touch()
    (here / "runs/good/spec.json").write_text("{")
    context = click.Context(cli.report, obj=None)
    assert complete_run(context, cli.report.params[0], "go") == ["good"]


def test_a_huge_history_is_read_line_by_line_and_a_damaged_line_is_told_once(here, monkeypatch):
    monkeypatch.setattr(recorded, "MOST_EVENTS", 1000)
    monkeypatch.setattr(recorded, "EVENT_BYTES", 500)
    line = json.dumps(EVENTS[4]).encode() + b"\n"
    (here / "runs/good/events.jsonl").write_bytes(
        line + b'{"time": "x", "event": "phase"}\n' + b"x" * 5000 + b"\n{\n" + line * 2000
    )
    done = call("report", "good")
    assert not done.exception
    assert done.stderr.splitlines() == [
        "warning: runs/good/events.jsonl: it has more than 1,000 events: the first ones are shown",
        "warning: runs/good/events.jsonl, line 2: time is 'x'; it must be a number from 0 to 1e+11, and 2 more: left out",
    ]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"[" * 200_000, "too deep"), (b'{"seconds": ' + b"9" * 5000 + b"}", "too many digits"), (b'{"job": "\xff"}', "line 1: that is not UTF-8"),
        (b'{"job":\n\n "good",,}', "line 3, column 9: that is not JSON"), (b" " * 2000, "is longer than 1,000 bytes"), (b"", "line 1, column 1"),
        (b"[]", "report.json: is a list; it must be a mapping"), (json.dumps({**REPORT, "missing": "\ud800"}).encode(), "without halves of characters"), (b"{}", "report.json: job is missing"),
    ],
    ids=["deep", "digits", "UTF-8", "JSON", "long", "empty", "a list", "half a character", "nothing in it"],
)  # fmt: skip
def test_what_is_no_record_at_all_is_told_by_its_place(here, monkeypatch, data, told):
    monkeypatch.setattr(recorded, "REPORT_BYTES", 1000 if len(data) == 2000 else 1 << 20)
    (here / "runs/good/report.json").write_bytes(data)
    assert told in str(call("report", "good", file="runs/good/report.json").exception)


def test_a_page_of_very_much_stays_small(here):
    events = [
        {"time": 1e9 + n, "event": "usage", "replica": f"worker-{n % 900}", "cpu": 1, "memory": 1} for n in range(4000)
    ]
    events += [{"time": 2e9 + n, "event": "phase", "phase": "running"} for n in range(20_000)]
    (here / "runs/good/events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert len(page(here / "runs/good")) < 1 << 20


def test_whatever_a_log_prints_makes_a_page(fuzz, here):
    log = here / "runs/good/logs/worker-0.log"
    odd = [
        "9" * 5000,
        "1" * 16,
        "1e308",
        "-1e308",
        "1e-320",
        "nan",
        "inf",
        "1" + "0" * 400,
        "0",
        "²",
        "1",
        "2",
        "Unknown",
    ]
    for rng in fuzz.rounds(200):
        lines = []
        for _ in range(rng.randrange(30)):
            n = [rng.choice(odd) for _ in range(6)]
            lines.append(rng.choice((f"Epoch {n[0]}/{n[1]}", f"{n[0]}/{n[1]} - {n[2]}s - loss: {n[3]} - {n[4]}: {n[5]}", f"2/2 [==] - {n[0]}ms/step - loss: {n[1]}",
                                     "Epoch 1/9", f"Epoch {rng.randrange(1, 9)}/9", f"1/1 - 1s - loss: {n[3]} - val_loss: {n[4]}")))  # fmt: skip
        log.write_bytes(
            damaged("\n".join([*lines, ""]).encode(), rng) if rng.random() < 0.3 else "\n".join([*lines, ""]).encode()
        )
        assert "nan," not in page(here / "runs/good")


def test_a_long_line_of_a_log_takes_no_time(here):
    (here / "runs/good/logs/worker-0.log").write_bytes(
        b"Epoch 1/1\n1/1 [=] " + b"a" * (4 << 20) + b"\n1/1 [=] " + b"a" * 16000 + b"\n"
    )
    page(here / "runs/good")
