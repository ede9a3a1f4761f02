"""TensorFlow itself: two pods train one model, and it comes back."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

DIGITS = Path(__file__).parents[2] / "examples/digits"


@pytest.mark.timeout(240)
def test_two_pods_train_the_digits_example_and_leave_the_model(cluster_place):
    shutil.copytree(DIGITS, cluster_place.folder / "digits", ignore=shutil.ignore_patterns("runs", "__pycache__"))
    script = cluster_place.folder / "digits/train.py"
    done = cluster_place.run(script, "--name", "digits", "--", "--epochs", "2", timeout_s=220)
    assert done.code == 0, done.err
    for replica in ("worker-0", "worker-1"):
        assert zipfile.is_zipfile(cluster_place.runs / f"digits/files/{replica}/model.keras")
        log = (cluster_place.runs / f"digits/logs/{replica}.log").read_text()
        assert "Epoch 2/2" in log
        assert "accuracy" in log
    assert cluster_place.leftovers() == []
