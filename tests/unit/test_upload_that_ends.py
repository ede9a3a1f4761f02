"""A detached launch whose code does not arrive: its job is removed, or named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tfspawner.errors import AgentUnreachable, ClusterError, Interrupted, TimedOut
from tfspawner.follow.state import Silent
from tfspawner.jobs import running


class Place:
    def __init__(self, by: BaseException, undeleted: BaseException | None) -> None:
        self.by, self.undeleted, self.deleted = by, undeleted, []

    def launch(self, plan: Any) -> None: ...

    def must_upload(self, plan: Any) -> bool:
        return True

    def agent(self, name: str, replica: str) -> Any:
        raise self.by

    def delete(self, name: str, timeout_s: float, id: str) -> None:
        self.deleted.append((name, id))
        if self.undeleted:
            raise self.undeleted


@pytest.mark.parametrize("undeleted", [None, ClusterError("403"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize(
    ("by", "ends"),
    [
        (KeyboardInterrupt(), Interrupted),
        (ClusterError("pods is forbidden"), ClusterError),
        (AgentUnreachable("x"), TimedOut),
    ],
    ids=repr,
)
def test_whatever_ends_the_upload_removes_the_job_or_names_it(monkeypatch, by, ends, undeleted):
    place = Place(by, undeleted)
    spec = SimpleNamespace(replicas=["worker-0"], start_timeout_s=0.001, restarts=0)
    plan = SimpleNamespace(job="big", id="7", spec=spec, notes=(), warnings=(), code=SimpleNamespace(size_bytes=9))
    monkeypatch.setattr(running, "prepare", lambda spec: (place, plan))
    with pytest.raises(ends) as told:
        running.launch(spec)
    assert place.deleted == [("big", "7")]
    assert ("job big is still there" in (told.value.hint or "")) == (undeleted is not None)
    assert "big" in told.value.message or ends is not Interrupted


@pytest.mark.parametrize(
    ("replicas", "restarts", "warned"),
    [(["worker-0"], 1, True), (["worker-0"], 0, False), (["worker-0", "worker-1"], 1, False)],
)
def test_a_lone_replica_whose_code_nobody_would_send_again_is_told_of_before_the_launch(
    monkeypatch, replicas, restarts, warned
):
    """Of several, each has the code and gives it to the others."""
    place = Place(AgentUnreachable("x"), None)
    spec = SimpleNamespace(replicas=replicas, start_timeout_s=0.001, restarts=restarts)
    plan = SimpleNamespace(
        job="big", id="7", spec=spec, notes=(), warnings=(), code=SimpleNamespace(size_bytes=3 << 20)
    )
    monkeypatch.setattr(running, "prepare", lambda spec: (place, plan))
    notes: list[str] = []
    with pytest.raises(TimedOut):
        running.launch(spec, type("Shown", (Silent,), {"note": staticmethod(notes.append)})())
    told = [note for note in notes if note.startswith("warning: the code (3.0 MiB) is kept nowhere in the cluster")]
    assert bool(told) == warned
    assert all("worker-0" in note and "--restarts 1" in note and "--detach" in note for note in told)
