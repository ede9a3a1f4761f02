"""All replicas' output and status, merged for one client."""

from __future__ import annotations

import http.client
import queue
import time
from collections.abc import Iterator
from typing import Any

from .base import Replica
from .connections import connect
from .peers import Peer
from .protocol import FINISHED, LOST, SMALL
from .reports import next_offset

STREAM_PIECE = 256 << 10  # bytes of output in one frame

STREAM_QUEUE = 16  # frames that wait for a stream's client

STREAMS_HOLD, STREAM_HOLDS = 256 << 20, 1 << 20  # bytes: of all streams together at most, and of one at least

GATHER_S = (0.3, 2.0)  # so long output gathers after a little was taken, of few replicas and of many: a request each

LOG_ENDS_S = 30.0  # how long a log without news may stay open after the gang has ended


class Stream:
    """All replicas' output and status, merged by the coordinator for one client."""

    def __init__(self, agent: Replica, offsets: dict[str, int], alive: Any) -> None:
        assert agent.gang
        self.agent, self.gang, self.alive = agent, agent.gang, alive
        self.closed = False
        self.queue: queue.Queue[tuple[str, int, bytes | None]] = queue.Queue(STREAM_QUEUE)
        self.piece = self.piece_of(len(offsets))  # each replica has one in hand
        self.following = set(offsets)
        for replica, offset in offsets.items():
            agent.begin(self.follow, replica, offset)

    @staticmethod
    def piece_of(count: int) -> int:
        """How many bytes of a log are sent at a time, for so many replicas."""
        return STREAM_PIECE if count <= 64 else STREAM_PIECE // 4

    @classmethod
    def most_bytes(cls, count: int) -> int:
        """The most memory that so many replicas' output takes while a stream's client reads nothing."""
        return max(STREAM_HOLDS, (STREAM_QUEUE + count + 1) * cls.piece_of(count) if count else 0)

    def close(self) -> None:
        """Ends the stream."""
        self.closed = True

    def put(self, item: tuple[str, int, bytes | None]) -> None:
        while not self.closed:
            try:
                return self.queue.put(item, timeout=1)
            except queue.Full:
                continue

    def follow(self, replica: str, offset: int) -> None:
        """Copies one replica's output to the queue, until its end; None means that no more comes."""
        errors = 0
        gather_s = min(max(GATHER_S[0], len(self.agent.job.replicas) / 50), GATHER_S[1])
        connection, connected = None, None
        heard_at = time.monotonic()
        while not self.closed:
            began = time.monotonic()
            try:
                agent = self.gang.reports.get(replica, {}).get("agent")
                if agent is None:
                    raise OSError("it has not reported yet")
                if connection is None or connected != agent:
                    connection, connected = connect(agent, 8), agent
                path = f"/log?offset={offset}&wait=5&most={self.piece}"
                peer = Peer(self.agent.key, replica, agent)
                with peer.ask("GET", path, timeout_s=8, connection=connection) as response:
                    data = response.read(self.piece + 1)
                    begins, is_last = (
                        next_offset(response.headers["X-Offset"], offset),
                        response.headers["X-End"] == "1",
                    )
                    if len(data) > self.piece:
                        raise ValueError("more came than was asked for")
                    errors = 0
            except (OSError, ValueError, TypeError, http.client.HTTPException):
                if connection:
                    connection.close()
                connection = None
                errors += 1
                report = self.gang.reports.get(replica, {})
                if self.gang.phase == "ended" and (report.get("message") == LOST or errors >= 5):
                    break
                time.sleep(0.3)
                continue
            if data:
                heard_at = time.monotonic()
                self.put((replica, begins, data))
                offset = begins + len(data)
                if len(data) < SMALL and self.gang.phase == "running":
                    time.sleep(gather_s)
            if is_last:
                break
            if not data and self.gang.phase == "ended":
                has_ended = self.gang.reports.get(replica, {}).get("state") in FINISHED
                if not has_ended or time.monotonic() - heard_at > LOG_ENDS_S:
                    break
            if not data and time.monotonic() - began < 1.0:  # it was to wait for more
                time.sleep(1.0)
        if connection:
            connection.close()
        self.put((replica, offset, None))

    def frames(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """(head, bytes) of each frame: states when they change, logs as they grow."""
        sent: dict[str, int] = {}
        version, told_at = -1, 0.0
        while self.alive():
            snapshot = self.gang.snapshot()
            now = time.monotonic()
            if snapshot["version"] != version or now - told_at > 0.5:
                news = {r: s for r, s in snapshot["replicas"].items() if sent.get(r) != s["revision"]}
                if news or snapshot["version"] != version or now - told_at > 10:
                    sent.update((r, s["revision"]) for r, s in news.items())
                    version, told_at = snapshot["version"], now
                    yield {"gang": dict(snapshot, replicas=news)}, b""
            if not self.following and snapshot["phase"] == "ended":
                yield {"end": True}, b""
                return
            try:
                replica, offset, data = self.queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if data is None:
                self.following.discard(replica)
            else:
                yield {"replica": replica, "offset": offset, "size": len(data)}, data
