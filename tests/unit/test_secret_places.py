"""Where a secret may stand besides: a file's name, a template, a Pod in another spelling, a grid's flag, other spellings in a log."""

import json

import pytest
from click.testing import CliRunner

from tfspawner.backends.kubernetes.manifests import render, travels_in_configmap
from tfspawner.base.templating import templates_dir
from tfspawner.cli import main as cli
from tfspawner.cli.options import make_spec
from tfspawner.errors import ConfigurationError
from tfspawner.jobs.prepare import prepare
from tfspawner.jobs.sweep_plan import prepare as prepare_sweep
from tfspawner.plan.grid import Sweep
from tfspawner.plan.spec import JobSpec
from tfspawner.replica.masking import Masker

SECRET = "s3cr3t-abc7xyz9"
POD = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: tensorflow\n    env: [{name: X, value: %s}]\n"
SPELLED = '"s3cr3t\\x2dabc7xyz9"'


def spec(folder, **values):
    return JobSpec(script=folder / "train.py", **{"on": "kubernetes", "env": {"API_KEY": SECRET}, **values})


def test_a_secret_in_a_files_name_is_in_no_configmap_and_no_record(folder):
    (folder / f"model-{SECRET}.txt").write_text("x")
    plan = prepare(spec(folder), check=False)[1]
    assert not travels_in_configmap(plan)
    told = "\n".join(plan.warnings)
    assert "the name of model-***.txt holds the value of API_KEY" in told
    assert SECRET not in told
    planned = prepare_sweep(Sweep(spec=spec(folder, on="local"), grid={"lr": ["1"]}))
    assert SECRET not in json.dumps(planned.record)
    assert "model-***.txt" in planned.record["files"]


def test_a_secret_that_a_pod_spells_otherwise_is_refused(folder, tmp_path):
    (tmp_path / "pod.yaml").write_text(POD % SPELLED)
    with pytest.raises(
        ConfigurationError, match=r"Job code-\w+-worker: spec.template.spec.containers\[0\].env\[\d+\].value"
    ) as error:
        render(prepare(spec(folder, pod_file=tmp_path / "pod.yaml"), check=False)[1])
    assert SECRET not in error.value.message


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("service.yaml", "metadata:\n", f"metadata:\n  annotations: {{a: {SPELLED}}}\n"), ("service.yaml", "metadata:\n", f"metadata:\n  annotations: {{{SPELLED}: a}}\n"),
     ("secret.yaml", "type: Opaque", f"type: {SPELLED}"), ("secret.yaml", "kind: Secret", "kind: ConfigMap")],
)  # fmt: skip
def test_a_secret_in_a_template_is_refused(folder, tmp_path, name, old, new):
    own = tmp_path / "templates"
    own.mkdir()
    text = (templates_dir() / name).read_text()
    (own / name).write_text(text)
    render(prepare(spec(folder, template_dir=own), check=False)[1])  # with the usual one all is well
    assert old in text
    (own / name).write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigurationError, match="API_KEY") as error:
        render(prepare(spec(folder, template_dir=own), check=False)[1])
    assert SECRET not in error.value.message


def test_what_our_own_objects_say_is_not_refused_for_a_users_template(folder, tmp_path):
    (tmp_path / "service.yaml").write_text((templates_dir() / "service.yaml").read_text())
    render(prepare(spec(folder, env={"PASSWORD": "tensorflow"}, template_dir=tmp_path), check=False)[1])


@pytest.mark.parametrize("value", ["pässwörd€", "a+b/c=döe", "x😀yz12345"])
def test_other_spellings_are_masked(value):
    masker = Masker([value.encode()])
    quoted = "".join(f"%{byte:02x}" if not chr(byte).isalnum() or byte > 127 else chr(byte) for byte in value.encode())
    for text in (
        ascii(value),
        value.encode("ascii", "backslashreplace").decode(),
        quoted,
        str([value]).encode("ascii", "backslashreplace").decode(),
    ):
        assert "***" in masker.mask_text(text), text


def test_a_grids_flag_that_is_a_secret_is_refused(folder):
    asked = Sweep(spec=spec(folder, on="local"), grid={SECRET: ["1"]})
    with pytest.raises(ConfigurationError, match="API_KEY") as error:
        prepare_sweep(asked)
    assert SECRET not in f"{error.value.message}{error.value.hint}"


@pytest.mark.parametrize("line", ["env-file: {API_KEY: %s}", "env-file: [{API_KEY: %s}]", "env-file: API_KEY=%s", "args: {lr: %s}", "args: [{lr: %s}]", "image: {a: %s}"])  # fmt: skip
def test_an_error_of_a_job_file_shows_no_mappings_values(folder, line):
    (folder / "job.yaml").write_text(f"script: train.py\n{line % SECRET}\n")
    with pytest.raises(ConfigurationError) as error:
        make_spec({"job_file": folder / "job.yaml"}, ())
    assert SECRET not in f"{error.value.message}{error.value.hint}"
    assert line.partition(":")[0] in error.value.message


def test_a_variable_given_as_an_env_file_is_not_shown(folder):
    done = CliRunner().invoke(cli.cli, ["run", "code/train.py", "--env-file", f"API_KEY={SECRET}"])
    assert isinstance(done.exception, ConfigurationError)
    assert SECRET not in f"{done.exception.message}{done.exception.hint}"
    assert "--env-file API_KEY=…" in done.exception.message
