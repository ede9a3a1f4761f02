"""`make demo` of the example: from the shipped ROOT files to ROC curves, with two workers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("uproot")
pytest.importorskip("tensorflow")


def test_the_demo_goes_from_root_files_to_roc_curves(example, tmp_path):
    venv = Path(sys.executable).parents[1]
    words = ["make", "-C", example, "demo", f"VENV={venv}", f"WORK={tmp_path}", "HLF_EPOCHS=15", "GRU_EPOCHS=2"]
    (venv / "particles").touch()  # what it would install is here
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "results/results.json").read_text())
    by_name = {model["name"].split("-")[0]: model for model in results["results"]}
    assert set(by_name) == {"hlf", "gru"}
    assert min(by_name["hlf"]["auc"]) > 0.9
    assert (tmp_path / "results/report.html").stat().st_size > 50_000
