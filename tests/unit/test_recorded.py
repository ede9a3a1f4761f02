"""A job's options, there and back: what a record says of a job makes the same job."""

import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path

import pytest

from tfspawner.cli.options import make_spec, recorded_options
from tfspawner.errors import ConfigurationError
from tfspawner.jobs.running import described
from tfspawner.plan.spec import JobSpec
from tfspawner.record.reading import read_whole

GIVEN = {
    "workers": 3, "chief": True, "gpus": 1, "gpu_type": "A100 80GB", "name": "all", "tag": "nightly", "args": ("--a", "b c\n\udce4"),
    "collect": ("*.h5",), "timeout_s": 60, "start_timeout_s": 5.5, "restarts": 2, "restart_on": (), "keep": True, "legacy_keras": False,
    "cpu": "2", "memory": "4Gi", "image": "tensorflow/tensorflow:2.21.0", "namespace": "physics", "ttl_s": 60, "node_selector": {"a/b": "c"},
    "tolerations": ("a=b:NoSchedule",), "volumes": ("claim:/data",), "artifacts": "s3://bucket/folder", "port": 3000,
}  # fmt: skip


@pytest.fixture
def recorded(make_fixed_plan, tmp_path):
    """A run's folder with the spec.json of a job that has many options."""
    plan = make_fixed_plan("all", **GIVEN)
    (tmp_path / "spec.json").write_text(json.dumps(described(plan), default=str))
    return plan.spec, tmp_path


def test_every_option_is_read_back_as_it_was(recorded, monkeypatch):
    monkeypatch.delenv("TFSPAWNER_IMAGE", raising=False)
    spec, folder = recorded
    stored, swept = read_whole(folder)
    again, _ = make_spec({"name": "all"}, (), recorded_options(stored))
    assert asdict(again) == asdict(spec)
    assert swept is None


@pytest.mark.parametrize(
    "name", [f.name for f in fields(JobSpec) if f.default not in (None, (), MISSING) and f.name != "restart_on"]
)
def test_what_every_record_says_is_not_guessed_where_it_is_gone(recorded, name):
    path = recorded[1] / "spec.json"
    told = json.loads(path.read_text())
    del told[name]
    path.write_text(json.dumps(told))
    with pytest.raises(ConfigurationError, match=rf"spec.json does not say: {name}$"):
        read_whole(recorded[1])


def test_what_no_job_has_is_named(recorded):
    path = recorded[1] / "spec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "time-out": 3}))
    with pytest.raises(ConfigurationError, match=r"spec\.json has what no job has: 'time-out'"):
        read_whole(recorded[1])


def test_a_run_without_its_spec_says_so(tmp_path):
    with pytest.raises(ConfigurationError, match=r"has no spec\.json"):
        read_whole(Path(tmp_path))
