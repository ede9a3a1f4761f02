"""tf-spawner as `pip install` leaves it, and not as a checkout: what its modules find beside them is there, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the package as it comes out of a wheel."""
    folder = tmp_path_factory.mktemp("installed")
    copied = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if name.startswith(("tfspawner/", "templates/", "setup", "pyproject", "README", "LICENSE")):
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            (copied / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "packages"), str(copied)]
    subprocess.run(pip, check=True, capture_output=True)
    return folder / "packages"


def test_a_job_is_made_run_rendered_and_reported(installed, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(installed), "XDG_STATE_HOME": str(tmp_path / "state"), "KUBECONFIG": "none"}

    def call(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tfspawner", *words], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [sys.executable, "-c", "import tfspawner; print(tfspawner.__file__)"]
    assert str(installed) in subprocess.run(where, cwd=tmp_path, env=env, capture_output=True, text=True).stdout
    assert "kind: Role" in call("rbac", "-n", "here")
    assert "first/train.py" in call("init", "first")
    (tmp_path / "train.py").write_text("print('trained')\n")
    assert "kind: Job" in call("render", "train.py", "--image", "an/image:1")
    assert "worker-0 | trained" in call("run", "train.py", "-w", "1", "--name", "j")
    assert call("report", "j").strip() == "runs/j/report.html"
    assert call("list") == ""
