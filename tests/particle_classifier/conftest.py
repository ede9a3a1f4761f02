"""The example's scripts as modules, and its shipped sample."""

import os
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/particle_classifier"
sys.path.insert(0, str(EXAMPLE))
os.environ.setdefault("SPARK_CONF_DIR", str(Path(__file__).parent / "spark"))


@pytest.fixture
def example() -> Path:
    return EXAMPLE
