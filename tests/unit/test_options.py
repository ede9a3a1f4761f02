"""The command line and job.yaml together make one JobSpec."""

from pathlib import Path

import pytest

from tfspawner.errors import ConfigurationError
from tfspawner.options import duration, make_spec


@pytest.fixture
def job_file(tmp_path: Path):
    (tmp_path / "train.py").touch()
    (tmp_path / "s3.env").write_text("KEY=from-file\nBOTH=file\n")

    def write(text: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text("script: train.py\n" + text)
        return path

    return write


def spec_of(path: Path, **flags: object):
    return make_spec({"job_file": path, **flags}, ())[0]


def test_flags_win_over_the_file(job_file):
    path = job_file("workers: 8\nchief: true\ntag: a\n")
    spec = spec_of(path, workers=3)
    assert (spec.workers, spec.chief, spec.tag) == (3, True, "a")


def test_paths_are_relative_to_the_file(job_file, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    spec = spec_of(job_file("env-file: s3.env\n"))
    assert spec.script == tmp_path / "train.py"
    assert spec.env == {"KEY": "from-file", "BOTH": "file"}


def test_env_comes_from_files_then_job_yaml_then_flags(job_file):
    path = job_file("env-file: s3.env\nenv: {BOTH: yaml, N: 10, T: true, W: on}\n")
    assert spec_of(path).env == {"KEY": "from-file", "BOTH": "yaml", "N": "10", "T": "true", "W": "on"}
    assert spec_of(path, env_pairs=("BOTH=flag",)).env["BOTH"] == "flag"


def test_on_and_no_are_words(job_file):
    spec = spec_of(job_file("on: kubernetes\nname: no\nnode-selector: {pool: gpu}\nvolume: [/eos:/eos]\nttl: 1h\n"))
    assert (spec.on, spec.name, spec.node_selector, spec.volumes, spec.ttl_s) == (
        "kubernetes",
        "no",
        {"pool": "gpu"},
        ("/eos:/eos",),
        3600,
    )


def test_what_is_for_kubernetes_alone_is_noted_when_it_runs_here(job_file):
    path = job_file("on: kubernetes\nmemory: 1Gi\nnode-selector: {a: b}\n")
    spec, notes = make_spec({"job_file": path, "on": "local"}, ())
    assert spec.memory is None
    assert "memory" in notes[0]
    assert "node-selector" in notes[0]


def test_arguments_on_the_command_line_replace_the_files(job_file):
    path = job_file("args: [--epochs, 3]\n")
    assert spec_of(path).args == ("--epochs", "3")
    assert make_spec({"job_file": path}, ("--lr", "1"))[0].args == ("--lr", "1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wrokers: 3\n", "there is no option 'wrokers'"),
        ("workers: many\n", "workers is 'many'"),
        ("workers: true\n", "workers is True"),
        ("chief: 1\n", "chief is 1"),
        ("timeout: soon\n", "'soon' is not a duration"),
        ("env: [A]\n", "'A' is not KEY=VALUE"),
        ("collect: [[a]]\n", "collect is [['a']]"),
        ("script: [a]\n", "script is ['a']"),
        ("{", "is not YAML"),
    ],
)
def test_nonsense_in_the_file_is_named(job_file, text, words):
    with pytest.raises(ConfigurationError) as error:
        spec_of(job_file(text))
    assert words in error.value.message


@pytest.mark.parametrize(
    ("word", "seconds"), [("90", 90), (90, 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)]
)
def test_durations(word, seconds):
    assert duration(word) == seconds


@pytest.mark.parametrize("word", ["", "5 minutes", "-1s", "1w", "inf", "9" * 40])
def test_what_is_no_duration_is_refused(word):
    with pytest.raises(ValueError, match="not a duration"):
        duration(word)
