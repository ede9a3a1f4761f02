"""A plan made by hand, the same at each run; an agent that means harm."""

import gzip
import tempfile

import pytest
from hostile import Hostile

from tfspawner.backends.kubernetes.backend import KubernetesBackend
from tfspawner.jobs.prepare import planned
from tfspawner.plan.code import Code
from tfspawner.plan.plan import Plan
from tfspawner.plan.spec import JobSpec


@pytest.fixture
def make_fixed_plan(tmp_path):
    """A function from a job's name and JobSpec fields to its Plan, with a fixed token and a tiny archive."""

    def make(job: str, **values) -> Plan:
        script = tmp_path / "train.py"
        script.write_text("print()\n")
        spec = JobSpec(script=script, on="kubernetes", **values)
        archive = tempfile.TemporaryFile()
        archive.write(gzip.compress(b"code", mtime=0))
        archive.flush()
        code = Code(archive=archive, sha256="0" * 64, size_bytes=archive.tell(), file_count=1)
        backend = KubernetesBackend(namespace=None, context=None, kubeconfig=None)
        plan = planned(spec, job, backend.reserve(spec, job), code, needs_tf_keras=False)
        return Plan(job=job, spec=spec, code=code, token="the-token", files=plan.files)

    return make


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of code, code/train.py, below the folder where the test is; the state and the image are nobody's."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/train.py").write_text("print()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TFSPAWNER_IMAGE", raising=False)
    return tmp_path / "code"


@pytest.fixture
def hostile():
    found = Hostile()
    yield found
    found.close()


@pytest.fixture(scope="module")
def shared_hostile():
    """For the many examples of a property."""
    found = Hostile()
    yield found
    found.close()


@pytest.fixture
def impatient(monkeypatch):
    """Two tries at most, one after the other, so that a test of what never comes is short."""
    monkeypatch.setattr("tfspawner.follow.collect.TRIES_WITHOUT_PROGRESS", 2)
    monkeypatch.setattr("tfspawner.follow.collect.PAUSE_S", 0.02)
