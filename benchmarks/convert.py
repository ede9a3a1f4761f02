"""`tf-spawner data convert` and `stats` side by side with another checkout of this repository, an older commit say.

    git worktree add --detach OLD COMMIT && python benchmarks/convert.py OLD

Makes four kinds of TFRecord files: particle clouds as published (61 kB of floats), images (61 kB of bytes), small
records (112 bytes of floats) and tokens (65 integers). The commands run in turn, each as a process of its own.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import call, compare

from tfspawner.data.example import write_example
from tfspawner.data.records import frame

HERE = Path(__file__).parents[1]
AT_MOST = 0.5


def kinds(scale: float) -> dict[str, Iterator[dict[str, np.ndarray]]]:
    random = np.random.default_rng(1)
    label = np.float32([1, 0, 0])

    def cloud() -> dict[str, np.ndarray]:
        rows = np.full((801, 19), 0.123, np.float32)
        count = random.integers(100, 500)
        rows[:count] = random.normal(size=(count, 19))
        return {
            "HLF_input": random.normal(size=14).astype(np.float32),
            "GRU_input": rows.ravel(),
            "encoded_label": label,
        }

    def image(number: int) -> dict[str, np.ndarray]:
        return {"image": np.array([random.bytes(61_000), None], object)[:1], "label": np.array([number % 10])}

    def small() -> dict[str, np.ndarray]:
        return {"HLF_input": random.normal(size=14).astype(np.float32), "encoded_label": label}

    def tokens(number: int) -> dict[str, np.ndarray]:
        return {"tokens": random.integers(0, 50_000, 64), "label": np.array([number % 2])}

    return {
        "clouds": (cloud() for _ in range(int(5_000 * scale))),
        "images": (image(number) for number in range(int(5_000 * scale))),
        "small": (small() for _ in range(int(150_000 * scale))),
        "tokens": (tokens(number) for number in range(int(80_000 * scale))),
    }


def spent(checkout: Path, *words: str) -> tuple[float, float]:
    """(seconds that passed, seconds of the processors) of a command."""
    began, before = time.monotonic(), os.times()
    call(sys.executable, "-m", "tfspawner", "data", *words, cwd=checkout)
    after = os.times()
    processors = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, processors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="how many records, times the usual number")
    args = parser.parse_args()
    checkouts = {"this": HERE, "the other": args.old.resolve()}
    passed = True
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        for kind, records in kinds(args.scale).items():
            source = Path(name) / kind
            source.write_bytes(b"".join(frame(write_example(record)) for record in records))
            for title, words in {
                "stats": ["stats", str(source)],
                "to Parquet": ["convert", str(source), str(out), "--to", "parquet"],
            }.items():
                wall: dict[str, list[float]] = {which: [] for which in checkouts}
                processor: dict[str, list[float]] = {which: [] for which in checkouts}
                for _ in range(args.rounds):
                    for which, checkout in checkouts.items():
                        shutil.rmtree(out, ignore_errors=True)
                        seconds, worked = spent(checkout, *words)
                        wall[which].append(seconds)
                        processor[which].append(worked)
                passed &= compare(f"{kind}, {title}", wall, AT_MOST)
                ratio = statistics.median(processor["this"]) / statistics.median(processor["the other"])
                print(f"  ratio of the processors' seconds {ratio:.2f}", flush=True)
            source.unlink()
    sys.exit(not passed)


if __name__ == "__main__":
    main()
