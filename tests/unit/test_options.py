"""The command line and job.yaml together make one JobSpec."""

import ast
import json
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from tfspawner import plan
from tfspawner.cli.job_flags import job_flags
from tfspawner.cli.options import duration, make_spec, read_job_file
from tfspawner.errors import ConfigurationError
from tfspawner.plan.grid import SWEEP_OPTIONS
from tfspawner.plan.options import Kind, Section, Trait, option, options_of
from tfspawner.plan.spec import OPTIONS, JobSpec


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


@pytest.mark.parametrize(
    ("key", "name"),
    [("workdir", "workdir"), ("template-dir", "template_dir"), ("command", "command_file"), ("pod-file", "pod_file"), ("kubeconfig", "kubeconfig")],
)  # fmt: skip
def test_every_path_but_out_is_relative_to_the_file(job_file, tmp_path, monkeypatch, key, name):
    (tmp_path / "below").mkdir()
    (tmp_path / "there").touch()
    word = "." if key in ("workdir", "template-dir") else "below/../there"
    path = job_file(f"on: kubernetes\nout: results\n{key}: {word}\n")
    monkeypatch.chdir(tmp_path / "below")
    spec = spec_of(path)
    assert getattr(spec, name) == tmp_path / word
    assert spec.out == Path("results")


def test_paths_on_the_command_line_are_relative_to_the_users_folder(job_file, tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    (tmp_path / "below/other.py").touch()
    (tmp_path / "below/s3.env").write_text("KEY=here")
    monkeypatch.chdir(tmp_path / "below")
    spec = spec_of(job_file("env-file: s3.env\n"), script=Path("other.py"), env_files=(Path("s3.env"),))
    assert (spec.script, spec.env) == (Path("other.py"), {"KEY": "here"})


@pytest.mark.parametrize("text", ["{A: b=c, D: ''}", "[A=b=c, D=]", '\n  A: "b=c"\n  D: ""'])
@pytest.mark.parametrize(("key", "name"), [("env", "env"), ("node-selector", "node_selector")])
def test_pairs_are_a_mapping_or_a_list(job_file, key, name, text):
    spec = spec_of(job_file(f"on: kubernetes\n{key}: {text}\n"))
    assert getattr(spec, name) == {"A": "b=c", "D": ""}


def test_one_pair_and_one_word_need_no_list(job_file):
    spec = spec_of(job_file("env: A=b\ncollect: /tmp/m*\nargs: --fast\n"))
    assert (spec.env, spec.collect, spec.args) == ({"A": "b"}, ("/tmp/m*",), ("--fast",))


def test_a_flags_pair_joins_the_files(job_file):
    path = job_file("on: kubernetes\nnode-selector: {pool: gpu, zone: a}\n")
    assert spec_of(path, node_selector_pairs=("zone=b",)).node_selector == {"pool": "gpu", "zone": "b"}


def test_a_flags_list_replaces_the_files(job_file):
    path = job_file("on: kubernetes\nvolume: [a:/a, b:/b]\n")
    assert spec_of(path, volumes=("c:/c",)).volumes == ("c:/c",)
    assert spec_of(path, volumes=()).volumes == ("a:/a", "b:/b")


def test_a_key_with_nothing_behind_it_is_as_if_left_out(job_file):
    assert spec_of(job_file("workers:\ntimeout:\nenv:\n")) == spec_of(job_file(""))


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
        ("workers: many\n", "workers is 'many'; it must be a whole number"),
        ("workers: '2'\n", "workers is '2'; it must be a whole number, without quotes"),
        ("tag: a\nworkers: 2\nenv: {A: 1}\nworkers: 3\n", "job.yaml has workers a second time, in line 5"),
        ("env:\n  A: 1\n  B: [{x: 1, x: 2}]\n", "job.yaml has x a second time, in line 4"),
        ("env: {A: 1,\n A: 2}\n", "job.yaml has A a second time, in line 3"),
        ("start-timeout: 1\nstart_timeout: 2\n", "'start_timeout' is set a second time, in another spelling"),
        ("env: [A=1, B]\n", "job.yaml: env is not KEY=VALUE"),
        ("on: kubernetes\nnode-selector: [B]\n", "job.yaml: node-selector 'B' is not KEY=VALUE"),
        ("tag: '\x07'\n", "is not YAML: "),
        ("ttl: !!timestamp x\n", "is not YAML: a value does not fit its tag"),
        ("ps: !!float x\n", "is not YAML: a value does not fit its tag"),
        ("workers: true\n", "workers is True"),
        ("workers: 1.5\n", "workers is '1.5'"),
        ("port: '80'\n", "port is '80'"),
        ("keep: yes\n", "keep is 'yes'; it must be true or false"),
        ("on: true\n", "on is 'true'"),
        ("on: kubernetes\ncontext: [a]\n", "context is ['a']"),
        ("on: kubernetes\nqueue: {a: b}\n", "queue is a mapping"),
        ("env: {A: [1]}\n", "env: A"),
        ("env: {A: }\n", "env: A"),
        ("args: [a, null]\n", "args is ['a', None]"),
        ("workers: !!int many\n", "is not YAML"),
        ("node-selector: {a: b}\nenv: ['=b']\n", "job.yaml: env '' is not KEY=VALUE"),
        ("script: a.py\n", "has script a second time, in line 2"),
        ("env-file: none.env\n", "none.env: No such file"),
        ("1: 2\n", "there is no option 1"),
        ("chief: 1\n", "chief is 1"),
        ("timeout: soon\n", "'soon' is not a duration"),
        ("env: [A]\n", "job.yaml: env is not KEY=VALUE"),
        ("collect: [[a]]\n", "collect is a list with a mapping or a list in it"),
        ("workdir: [a]\n", "workdir is ['a']; it must be a path"),
        ("{", "is not YAML"),
    ],
)
def test_nonsense_in_the_file_is_named(job_file, text, words):
    with pytest.raises(ConfigurationError) as error:
        spec_of(job_file(text))
    assert words in error.value.message


