"""A point of a sweep that fails in a way that nobody thought of ends no other."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tfspawner.errors import ArtifactError, Interrupted, JobFailed, SpawnerError
from tfspawner.follow.sweep import SilentSweep
from tfspawner.jobs import sweeps as sweeping
from tfspawner.jobs.sweeps import run_sweep
from tfspawner.plan.grid import Sweep
from tfspawner.plan.spec import JobSpec


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function from what each point does to the sweep's outcome; nothing is launched."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/train.py").write_text("print()\n")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def carry_out(does, view=None, parallel=2):
        monkeypatch.setattr(sweeping, "carry_out", lambda backend, plan, view: does(plan.job, view))
        spec = JobSpec(script=tmp_path / "code/train.py", name="swp", out=tmp_path / "runs")
        return run_sweep(Sweep(spec=spec, grid={"lr": ["1", "2", "3", "4"]}, parallel=parallel), view)

    return carry_out


def fails_in_the_second(error: BaseException):
    def does(job: str, view: object) -> SimpleNamespace:
        if job == "swp-2":
            raise error
        return SimpleNamespace(result="succeeded")

    return does


@pytest.mark.parametrize(
    "bug", [KeyError("x"), RuntimeError("a\nb" * 5000), MemoryError(), RecursionError("deep"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
            OSError(28, "No space left"), AssertionError(), json.JSONDecodeError("x", "y", 0)],
    ids=lambda bug: type(bug).__name__,
)  # fmt: skip
def test_a_bug_in_one_point_fails_that_point_alone(ask, tmp_path, bug):
    outcome = ask(fails_in_the_second(bug))
    results = {row["job"]: row["result"] for row in outcome.points}
    assert results == {"swp-1": "succeeded", "swp-2": "failed", "swp-3": "succeeded", "swp-4": "succeeded"}
    (row,) = [row for row in outcome.points if row["job"] == "swp-2"]
    assert row["error"].startswith(type(bug).__name__)
    assert len(row["error"]) < 300
    assert (outcome.result, type(outcome.error), outcome.error.exit_code) == ("failed", SpawnerError, 1)
    traceback = tmp_path / "runs/swp/swp-2-traceback.txt"
    assert str(traceback) in outcome.error.hint
    assert "raise error" in traceback.read_text()
    stored = json.loads((tmp_path / "runs/swp/sweep.json").read_text())["points"]
    assert [point["result"] for point in stored] == ["succeeded", "failed", "succeeded", "succeeded"]


def test_a_point_whose_record_cannot_be_read_fails_alone(ask, monkeypatch):
    def learn(self, point):
        if point.job == "swp-3":
            raise TypeError("no number")

    monkeypatch.setattr(sweeping._Run, "_learn", learn)
    outcome = ask(lambda job, view: SimpleNamespace(result="succeeded"))
    assert {row["job"] for row in outcome.points if row["result"] != "succeeded"} == {"swp-3"}
    assert outcome.error.exit_code == 1


def test_a_view_that_fails_ends_no_point(ask):
    class Broken(SilentSweep):
        def show(self, point):
            if point.result in sweeping.ENDED:
                raise ValueError("no such style")

    outcome = ask(lambda job, view: SimpleNamespace(result="succeeded"), Broken())
    assert [row["result"] for row in outcome.points] == ["succeeded"] * 4


def test_a_full_disk_at_one_points_end_ends_no_other(ask, monkeypatch):
    save, full = sweeping._Run.save, []

    def fails_once(self):
        if threading.current_thread() is not threading.main_thread() and not full:
            full.append(True)
            raise ArtifactError("sweep.json cannot be written: No space left on device")
        save(self)

    monkeypatch.setattr(sweeping._Run, "save", fails_once)
    outcome = ask(lambda job, view: SimpleNamespace(result="succeeded"))
    assert len(outcome.points) == 4
    assert sum(row["result"] == "succeeded" for row in outcome.points) >= 3


def test_a_failure_of_the_script_still_ends_with_its_code(ask):
    outcome = ask(fails_in_the_second(JobFailed("worker-0 failed")))
    assert outcome.error.exit_code == 125


def test_ctrl_c_still_ends_all(ask, monkeypatch):
    begun, calls = threading.Event(), []

    def does(job: str, view) -> SimpleNamespace:
        begun.set()
        while not view.stop.wait(0.05):
            pass
        raise Interrupted("interrupted")

    def wait(events):
        calls.append(events)
        if len(calls) == 1:
            assert begun.wait(10)
            raise KeyboardInterrupt
        for event in events:
            assert event.wait(10)

    monkeypatch.setattr(sweeping, "_await", wait)
    outcome = ask(does)
    assert outcome.result == "interrupted"
    assert {row["result"] for row in outcome.points} == {"interrupted", "waiting"}
