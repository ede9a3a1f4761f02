"""Names that hold patterns, line feeds and what else is allowed, and what of a folder is no data."""

import json
import os

import pytest
from click.testing import CliRunner, Result
from lying_server import lying_server

from tfspawner.cli import main as cli
from tfspawner.data.filesystems import list_files
from tfspawner.errors import ConfigurationError, DataError

LITERAL = ["a[1].tfrecord", "b*.tfrecord", "c?.tfrecord", "[", "d[1-3]e"]


def data(*words: object) -> Result:
    return CliRunner().invoke(cli.cli, ["data", *map(str, words)], standalone_mode=False)


@pytest.fixture(params=["local", "file", "s3"])
def place(request, tmp_path) -> tuple:
    """(a folder on this machine, its URI at the place)."""
    if request.param != "s3":
        (tmp_path / "place").mkdir()
        return tmp_path / "place", f"{'file://' * (request.param == 'file')}{tmp_path}/place"
    server = request.getfixturevalue("s3")
    name = f"place{abs(hash(str(tmp_path)))}"
    (server.folder / "bucket" / name).mkdir()
    return server.folder / "bucket" / name, f"s3://bucket/{name}"


def names(uri: str) -> list[str]:
    return [os.path.basename(file.uri) for file in list_files(uri)]


# ---- patterns


@pytest.mark.parametrize("name", LITERAL)
def test_a_name_with_a_pattern_in_it_is_a_file_s_own_name_where_that_file_is_there(place, name):
    folder, uri = place
    for other in (name, "a1.tfrecord", "bx.tfrecord", "cx.tfrecord", "d2e"):
        (folder / other).write_bytes(b"x")
    assert names(f"{uri}/{name}") == [name]
    (folder / name).unlink()
    if name == "[":
        with pytest.raises(DataError, match="there is no such file"):
            names(f"{uri}/{name}")
    else:
        assert names(f"{uri}/{name}") == [
            {"a": "a1.tfrecord", "b": "bx.tfrecord", "c": "cx.tfrecord", "d": "d2e"}[name[0]]
        ]


def test_a_folder_whose_name_holds_a_pattern_is_that_folder_where_it_is_there(place):
    folder, uri = place
    for name in ("run[1]", "run1"):
        (folder / name).mkdir()
        (folder / name / f"of-{name[3]}").write_bytes(b"x")
    assert names(f"{uri}/run[1]") == names(f"{uri}/run[1]/") == ["of-["]


def test_a_hidden_file_fits_a_pattern_only_where_that_begins_so(place):
    folder, uri = place
    for name in ("_SUCCESS", ".part", "a"):
        (folder / name).write_bytes(b"x")
    is_here = not uri.startswith("s3:")  # where * fits what the shell's does
    assert names(f"{uri}/*") == names(f"{uri}/[_a]*") == (["_SUCCESS", "a"] if is_here else ["a"])
    assert names(f"{uri}/_*") == ["_SUCCESS"]
    assert names(f"{uri}/.*") == [".part"]
    assert names(f"{uri}/_SUCCESS") == ["_SUCCESS"]


def test_a_file_with_a_pattern_in_its_name_is_not_replaced_unasked(place, tmp_path):
    folder, uri = place
    (folder / "a[1]").write_bytes(b"mine")
    (tmp_path / "from").mkdir()
    (tmp_path / "from/a[1]").write_bytes(b"other")
    done = data("cp", tmp_path / "from/a[1]", f"{uri}/")
    assert "is there already, and is another file" in str(done.exception)
    assert (folder / "a[1]").read_bytes() == b"mine"
    assert not data("cp", tmp_path / "from/a[1]", f"{uri}/", "--overwrite").exception
    assert (folder / "a[1]").read_bytes() == b"other"


@pytest.mark.parametrize("status", [404, 403, 400])
def test_a_web_page_whose_name_holds_a_pattern_is_asked_for(status):
    with lying_server() as server:
        server.answer = lambda _, path, *__: (200, {"Content-Length": "5"}, b"") if "1" in path else (status, {}, b"")
        assert [file.size for file in list_files(f"{server.url}/a[1].tfrecord")] == [5]
        with pytest.raises(ConfigurationError, match="a web server cannot be asked for a pattern"):
            list_files(f"{server.url}/a*")


# ---- what is left out


@pytest.fixture
def mixed(place) -> tuple:
    folder, uri = place
    for name in ("a", "_SUCCESS", ".hidden", "sub/b", "other/c"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder, uri


@pytest.mark.parametrize("verb", ["cp", "ls"])
def test_what_a_folder_holds_besides_its_files_is_told_with_counts(mixed, tmp_path, verb):
    _, uri = mixed
    done = data(verb, f"{uri}/", *[f"{tmp_path}/to/"] * (verb == "cp"))
    assert not done.exception, done.exception
    assert f"warning: {uri}/ also holds 2 folders and 2 hidden files: left out" in done.stderr
    if verb == "cp":
        assert [path.name for path in (tmp_path / "to").iterdir()] == ["a"]
        assert done.stdout.startswith("1 file, ")
        again = data("cp", f"{uri}/", f"{tmp_path}/to/", "-o", "json")
        assert len(json.loads(again.stdout)) == 1


def test_folders_that_fit_a_pattern_are_told_and_hidden_files_are_not(mixed, tmp_path):
    _, uri = mixed
    done = data("cp", f"{uri}/*", f"{tmp_path}/to/")
    assert not done.exception, done.exception
    assert f"warning: {uri}/* also fits 2 folders: left out" in done.stderr
    assert "left out" not in data("cp", f"{uri}/a", f"{tmp_path}/to/").stderr


def test_a_folder_with_folders_alone_says_what_it_holds(mixed):
    folder, uri = mixed
    (folder / "a").unlink()
    for verb in ("ls", "check"):
        assert f"{uri}/: it holds no file, but 2 folders and 2 hidden files" in str(data(verb, f"{uri}/").exception)


# ---- line feeds


@pytest.mark.parametrize(("name", "shown"), [("a\nb", r"a\nb"), ("é ä", "é ä"), ("a\u2028b", r"a\u2028b")])
def test_each_file_is_one_line_whatever_its_name(place, name, shown):
    folder, uri = place
    (folder / name).write_bytes(b"no record")
    for flags in ((), ("-r",)):
        lines = data("ls", *flags, uri).stdout.splitlines()
        assert len(lines) == 2, lines
        assert lines[0].count(f"/{shown}") == 1, lines
    told = data("check", uri)
    assert len(told.stdout.splitlines()) == 2
    assert told.stdout.startswith("wrong: ")
    assert f"/{shown}" in told.stdout
    assert "\n" not in str(told.exception)
    assert os.path.basename(json.loads(data("ls", uri, "-o", "json").stdout)[0]["uri"]) == name
    os.unlink(folder / name)
    assert "\n" not in str(data("ls", f"{uri}/{name}").exception)
