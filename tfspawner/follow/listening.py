"""Reads a job's coordinator's streams, and checks that output continues where it ended and that news are new."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tfspawner.backends.answers import Gang, Output
from tfspawner.backends.client import AgentClient, Body
from tfspawner.errors import AgentUnreachable, BadAnswer
from tfspawner.replica.reports import next_offset

STALE_S = 120.0  # how long the coordinator may send nothing new: all agents report every few seconds
MOST_BAD = 10  # how many answers that no agent gives may come before the job is given up

Heard = tuple[str, Any]  # "gang" and a Gang; "log" and (replica, offset, bytes)


class Listener:
    """Reads the coordinator's streams one after the other; each goes on where the last one broke off.

    offsets: where each replica's log goes on; None: no output is wanted.
    """

    def __init__(self, replicas: list[str], offsets: dict[str, int] | None) -> None:
        self.names, self.offsets = frozenset(replicas), offsets
        self.version = -1
        self.revisions: dict[str, int | None] = {}
        self.news_at: float | None = None  # when something new last came
        self.bad = 0

    def listen(self, agent: AgentClient) -> Iterator[Heard]:
        """Yields what one stream brings until the job ends. BadAnswer is raised for what no agent sends."""
        self.news_at = self.news_at or time.monotonic()
        phase = ""
        for frame, body in agent.stream(self.offsets and dict(self.offsets), self.names):
            if isinstance(frame, Output):
                yield from self._output(agent, frame, body)
                continue
            phase = frame["phase"]
            self._ensure_news(agent, frame)
            yield "gang", frame
        if phase != "ended":
            raise BadAnswer(f"{agent.replica}'s agent ended its stream before the job's end")

    def is_hopeless(self) -> bool:
        """Counts one more bad answer; returns whether there were too many."""
        self.bad += 1
        return self.bad >= MOST_BAD

    def _ensure_news(self, agent: AgentClient, gang: Gang) -> None:
        revisions = {replica: report.get("revision") for replica, report in gang["replicas"].items()}
        if gang["version"] != self.version or not revisions.items() <= self.revisions.items():
            self.version, self.news_at = gang["version"], time.monotonic()
            self.revisions |= revisions
        elif time.monotonic() - (self.news_at or 0.0) > STALE_S:
            raise AgentUnreachable(f"{agent.replica}'s agent has told nothing new for {STALE_S:g} s")

    def _output(self, agent: AgentClient, frame: Output, body: Body) -> Iterator[Heard]:
        assert self.offsets is not None  # else a frame with output is refused
        try:
            offset = next_offset(str(frame.offset), self.offsets[frame.replica])
        except ValueError as error:
            raise BadAnswer(f"{agent.replica}'s agent sent no output of {frame.replica}: {error}") from None
        for data in body.pieces():
            self.news_at = time.monotonic()
            yield "log", (frame.replica, offset, data)
            offset += len(data)
            self.offsets[frame.replica] = offset
