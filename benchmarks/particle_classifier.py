"""Training the inclusive particle classifier: the published recipe against train.py --fast, on the same cores.

    python benchmarks/particle_classifier.py PREPARED

PREPARED holds inclusive/ and small/, the same events in the published layout and in the small encoding, as the example's
prepare.py writes them. The published recipe: batches of 128, Masking that masks nothing, Keras' GRU over 801 rows. Fast:
the particles alone, in batches of 256 of like lengths at twice the learning rate, as two workers would, by the GRU of
fast_gru.py. Both have 12,353 parameters, from the same seed.

Each is a process that waits while the other trains an epoch, so that they meet the same noise; after each epoch both
classify the same test events. Events a second are medians of all epochs but the first, which compiles.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples/particle_classifier"
TARGET_RATIO, TARGET_AUC = 3.0, 0.002


def side(words: list[str]) -> None:
    """One process: trains an epoch for each line that comes in, and tells of it in a line of JSON."""
    sys.path.insert(0, str(EXAMPLE))
    import batches
    import numpy as np
    import tensorflow as tf
    import train
    from sklearn.metrics import roc_auc_score

    args = train.arguments(words)
    events, _ = batches.count(args.data, "train")
    steps = args.steps_per_epoch or events // args.batch_size
    train.keras.utils.set_random_seed(args.seed)
    model = train.model_for(args)
    data = batches.training(args.data, model.name, args.batch_size, seed=args.seed)
    test = batches.labelled(args.data, model.name, 256)
    predict = tf.function(lambda inputs: model(inputs, training=False), reduce_retracing=True)
    for epoch, _ in enumerate(sys.stdin):
        model.optimizer.learning_rate = train.learning_rate(args.schedule, epoch) * args.rate
        began, cpu = time.monotonic(), time.process_time()
        fitted = model.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False).history
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        labels, predicted = (np.concatenate(some) for some in zip(*((y, predict(x)) for x, y in test), strict=True))
        found = {
            "events": steps * args.batch_size, "seconds": seconds, "cpu_seconds": cpu, "loss": fitted["loss"][0],
            "auc": [roc_auc_score(labels[:, c], predicted[:, c]) for c in range(3)], "parameters": model.count_params(),
        }  # fmt: skip
        print(json.dumps(found), flush=True)


def start(*words: object) -> subprocess.Popen:
    command = [sys.executable, __file__, "--side", *map(str, words)]
    env = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}  # as on several workers
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def epoch_of(process: subprocess.Popen) -> dict:
    process.stdin.write("\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        sys.exit(f"{' '.join(process.args[3:])} ended with {process.wait()}")
    return json.loads(line)


def rates(epochs: list[dict], time_name: str) -> tuple[float, float, float]:
    """(median, least, most) events a second."""
    found = [epoch["events"] / epoch[time_name] for epoch in epochs[1:]]
    return statistics.median(found), min(found), max(found)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--fast-batch", type=int, default=256)
    parser.add_argument("--fast-rate", type=float, default=2.0, help="multiplies the fast side's learning rates")
    parser.add_argument("--steps-per-epoch", type=int, help="of the recipe, where not all events are to be used")
    parser.add_argument("--json", type=Path, help="writes all epochs there")
    args = parser.parse_args()
    common = ["--model", "inclusive", "--seed", "1"]
    steps, fast_steps = [], []
    if args.steps_per_epoch:
        steps = ["--steps-per-epoch", args.steps_per_epoch]
        fast_steps = ["--steps-per-epoch", args.steps_per_epoch * 128 // args.fast_batch]
    sides = {
        "recipe": start("--data", args.prepared / "inclusive", "--batch-size", 128, *common, *steps),
        "fast": start(
            "--data", args.prepared / "small", "--fast", "--batch-size", args.fast_batch, "--rate", args.fast_rate,
            *common, *fast_steps,
        ),
    }  # fmt: skip
    found = {name: [] for name in sides}
    for number in range(args.epochs):
        for name, process in sides.items():
            epoch = epoch_of(process)
            found[name].append(epoch)
            auc = " ".join(f"{value:.4f}" for value in epoch["auc"])
            print(
                f"epoch {number + 1} {name:7} {epoch['seconds']:7.1f} s, {epoch['events'] / epoch['seconds']:7.0f} events/s,"
                f" loss {epoch['loss']:.4f}, AUC {auc}", flush=True,
            )  # fmt: skip
    for process in sides.values():
        process.stdin.close()
        process.wait()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if judged(found) else 1)


def judged(found: dict[str, list[dict]]) -> bool:
    """Prints the comparison; whether both targets are met."""
    ratios = {}
    for title, time_name in (("", "seconds"), (" of processor time", "cpu_seconds")):
        print(f"\nevents a second{title}")
        for name, epochs in found.items():
            middle, low, high = rates(epochs, time_name)
            print(f"  {name:8} {middle:8,.0f}   ({low:,.0f} to {high:,.0f}, {len(epochs) - 1} epochs)")
        ratios[time_name] = rates(found["fast"], time_name)[0] / rates(found["recipe"], time_name)[0]
        print(f"  ratio {ratios[time_name]:.2f}" + (f", target at least {TARGET_RATIO:g}" if not title else ""))
    recipe, fast = (mean(found[name][-1]["auc"]) for name in ("recipe", "fast"))
    print(f"\nmean AUC of the classes after {len(found['fast'])} epochs: recipe {recipe:.4f}, fast {fast:.4f}")
    reached = next((n for n, epoch in enumerate(found["fast"], 1) if mean(epoch["auc"]) >= recipe - TARGET_AUC), None)
    whole = sum(epoch["seconds"] for epoch in found["recipe"])
    if reached:
        took = sum(epoch["seconds"] for epoch in found["fast"][:reached])
        print(f"fast was within {TARGET_AUC} of the recipe's after epoch {reached}: {took:.0f} s of its {whole:.0f} s")
    passed = ratios["seconds"] >= TARGET_RATIO and fast >= recipe - TARGET_AUC
    print("pass" if passed else "MISS")
    return passed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        side(sys.argv[2:])
    else:
        main()
