"""TensorFlow itself: two pods train one model, and it comes back."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

DIGITS = Path(__file__).parents[2] / "examples/digits"


def test_two_pods_train_the_digits_example_and_leave_the_model(cluster_place):
    shutil.copytree(DIGITS, cluster_place.folder / "digits", ignore=shutil.ignore_patterns("runs", "__pycache__"))
    script = cluster_place.folder / "digits/train.py"
    done = cluster_place.run(script, "--name", "digits", "--", "--epochs", "2", timeout_s=400)
    assert done.code == 0, done.err
    for replica in ("worker-0", "worker-1"):
        assert zipfile.is_zipfile(cluster_place.runs / f"digits/files/{replica}/model.keras")
        log = (cluster_place.runs / f"digits/logs/{replica}.log").read_text()
        assert "Epoch 2/2" in log
        assert "accuracy" in log
    assert cluster_place.leftovers() == []


def test_a_stock_image_without_tf_keras_gets_it_along_with_the_code(cluster_place):
    if "TESTCLUSTER" not in os.environ:
        pytest.skip("needs TESTCLUSTER, the program that builds an image into the cluster's node")
    here = Path(__file__).parent
    build = [os.environ["TESTCLUSTER"], "image", "tensorflow/tensorflow:2.21.0", str(here / "stock-image")]
    subprocess.run(build, check=True, capture_output=True)
    del cluster_place.env["TFSPAWNER_IMAGE"]
    done = cluster_place.run(DIGITS / "train.py", "--name", "stock", "--", "--epochs", "1", timeout_s=400)
    assert done.code == 0, done.err
    assert (cluster_place.runs / "stock/files/worker-0/model.keras").stat().st_size > 100_000
