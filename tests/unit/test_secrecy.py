"""A value of a variable that stands elsewhere in the job, too: no object but the Secret, and no record, has it."""

import base64
import gzip
import json
import os
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfspawner.backends.kubernetes.manifests import render, travels_in_configmap
from tfspawner.cli import main as cli
from tfspawner.cli.options import make_spec, recorded_options
from tfspawner.errors import ConfigurationError
from tfspawner.jobs.prepare import planned_like, prepare
from tfspawner.jobs.running import described
from tfspawner.jobs.sweep_plan import prepare as prepare_sweep
from tfspawner.plan.grid import Sweep
from tfspawner.plan.plan import Plan
from tfspawner.plan.secrecy import HIDDEN
from tfspawner.plan.spec import JobSpec
from tfspawner.record.writing import Record

CANARY = "canary/value+7"
ENV = {"API_KEY": CANARY}


def planned(folder: Path, **values: object) -> Plan:
    values = {"on": "kubernetes", "env": ENV, **values}
    return prepare(JobSpec(script=folder / "train.py", **values), check=False)[1]


def objects(plan: Plan) -> dict[str, str]:
    """All that the job's objects say, by their kind; what is in base64, and packed, as it is read."""
    found: dict[str, str] = {}
    for manifest in render(plan):
        text = json.dumps(manifest)
        for name, data in manifest.get("binaryData", {}).items():
            binary = base64.b64decode(data)
            text += (gzip.decompress(binary) if name == "code.tar.gz" else binary).decode(errors="replace")
        found[manifest["kind"]] = found.get(manifest["kind"], "") + text
    return found


def assert_only_the_secret_has_it(plan: Plan, record: Path) -> dict[str, str]:
    found = objects(plan)
    assert [kind for kind, text in found.items() if CANARY in text] == ["Secret"]
    kept = Record(record, plan.id)
    kept.write_json("spec.json", described(plan))
    kept.close()
    assert CANARY not in (record / "spec.json").read_text()
    return found


def test_an_argument_with_a_secret_travels_in_the_secret_and_is_masked_elsewhere(folder, tmp_path):
    plan = planned(folder, args=("--key", f"x={CANARY}", "--epochs", "3"))
    found = assert_only_the_secret_has_it(plan, tmp_path / "record")
    assert json.loads(plan.hidden[HIDDEN]) == {"args": ["--key", f"x={CANARY}", "--epochs", "3"]}
    assert json.loads(plan.files["job.json"])["args"] == ["--key", "x=***", "--epochs", "3"]
    assert "x=***" in found["ConfigMap"]
    (warning,) = [text for text in plan.warnings if "API_KEY" in text]
    assert 'os.environ["API_KEY"]' in warning
    assert CANARY not in repr(plan.warnings)


def test_a_command_file_with_a_secret_travels_in_the_secret(folder, tmp_path):
    (tmp_path / "run.sh").write_text(f"set -e\ncurl -H 'X: {CANARY}' x\n")
    plan = planned(folder, command_file=tmp_path / "run.sh")
    assert_only_the_secret_has_it(plan, tmp_path / "record")
    assert any("the command file, line 2 holds the value of API_KEY" in text for text in plan.warnings)


@pytest.mark.parametrize("name", ["lib.py", "notes.txt", "job.yaml", "model.bin"])
def test_code_with_a_secret_is_uploaded_and_named_by_file_and_line(folder, tmp_path, name):
    (folder / name).write_bytes(b"\xff\n" * 4 + f"key = '{CANARY}'\n".encode())
    plan = planned(folder)
    assert not travels_in_configmap(plan)
    assert CANARY not in "".join(text for kind, text in objects(plan).items() if kind != "Secret")
    (warning,) = [text for text in plan.warnings if "API_KEY" in text]
    assert warning.startswith(f"{name}, line 5 holds the value of API_KEY")


def test_code_without_a_secret_travels_in_the_configmap(folder):
    assert travels_in_configmap(planned(folder))


def test_code_that_is_too_much_to_search_is_uploaded(folder, monkeypatch):
    monkeypatch.setattr("tfspawner.jobs.packing.MOST_SEARCHED_BYTES", 5)
    assert not travels_in_configmap(planned(folder))


