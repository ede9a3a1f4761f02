"""What a line of the script's output costs the agent, and a line on a terminal the launcher; needs no TensorFlow.

Processor time of the agent's Log (file, tail, progress) for lines in pieces as a pipe gives them, and of the launcher's
view of the same. `python benchmarks/lines.py FOLDER` measures the Log of another checkout's tfspawner/replica.
"""

import io
import sys
import tempfile
import time
from pathlib import Path

TARGETS_US = {"progress bar, Keras 3": 50, "progress bar, tf-keras": 50, "plain line": 10, "plain line with a path": 15,
              "4 kB of words": 500, "4 kB of one word": 500, "64 kB of one word": 2000}  # fmt: skip
BAR = "\x1b[1m {:4}/1000\x1b[0m \x1b[32m━━━━━\x1b[0m\x1b[37m━━━━━━━━━━━━━━━\x1b[0m \x1b[1m3s\x1b[0m 5ms/step - accuracy: 0.5000 - loss: 0.6900\r"
OLD_BAR = "\x08" * 60 + "\r{:4}/1000 [======>.......................] - ETA: 3s - loss: 0.3412 - accuracy: 0.9012"
LINES = {
    "progress bar, Keras 3": [BAR.format(step) for step in range(1, 1001)] * 20,
    "progress bar, tf-keras": [OLD_BAR.format(step) for step in range(1, 1001)] * 20,
    "plain line": ["step 17 of the fit took 0.12 s and the loss went down\n"] * 20_000,
    "plain line with a path": ["wrote checkpoint /tmp/output/checkpoints/ckpt-17.index in 0.12 s\n"] * 20_000,
    "4 kB of words": ["1/2 [==>] - " + "loss and more, " * 270 + "\n"] * 200,
    "4 kB of one word": ["1/2 [==>] - " + "a" * 4070 + "\n"] * 20,
    "64 kB of one word": ["1/2 [==>] - " + "a" * 65_000 + "\n"] * 4,
}
PIECE = 8192


def agent_us(agent, lines: list[str]) -> float:
    """Microseconds a line in the agent."""
    data = "".join(lines).encode()
    with tempfile.TemporaryDirectory() as folder:
        log = agent.Log(Path(folder, "log"))
        began = time.process_time()
        for at in range(0, len(data), PIECE):
            log.write(data[at : at + PIECE])
        return 1e6 * (time.process_time() - began) / len(lines)


def view_us(lines: list[str]) -> float:
    """Microseconds a line in the launcher, for one that prints plainly."""
    from tfspawner.views.plain import PlainView

    view, data = PlainView(io.StringIO(), io.StringIO()), "".join(lines).encode()
    began = time.process_time()
    for at in range(0, len(data), PIECE):
        view.log("worker-0", data[at : at + PIECE])
    return 1e6 * (time.process_time() - began) / len(lines)


def main() -> None:
    sys.path.insert(0, sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parent.parent / "tfspawner"))
    from replica import log as agent

    passed = True
    print("\nmicroseconds of processor time a line        agent   launcher   the agent's target")
    for name, target in TARGETS_US.items():
        cost = min(agent_us(agent, LINES[name]) for _ in range(3))
        passed &= cost <= target
        print(f"  {name:38}{cost:10,.1f}{min(view_us(LINES[name]) for _ in range(3)):11,.1f}{target:12,}", flush=True)
    print(f"  {'pass' if passed else 'MISS'}")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
