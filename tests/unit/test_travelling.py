"""What travels with the script, and what never does: keys."""

import os
import time
from pathlib import Path

import pytest

from tfspawner.errors import ConfigurationError
from tfspawner.jobs.travelling import Travelling, left_out

KEYS = (
    ".env", ".env.local", "prod.env", "tls.pem", "server.key", "id_rsa", "id_ed25519", "id_work", "id_rsa.bak", ".netrc", ".pgpass",
    ".aws/credentials", ".aws/sso/cache/token.json", ".kube/config", ".ssh/config", "kubeconfig", "credentials.json", "secrets.toml",
    "x509up_u1000", "Cert.P12", ".ENV", "lib/.env", "lib/.aws/config", "tls.pem~", "server.key.bak", ".env.old", "id_rsa~", "kubeconfig.orig",
    ".tls2.pem.swp", "..env.swp", ".id_rsa.swp", "#.env#", ".flaskenv", "lib/.config/gcloud/x.db", ".passwd-s3fs", "rclone.conf",
    ".databrickscfg", "service-account-1.json", "service_account.json", "credentials.yaml", "credentials.csv", "credentials.db",
    "me_accessKeys.csv", "accessKeys.csv", "local.env",
)  # fmt: skip
CODE = ("train.py", "secrets.py", "id_map.csv", "id_utils/a.py", "id_rsa.pub", ".env.example", "keys.py", "env.py", "environment.yml", "a.keys",
        "credentials.py", "credentials.ipynb", ".env.py", ".env.md", ".docker/README.md", "id_map.csv.bak", ".env.example.bak", "my.example.env",
        "train.py~", ".train.py.swp", ".config/app.toml", "service.json")  # fmt: skip


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}")


def travelling(folder: Path, *env_files: Path) -> tuple[list[str], Travelling]:
    found = Travelling(folder, folder / "runs", env_files)
    return sorted(name for _, name in found.files()), found


def test_what_looks_like_a_key_stays_here_and_code_does_not(tmp_path):
    write(tmp_path, *KEYS, *CODE)
    names, found = travelling(tmp_path)
    assert names == sorted(CODE)
    files = {name for name in KEYS if not any(part.startswith(".") for part in name.split("/")[:-1])}
    assert set(found.keys) == files | {".aws/", ".kube/", ".ssh/", "lib/.aws/", "lib/.config/gcloud/"}


@pytest.mark.parametrize(
    ("line", "come"),
    [("!.env", {".env", "lib/.env"}), ("!/.env", {".env"}), ("!*.pem", {"tls.pem"}), ("!/lib/*.env", {"lib/.env"}),
     ("!.aws/credentials", {".aws/credentials"}), ("!id_rsa", {"id_rsa"})],
)  # fmt: skip
def test_a_line_with_an_exclamation_mark_asks_for_a_key(tmp_path, line, come):
    write(tmp_path, "train.py", ".env", "lib/.env", "tls.pem", "id_rsa", ".aws/credentials")
    (tmp_path / ".tfspawnerignore").write_text(f"*.log\n{line}\n")
    names, found = travelling(tmp_path)
    assert set(names) == {"train.py", ".tfspawnerignore"} | come
    assert not set(found.keys) & come


@pytest.mark.parametrize(
    "line",
    ["!/sub/", "!/sub", "!sub/**", "!/sub/*", "!*", "!**", "!*/", "!sub/**/", "!*.*", "![a-z]*", "!/*/", "!*\n!/sub/"],
)
def test_a_line_that_lets_a_folder_in_asks_for_no_key_in_it(tmp_path, line):
    write(
        tmp_path,
        "train.py",
        "x.log",
        "sub/a.py",
        "sub/s3.env",
        "sub/server.pem",
        "sub/deep/id_rsa",
        "sub/deep/b.py",
        "sub/.git/config",
        ".git/config",
    )
    (tmp_path / ".tfspawnerignore").write_text(f"/*\n!/train.py\n!/sub/\n{line}\n")
    names, found = travelling(tmp_path, tmp_path / "sub/s3.env")
    assert set(names) - {".tfspawnerignore", "x.log"} == {"train.py", "sub/a.py", "sub/deep/b.py"}
    assert list(found.keys) == ["sub/server.pem", "sub/deep/id_rsa"]
    assert found.env_names == ["sub/s3.env"]


