"""What a replica learned, as Keras printed it in its log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfspawner.replica.keras_output import ANSI, parse_progress

from .slowest import Took, took

LOG_BYTES = 64 << 20  # of a longer log, its last bytes are read
LONGEST_DRAWN = 16384  # characters of a line of Keras's
MOST_METRICS, MOST_EPOCHS = 100, 100_000  # that are kept of a log
Curve = dict[float, float]  # epoch, or seconds -> value


class Learning:
    """{metric: {epoch: value}} as Keras prints them at the end of each epoch; of an epoch run twice, the later ones."""

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.took: dict[int, Took] = {}  # by epoch
        self.epoch, self.step = 0, 0

    def read(self, line: str) -> None:
        """Takes in a line, with all that was drawn over in it."""
        if "/" not in line:
            return
        for drawn in ANSI.sub("", line).split("\r"):
            told = parse_progress(drawn) if len(drawn) <= LONGEST_DRAWN else None
            if told:
                self._take(told, drawn)

    def _take(self, told: dict[str, Any], drawn: str) -> None:
        if "epoch" in told:
            self.epoch, self.step = told["epoch"], 0
        elif self.epoch and told["step"] >= self.step:
            self.step = told["step"]
            if told["steps"] in (self.step, None):
                for name, value in told["metrics"].items():
                    if name in self.curves or len(self.curves) < MOST_METRICS:
                        _put(self.curves.setdefault(name, {}), self.epoch, value)
                found = took(drawn, self.step)
                if found:
                    _put(self.took, self.epoch, found)
        else:
            self.epoch = 0  # it counts from the start again: that is an evaluation


def _put(by_epoch: dict[Any, Any], epoch: int, value: Any) -> None:
    if epoch in by_epoch or len(by_epoch) < MOST_EPOCHS:
        by_epoch[epoch] = value


def learned(log: Path) -> dict[str, Curve]:
    """The curves of a log."""
    return read_log(log).curves


def read_log(log: Path) -> Learning:
    """What Keras printed into a log."""
    found = Learning()
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        for line in file:
            if b"/" in line:
                found.read(line.decode(errors="replace"))
    return found
