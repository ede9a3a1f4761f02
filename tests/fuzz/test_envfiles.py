"""Env-files, pod files, ignore files and scripts as nobody would write them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from mutating import ODD_TEXTS, changed, damaged

from tfspawner.backends.kubernetes.manifests import render, to_yaml
from tfspawner.cli.envfile import read_env_file
from tfspawner.errors import ConfigurationError
from tfspawner.jobs.prepare import prepare, read_script
from tfspawner.jobs.travelling import Travelling
from tfspawner.plan.spec import JobSpec

MOST_S = 2.0
POD = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
    "spec": {"containers": [{"name": "worker", "image": "x", "env": [{"name": "A", "value": "b"}], "envFrom": [], "ports": [{"containerPort": 1}],
             "volumeMounts": [{"name": "v", "mountPath": "/v"}], "resources": {"limits": {"cpu": "1"}}}, {"name": "sidecar"}],
             "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "k"}], "nodeSelector": {"a": "b"},
             "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": []}]}}}},
}  # fmt: skip
ENV_FILE = b'# keys\nexport A=1\nB=\'two words\' # comment\nC="x\\n\\"y\\""\n\nDATA=s3://bucket/x\nSECRET=a-long-secret-value\n'
PATTERNS = ("*", "**", "!", "\\", "[z-a]", "[", "]", "a/**/b", "/", "//", "!x", "#x", "\\#x", "x ", "x\\ ", "[!a]", "[[:alpha:]]", "{a,b}", "?", "(", "+", "*" * 50, "*a" * 30)  # fmt: skip
SCRIPT = b"import tensorflow as tf\nstrategy = tf.distribute.MultiWorkerMirroredStrategy()\nwith strategy.scope():\n    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])\nmodel.fit(x)\n"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text("print()\n")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "train.py"


class timed:
    """Fails where what is done in it takes too long; a refusal in one line is fine."""

    def __init__(self, what: object) -> None:
        self.what = what

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, kind: Any, error: Any, _: Any) -> bool:
        assert time.monotonic() - self.began < MOST_S, self.what
        if isinstance(error, ConfigurationError):
            assert error.message.isprintable(), self.what
            assert len(error.message) < 5000, self.what
            return True
        return False


def test_any_env_file_is_read_or_refused_by_a_lines_number(script: Path, fuzz: Any) -> None:
    path = script.with_name("x.env")
    for rng in fuzz.rounds(400):
        data = damaged(ENV_FILE, rng)
        if rng.random() < 0.2:
            data += f"\n{rng.choice(ODD_TEXTS)}={rng.choice(ODD_TEXTS)}".encode(errors="surrogatepass")
        path.write_bytes(data)
        with timed(data):
            JobSpec(script=script, env=read_env_file(path), env_files=(path,))


def test_any_pod_file_becomes_a_pod_or_is_refused(script: Path, fuzz: Any) -> None:
    path = script.with_name("pod.yaml")
    path.write_text(yaml.dump(POD))
    _, plan = prepare(JobSpec(script=script, on="kubernetes", pod_file=path, gpus=1, gpu_type="A100"), check=False)
    for rng in fuzz.rounds(60):
        try:
            data = yaml.dump(changed(POD, rng), allow_unicode=False).encode()
        except (ValueError, RecursionError, yaml.YAMLError):
            continue
        path.write_bytes(damaged(data, rng) if rng.random() < 0.2 else data)
        with timed(path.read_bytes()):
            to_yaml(render(plan)).encode()


def test_any_ignore_file_is_obeyed_or_refused_by_a_lines_number(script: Path, fuzz: Any) -> None:
    for name in ("a" * 255, "x.py", "[", "é", "a b"):
        script.with_name(name).touch()
    for rng in fuzz.rounds(200):
        lines = ["".join(rng.choices(PATTERNS, k=rng.choice((1, 1, 2, 6)))) for _ in range(rng.choice((1, 3)))]
        script.with_name(".tfspawnerignore").write_bytes(damaged("\n".join(lines).encode(), rng))
        with timed(lines):
            list(Travelling(script.parent, script.parent / "runs").files())


def test_any_script_is_read_or_refused(script: Path, fuzz: Any) -> None:
    extremes = [b"(" * 5000, b"-" * 50_000 + b"1", b"x = " + b"[" * 300, b"\0", b"\xff", b"# coding: nonsense\n", b"a." * 20_000 + b"b", b"if x:\n" * 300,
                b"9" * 5000, b"f'" + b"{f'" * 100, b"lambda: " * 3000 + b"1", b"+".join([b"1"] * 20_000)]  # fmt: skip
    for rng in fuzz.rounds(100):
        data = extremes.pop() if extremes else damaged(SCRIPT, rng)
        script.write_bytes(data)
        with timed(data[:100]):
            read_script(JobSpec(script=script))