def test_a_key_that_is_asked_for_in_a_folder_that_is_let_in_travels_until_a_line_takes_it_back(tmp_path):
    write(tmp_path, "sub/server.pem", "sub/a.key", "sub/.git/config")
    (tmp_path / ".tfspawnerignore").write_text("/*\n!server.pem\n!/sub/\n!/sub/a.key\n!.git\n!config\n")
    assert travelling(tmp_path)[0] == ["sub/a.key"]
    (tmp_path / ".tfspawnerignore").write_text("/*\n!/sub/\n!server.pem\n!a.key\na.key\n")
    assert travelling(tmp_path)[0] == ["sub/server.pem"]


NOTES = (
    ((), (), None),
    ((), ("s3.env",), None),
    ((), ("job.yaml",), "not sent: job.yaml (holds env:)"),
    (("db.env",), (), "not sent, it looks like a key: db.env; to send it, add !db.env to .tfspawnerignore"),
    (("a b.env", "site.pem"), ("s3.txt",), "not sent, they look like keys: a b.env, site.pem; nor s3.txt (holds variables); "
                                           "to send one, add !a\\ b.env to .tfspawnerignore"),
    (("a.pem", "b.pem", "c.pem", "d.pem", "e.pem"), (), "not sent, they look like keys: a.pem, b.pem, c.pem and 2 more; to send one, add !a.pem to .tfspawnerignore"),
    (("\x1b[2J.pem",), (), "not sent, it looks like a key: '\\x1b[2J.pem'"),
)  # fmt: skip


@pytest.mark.parametrize(("keys", "env_names", "note"), NOTES)
def test_one_line_says_what_stays_here_and_how_to_send_it(keys, env_names, note):
    assert left_out({name: name for name in keys}, env_names) == note


def test_the_line_that_the_note_names_sends_the_key(tmp_path):
    for name in ("a b.env", ".aws/config", "sub/[x]*.pem"):
        folder = tmp_path / str(len(name))
        write(folder, name)
        _, found = travelling(folder)
        line = left_out(found.keys, ()).partition("add ")[2].removesuffix(" to .tfspawnerignore")
        (folder / ".tfspawnerignore").write_text(line + "\n")
        assert travelling(folder)[0] == sorted([".tfspawnerignore", name])


def test_an_ignore_file_in_utf_16_is_refused(tmp_path):
    for data in ("data\n".encode("utf-16"), "data\n".encode("utf-16-be"), b"\xfe\xff\0d"):
        (tmp_path / ".tfspawnerignore").write_bytes(data)
        with pytest.raises(ConfigurationError, match="is UTF-16, or no text") as error:
            travelling(tmp_path)
        assert "UTF-8" in error.value.hint


@pytest.mark.parametrize(("line", "hint"), [("*a*b*c*d*e", "at most 3 stars"), ("[[:alpha:]]*", "[a-zA-Z]")])
def test_the_next_step_fits_what_is_wrong_with_a_pattern(tmp_path, line, hint, recwarn):
    (tmp_path / ".tfspawnerignore").write_text(line)
    with pytest.raises(ConfigurationError) as error:
        travelling(tmp_path)
    assert hint in error.value.hint
    assert not recwarn.list


