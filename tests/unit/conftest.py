"""A plan made by hand, the same at each run; an agent that means harm."""

import gzip
import resource
import tempfile
from collections.abc import Iterator

import pytest
from hostile import Hostile

from tfspawner.backends.kubernetes.backend import KubernetesBackend
from tfspawner.jobs.prepare import planned
from tfspawner.plan.code import Code
from tfspawner.plan.plan import Plan
from tfspawner.plan.spec import JobSpec

MOST_PROCESSOR_S = 5.0  # idle, none takes two; a machine on which others run as well takes more for the same


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fails a test that is for another folder: it imports TensorFlow, or begins process after process."""
    before = processor_s()
    yield
    spent = processor_s() - before
    assert spent < MOST_PROCESSOR_S, f"{item.nodeid} took a processor for {spent:.1f} s, and stands in tests/unit"


def processor_s() -> float:
    """What this process, and those that it has waited for, have had of a processor."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


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
