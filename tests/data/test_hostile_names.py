"""What stands where a file should: URIs that are none, passwords in them, pipes, devices, links that lead nowhere."""

import json
import os
import socket
import stat

import click
import pytest
from click.testing import CliRunner, Result
from lying_server import lying_server

from tfspawner.cli import doctor
from tfspawner.cli import main as cli
from tfspawner.data import checking
from tfspawner.data.filesystems import SCHEMES, LocalFiles, WebFiles, list_files
from tfspawner.errors import DataError, SpawnerError, without_secrets

PASSWORD = "passw0rd99"


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.cli, ["data", *map(str, words)], standalone_mode=False)


def refused(*words: object) -> str:
    """The one line that a command ends with, none of whose words is a password."""
    done = call(*words)
    assert isinstance(done.exception, SpawnerError | click.ClickException), f"{done.exception!r} {done.output}"
    text = f"{done.exception} {getattr(done.exception, 'hint', '')} {done.output}"
    assert PASSWORD not in text
    return str(done.exception)


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    """A folder with one file and one thing that is none, which is made by the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_bytes(b"")
    return tmp_path / "in"


# ---- URIs


@pytest.mark.parametrize("verb", ["ls", "head", "check", "stats"])
@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("https://", "names no server"), ("https:///x", "names no server"), ("root://", "names no server"),
        ("https://[::1", "is no URI"), ("https://host:99999/x", "is no URI"), ("s3://[x/y", "is no URI"),
        (f"https://u:{PASSWORD}@/x", "a password"), (f"https://u:{PASSWORD}@host/x", "a password"),
        (f"https://{PASSWORD}@host/x", "a password"), (f"https://u:{PASSWORD}/y@host/x", "is no URI"),
        (f"root://u:{PASSWORD}@host//x", "a password"), (f"s3://u:{PASSWORD}@bucket/x", "a password"),
        (f"https://[u:{PASSWORD}@host/x", "is no URI"), (f"ftp://u:{PASSWORD}@host/x", "a password"),
    ],
)  # fmt: skip
def test_what_is_no_uri_is_refused_in_a_line_without_its_password(verb, uri, words):
    assert words in refused(verb, uri)


@pytest.mark.parametrize("verb", ["cp", "convert"])
@pytest.mark.parametrize(
    "uri", ["https://", "s3://u:{}@bucket/", "https://u:{}@host/x", "https://u:{}@host/*", "s3://[x/"]
)
def test_a_destination_that_is_no_uri_is_refused_in_a_line_without_its_password(mixed, verb, uri):
    refused(verb, mixed / "a", uri.format(PASSWORD))


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_a_path_that_no_file_can_have_is_refused(path):
    with pytest.raises(SpawnerError, match="no file can have this path"):
        list_files(path)


def test_no_error_shows_a_password_or_a_signature_of_a_uri():
    shown = str(DataError(
        f"https://u:{PASSWORD}@host/x, root://{PASSWORD}@host//x?authz={PASSWORD}&a=1 and "
        f"https://host/x?X-Amz-Date=1&X-Amz-Signature={PASSWORD}&X-Amz-Security-Token={PASSWORD}: no",
        hint=f"http://{PASSWORD}@host",
    ).args[0])  # fmt: skip
    assert shown == (
        "https://host/x, root://host//x?authz=…&a=1 and https://host/x?X-Amz-Date=1&X-Amz-Signature=…&X-Amz-Security-Token=…: no"
    )
    assert without_secrets("s3://bucket/a@b: mail to x@y.z") == "s3://bucket/a@b: mail to x@y.z"


def test_a_signed_uri_that_fails_is_shown_without_its_signature():
    with lying_server() as server:
        uri = f"{server.url}/x?X-Amz-Signature={PASSWORD}"
        for status in (403, 404, 500, 200):
            server.answer = lambda *_, status=status: (status, {"Content-Length": "5"}, b"")
            assert f"{server.url}/x?X-Amz-Signature=…" in refused("check", uri)
        answers = {"HEAD": (200, {"Content-Length": "5"}, b""), "GET": (200, {}, b"")}
        server.answer = lambda method, *_: answers[method]
        done = call("ls", "-r", uri)
        assert "sends no parts of a file" in done.stdout
        assert PASSWORD not in done.output


def test_doctor_tells_of_data_that_cannot_be_read_without_their_signature():
    with lying_server() as server:
        answers = {"HEAD": (200, {"Content-Length": "5"}, b""), "GET": (500, {}, b"")}
        server.answer = lambda method, *_: answers[method]
        (finding,) = doctor.data([f"{server.url}/x?sig={PASSWORD}"])
        assert (finding.level, finding.text) == ("problem", f"{server.url}/x?sig=…: the server answered 500")
        answers["GET"] = (206, {"Content-Range": "bytes 0-0/5"}, b"x")
        (finding,) = doctor.data([f"{server.url}/x?sig={PASSWORD}"])
        assert (finding.level, finding.text) == ("ok", f"{server.url}/x?sig=…: 1 files, 5 B")


@pytest.mark.parametrize(
    "endpoint", ["https://[::1", "host:x", f"https://u:{PASSWORD}@host", f"u:{PASSWORD}@[", "https://host?x"]
)
def test_an_endpoint_that_is_none_is_refused_in_a_line_without_its_password(monkeypatch, endpoint):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    SCHEMES["s3"].cache_clear()
    assert "the S3 endpoint is" in refused("ls", "s3://bucket/x")


@pytest.mark.parametrize("place", ["http://[::1", "http://", "x://y", "http://a:b:c/"])
def test_a_redirect_to_nowhere_is_an_error_of_the_data(place):
    with lying_server() as server:
        server.answer = lambda *_: (302, {"Location": place}, b"")
        with pytest.raises(DataError, match=r"/x: "):
            WebFiles().list(server.url + "/x")


@pytest.mark.parametrize("token", [f"{PASSWORD}\nX: y", f"{PASSWORD}é\u2028"])
def test_a_token_that_no_header_can_hold_is_refused_unseen(monkeypatch, token):
    monkeypatch.setenv("BEARER_TOKEN", token)
    with pytest.raises(SpawnerError, match="BEARER_TOKEN") as found:
        WebFiles()
    assert PASSWORD not in str(found.value)


# ---- what is no file


def make_a_pipe(path) -> None:
    os.mkfifo(path)


def make_a_loop(path) -> None:
    path.symlink_to(path)


def make_a_dangling_link(path) -> None:
    path.symlink_to(path.parent / "nothing")


def make_a_socket(path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


ODD = [
    (make_a_pipe, "is a pipe"),
    (make_a_loop, "Too many levels of symbolic links"),
    (make_a_dangling_link, "leads"),
    (make_a_socket, "is a socket"),
]


@pytest.mark.parametrize(("make", "words"), ODD)
@pytest.mark.parametrize("verb", [("ls",), ("ls", "-r"), ("check",), ("head",), ("stats",)])
def test_what_is_no_file_is_no_data_under_its_own_name(mixed, make, words, verb):
    make(mixed / "odd")
    message = refused(*verb, mixed / "odd")
    assert f"{mixed}/odd" in message
    assert words in message


@pytest.mark.parametrize(("make", "words"), ODD)
def test_what_is_no_file_in_a_folder_is_named_and_ls_leaves_it_out(mixed, make, words):
    make(mixed / "odd")
    for place in (mixed, f"{mixed}/*"):
        for verb in (
            ("check", place),
            ("cp", place, f"{mixed.parent}/copies/"),
            ("convert", place, mixed.parent / "new"),
        ):
            message = refused(*verb)
            assert f"{mixed}/odd" in message
            assert words in message
        for verb in (("ls", place), ("ls", "-r", place)):
            done = call(*verb)
            assert not done.exception
            assert f"{mixed}/a" in done.stdout
            assert f"{mixed}/odd" not in done.stdout
            assert f"{mixed}/odd" in done.stderr
            assert words in done.stderr


def test_a_device_has_nothing_to_show_and_nothing_is_copied_from_a_pipe_or_onto_one(mixed):
    assert "/dev/zero is a device" in refused("check", "/dev/zero")
    os.mkfifo(mixed / "pipe")
    assert f"{mixed}/pipe is a pipe" in refused("cp", mixed / "pipe", mixed / "copy")
    assert not (mixed / "copy").exists()
    assert f"{mixed}/pipe is a pipe" in refused("cp", "--overwrite", mixed / "a", mixed / "pipe")
    assert stat.S_ISFIFO((mixed / "pipe").stat().st_mode)


def test_a_link_to_a_file_is_data_and_a_link_to_a_folder_is_none(mixed):
    (mixed / "b").symlink_to(mixed / "a")
    (mixed / "c").symlink_to(mixed.parent)
    assert [file.uri for file in LocalFiles().list(str(mixed))] == [f"{mixed}/a", f"{mixed}/b"]


# ---- the files of check


@pytest.mark.parametrize("option", ["--done", "--manifest"])
def test_the_files_that_check_is_given_are_files_and_bounded(mixed, monkeypatch, option):
    os.mkfifo(mixed.parent / "pipe")
    assert f"{option} {mixed.parent}/pipe is a pipe" in refused("check", mixed, option, mixed.parent / "pipe")
    assert f"{option} /dev/zero is a device" in refused("check", mixed, option, "/dev/zero")
    monkeypatch.setattr(checking, "MOST_LIST_BYTES", 1000)
    (mixed.parent / "long").write_text(" " * 2000)
    assert "has more than 1,000 bytes" in refused("check", mixed, option, mixed.parent / "long")


def test_a_place_where_no_done_can_be_written_is_told_before_anything_is_read(mixed):
    (mixed / "a").write_bytes(b"no record")
    assert "--done" in refused("check", mixed, "--done", mixed.parent / "none/done")


@pytest.mark.parametrize(
    "line",
    [{"uri": 1, "size": 1}, {"uri": "x", "size": "1"}, {"uri": "x", "size": 1, "records": []},
     {"uri": "x", "size": 1, "schema": []}, {"uri": "x", "size": 1, "schema": {"a": 1}}, {"uri": "x", "size": 1, "error": 1}, {}],
)  # fmt: skip
def test_a_line_of_done_of_another_kind_is_refused(mixed, line):
    (mixed.parent / "done").write_text(json.dumps(line) + "\n")
    assert "is not what this command writes" in refused("check", mixed, "--done", mixed.parent / "done")


# ---- numbers


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "{}", "new", "--shards", "9999999999"), ("convert", "{}", "new", "--jobs", "99999999"),
        ("check", "{}", "--workers", "9999999999"), ("head", "{}", "-n", "9" * 30),
        ("stats", "{}", "--shape", f"x={'9' * 5000}x1"),
    ],
)  # fmt: skip
def test_numbers_beyond_any_use_are_refused_at_once(mixed, words):
    (mixed / "a").write_bytes(b"no record")
    message = refused(*(word.format(mixed) for word in words))
    assert "range" in message or "99,999" in message or "no shape" in message
    assert not (mixed.parent / "new").exists()
