"""Whatever agents answer, the launcher takes it or says whose answer it is: no traceback, no hang, nothing elsewhere."""

from __future__ import annotations

import faulthandler
import io
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from false_agent import REPLICAS, Answer, FalseAgent, frame, honest, parts
from mutating import ODD_NUMBERS, changed, damaged

from tfspawner.errors import SpawnerError
from tfspawner.jobs.job import Job, summaries
from tfspawner.jobs.tensorboard import EventFiles
from tfspawner.views.notebook import NotebookView
from tfspawner.views.plain import PlainView
from tfspawner.views.table import jobs_table, replica_table

WATCHDOG_S = 20.0
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
FOLDERS = {"worker-0", "worker-1", ".parts"}


@pytest.fixture
def false(monkeypatch) -> Iterator[FalseAgent]:
    for name, value in (
        ("follower.AGAIN_S", 0.001), ("agents.ANSWER_WITHIN_S", 0.0), ("judge.SILENCE_S", 0.1), ("judge.ANSWERS_S", 0.05),
        ("judge.LAST_OUTPUT_S", 0.3), ("judge.REASON_S", 0.1), ("judge.AGENT_GRACE_S", 0.05), ("judge.LOST_PATIENCE_S", 0.1),
        ("judge.DEFAULT_START_TIMEOUT_S", 0.3), ("listening.STALE_S", 0.3), ("listening.MOST_BAD", 3),
        ("collect.TRIES_WITHOUT_PROGRESS", 1), ("collect.PAUSE_S", 0.001), ("agents.SEE_WITHIN_S", 0.0), ("homecoming.HEAR_WITHIN_S", 0.1),
    ):  # fmt: skip
        monkeypatch.setattr(f"tfspawner.follow.{name}", value)
    agent = FalseAgent()
    yield agent
    agent.close()


@pytest.fixture
def bugs(monkeypatch) -> list[BaseException]:
    """What threads died of."""
    found: list[BaseException] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: found.append(args.exc_value))
    return found


def job_of(false: FalseAgent) -> Job:
    return Job("j", false, tuple(REPLICAS), 1.0)


class Screen(PlainView):
    """A view off a terminal that also keeps what the table would be."""

    def __init__(self) -> None:
        super().__init__(io.StringIO(), io.StringIO())

    def show(self, state: Any) -> None:
        super().show(state)
        self.out.write(replica_table(state).plain + "\n" + replica_table(state, 80, 4).plain + "\n")

    @property
    def text(self) -> str:
        return self.out.getvalue() + self.err.getvalue()


def in_notebook(false: FalseAgent, out: Path) -> str:
    pages: list[str] = []
    view = NotebookView(lambda formats: pages.append("".join(formats.values())), "j")
    view.out = view.err = io.StringIO()
    try:
        view.end(job_of(false).wait(view))
    except SpawnerError as error:
        view.end(error=error)
    return "".join(pages)


def waited_for(false: FalseAgent, out: Path) -> str:
    screen = Screen()
    try:
        job_of(false).wait(screen)
    finally:
        screen.finish()
    return screen.text


def fetched(false: FalseAgent, out: Path) -> str:
    screen = Screen()
    try:
        job_of(false).fetch(out, screen)
    finally:
        screen.finish()
    return screen.text


def status_of(false: FalseAgent, out: Path) -> str:
    return str(replica_table(job_of(false).status()).plain)


def logs_of(false: FalseAgent, out: Path) -> str:
    assert sum(map(len, job_of(false).logs().values())) < 10_000
    return ""


def listed(false: FalseAgent, out: Path) -> str:
    found = summaries(false)
    return str(jobs_table(found).plain) + found[0].warning


def events_brought(false: FalseAgent, out: Path) -> str:
    files = EventFiles(out / "events")
    for _ in range(2):
        files.bring(false.agent("j", "worker-0"))
    return ""


WAYS = (waited_for, fetched, status_of, logs_of, listed, events_brought, in_notebook)


def guarded(what: Callable[[], str]) -> str:
    """What it says, or the error that it raises for the user; fails if that takes too long."""
    said: list[Any] = []

    def work() -> None:
        try:
            said.append(what())
        except SpawnerError as error:
            said.append(f"{error.message} {error.hint}")
        except BaseException as error:
            said.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(WATCHDOG_S)
    if thread.is_alive():
        faulthandler.dump_traceback()
        pytest.fail(f"it hangs for {WATCHDOG_S} s")
    if isinstance(said[0], BaseException):
        raise said[0]
    return str(said[0])


def check(false: FalseAgent, bugs: list[BaseException], way: Callable[..., str], top: Path) -> str:
    """What is said by one way of asking; it keeps to the run's folder, and to what a terminal shows."""
    top.mkdir()
    said = guarded(lambda: way(false, top / "runs"))
    if bugs:
        raise bugs.pop()
    assert not CONTROL.search(said), ascii(CONTROL.search(said))
    assert [path.name for path in top.iterdir()] in ([], ["runs"])
    logs = {path.name for path in (top / "runs/j/logs").glob("*")}
    assert logs <= {"worker-0.log", "worker-1.log", ".bases"}, logs
    assert {path.name for path in (top / "runs/j/files").glob("*")} <= FOLDERS
    shutil.rmtree(top)
    return said


def lying(false: FalseAgent, rng: Random) -> Callable[[str, str, Any], Answer]:
    """An agent that tells the truth but for some answers: other JSON, other bytes, other headers, another status."""
    kinds = rng.sample(("status", "brief", "order", "log", "files", "stream"), rng.choice((1, 2, 6)))
    how, seed = rng.choice(("json", "json", "json", "bytes", "headers", "status")), rng.random()

    def lie(kind: str, replica: str, wanted: Any) -> Answer:
        truth = honest(kind, replica, false.gang, wanted)
        chance = Random(f"{seed}/{kind}/{replica}/{false.asked // 3}")
        if kind not in kinds or chance.random() < 0.1:
            return truth
        status, headers, body = truth
        if how == "status":
            return chance.choice((302, 204, 206, 401, 503)), {"Location": "http://127.0.0.1:1/"}, body
        if how == "bytes" or (kind == "log" and how == "json"):
            return status, headers, damaged(body, chance)
        if how == "headers":
            odd_headers = {"X-Offset", "X-End", "X-Size", "Content-Length", "Transfer-Encoding", "Content-Encoding"}
            return status, headers | {chance.choice(sorted(odd_headers)): str(chance.choice(ODD_NUMBERS))[:400]}, body
        values = parts(kind, replica, false.gang, wanted)
        at = chance.randrange(len(values))
        values[at] = changed(values[at][0], chance), chance.choice((values[at][1], b"", b"x" * 100))
        if chance.random() < 0.2:
            values.insert(at, values[at])
        try:
            return status, headers, b"".join(frame(*one) for one in values)
        except RecursionError:
            return status, headers, b"[" * 5000

    return lie


def test_whatever_agents_answer_is_taken_or_told(fuzz, false, bugs, tmp_path):
    for way in WAYS:
        check(false, bugs, way, tmp_path / "honest")
    for rng in fuzz.rounds(100):
        false.lie = lying(false, rng)
        check(false, bugs, WAYS[fuzz.round % len(WAYS)], tmp_path / "lying")
