"""What the live view costs: the agents' processor time beside the training's, and the launcher's at 32 replicas.

Needs TensorFlow with tf-keras here, and no cluster. Processor time is read from /proc while the job runs, followed by
`tf-spawner run` in a terminal of 140 x 50; an agent's is all that it does: the log, what is used, reports, the stream.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from common import TF_SPAWNER, call, write_script

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from terminal import Terminal

WARM_S, MEASURED_S = 10.0, 30.0
REPLICA_TARGET, LAUNCHER_TARGET, REPLICAS = 0.02, 0.10, 32
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
TRAINING = """
import os
from tensorflow import keras
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.layers.Input((256,)), *(keras.layers.Dense(512, "relu") for _ in range(4)), keras.layers.Dense(10)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
x, y = tf.random.uniform((4096, 256)), tf.random.uniform((4096,), maxval=10, dtype=tf.int64)
model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(128), epochs=100_000)
"""
LIGHT = """
import time
for epoch in range(1, 1000):
    print(f"Epoch {epoch}/999")
    for step in range(1, 201):
        time.sleep(0.1)
        print(f"\\r{step:4}/200 [=====>......] - ETA: 3s - loss: {1 / (epoch + step):.4f}", end="", flush=True)
    print()
"""


def spent_s(pid: int) -> float:
    """The processor time of one process until now; proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def children(pid: int) -> list[int]:
    found = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]  # fmt: skip
    return found + [grandchild for child in found for grandchild in children(child)]


def measure(script: str, replicas: int) -> tuple[float, list[float], list[float], float, list[str]]:
    """Processors that the launcher, the agents and the scripts took; bytes a second to the terminal; what it showed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
        command = [TF_SPAWNER, "run", write_script(folder / "code", script), "-w", str(replicas), "--name", "seen",
                   "--out", str(folder / "runs")]  # fmt: skip
        terminal = Terminal(command, env, folder, width=140, height=50)
        try:
            terminal.shows(r"\d/s ", 180)
            time.sleep(WARM_S)
            pids = json.loads((folder / "state/tf-spawner/jobs/seen/pids.json").read_text())
            agents = [pid for pid, _ in pids.values()]
            scripts = [children(agent) for agent in agents]
            everyone = {pid for pids in (agents, *scripts) for pid in pids} | {terminal.process.pid}
            began, before, sent = time.monotonic(), {pid: spent_s(pid) for pid in everyone}, len(terminal.sent)
            time.sleep(MEASURED_S)
            seconds = time.monotonic() - began
            used = {pid: (spent_s(pid) - before[pid]) / seconds for pid in everyone}
            shown, bytes_s = terminal.screen.shown, (len(terminal.sent) - sent) / seconds
            return (used[terminal.process.pid], [used[pid] for pid in agents],
                    [sum(used[pid] for pid in pids) for pids in scripts], bytes_s, shown)  # fmt: skip
        finally:
            call(TF_SPAWNER, "delete", "seen", "--on", "local", env=env)
            terminal.end()


def main() -> None:
    _, agents, scripts, _, shown = measure(TRAINING, 2)
    shares = [agent / script for agent, script in zip(agents, scripts, strict=True)]
    print("\n2 workers train, watched: processor time of each agent beside its script's")
    for number, share in enumerate(shares):
        print(f"  worker-{number}: {agents[number]:.4f} of {scripts[number]:.2f} processors, {100 * share:.2f} %")
    print("\n".join(f"    {line}" for line in shown[-4:]))
    launcher, agents, _, bytes_s, _ = measure(LIGHT, REPLICAS)
    print(f"\n{REPLICAS} replicas that print 10 steps a second each")
    print(f"  launcher {100 * launcher:.1f} % of a core, {bytes_s:,.0f} bytes/s to the terminal")
    print(f"  agents: coordinator {100 * agents[0]:.1f} %, the others {100 * sum(agents[1:]) / (REPLICAS - 1):.2f} %")
    passed = max(shares) <= REPLICA_TARGET and launcher <= LAUNCHER_TARGET
    print(f"  targets {100 * REPLICA_TARGET:.0f} % in the replica, {100 * LAUNCHER_TARGET:.0f} % of a core: "
          f"{'pass' if passed else 'MISS'}")  # fmt: skip
    sys.exit(not passed)


if __name__ == "__main__":
    main()