def test_a_key_may_stand_in_several_mappings(job_file):
    assert spec_of(job_file("env: {A: 1, tag: 2}\ntag: A\nargs: [A, A]\n")).env == {"A": "1", "tag": "2"}


@pytest.mark.parametrize("text", ["", "- workers", "workers 3", "# nothing"])
def test_a_file_without_options_is_told(tmp_path, text):
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match="must hold options"):
        spec_of(tmp_path / "job.yaml")


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match=r"-f .*none.yaml: No such file"):
        spec_of(tmp_path / "none.yaml")
    (tmp_path / "job.yaml").write_bytes(b"tag: \xff")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        spec_of(tmp_path / "job.yaml")


def test_a_secret_in_the_files_env_is_not_shown_by_an_error(job_file):
    with pytest.raises(ConfigurationError) as error:
        spec_of(job_file("env: ['=canary']\n"))
    assert "canary" not in error.value.message


@pytest.mark.parametrize("key", ["timeout", "start-timeout", "hold", "ttl", "start_timeout"])
def test_every_time_is_a_duration_in_the_file(job_file, key):
    name = key.replace("-", "_") + "_s"
    assert getattr(spec_of(job_file(f"on: kubernetes\n{key}: 1.5h\n")), name) == 5400


@pytest.mark.parametrize(
    ("word", "seconds"), [("90", 90), (90, 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)]
)
def test_durations(word, seconds):
    assert duration(word) == seconds


@pytest.mark.parametrize("word", ["", "5 minutes", "-1s", "1w", "inf", "9" * 40])
def test_what_is_no_duration_is_refused(word):
    with pytest.raises(ValueError, match="not a duration"):
        duration(word)


# ---- said once ----------------------------------------------------------------------------------

FIELDS = {**OPTIONS, **SWEEP_OPTIONS}
FLAGS = {flag.name: flag for flag in job_flags(OPTIONS)}


def test_every_field_of_a_job_is_an_option():
    assert list(OPTIONS) == [field.name for field in fields(JobSpec)]


@pytest.mark.parametrize("name", [name for name, option in FIELDS.items() if option.words])
def test_a_fields_words_are_its_flags_and_its_key(job_file, name):
    option, flag = FIELDS[name], FLAGS[FIELDS[name].parameter]
    assert tuple(flag.opts) == option.words
    assert flag.help == option.full_help
    assert "{" not in flag.help
    value = {Kind.NUMBER: 1, Kind.SWITCH: True, Kind.GRID: {"lr": [1]}, Kind.PAIRS: "a=b"}.get(option.kind, "90")
    assert option.parameter in read_job_file(job_file(f"{option.key}: {json.dumps(value)}\n"))


def test_no_two_options_share_a_word():
    words = [word for flag in FLAGS.values() for word in flag.opts]
    assert sorted(set(words)) == sorted(words)
    assert len({option.key for option in FIELDS.values()}) == len(FIELDS)


def test_a_new_field_with_metadata_is_a_flag_a_key_and_a_word():
    @dataclass(kw_only=True)
    class More:
        speed_s: float | None = option(None, Kind.SECONDS, "-z --speed", Section.FAULTS, Trait.OFTEN, help="How fast.")
        is_on: bool = option(True, Kind.SWITCH, "--no-on", Section.FAULTS)

    made = options_of(More)
    assert (made["speed_s"].key, made["speed_s"].flag, made["speed_s"].is_optional) == ("speed", "--speed", True)
    assert (made["is_on"].key, made["is_on"].flag, made["is_on"].default) == ("on", "--on", True)
    assert More().speed_s is None


def test_plan_knows_no_command_line():
    found = [path for path in Path(plan.__file__).parent.rglob("*.py") if "click" in imported(path)]
    assert found == []


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {str(node.module).split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
