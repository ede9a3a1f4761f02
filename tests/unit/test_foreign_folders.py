"""A folder that is no record stays where it is; a sweep's record is its own sweep's."""

import json

import pytest

from tfspawner.errors import ConfigurationError
from tfspawner.jobs.sweep_plan import prepare
from tfspawner.plan.grid import Sweep
from tfspawner.plan.spec import JobSpec
from tfspawner.record.reading import read_sweep
from tfspawner.record.writing import Record


def test_a_folder_that_is_no_record_is_refused_and_left_as_it_was(tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "mine.py").write_text("x = 1\n")
    with pytest.raises(ConfigurationError, match="no record of tf-spawner's"):
        Record(folder, "1")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
    assert [path.name for path in folder.iterdir()] == ["mine.py"]


def test_a_record_that_was_hardly_begun_is_gone_on_with(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "..job-id.part").touch()
    Record(tmp_path, "1").close()
    assert (tmp_path / ".job-id").read_text() == "1"


@pytest.mark.parametrize("id", ["1", "2"])
def test_a_sweeps_record_is_not_set_aside_by_a_job(tmp_path, id):
    folder = tmp_path / "sw"
    Record(folder, "1", is_sweep=True).close()
    (folder / "sweep.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="record of a sweep") as error:
        Record(folder, id)
    assert "--out" in (error.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ["sw"]


def swept(folder, name, jobs):
    spec = {"script": "t.py", "env": []}
    points = [{"job": job, "values": {"lr": str(at)}, "id": "a", "result": "running", "error": "", "seconds": 0, "metrics": {}}
              for at, job in enumerate(jobs)]  # fmt: skip
    folder.mkdir(parents=True)
    grid = {"lr": [str(at) for at in range(len(jobs))]}
    (folder / "sweep.json").write_text(json.dumps({
        "sweep": name, "id": "b", "grid": grid, "parallel": 1, "spec": spec, "files": {}, "points": points}))  # fmt: skip


def test_a_copied_sweep_is_refused(tmp_path):
    swept(tmp_path / "runs/g2", "g1", ["g1-1", "g1-2"])
    script = tmp_path / "code/t.py"
    script.parent.mkdir()
    script.write_text("x = 1\n")
    asked = Sweep(spec=JobSpec(script=script, name="g2", out=tmp_path / "runs"), grid={"lr": ["0", "1"]})
    with pytest.raises(ConfigurationError, match="holds the record of sweep g1"):
        prepare(asked)


def test_two_points_of_a_sweep_with_the_same_job_are_refused(tmp_path):
    swept(tmp_path / "g1", "g1", ["g1-1", "g1-1"])
    with pytest.raises(ConfigurationError, match=r"g1-1.*twice"):
        read_sweep(tmp_path / "g1")
