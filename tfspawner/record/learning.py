"""What a replica learned, as Keras printed it in its log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfspawner.replica.keras_output import ANSI, parse_progress

from .slowest import Took, took

LOG_BYTES = 64 << 20  # of a longer log only the end is read
LONGEST_DRAWN = 16384  # characters of a line that Keras draws; longer ones are skipped
MOST_METRICS, MOST_EPOCHS = 100, 100_000  # kept from one log
Curve = dict[float, float]  # epoch, or seconds -> value


class Learning:
    """{metric: {epoch: value}} as Keras prints them at each epoch's end; if an epoch ran twice, the later values."""

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.took: dict[int, Took] = {}  # by epoch
        self.epoch, self.step = 0, 0

    def read(self, line: str) -> None:
        """Takes in one line of the log, with every state of the progress bar in it."""
        if "/" not in line:
            return
        for drawn in ANSI.sub("", line).split("\r"):
            progress = parse_progress(drawn) if len(drawn) <= LONGEST_DRAWN else None
            if progress:
                self._take(progress, drawn)

    def _take(self, progress: dict[str, Any], drawn: str) -> None:
        if "epoch" in progress:
            self.epoch, self.step = progress["epoch"], 0
        elif self.epoch and progress["step"] >= self.step:
            self.step = progress["step"]
            if progress["steps"] in (self.step, None):
                for name, value in progress["metrics"].items():
                    if name in self.curves or len(self.curves) < MOST_METRICS:
                        _put(self.curves.setdefault(name, {}), self.epoch, value)
                duration = took(drawn, self.step)
                if duration:
                    _put(self.took, self.epoch, duration)
        else:
            self.epoch = 0  # the steps start again without a new epoch: an evaluation


def _put(by_epoch: dict[Any, Any], epoch: int, value: Any) -> None:
    if epoch in by_epoch or len(by_epoch) < MOST_EPOCHS:
        by_epoch[epoch] = value


def learned(log: Path) -> dict[str, Curve]:
    """The curves of a log."""
    return read_log(log).curves


def read_log(log: Path) -> Learning:
    """What Keras printed into a log."""
    learning = Learning()
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        for line in file:
            if b"/" in line:
                learning.read(line.decode(errors="replace"))
    return learning
