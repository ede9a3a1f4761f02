"""Between a replica and its coordinator: reports one way, orders the other."""

from __future__ import annotations

import http.client
import socket
import time
from contextlib import suppress
from typing import Any

from .base import Replica
from .notes import say
from .protocol import AGENT_MARK, FINISHED, LOST_AFTER_S, PEER_LOST_MESSAGE, STARTING
from .reports import order_of

COORDINATOR_LOST_AFTER_S = 6.0

COORDINATOR_SLOW_S = 29.0  # one that only takes long to answer may have much to do: two requests may time out

RETRY_S = 0.05  # the first pause before another request to the coordinator

MIRROR_EVERY_S = 2.0  # how often the second replica looks for a new checkpoint of the first


class Reporting(Replica):
    """Reports to the coordinator, and follows its orders."""

    def tell(self, state: str | None = None, **news: Any) -> None:
        """Sends this replica's report; heartbeat() repeats one that did not arrive."""
        with self.reporting:
            if state and state != self.report["state"]:
                news = dict(news, state=state, since=time.time())
                if self.store and state in FINISHED:
                    news.update(storing=self.store.uri)
            self.report = dict(
                self.report,
                progress=self.log.progress,
                log_size=self.log.size - self.log.base,
                silent_s=self.silent_s(),
                generation=self.generation,
                met=self.met,
                **news,
            )
            if self.log.unkept:
                self.report["unkept"] = {"bytes": self.log.unkept, "why": self.log.why_unkept}
        if self.gang:
            self.gang.report(self.replica, dict(self.report))
            return
        try:
            self.coordinator.ask_json("POST", "/report", self.report, timeout_s=5)
            self.untold.clear()
        except OSError:
            self.untold.set()

    def heartbeat(self) -> None:
        """Repeats the report: at once if it did not arrive, soon after it changed, now and then when it did not."""
        interval, sent_at, sent = max(1.0, len(self.job.replicas) / 50), 0.0, (None, 0)
        retry_s = RETRY_S
        while True:
            untold = self.untold.wait(interval)
            if untold:  # for example by a coordinator that starts later than this replica
                time.sleep(retry_s)
            retry_s = min(2 * retry_s, interval) if untold else RETRY_S
            if self.gang:
                self.gang.tick()
            now = (self.report["state"], self.log.size)
            if untold or now != sent or time.monotonic() - sent_at > 5:
                self.tell(**self.used())
                sent, sent_at = now, time.monotonic()

    def used(self) -> dict[str, Any]:
        """The script's current usage, for the report; problems with its GPUs go into the log."""
        usage = self.usage
        if usage is None:
            return {}
        try:
            sample = usage.sample()
        except Exception as error:  # training matters more than measuring it
            self.usage = None
            self.log.write(f"{AGENT_MARK.decode()} what the script uses is not measured any more: {error!r}\n".encode())
            return {}
        self.log_problems(usage)
        return {"usage": sample}

    def log_problems(self, usage: Any) -> None:
        """Logs the problems met in measuring, each one once."""
        while usage.problems and usage is self.usage:
            self.log.write(f"{AGENT_MARK.decode()} {usage.problems.pop(0)}\n".encode())

    def listen(self) -> None:
        """Follows the coordinator's orders; stops if the coordinator is silent for too long."""
        reason, retry_s = "", RETRY_S
        while True:
            try:
                if self.gang:
                    order = self.gang.wait(self.order["version"], 10.0, lambda: True, self.replica)
                else:
                    path = f"/order?replica={self.replica}&version={self.order['version']}"
                    order = order_of(self.coordinator.ask_json("GET", path))
                self.heard_at, retry_s = time.monotonic(), RETRY_S
            except (OSError, ValueError) as error:
                starting = self.order["phase"] in STARTING
                limit = COORDINATOR_SLOW_S if isinstance(error, socket.timeout) else COORDINATOR_LOST_AFTER_S
                if starting:
                    limit = self.job.start_timeout_s + LOST_AFTER_S
                if str(error) != reason and time.monotonic() - self.heard_at > 5:
                    reason = str(error)
                    say(
                        f"the coordinator, {self.job.coordinator} at {self.coordinator.host}, does not answer: {reason}"
                    )
                if time.monotonic() - self.heard_at > limit and not self.stop.is_set():
                    with self.reporting:
                        self.report.update(message=f"lost the coordinator {self.job.coordinator}: {error}", kind="lost")
                    self.stop.set()
                    self.stop_child()
                time.sleep(retry_s)
                retry_s = min(2 * retry_s, 0.4)
                continue
            with self.ordered:
                self.order = order
                stopping = not self.is_to_run() and not self.stop.is_set()
                if stopping:
                    self.stop.set()
                self.ordered.notify_all()
            if stopping:
                self.stop_child(dump=order["stalled"])

    def mirror(self) -> None:
        """On the second replica, copies the first one's checkpoints, so that losing the first loses none."""
        while not self.terminated.wait(MIRROR_EVERY_S):
            if self.order["phase"] == "running" and not self.stop.is_set():
                with suppress(OSError, ValueError, http.client.HTTPException):
                    self.checkpoints.mirror(self.coordinator)

    def fail(self, code: int, message: str, kind: str = "failed") -> int:
        """Reports a failure of a kind: lost, failed, or configuration, for which nothing is restarted."""
        peer_lost, message = message == PEER_LOST_MESSAGE, self.masker.mask_text(message)
        if self.report.get("hint"):
            self.report["hint"] = self.masker.mask_text(self.report["hint"])
        say(message)
        self.tell(
            "failed",
            exit_code=code,
            message=message,
            kind=kind,
            finished=time.time(),
            tail=self.log.last_lines(),
            peer_lost=peer_lost,
        )
        return code
