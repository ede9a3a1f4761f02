"""Much output: many files, a large one, and many lines followed live."""

from __future__ import annotations

import hashlib
import random

LINES = 100_000


def test_2000_small_files_and_one_of_64_mib_come_back_whole(place):
    script = place.script("""
        import os, random
        out = os.environ["TFSPAWNER_OUTPUT"]
        for number in range(2000):
            folder = f"{out}/shards/{number % 20}"
            os.makedirs(folder, exist_ok=True)
            with open(f"{folder}/{number}", "w") as file:
                file.write(f"content of {number}\\n" * (number % 7))
        with open(f"{out}/large", "wb") as file:
            for part in range(64):
                file.write(random.Random(part).randbytes(1024 * 1024))
    """)
    done = place.run(script, "-w", "1", "--name", "bulk")
    assert done.code == 0, done.err
    files = place.runs / "bulk/files/worker-0"
    for number in range(2000):
        text = (files / f"shards/{number % 20}/{number}").read_text()
        assert text == f"content of {number}\n" * (number % 7)
    assert len([path for path in files.rglob("*") if path.is_file()]) == 2001
    expected = hashlib.sha256()
    for part in range(64):
        expected.update(random.Random(part).randbytes(1024 * 1024))
    with (files / "large").open("rb") as large:
        assert hashlib.file_digest(large, "sha256").hexdigest() == expected.hexdigest()


def test_of_100000_numbered_lines_of_each_replica_none_is_lost_and_none_comes_twice(place):
    script = place.script(f"""
        import os
        for number in range({LINES}):
            print("numbered line", number, "of worker", os.environ["TFSPAWNER_INDEX"])
    """)
    done = place.run(script, "--name", "lines")
    assert done.code == 0, done.err
    shown = done.out.splitlines()
    assert len(shown) == 2 * LINES
    for index in (0, 1):
        expected = [f"numbered line {number} of worker {index}" for number in range(LINES)]
        prefix = f"worker-{index} | "
        live = [line.removeprefix(prefix) for line in shown if line.startswith(prefix)]
        recorded = (place.runs / f"lines/logs/worker-{index}.log").read_text().splitlines()
        # not "assert live == expected": of lists so long, pytest would make a diff for minutes
        assert first_difference(live, expected) is None
        assert first_difference(recorded, expected) is None


def first_difference(found: list[str], expected: list[str]) -> str | None:
    for number, (one, other) in enumerate(zip(found, expected, strict=False)):
        if one != other:
            return f"line {number}: {one!r} instead of {other!r}"
    return None if len(found) == len(expected) else f"{len(found)} lines instead of {len(expected)}"
