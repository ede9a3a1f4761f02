"""examples/kind/run from the place where the cluster and the image are there already."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples/kind/run"


def test_the_example_trains_on_pods_and_evaluates_what_came_back(cluster_place):
    place = cluster_place
    env = {**place.env, "IMAGE": os.environ["TFSPAWNER_IMAGE"], "OUT": str(place.runs)}
    done = subprocess.run([EXAMPLE], env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"test accuracy ([\d.]+)", done.stdout)[1]) > 0.95
    assert place.leftovers() == []