def test_a_folder_with_more_files_than_travel_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tfspawner.jobs.travelling.MOST_FILES", 5)
    write(tmp_path, *(f"{number}/x" for number in range(6)))
    with pytest.raises(ConfigurationError, match="holds more than 5 files"):
        travelling(tmp_path)
    (tmp_path / ".tfspawnerignore").write_text("1/\n2/\n")
    assert len(travelling(tmp_path)[0]) == 5


def test_an_env_file_never_travels_under_whatever_name_it_lies_there(tmp_path):
    folder = tmp_path / "code"
    write(folder, "train.py", "settings", "lib/a.py")
    write(tmp_path, "elsewhere")
    (folder / "link.txt").symlink_to("settings")
    os.link(folder / "settings", folder / "lib/hard.txt")
    os.link(tmp_path / "elsewhere", folder / "outside.txt")
    (folder / ".tfspawnerignore").write_text("!settings\n!*.txt\n")
    (tmp_path / "way").symlink_to(folder)
    names, found = travelling(tmp_path / "way", tmp_path / "way/link.txt", tmp_path / "elsewhere")
    assert names == [".tfspawnerignore", "lib/a.py", "train.py"]
    assert sorted(found.env_names) == ["lib/hard.txt", "link.txt", "outside.txt", "settings"]


def test_a_link_to_a_key_under_another_name_stays_here(tmp_path):
    folder = tmp_path / "code"
    write(folder, "train.py")
    write(tmp_path, "home/.aws/credentials", "home/.netrc", "home/data/x.csv")
    (folder / "config.txt").symlink_to(tmp_path / "home/.aws/credentials")
    (folder / "net").symlink_to(tmp_path / "home/.netrc")
    (folder / "cloud").symlink_to(tmp_path / "home/.aws")
    (folder / "data").symlink_to(tmp_path / "home/data")
    write(folder, ".kube/known")
    (folder / "there").symlink_to(".kube")
    names, found = travelling(folder)
    assert names == ["data/x.csv", "train.py"]
    assert list(found.keys) == ["config.txt", "net", ".kube/", "cloud/credentials", "there/known"]


def test_a_project_that_lies_in_a_folder_with_a_keys_name_travels(tmp_path):
    write(tmp_path, ".kube/project/train.py", ".kube/project/lib/a.py")
    assert travelling(tmp_path / ".kube/project")[0] == ["lib/a.py", "train.py"]


@pytest.mark.parametrize(
    ("line", "why"),
    [("!", "invalid git pattern"), ("\\", "invalid git pattern"), ("[z-a]", "bad character range"), ("a\\", "invalid git pattern"),
     ("*a*a*a*b", "it has more than 3 stars"), ("x" * 5000, "it has 5,000 characters"), ("!\\", "invalid git pattern")],
)  # fmt: skip
def test_a_line_that_is_no_pattern_is_refused_by_its_number(tmp_path, line, why):
    (tmp_path / ".tfspawnerignore").write_text(f"# first\n\n{line}\n")
    with pytest.raises(
        ConfigurationError, match=rf"tfspawnerignore, line 3: .* is not a .gitignore pattern: {why}"
    ) as error:
        travelling(tmp_path)
    assert len(error.value.message) < 400


def test_an_ignore_file_with_too_much_in_it_or_that_is_none_is_refused_at_once(tmp_path):
    path, began = tmp_path / ".tfspawnerignore", time.monotonic()
    path.write_text("a\n" * 2000)
    with pytest.raises(ConfigurationError, match="2,000 patterns"):
        travelling(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigurationError, match="is a pipe"):
        travelling(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigurationError, match="is a device"):
        travelling(tmp_path)
    assert time.monotonic() - began < 2


def test_the_longest_names_are_matched_quickly(tmp_path):
    write(tmp_path, *("a" * 250 + str(number) for number in range(3)))
    (tmp_path / ".tfspawnerignore").write_text("*a*a*b\n**/a*/**/b\n")
    began = time.monotonic()
    assert len(travelling(tmp_path)[0]) == 4
    assert time.monotonic() - began < 5
