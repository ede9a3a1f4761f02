"""One replica's life, from getting the code to its end."""

from __future__ import annotations

import errno
import http.client
import os
import signal
import socket
import time
from typing import Any

from .bucket import Store
from .connections import reach
from .holding import Holding
from .notes import NO_ROOM, NoRoom, leave_note, no_room
from .peers import Peer
from .processes import KILL_WITHIN_S, end_descendants, kill_group, reap
from .protocol import (
    EXIT_CONFIGURATION,
    EXIT_PEER_LOST,
    EXIT_TERMINATED,
    EXITS_OF_LOST,
    LOST_AFTER_S,
    STARTING,
    TERMINATED,
)
from .routes import Server

CODE_IS_SENT = "its code, which is kept nowhere in the cluster and comes from its launcher alone"

CODE_IS_SENT_HINT = (
    "if it is still on its way: raise --start-timeout; an attached `tf-spawner run` sends it to a pod that takes "
    "another's place, too, and after --detach nobody does"
)
PORT_WAIT_S = 5.0  # how long a killed script's port may stay taken

MESH_PEERS = 32  # how many of its peers a replica meets itself, at most


class Agent(Holding):
    """One replica: gets the code, meets its peers, runs the script, reports, and holds what it wrote."""

    def main(self, listener: socket.socket) -> int:
        """Serves and works until this replica is no longer needed; returns the exit status."""
        self.begin(self.end_scripts)
        self.begin(Server(self, listener).serve_forever)
        works = [self.heartbeat, self.listen]
        if self.job.restarts and [self.replica] == self.job.replicas[1:2]:
            works.append(self.mirror)
        for work in works:
            self.begin(work)
        try:
            code = self.work()
            while self.begins_again():
                code = self.work()
        except Exception as error:  # the agent's own failure is reported like the script's
            if self.child and self.child.returncode is None:
                kill_group(self.child.pid, signal.SIGKILL)
                self.wait_for_child()
                end_descendants(os.getpid(), KILL_WITHIN_S)
                reap()
            why = f"tf-spawner's agent failed: {type(error).__name__}: {error}"
            if isinstance(error, NoRoom) or (isinstance(error, OSError) and error.errno in NO_ROOM):
                why = f"could not go on: {error if isinstance(error, NoRoom) else no_room(error, self.root)}"
            code = self.fail(1, why)
        if not (self.job.replaces_lost and self.terminated.is_set()):  # otherwise another pod continues the log
            self.log.end()
        if self.store and not self.terminated.is_set():
            storing = self.begin(self.store_all, self.store)
            while storing.is_alive() and not self.terminated.is_set():
                storing.join(0.2)
        if not self.terminated.is_set():
            self.hold()
        if self.job.replaces_lost and not self.terminated.is_set() and code in EXITS_OF_LOST:
            code = 1  # what this replica was is decided, and its pod is not to be replaced
        leave_note(self.root / "exit.json", {"code": code, "message": self.report["message"][:1000]})
        return code

    def begins_again(self) -> bool:
        """Waits until the gang has ended or restarts; returns whether this replica starts its script again."""
        if not self.job.restarts:
            return False
        patience_s = self.job.start_timeout_s + LOST_AFTER_S
        with self.ordered:
            while self.order["generation"] == self.generation:
                # A gang with a result waits until this replica has stored its files.
                is_decided = self.order["phase"] == "ended" or (self.store and self.order.get("result"))
                over = is_decided or time.monotonic() - self.heard_at > patience_s
                if over or self.terminated.is_set():
                    return False
                self.ordered.wait(0.5)
        report = self.new_report()  # it looks at all checkpoints, and nobody else should wait for that
        with self.ordered:
            with self.reporting:
                self.generation, self.report = self.order["generation"], report
            self.stop.clear()
            if not self.is_to_run():
                self.stop.set()
        self.log.begin_again(f"restart {self.generation} of {self.job.restarts}")
        return True

    def code_holders(self) -> list[Peer]:
        """The agents that may have the code: the coordinator, or, for a new coordinator, all that have reported."""
        if self.gang is None:
            return [self.coordinator]
        with self.gang.changed:
            reports = [r for r in self.gang.reports.values() if r["replica"] != self.replica]
        return [Peer(self.key, r["replica"], r["agent"]) for r in reports]

    def work(self) -> int:
        """Gets the code, waits for the others, runs the script and reports how it ended."""
        is_sent = self.is_coordinator and not self.code.arrived.is_set()  # and not kept where another pod finds it
        notice = {"message": CODE_IS_SENT, "hint": CODE_IS_SENT_HINT} if is_sent else {}
        self.tell("getting the code", **notice)
        # Those whom the coordinator asks may themselves wait for what is uploaded here.
        self.code.get(self.code_holders, self.stop, wait_s=0 if self.gang else 10)
        if not self.stop.is_set():
            self.tell("meeting", **dict.fromkeys(notice, ""))
            taken = self.taken_port()
            if taken:
                return self.fail(1, taken, "configuration")
            addresses = self.meet()
        if not self.stop.is_set():
            self.take_checkpoint(addresses)
            if not self.files.began:
                self.site = self.code.site()
                self.files.begin()
            environment = self.environment(addresses["tensorflow"], self.site)
            missing = self.missing_tf_keras(environment) or self.missing_gpus(environment)
            if missing:
                return self.fail(EXIT_CONFIGURATION, missing, "configuration")
            store = None
            if self.job.artifacts:
                try:
                    store = Store(self.job.artifacts, self.job.name, os.environ)
                    if self.is_coordinator and not self.generation:
                        store.check()
                except OSError as error:
                    self.report["hint"] = getattr(error, "hint", None)
                    message = f"cannot put artifacts into {self.job.artifacts}: {error}"
                    return self.fail(EXIT_CONFIGURATION, message, "configuration")
            self.place_original_script()
            self.tell("ready", message="")
            with self.ordered:
                self.ordered.wait_for(lambda: self.order["phase"] not in STARTING or self.stop.is_set())
        if self.broken:
            return self.fail(1, self.broken)
        if self.terminated.is_set():
            return self.fail(EXIT_TERMINATED, TERMINATED, "lost")
        if self.stop.is_set():
            self.tell("stopped", finished=time.time(), exit_code=None)
            return EXIT_PEER_LOST
        self.store = store
        return self.run(environment)

    def take_checkpoint(self, addresses: dict[str, Any]) -> None:
        """Before a restart, makes the newest checkpoint this replica's own."""
        holder = addresses.get("checkpoint")
        while self.generation and holder and not self.stop.is_set():
            try:
                peer = Peer(self.key, holder, addresses["agents"][holder])
                return self.checkpoints.take(None if holder == self.replica else peer)
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.report["message"] = f"{holder}'s checkpoint ({error})"
                self.stop.wait(0.5)

    def taken_port(self) -> str | None:
        """Why TensorFlow's port is taken, if it is; a script that was just killed may hold it for a moment."""
        deadline = time.monotonic() + (PORT_WAIT_S if self.generation else 0.0)
        while True:
            taken = self.try_port()
            if not taken or time.monotonic() > deadline:
                return taken
            time.sleep(0.05)

    def try_port(self) -> str | None:
        """Why TensorFlow's port cannot be used here; None if it can."""
        port = self.port
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return f"cannot start: port {port}, TensorFlow's, is taken here by another process"
                return f"cannot start: port {port}, TensorFlow's, cannot be used here: {error.strerror}"
        return None

    def meet(self) -> dict[str, Any]:
        """Learns all addresses and waits until the peers answer; returns what the coordinator's /cluster says.

        The report names the peers that do not answer.
        """
        addresses: dict[str, Any] = {"tensorflow": {}, "agents": {}}
        with self.ordered:
            self.ordered.wait_for(lambda: self.order["phase"] != "forming" or self.stop.is_set())
        while self.order["phase"] == "meeting" and not self.stop.is_set():
            try:
                addresses = self.gang.cluster() if self.gang else self.coordinator.ask_json("GET", "/cluster")
                self.met = self.generation
                break
            except OSError:
                self.stop.wait(0.2)
        others = self.job.replicas[self.job.replicas.index(self.replica) + 1 :] + self.job.replicas
        missing = [r for r in dict.fromkeys([self.job.coordinator, *others[:MESH_PEERS]]) if r != self.replica]
        while missing and not self.stop.is_set():
            reasons = {peer: reach(addresses["agents"][peer]) for peer in missing}
            missing = [peer for peer, reason in reasons.items() if reason]
            if missing:
                shown = ", ".join(f"{peer} ({reasons[peer]})" for peer in missing[:4])
                rest = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
                self.report["message"] = shown + rest
                self.stop.wait(0.1)
        return addresses
