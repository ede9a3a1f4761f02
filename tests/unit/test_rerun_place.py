"""Where rerun writes is not for a record to say."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfspawner.cli import main as cli
from tfspawner.cli import running


@pytest.mark.parametrize("given", ["runs/old", "old", None])
@pytest.mark.parametrize("more", [[], ["--out", "mine"]])
def test_rerun_writes_beside_the_record_whatever_it_says(tmp_path, monkeypatch, given, more):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/old"
    folder.mkdir(parents=True)
    asked = []
    monkeypatch.setattr(running, "_run", lambda spec, output: asked.append(spec))
    (tmp_path / "t.py").write_text("x = 1\n")
    monkeypatch.setattr("tfspawner.record.reading._always_there", list)
    (folder / "spec.json").write_text(
        json.dumps({"script": str(tmp_path / "t.py"), "out": str(tmp_path / "elsewhere"), "env": []})
    )
    named = str(folder) if more or given is None else given
    if given is None:
        monkeypatch.chdir(folder)
        named = "."
    done = CliRunner().invoke(cli.cli, ["rerun", named, *more])
    assert done.exception is None, done.output
    assert asked[0].out.resolve() == (Path.cwd() / "mine" if more else tmp_path / "runs")
