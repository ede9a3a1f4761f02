"""Canary values from an env-file: the script has them, and nothing that tf-spawner writes, shows or creates does."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "canary/pass+word=7?"
KEY_LINES = ["-----BEGIN CANARY KEY-----", "canaryMIIEvQIBADANBgkqhkiG9w0", "canary/BAQEFAASCBKcwggSjAgE+", "-----END CANARY KEY-----"]  # fmt: skip
KEY = "\n".join(KEY_LINES)
SECRETS = {"PASSWORD": PASSWORD, "KEY": KEY}
SCRIPT = """
import base64, hashlib, os, sys, urllib.parse
for name in ("PASSWORD", "KEY"):
    value = os.environ[name]
    print(name, hashlib.sha256(value.encode()).hexdigest())
    print(f"plain <{value}>")
    print(f"standard <{base64.b64encode(value.encode()).decode()}>")
    print(f"urlsafe <{base64.urlsafe_b64encode(value.encode()).decode().rstrip('=')}>")
    for user in ("", "u", "us"):
        print(f"header <{base64.b64encode(f'{user}:{value}:x'.encode()).decode()}>")
    print(f"repr <{value!r}>")
    print(f"quoted <{urllib.parse.quote(value, safe='')}>")
password = os.environ["PASSWORD"].encode()
os.write(1, b"torn <" + password[:9])
os.write(1, password[9:] + b">\\n")
print("DEBUG is", os.environ["DEBUG"], flush=True)
if os.environ["TFSPAWNER_INDEX"] == "1":
    raise ValueError(f"no login with {os.environ['PASSWORD']}")
