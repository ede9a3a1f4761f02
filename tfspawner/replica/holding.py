"""Puts a replica's files into a bucket, or holds them until they are collected."""

from __future__ import annotations

import time

from .bucket import STORE_FAILED_FOR_S, STORE_FOR_S, Store
from .files import sha256_of
from .notes import say
from .protocol import SHORT_HOLD_S
from .script import Script


class Holding(Script):
    """Puts what the replica wrote into a bucket, or stays until it is collected."""

    def store_all(self, store: Store) -> None:
        """Puts this replica's files and log into the bucket, and reports how it went."""
        size = 0
        try:
            files = self.stored_files()
            size = sum(size for _, _, size, _ in files)
            patience_s = STORE_FOR_S if self.report["state"] == "succeeded" else STORE_FAILED_FOR_S
            failure = store.put_all(files, self.terminated, patience_s)
        except Exception as error:  # clients that wait for the files are told
            files, failure = [], f"tf-spawner's agent failed: {type(error).__name__}: {error}"
        if failure:
            failure = self.masker.mask_text(failure)
            say(f"{store.uri}: {failure}")
        stored = {"uri": store.uri, "files": max(0, len(files) - 1), "size": size, "failure": failure}
        self.tell(storing="", stored=stored)

    def stored_files(self) -> list[tuple[str, str, int, str]]:
        """(name, path, size, SHA-256) of this replica's files and, last, its log."""
        files = [(f"files/{self.replica}/{name}", path, size, sha) for name, path, size, sha in self.files.paths()]
        path, size = self.log.place(), self.log.size - self.log.base
        return [*files, (f"logs/{self.replica}.log", path, size, sha256_of(path, size))]

    def hold(self) -> None:
        """Keeps this replica and its files until all is collected or the hold time is over."""
        ended = None
        while not self.terminated.is_set():
            with self.ordered:
                self.ordered.wait(0.2)
                order = dict(self.order)
            if not self.is_collected():
                continue
            if order["released"] and order["phase"] != "stopping":  # there, scripts may still write
                break
            if self.broken or order["phase"] == "ended" or (self.stop.is_set() and order["phase"] != "stopping"):
                hold_s = self.job.hold_s
                is_elsewhere = self.store and not self.report["stored"]["failure"]
                if (order.get("result") != "succeeded" or is_elsewhere) and not order.get("kept"):
                    hold_s = min(hold_s, SHORT_HOLD_S)
                ended = ended or time.monotonic()
                if time.monotonic() > ended + hold_s:
                    break
        if self.gang and not self.terminated.is_set():
            self.gang.release()
            time.sleep(1)  # the others ask once a second at the latest
