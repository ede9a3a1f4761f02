"""Reads from Keras's output how far training is, and how fast."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

RATE_OVER_S = 10.0  # the rate is that of the steps in these last seconds

RATE_LEAST_S = (0.2, 1.0)  # over less time there is no rate: for a whole epoch, and during one

# A script prints what it likes: each pattern takes time in proportion to the line, and numbers are bounded.
LONGEST_PROGRESS = 4096  # a longer line is not progress
ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[()][0-9AB]|\x08+")

EPOCH = re.compile(r"^Epoch ([0-9]{1,12})/([0-9]{1,12})\s*$")

STEP = re.compile(
    r"^\s*([0-9]{1,12})/([0-9]{1,12}|Unknown)\s+(\[[=>.]*\]|[━]+|-(?=\s\d+s\b)|(?<=Unknown\s)(?=\d+s\s))\s?(.*)$"
)
METRIC = re.compile(r"(?<!\w)(\w{1,200}): (-?(?:[0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?|nan|inf))")


def parse_progress(line: str) -> dict[str, Any] | None:
    """The progress in a line of Keras's output (2 or 3, verbose 1 or 2); None for other lines.

    Returns {"epoch", "epochs"} or {"step", "steps" (None: unknown), "metrics": {name: value}}.
    """
    if len(line) > LONGEST_PROGRESS:
        return None
    line = ANSI.sub("", line)
    epoch = EPOCH.match(line)
    if epoch:
        return {"epoch": int(epoch[1]), "epochs": int(epoch[2])}
    step = STEP.match(line)
    if not step:
        return None
    metrics = {name: float(value) for name, value in METRIC.findall(step[4]) if name != "ETA"}
    return {"step": int(step[1]), "steps": None if step[2] == "Unknown" else int(step[2]), "metrics": metrics}


def is_progress_bar(line: str) -> bool:
    """Whether a line is an unfinished progress bar, which is shown as progress and not as a line of the log."""
    progress = parse_progress(line) if "/" in line else None
    return bool(progress) and "step" in progress and progress["step"] != progress["steps"]  # type: ignore[operator,index]


class Pace:
    """Steps a second: over an epoch's last ten seconds, or all of it where Keras tells of each epoch alone.

    An epoch's first step, in which TensorFlow traces, does not count once there are others.
    """

    def __init__(self) -> None:
        self.points: deque[tuple[float, int]] = deque()  # when each step was printed
        self.steps: int | None = None
        self.has_epochs = False

    def begin(self, now: float) -> None:
        """Begins an epoch."""
        self.points, self.steps, self.has_epochs = deque([(now, 0)]), None, True

    def step(self, now: float, step: int, steps: int | None) -> float | None:
        """The rate after that step; None if it is unknown."""
        counts_anew = bool(self.points) and (
            step < self.points[-1][1] or (self.steps or steps) != (steps or self.steps)
        )
        if counts_anew or not self.points:
            self.points.clear()
            if self.has_epochs:  # outside of them it is an evaluation
                return None
        self.steps = steps or self.steps
        points = self.points
        if len(points) > 1 and now - points[-2][0] < 0.1:
            points.pop()
        points.append((now, step))
        while len(points) > 2 and (now - points[1][0] >= RATE_OVER_S or (not points[0][1] and now - points[1][0] >= 1)):
            points.popleft()
        seconds, made = now - points[0][0], step - points[0][1]
        return made / seconds if made and seconds >= RATE_LEAST_S[step != self.steps] else None
