"""What a program gives that is no grid, no path, or no page: one clear line."""

from itertools import count

import pytest
from click.testing import CliRunner

from tfspawner import checked_model
from tfspawner.cli import main as cli
from tfspawner.cli.options import make_spec, recorded_options
from tfspawner.errors import ConfigurationError
from tfspawner.pages.comparison import refuse_foreign
from tfspawner.plan.grid import Sweep
from tfspawner.plan.spec import JobSpec


@pytest.fixture
def script(tmp_path):
    (tmp_path / "t.py").write_text("x = 1\n")
    return tmp_path / "t.py"


@pytest.mark.parametrize(
    ("grid", "words"),
    [(None, "the grid is None"), ("x", "it must be a mapping"), ([], "it must be a mapping"), ({"lr": range(10**9)}, "1,000,000,000 values"),
     ({"lr": count()}, "more than 1,000 values"), ({"lr": None}, "lr: None is no list")],
)  # fmt: skip
def test_what_is_no_grid_is_refused(script, grid, words):
    with pytest.raises(ConfigurationError, match=words):
        Sweep(spec=JobSpec(script=script), grid=grid)


@pytest.mark.parametrize("path", [None, 3, b"x"])
def test_what_is_no_path_of_a_model_is_refused(path):
    with pytest.raises(ConfigurationError, match="it must be a path"):
        checked_model(path)


@pytest.mark.parametrize(
    ("name", "text"), [("keep.py", None), ("keep.py", "x"), ("mine.html", "<html>mine</html>"), ("none", None)]
)
def test_a_page_takes_no_other_files_place(tmp_path, name, text):
    if text:
        (tmp_path / name).write_text(text)
    done = CliRunner().invoke(cli.cli, ["compare", "run", "--page", str(tmp_path / name)])
    assert isinstance(done.exception, ConfigurationError)
    assert "--page" in done.exception.message
    assert not text or (tmp_path / name).read_text() == text


def test_a_page_of_ours_is_written_anew(tmp_path):
    (tmp_path / "p.html").write_text("\n<!doctype html>\n<body>\n<h1>2 runs side by side</h1>")
    refuse_foreign(tmp_path / "p.html")
    refuse_foreign(tmp_path / "new.html")


def test_stars_among_the_arguments_are_no_secret_where_there_was_none(script):
    stored = {"script": str(script), "args": ["***"], "env": []}
    assert make_spec({}, (), recorded_options(stored))[0].args == ("***",)
    assert make_spec({}, ("***",), recorded_options({**stored, "env": ["KEY"]}))[0].args == ("***",)
    with pytest.raises(ConfigurationError, match="in place of a secret"):
        make_spec({}, (), recorded_options({**stored, "env": ["KEY"]}))
