"""4 pods print 100,000 numbered lines each, followed live: none is lost and none comes twice, shown or saved."""

import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import TF_SPAWNER, call, namespace, write_script

REPLICAS, LINES, ROUNDS = 4, 100_000, 3
SCRIPT = f"for number in range({LINES}): print(f'line {{number:06}} of a log as long as they usually are')\n"
EXPECTED = [f"line {number:06} of a log as long as they usually are" for number in range(LINES)]


def follow(folder: Path, space: str) -> tuple[float, list[str]]:
    """Seconds of a whole run, from launch to removal, and what it showed."""
    began = time.monotonic()
    output = call(TF_SPAWNER, "run", write_script(folder / "code", SCRIPT), "-w", str(REPLICAS), "--on", "kubernetes",
                  "-n", space, "--name", "lines", "--out", str(folder))  # fmt: skip
    return time.monotonic() - began, output.splitlines()


def main() -> None:
    passed, rates = True, []
    print(f"\n{REPLICAS} x {LINES:,} lines, followed live")
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as name, namespace("bench-logs") as space:
            seconds, shown = follow(Path(name), space)
            saved = [Path(name, f"lines/logs/worker-{r}.log").read_text().splitlines() for r in range(REPLICAS)]
        wanted = Counter(f"worker-{replica} | {line}" for replica in range(REPLICAS) for line in EXPECTED)
        lost, more = (wanted - Counter(shown)).total(), (Counter(shown) - wanted).total()
        in_order = all([s for s in shown if s.startswith(f"worker-{r} ")] == [f"worker-{r} | {e}" for e in EXPECTED]
                       for r in range(REPLICAS))  # fmt: skip
        equal = all(log == EXPECTED for log in saved)
        rates.append(len(shown) / seconds)
        passed &= not lost and not more and in_order and equal
        print(
            f"  {seconds:.1f} s: lost {lost}, twice or foreign {more}, order {'kept' if in_order else 'BROKEN'}, "
            f"saved logs {'whole' if equal else 'DIFFERENT'}"
        )
    print(
        f"  {statistics.median(rates):,.0f} lines/s ({min(rates):,.0f} to {max(rates):,.0f}), launch and removal included"
    )
    print(f"  target: all lines, each once: {'pass' if passed else 'MISS'}")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
