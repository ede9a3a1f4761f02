"""Values of every type for each key of job.yaml and each flag of `run`: a job, or one line that says why not, at once."""

from __future__ import annotations

import json
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from in_process import context_of
from mutating import ODD_TEXTS, damaged, odd

from tfspawner.backends.kubernetes.manifests import redacted, render, to_yaml
from tfspawner.cli import main as cli
from tfspawner.cli import options
from tfspawner.cli.options import make_spec
from tfspawner.cli.target import request_of
from tfspawner.errors import ConfigurationError
from tfspawner.jobs.prepare import new_name, prepare
from tfspawner.jobs.running import described
from tfspawner.plan.grid import Sweep

MOST_S = 2.0
MOST_KIB = 400 * 1024  # that this process may grow by
KEYS = sorted({*options._KNOWN, *options._KEYS, "unknown", "", "~"})
PATHS = ("train.py", "run.sh", "pod.yaml", "s3.env", "templates", ".", "/dev/zero", "/dev/null", "/dev/stdout", "fifo", "loop", "huge",
         "~nouser/x", "~/x", "a/b\0c", "x" * 256, "x/" * 3000, "/proc/self/mem", "/proc/kmsg", "job.yaml")  # fmt: skip
WORDS = (
    "3", "-1", "007", "1e3", "30000000", "1000000", "9" * 30, "9" * 4000, "0x10", "1.5", "nan", "90s", "2h", "1000000000d", "1d", "500m", "4Gi",
    "1e400", "1e-999Ei", "a=b", "a=b=c", "=", "a", "key=value:NoSchedule", "claim:/data", "claim:/data:ro", "/eos:/eos", "s3://bucket/x",
    "s3://", "local", "kubernetes", "lost", "registry/name:tag", "nvidia", "lr=1,2", "lr=", 'lr="', "lr=" + ",".join(map(str, range(2000))),
    "true", "false", "yes", "*", "**/*", "[z-a]", "TF_CONFIG=x", "A=" + "x" * 200_000, "K" * 300 + "=x", "--", "-w", "é", "a" * 63, "a" * 64,
)  # fmt: skip
SNIPPETS = (
    "null", "true", "-0", "0o17", "1_000", "2024-01-01", "2024-01-01T00:00:00Z", "[]", "{}", "[[]]", "[{a: b}]", "{a: {b: c}}", "{a: [1, 2]}",
    "{lr: [1e-3, 1e-4]}", "{lr: 1}", "{lr: [{}]}", "{1: [2]}", "{lr: [1, 1]}", "{? [a] : b}", "&a [*a]", "&a {b: *a}", "*nothing", "!!binary aGk=",
    "!!float ''", "!!bool x", "!!set {a, b}", "!!python/object/apply:os.system [id]", "!x y", "!!int x", "!!float x", "!!timestamp x", "!!omap [a: b]", "'", '"', "|\n  a\n  b",
    "[a, b", "{", '"\\0"', '"\\ud800"', '"\\x1b[2J"', "\t", "&a [x, x]", "[1, null]", "[true, false]", "[" * 300, "- " * 300, "? " * 200,
)  # fmt: skip
BOMB = "\n".join(["&a [x, x, x]", *(f"a{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]" for n in range(9))])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script's folder with files of all kinds."""
    (tmp_path / "train.py").write_text("print()\n")
    (tmp_path / "run.sh").write_text("echo\n")
    (tmp_path / "pod.yaml").write_text("kind: Pod\nspec: {containers: [{name: worker}]}\n")
    (tmp_path / "s3.env").write_text("KEY=value-of-the-key\n")
    (tmp_path / "templates").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**33)
    (tmp_path / ".tfspawnerignore").write_text("huge\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TFSPAWNER_IMAGE", raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KIB


def is_refused_or_whole(make: Callable[[], Any], what: object) -> bool:
    """Whether it is refused; if not, all that is made before the launch can be made of it."""
    began = time.monotonic()
    try:
        asked = make()
        if isinstance(asked, Sweep):
            asked = asked.job(new_name(asked.spec), f"{new_name(asked.spec)}-1", asked.points[0])
        if len(asked.replicas) <= 1000 or asked.on == "kubernetes":  # each has a socket here
            whole(asked)
        refused = False
    except (ConfigurationError, click.ClickException) as error:
        lines = (error.message if isinstance(error, ConfigurationError) else error.format_message()).splitlines()
        if isinstance(error, ConfigurationError):
            assert len(lines) == 1, (what, lines)
            assert lines[0].isprintable(), what
            assert sum(map(len, lines)) < 9000, what
        refused = True
    taken = time.monotonic() - began
    assert taken < MOST_S, (what, taken)
    return refused


def whole(spec: Any) -> None:
    backend, plan = prepare(spec, check=False)
    for listener in getattr(backend, "listeners", {}).values():
        listener.close()
    json.dumps(described(plan), default=str)
    if spec.on == "kubernetes":
        to_yaml(redacted(render(plan))).encode()


def value_text(rng: random.Random) -> str:
    """A value as it may stand in a job.yaml."""
    how = rng.random()
    if how < 0.3:
        return rng.choice(SNIPPETS)
    text: Any = rng.choice((*WORDS, *PATHS, *ODD_TEXTS))
    if how < 0.5:
        text = rng.choice(([text], [text, text], {"a": text}, {text: "a"}, {"lr": [text]}))
    elif how < 0.65:
        text = odd(rng)
    elif how < 0.8 and "\n" not in text:
        return str(text).encode(errors="replace").decode()
    try:
        return json.dumps(text)
    except ValueError:  # a number of more digits than Python writes
        return "9" * 5000


def job_file(rng: random.Random) -> str:
    lines = ["script: train.py"] if rng.random() < 0.9 else []
    if rng.random() < 0.5:
        lines.append("on: kubernetes")
    lines += [f"{rng.choice(KEYS)}: {value_text(rng)}" for _ in range(rng.choice((1, 1, 1, 2, 4)))]
    return "\n".join(lines) + "\n"


def test_any_job_file_is_a_job_or_refused_in_a_line(place: Path, fuzz: Any) -> None:
    refused = 0
    path = place / "job.yaml"
    for rng in fuzz.rounds(250):
        data = job_file(rng).encode(errors="replace")
        path.write_bytes(damaged(data, rng) if rng.random() < 0.15 else data)
        refused += is_refused_or_whole(lambda: make_spec({"job_file": path}, ())[0], path.read_bytes()[:2000])
    assert 0 < refused < fuzz.round, "both happen"


def words(rng: random.Random) -> list[str]:
    command = cli.cli.commands["run"]
    found = ["train.py"] if rng.random() < 0.9 else []
    if rng.random() < 0.5:
        found += ["--on", "kubernetes"]
    for _ in range(rng.choice((1, 1, 2, 4))):
        option = rng.choice([param for param in command.params if isinstance(param, click.Option)])
        value = (
            str(rng.choice((*WORDS, *PATHS, *ODD_TEXTS))).replace("\0", "").encode(errors="replace").decode()
        )  # execve's words
        found += [rng.choice(option.opts), *([] if option.is_flag else [value])]
    return found + (["--", rng.choice(WORDS)] if rng.random() < 0.2 else [])


def asked_by(argv: list[str]) -> Any:
    context = context_of("run", argv)
    parsed = {key: value for key, value in context.params.items() if key != "output"}
    return request_of(context, parsed)


def test_any_flags_are_a_job_or_refused_in_a_line(place: Path, fuzz: Any) -> None:
    refused = 0
    (place / "job.yaml").write_text("workers: 1\n")
    for rng in fuzz.rounds(250):
        argv = words(rng)
        refused += is_refused_or_whole(lambda: asked_by(argv), [word[:200] for word in argv])  # noqa: B023 # called at once
    assert 0 < refused < fuzz.round, "both happen"


@pytest.mark.parametrize("key", ["args", "env", "grid", "collect", "node-selector", "script"])
def test_aliases_that_grow_are_refused_at_once(place: Path, key: str) -> None:
    lines = "\n".join(f"  a{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else 'x'] * 9)}]" for n in range(10))
    (place / "job.yaml").write_text(f"script: train.py\nunknown:\n{lines}\n{key}: *b9\n")
    assert is_refused_or_whole(lambda: make_spec({"job_file": place / "job.yaml"}, ())[0], key)


@pytest.mark.parametrize("argv", [["-w", "30000000"], ["-w", "1000000"], ["--ps", "30000000"], ["-w", "5400", "--chief"], ["--gpus", "9" * 4000],
                                  ["-w", "9" * 5000], ["--restarts", "9" * 30], ["-p", "9" * 4000]])  # fmt: skip
def test_numbers_that_no_job_can_have_are_refused_at_once(place: Path, argv: list[str]) -> None:
    for where in ("local", "kubernetes"):
        assert is_refused_or_whole(lambda: asked_by(["train.py", "--on", where, *argv]), argv)  # noqa: B023
