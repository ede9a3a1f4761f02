"""Fuzzing: each test has some rounds in `make test`, always the same ones, and as many as time allows in `make fuzz`."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest


class Fuzz:
    """The rounds of one test. A round's seed is its own, so that one that failed can be repeated by itself."""

    def __init__(self, seed: int, seconds: float) -> None:
        self.seed, self.seconds = seed, seconds
        self.round = 0

    def rounds(self, count: int) -> Iterator[random.Random]:
        """That many rounds, or as many as `--fuzz-seconds` allow; each gets its own source of random values."""
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline if self.seconds else self.round < count:
            yield random.Random(f"{self.seed}/{self.round}")
            self.round += 1


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Iterator[Fuzz]:
    """for rng in fuzz.rounds(300): …"""
    made = Fuzz(request.config.getoption("--seed"), request.config.getoption("--fuzz-seconds"))
    failed = request.session.testsfailed
    yield made
    print(f"{made.round} rounds with --seed {made.seed}; the failed one is random.Random('{made.seed}/{made.round}')")
    assert made.round or request.session.testsfailed > failed, "a fuzz test that ran no round"