@pytest.mark.parametrize(
    "option",
    [{"tag": "canary-value-7"}, {"collect": ("/tmp/canary-value-7*",)}, {"node_selector": {"a": "canary-value-7"}}, {"name": "canary-value-7"},
     {"out": Path("canary-value-7")}, {"pod_file": Path("pod.yaml")}, {"artifacts": "s3://bucket/canary-value-7"}],
)  # fmt: skip
def test_a_secret_in_an_option_is_refused_without_it(folder, tmp_path, option):
    pod = "kind: Pod\nspec: {containers: [{name: worker, env: [{name: KEY, value: canary-value-7}]}]}"
    (tmp_path / "pod.yaml").write_text(pod)
    with pytest.raises(ConfigurationError, match="holds the value of the variable API_KEY") as error:
        planned(folder, env={"API_KEY": "canary-value-7"}, **option)
    if "pod_file" not in option:
        assert "canary" not in error.value.message + error.value.hint
    planned(folder, env={"BUCKET": "canary-value-7"}, **option)  # which a name that speaks of no key makes public


def test_a_word_that_the_job_says_itself_is_no_secret(folder):
    env = {"KERAS_BACKEND": "tensorflow", "BUCKET": "my-bucket", "CREDENTIALS": "/data/creds", "OTHER": "resnet50"}
    plan = planned(folder, env=env, artifacts="s3://my-bucket/x", volumes=("claim:/data/creds",))
    assert json.loads(plan.files["job.json"])["secret_names"] == ["OTHER"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("MODEL", "efficientnet"), ("MODEL", "EfficientNetB0"), ("DATASET", "imagenet2012"), ("ENVIRONMENT", "production"), ("WANDB_MODE", "disabled"),
     ("STEPS", "100000000"), ("RATE", "0.00001234"), ("MAX_TOKENS", "100000000"), ("KEYWORDS", "hadronic"), ("TOKENIZER", "bert-base-uncased"),
     ("AUTHOR", "alice.smith"), ("POLICY", "mixed_bfloat16"), ("PASSES", "12345678"), ("MONKEY", "mandrill")],
)  # fmt: skip
def test_a_plain_word_under_an_ordinary_name_is_masked_in_logs_and_hides_nothing_else(folder, tmp_path, name, value):
    (folder / "lib.py").write_text(f'import os\nos.environ.get("{name}", "{value}")\n')
    (tmp_path / "run.sh").write_text(f"python3 train.py {value}\n")
    plan = planned(folder, env={name: value}, args=("--data", value), command_file=tmp_path / "run.sh")
    assert (plan.warnings, plan.hidden) == ((), {})
    assert travels_in_configmap(plan)
    assert described(plan)["args"] == ("--data", value)
    assert plan.files["command"].decode().endswith(f"{value}\n")
    assert json.loads(plan.files["job.json"])["secret_names"] == [name]


@pytest.mark.parametrize(
    ("name", "value"),
    [("API_KEY", "efficientnet"), ("hf_token", "production"), ("DB_PASS", "12345678"), ("PGPASSWORD", "mandrill"), ("AUTH", "production"),
     ("SESSION_COOKIE", "production"), ("APIKEY", "production"), ("API_TOKENS", "production"), ("AWS_CREDENTIALS", "production"), ("KEY2", "production"),
     ("LOGIN", "a1b2c3d4e5f6"), ("LOGIN", "hunter2!x"), ("LOGIN", "Zm9vYmFyYmF6cXV4")],
)  # fmt: skip
def test_a_word_under_a_keys_name_or_a_value_like_a_keys_is_hidden(folder, name, value):
    (folder / "lib.py").write_text(f'key = "{value}"\n')
    plan = planned(folder, env={name: value}, args=("--data", value))
    assert len(plan.warnings) == 2
    assert described(plan)["args"] == ("--data", "***")
    assert not travels_in_configmap(plan)


@pytest.mark.parametrize(("name", "value"), [("TOKENIZER", "bert-base-uncased"), ("AUTHOR", "alice.smith"), ("MAX_TOKENS", "12345678"), ("KEYWORDS", "hadronic"),
                                             ("PASSES", "12345678"), ("MONKEY", "mandrill"), ("passenger", "mandrill")])  # fmt: skip
def test_a_name_that_only_contains_a_keys_word_may_stand_in_an_option(folder, tmp_path, name, value):
    planned(folder, env={name: value}, tag=value, out=tmp_path / value)
    with pytest.raises(ConfigurationError, match=f"variable {name}_KEY, which is secret by its name"):
        planned(folder, env={f"{name}_KEY": value}, tag=value)


