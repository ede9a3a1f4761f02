"""What a user names as a file is read within bounds, or refused in a line."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from tfspawner.backends.kubernetes.api import Api
from tfspawner.base import userfile
from tfspawner.base.names import brief
from tfspawner.base.userfile import MOST_BYTES, MOST_VALUES, expanded, load_yaml, read_bytes, read_text
from tfspawner.errors import ConfigurationError


def refused(path: Path | str, what: str = "env-file") -> str:
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as error:
        read_bytes(Path(path), what)
    assert time.monotonic() - began < 2
    assert "\n" not in error.value.message
    assert len(error.value.message) < 300
    return error.value.message


def test_devices_pipes_folders_and_sockets_are_refused_by_what_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    (tmp_path / "link").symlink_to("/dev/zero")
    assert refused("/dev/zero") == "env-file /dev/zero is a device, and it must be a file"
    assert "is a device" in refused("link")
    assert "is a pipe" in refused("fifo")
    if os.access("/proc/kmsg", os.R_OK):
        assert "cannot be read" in refused("/proc/kmsg")
    assert "is a folder" in refused(".")
    assert "is a socket" in refused("socket")
    assert "No such file" in refused("nothing")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)
    assert f"more than {MOST_BYTES:,} bytes" in refused(tmp_path / "huge")
    (tmp_path / "full").write_bytes(bytes(MOST_BYTES))
    assert len(read_bytes(tmp_path / "full", "file")) == MOST_BYTES


@pytest.mark.parametrize(
    ("path", "why"),
    [("a\0b", "holds a NUL"), ("\ud800", "half of a surrogate pair"), ("x" * 256, "256 bytes, and 255"), ("é" * 128, "256 bytes"),
     ("a/" * 3000, "6,000 bytes, and 4,095"), ("x" * 10**7, "10,000,000 bytes")],
)  # fmt: skip
def test_what_can_be_no_files_path_is_refused_with_the_reason(path, why):
    assert why in (userfile.wrong_path(path) or "")
    assert len(refused(path)) < 300


def test_a_home_that_is_not_there_is_named():
    with pytest.raises(ConfigurationError, match="script ~nouser/x: there is no such user"):
        expanded(Path("~nouser/x"), "script")


def test_a_pipe_that_a_shell_makes_is_read_to_its_end(tmp_path):
    program = "import sys; from pathlib import Path; from tfspawner.cli.envfile import read_env_file; print(read_env_file(Path(sys.argv[1])))"
    script = f"{sys.executable} -c '{program}' <(echo A=1; sleep 0.3; echo B=2)"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "{'A': '1', 'B': '2'}\n"


def test_a_pipe_out_of_which_nothing_comes_is_given_up(monkeypatch):
    monkeypatch.setattr(userfile, "PIPE_S", 0.1)
    read_end, write_end = os.pipe()
    assert "nothing came out of the pipe" in refused(f"/dev/fd/{read_end}")
    os.close(write_end)
    os.close(read_end)


def test_a_pipe_that_never_ends_is_read_to_the_bound(tmp_path):
    read_end, write_end = os.pipe()

    def write() -> None:
        try:
            while True:
                os.write(write_end, bytes(65536))
        except OSError:
            pass

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    assert "more than" in refused(f"/dev/fd/{read_end}")
    os.close(read_end)
    writer.join(5)
    os.close(write_end)


@pytest.mark.parametrize(
    "value",
    ["x" * 10**7, 10**5000, ["x"] * 10**5, "\x1b[2J\u202e\ud800\n", b"\0" * 1000],
    ids=["text", "number", "list", "controls", "bytes"],
)
def test_any_value_is_shown_on_one_short_line(value):
    assert len(brief(value)) <= 101
    assert brief(value).isprintable()


def test_text_is_utf8_with_or_without_a_mark(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfA=1")
    assert read_text(tmp_path / "a", "file") == "A=1"
    (tmp_path / "b").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_text(tmp_path / "b", "file")


# ---- YAML ---------------------------------------------------------------------------------------

LOADERS = [userfile.LOADER]


def bomb(levels: int, lists: bool) -> str:
    opening, closing = "[]" if lists else "{}"
    lines = ["a0: &a0 [x, x]"]
    for level in range(1, levels):
        inner = ", ".join((f"*a{level - 1}" if lists else f"k{n}: *a{level - 1}") for n in range(9))
        lines.append(f"a{level}: &a{level} {opening}{inner}{closing}")
    return "\n".join(lines)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("text", "why"),
    [(bomb(9, True), "100,000 values"), (bomb(9, False), "100,000 values"), ("a: &a [*a]", "inside of its own anchor, 'a'"),
     ("[" * 500, "100 levels"), ("[" * 20_000, "job.yaml "), ("{a: " * 5000, "100 levels"), ("- " * 5000, "100 levels"), ("x: *nothing", "not YAML: line 1, column 4"),
     ("a: secret: b", "not YAML: line 1"), ("a: !!python/name:os.system x", "not YAML: line 1"), ("\0", "not YAML: it holds a control character"),
     ("{[a]: b}", "not YAML: line 1"), ("!!timestamp x", "not YAML"), ("!!int x", "not YAML: a value does not fit its tag"), ("a: !!omap 5", "not YAML"), ("!!float ''", "not YAML: a value does not fit its tag"),
     ("!!bool x", "not YAML: a value does not fit its tag"), ("a: 1" + ":1" * 100_000, "a number of 200,001 digits"), ("9" * 5000, "a number of 5,000 digits")],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_yaml_that_is_none_or_grows_is_refused_at_once(loader, text, why):
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as error:
        load_yaml(text, loader, "job.yaml")
    assert why in error.value.message
    assert "secret" not in error.value.message
    assert time.monotonic() - began < 2


def test_digits_in_quotes_are_text():
    assert load_yaml(f"'{'9' * 5000}'", userfile.LOADER, "f") == ["9" * 5000]


def test_aliases_within_the_bound_are_fine():
    assert load_yaml("a: &a {x: 1}\nb: {<<: *a, y: *a}", LOADERS[-1], "f") == [
        {"a": {"x": 1}, "b": {"x": 1, "y": {"x": 1}}}
    ]
    assert len(load_yaml(f"[{'x,' * (MOST_VALUES - 1)}]", LOADERS[-1], "f")[0]) == MOST_VALUES - 1


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "5", "a: b", "contexts: 5", "contexts: [5]", "current-context: x\ncontexts: [{name: x}]", "\0", bomb(9, True), "- a\n- b",
     "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c}]\nusers: 7", "fifo", "zero"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_kubeconfig_that_is_none_is_refused_in_a_line(tmp_path, text):
    path = tmp_path / "config"
    if text == "fifo":
        os.mkfifo(path)
    elif text == "zero":
        path.symlink_to("/dev/zero")
    else:
        path.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        Api.from_kubeconfig(path, None, None)
    assert error.value.message.isprintable()
    assert "config" in error.value.message


def test_the_kubeconfig_is_the_one_that_kubeconfig_names_now(tmp_path, monkeypatch):
    """The kubernetes package looks when it is imported, which the first of these does at the latest."""
    for host in ("one", "other"):
        path = tmp_path / host
        cluster = {"name": "c", "cluster": {"server": f"http://{host}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": host}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster],
                  "contexts": [context], "users": [{"name": "u", "user": {}}]}  # fmt: skip
        path.write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(path))
        api = Api.from_kubeconfig(None, None, None)
        assert (api.host, api.namespace) == (f"http://{host}", host)