"""
LOGGING = "import logging; logging.basicConfig(level=logging.DEBUG); from tfspawner.cli.main import main; main()"


def spellings() -> Iterator[bytes]:
    """The canaries' lines, and what base64 makes of them wherever in a text they stand."""
    for part in (PASSWORD, KEY, *KEY_LINES):
        data = part.encode()
        if part != KEY:
            yield data
        for shift in range(3):
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                yield encode(bytes(shift) + data)[(0, 2, 3)[shift] : (shift + len(data)) * 8 // 6]
    yield b"canary"


def assert_clean(what: object, text: bytes) -> None:
    for spelling in spellings():
        assert spelling not in text, f"{spelling!r} stands in {what}"


class ProcessList(threading.Thread):
    """Looks at all processes' command lines again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue  # it has ended


@dataclass
class SecretJob:
    place: Any
    done: Any
    commands: set[bytes]

    @property
    def record(self) -> Path:
        return Path(self.place.runs / "secret")


@pytest.fixture(scope="module")
def secret(shared_place) -> SecretJob:
    """A job that printed its secrets, one of whose replicas failed; its objects are still there."""
    place = shared_place
    env_file = place.folder / "secrets.env"
    escaped = KEY.replace("\n", "\\n")
    env_file.write_text(f"PASSWORD='{PASSWORD}'\nKEY=\"{escaped}\"\nDEBUG=1\n")
    script = place.script(SCRIPT)
    processes = ProcessList()
    processes.start()
    words = ["run", *place.target, "--out", place.runs, script, "--name", "secret", "--keep", "-e", env_file]
    place.env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), place.env.get("PYTHONPATH")]))
    running = type(place.start("--version"))([sys.executable, "-c", LOGGING, *map(str, words)], place.env, place.folder)
    place.background.append(running)
    done = running.done()
    processes.over.set()
    processes.join()
    return SecretJob(place=place, done=done, commands=processes.seen)


def test_the_script_has_the_true_values(secret):
    assert secret.done.code == 125, secret.done.err
    log = (secret.record / "logs/worker-0.log").read_text()
    for name, value in SECRETS.items():
        assert f"{name} {hashlib.sha256(value.encode()).hexdigest()}\n" in log


def test_the_log_shows_stars_where_the_script_printed_a_value_and_nothing_else_is_lost(secret):
    lines = (secret.record / "logs/worker-0.log").read_text().splitlines()
    for word in ("plain", "standard", "urlsafe", "quoted", "torn"):
        assert f"{word} <***>" in lines, lines
    assert "repr <'***'>" in lines
    assert sum(line.startswith("header <") and "***" in line for line in lines) == 6
    assert "DEBUG is 1" in lines
    log = (secret.record / "logs/worker-1.log").read_text()
    assert log.endswith("ValueError: no login with ***\n")


def test_no_value_stands_in_any_file_of_the_record(secret):
    files = [path for path in secret.record.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"worker-0.log", "report.json", "spec.json", "events.jsonl"}
    for path in files:
        assert_clean(path, path.read_bytes())


def test_no_value_stands_in_what_run_shows_with_all_of_pythons_logging_on(secret):
    assert "error: worker-1 ended with exit code 1" in secret.done.err
    assert_clean("run's output", secret.done.stdout + secret.done.stderr)


@pytest.mark.parametrize(
    "words", [("logs", "secret"), ("logs", "secret", "-o", "json"), ("status", "secret"), ("status", "secret", "-o", "json"),
              ("list", "-o", "json"), ("wait", "secret"), ("fetch", "secret", "--out", "again"), ("fetch", "none")],
    ids=" ".join,
)  # fmt: skip
def test_no_value_stands_in_what_the_other_verbs_show(secret, words):
    done = secret.place.of(*words)
    assert done.stdout + done.stderr
    assert_clean(words, done.stdout + done.stderr)
    for path in (secret.place.folder / "again").rglob("*"):
        assert not path.is_file() or assert_clean(path, path.read_bytes()) is None


def test_no_value_stands_in_what_render_shows(secret):
    for output in ("text", "json"):
        done = secret.place.tf("render", secret.place.folder / "code/train.py", "-e", "secrets.env", "-o", output)
        assert done.code == 0, done.err
        assert_clean("render", done.stdout + done.stderr)


def test_no_value_stands_in_a_command_line(secret):
    assert any(b"--name\0secret" in command for command in secret.commands), "run itself was not seen"
    for command in secret.commands:
        assert_clean("a command line", command)


def test_no_value_stands_in_what_the_backend_keeps_but_in_the_secret(secret):
    place = secret.place
    if place.on == "local":
        stored = {path: path.read_bytes() for path in place.folder.glob("state/**/*") if path.is_file()}
    else:
        kinds = place.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
        shown = ",".join(kind for kind in kinds if kind != "secrets")
        stored = {"objects": place.kubectl("-n", place.namespace, "get", shown, "-o", "yaml").encode()}
        for pod in place.pods("secret"):
            stored[pod] = place.kubectl("-n", place.namespace, "logs", pod).encode()
            stored[f"{pod}, described"] = place.kubectl("-n", place.namespace, "describe", "pod", pod).encode()
        assert len(stored) == 5
    assert any(b"no login with ***" in text for text in stored.values())
    for what, text in stored.items():
        assert_clean(what, text)


@pytest.mark.parametrize(
    "words",
    [("--env", "canary"), ("--env", "A B=canary"), ("--env", "TF_CONFIG=canary"), ("--env", "=canary"),
     ("-e", "secrets.env", "--gpus", "-1"), ("-e", "broken.env"), ("-f", "job.yaml"), ("-f", "lists.yaml"), ("-f", "broken.yaml")],
    ids=" ".join,
)  # fmt: skip
def test_no_value_stands_in_an_error(secret, words):
    folder = secret.place.folder
    (folder / "broken.env").write_text("A=1\ncanary\n")
    (folder / "job.yaml").write_text(json.dumps({"script": "code/train.py", "env": {"A": "canary", "B": [5]}}))
    (folder / "broken.yaml").write_text("env: {A: canary, B: 'canary")
    (folder / "lists.yaml").write_text(json.dumps({"script": "code/train.py", "env": ["canary"]}))
    script = [] if "-f" in words else [folder / "code/train.py"]
    done = secret.place.run(*script, *words)
    assert done.code == 2, done.err
    assert_clean(words, done.stdout + done.stderr)


def test_an_agents_own_failure_is_told_without_values(secret):
    """The S3 client's words name the endpoint, which came from the env-file as the keys did; here with a password."""
    place = secret.place
    (place.folder / "s3.env").write_text(
        "AWS_ENDPOINT_URL=http://me:canary@no.invalid:9000\nAWS_ACCESS_KEY_ID=the-key\nAWS_SECRET_ACCESS_KEY=canary-key\n"
    )
    done = place.run(
        place.folder / "code/train.py", "-w", "1", "-e", "s3.env", "--artifacts", "s3://bucket/x", "--name", "stored"
    )
    assert done.code == 125, done.err
    assert "error: worker-0 cannot put artifacts into s3://bucket/x: " in done.err
    assert "the S3 endpoint is given with a password" in done.err
    assert_clean("run's output", done.stdout + done.stderr)
    for path in (place.runs / "stored").rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path