def test_points_of_a_sweep_keep_the_secret_of_their_arguments(folder, tmp_path):
    spec = JobSpec(script=folder / "train.py", env=ENV, args=(f"--key={CANARY}",), out=tmp_path / "runs")
    sweep = Sweep(spec=spec, grid={"lr": ["1", "2"]})
    prepared = prepare_sweep(sweep)
    assert CANARY not in json.dumps(prepared.record, default=str)
    plan = planned_like(prepared.plan, prepared.specs[1], "x")
    assert json.loads(plan.hidden[HIDDEN])["args"] == [f"--key={CANARY}", "--lr=2"]
    assert json.loads(plan.files["job.json"])["args"] == ["--key=***", "--lr=2"]
    assert CANARY not in json.dumps(described(plan), default=str)


def test_a_grid_with_a_secret_is_refused(folder, tmp_path):
    spec = JobSpec(script=folder / "train.py", env=ENV, out=tmp_path / "runs")
    with pytest.raises(ConfigurationError, match="--grid key: a value holds that of the variable API_KEY"):
        prepare_sweep(Sweep(spec=spec, grid={"key": ["x", CANARY]}))


def test_what_a_record_does_not_have_is_asked_for_again(folder):
    stored = json.loads(json.dumps(described(planned(folder, args=("--key", CANARY))), default=str))
    with pytest.raises(ConfigurationError, match=r"\*\*\* in place of a secret"):
        make_spec({}, (), recorded_options(stored))
    assert make_spec({}, ("--key", "new"), recorded_options(stored))[0].args == ("--key", "new")


def test_what_holds_a_secret_and_is_too_large_for_a_variable_is_refused(folder):
    with pytest.raises(ConfigurationError, match="too much for a Secret's variable"):
        planned(folder, args=(CANARY, *["x" * 70_000] * 2))


def test_an_env_file_in_the_scripts_folder_is_left_out_and_said_once(folder, tmp_path):
    (folder / "s3.txt").write_text(f"API_KEY={CANARY}\n")
    (folder / ".env").write_text("OTHER=1\n")
    (folder / "job.yaml").write_text(f"env: {{TOKEN: {CANARY}-2}}\n")
    spec, _ = make_spec({"script": folder / "train.py", "env_files": (folder / "s3.txt",), "job_file": folder / "job.yaml", "on": "kubernetes"}, ())  # fmt: skip
    _, plan = prepare(spec, check=False)
    with tarfile.open(fileobj=plan.code.open()) as archive:
        assert archive.getnames() == ["train.py"]
    (note,) = plan.notes
    assert (
        note
        == "not sent, it looks like a key: .env; nor job.yaml (holds env:), s3.txt (holds variables); to send it, add !.env to .tfspawnerignore"
    )
    assert_only_the_secret_has_it(plan, tmp_path / "record")


def test_render_says_what_stays_here(folder):
    (folder / ".netrc").write_text("x")
    done = CliRunner().invoke(cli.cli, ["render", str(folder / "train.py")])
    assert done.exit_code == 0
    assert done.stderr.startswith("note: not sent, it looks like a key: .netrc;")
    assert ".netrc" not in done.stdout


@pytest.mark.parametrize("more", [[], ["-c", "run.sh"]], ids=["script", "command"])
def test_the_agent_runs_the_arguments_and_the_command_that_are_hidden(folder, tmp_path, more):
    import subprocess
    import sys

    (folder / "train.py").write_text("import os, sys; print(sys.argv[1:], [k for k in os.environ if 'HIDDEN' in k])\n")
    (tmp_path / "run.sh").write_text(f"echo got '{CANARY}' $1; python3 train.py \"$@\"\n")
    (tmp_path / "k.env").write_text(f"API_KEY={CANARY}\n")
    words = ["run", str(folder / "train.py"), "-w", "1", "-e", "k.env", "--name", "job", *more, "--", CANARY]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    command = [sys.executable, "-m", "tfspawner", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert "['***'] []" in done.stdout
    assert ("got *** ***" in done.stdout) == bool(more)
    for path in (tmp_path / "runs").rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("command", ["check", "render"])
def test_a_script_that_is_left_out_is_told_by_check_too(folder, command):
    (folder / ".tfspawnerignore").write_text("*.py\n")
    done = CliRunner().invoke(
        cli.cli, [command, str(folder / "train.py"), *(["--on", "local"] if command == "check" else [])]
    )
    assert isinstance(done.exception, ConfigurationError)
    assert "the script train.py is left out by .tfspawnerignore" in done.exception.message
