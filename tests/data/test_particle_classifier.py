"""The particle classifier's training on events in a bucket, by two workers here or two pods."""

import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "examples/particle_classifier"), str(ROOT / "tests/particle_classifier")]

import batches  # noqa: E402
import synthetic  # noqa: E402

TRAIN_PY = ROOT / "examples/particle_classifier/train.py"


def test_two_workers_train_on_events_in_a_bucket(place, reachable_s3):
    synthetic.write(reachable_s3.folder / "bucket/hlf", train=900, test=101, kind="hlf")
    env_file = place.folder / "s3.env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in reachable_s3.variables.items()))
    words = ("--data", "s3://bucket/hlf", "--model", "hlf", "--epochs", "3", "--batch-size", "64")
    done = place.run(TRAIN_PY, "-w", "2", "-e", env_file, "--name", "bucket", "--", *words, timeout_s=400)
    assert done.code == 0, done.err + done.out[-3000:]
    assert "900 events to train on: 7 steps an epoch of 2 x 64" in done.out
    logs = [(place.runs / f"bucket/logs/worker-{n}.log").read_text() for n in (0, 1)]
    losses = [re.findall(r" - loss: (.*? val_accuracy: \S+)", log) for log in logs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3
    history = json.loads((place.runs / "bucket/files/worker-1/history.json").read_text())
    assert history["epochs"][0]["val_accuracy"] * 101 == pytest.approx(
        round(history["epochs"][0]["val_accuracy"] * 101)
    )


def test_small_events_in_a_bucket_are_counted_by_an_estimate(s3):
    synthetic.write(s3.folder / "bucket/small", train=300, test=3, kind="small")
    events, counted = batches.count("s3://bucket/small", "train")
    assert not counted
    assert events == pytest.approx(300, rel=0.02)
    for (particles, _), labels in batches.labelled("s3://bucket/small", "inclusive_masked", 2):
        assert particles.shape[0] == len(labels)
