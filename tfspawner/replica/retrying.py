"""Retries: how often, for how long, and with which pauses."""

from __future__ import annotations

import math
import random
import time
from typing import Callable


def pause_of(first_s: float, failures: int, most_s: float = math.inf, *, varies: bool = False) -> float:
    """Seconds to wait after `failures` failures: first_s after one, and twice as long after each further one.

    A pause that `varies` is up to half shorter at random, so that many who failed together do not return together.
    """
    pause_s = min(most_s, first_s * 2.0 ** (failures - 1))
    return pause_s * random.uniform(0.5, 1.0) if varies else pause_s


class Retrying:
    """The tries of one thing.

    Args:
        tries: how many in all.
        pause_s: the pause after the first failure, in seconds; see pause_of().
        within_s: no try begins later than this after the first one began.
    """

    def __init__(self, tries: int, pause_s: float, *, within_s: float = math.inf, varies: bool = False) -> None:
        self.tries, self.pause_s, self.varies = tries, pause_s, varies
        self.ends_at = time.monotonic() + within_s
        self.failures = 0

    def is_over(self) -> bool:
        """Counts a failure; returns whether it was the last try."""
        self.failures += 1
        return self.failures >= self.tries or time.monotonic() > self.ends_at

    def pause(self, wait: Callable[[float], object] = time.sleep) -> None:
        """Waits before the next try."""
        wait(pause_of(self.pause_s, self.failures, varies=self.varies))
