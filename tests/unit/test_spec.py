"""JobSpec refuses what cannot be carried out, and names it."""

import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfspawner.errors import ConfigurationError
from tfspawner.plan import job_name
from tfspawner.spec import KUBERNETES_ONLY, JobSpec, flag_of, is_name, quantity

LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text("print()\n")
    return path


def test_roles_come_in_tf_configs_order(script):
    spec = JobSpec(script=script, workers=3, chief=True, evaluator=True)
    assert list(spec.roles.items()) == [("chief", 1), ("worker", 3), ("evaluator", 1)]


def test_parameter_servers_bring_a_chief(script):
    assert JobSpec(script=script, workers=2, ps=2).roles == {"chief": 1, "worker": 2, "ps": 2}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"workers": "2"}, "workers is '2'"),
        ({"workers": True}, "workers is True"),
        ({"workers": 0, "ps": 1}, "parameter servers need workers"),
        ({"memory": "4 GB", "on": "kubernetes"}, "memory is '4 GB'"),
        ({"memory": "4", "on": "kubernetes"}, "which is 4 bytes"),
        ({"cpu": "0", "on": "kubernetes"}, "cpu is '0'"),
        ({"name": "Train"}, "name is 'Train'"),
        ({"tag": "a b"}, "tag is 'a b'"),
        ({"image": "UPPER case", "on": "kubernetes"}, "image is 'UPPER case'"),
        ({"port": 80}, "port is 80"),
        ({"port": 65535, "workers": 2}, "port is 65535"),
        ({"port": 7117, "on": "kubernetes"}, "port 7117"),
        ({"timeout_s": -1}, "timeout_s is -1"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"hold_s": None}, "hold_s is None"),
        ({"collect": "/tmp/x*"}, "collect is '/tmp/x*'"),
        ({"args": [1]}, "args is [1]"),
        ({"env": {"A": 1}}, "env is {'A': 1}"),
        ({"env": {"A B": "1"}}, "'A B' is not a name"),
        ({"env": {"TF_CONFIG": "{}"}}, "TF_CONFIG is set by tf-spawner"),
        ({"env": {"A": "x\0"}}, "A cannot be passed on: it holds a NUL"),
        ({"env": {"A": "x" * 131072}}, "131,074 bytes"),
        ({"on": "mars"}, "on is 'mars'"),
        ({"workdir": "/nowhere"}, "/nowhere is not a folder"),
    ],
)
def test_an_error_names_the_value(script, values, words):
    with pytest.raises(ConfigurationError) as error:
        JobSpec(script=script, **values)
    assert words in error.value.message


def test_an_env_values_error_does_not_show_it(script):
    with pytest.raises(ConfigurationError) as error:
        JobSpec(script=script, env={"KEY": "canary\0"})
    assert "canary" not in error.value.message


def test_a_missing_script_is_named():
    with pytest.raises(ConfigurationError, match=r"nope\.py does not exist"):
        JobSpec(script="nope.py")


def test_a_script_outside_the_workdir_is_refused(script, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigurationError, match="is not inside --workdir"):
        JobSpec(script=script, workdir=tmp_path / "other")


def test_a_script_that_is_a_link_belongs_to_the_links_folder(script, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.py").symlink_to(script)
    assert JobSpec(script=folder / "link.py").script_path == folder / "link.py"


@pytest.mark.parametrize("name", KUBERNETES_ONLY)
def test_what_is_for_kubernetes_alone_is_refused_on_this_machine(script, name):
    value = {
        "ttl_s": 1, "node_selector": {"a": "b"}, "tolerations": ("a",), "image_pull_secrets": ("a",), "volumes": ("a:/b",),
        "pod_file": script, "template_dir": script.parent, "kubeconfig": script, "cpu": "1", "memory": "1Gi",
    }.get(name, "x")  # fmt: skip
    with pytest.raises(ConfigurationError, match=f"{flag_of(name)} would do nothing"):
        JobSpec(script=script, **{name: value})
    JobSpec(script=script, on="kubernetes", **{name: value})


@pytest.mark.parametrize(
    ("text", "number"), [("2", 2), ("500m", 0.5), ("4Gi", 4 * 1024**3), ("1e3", 1000), ("1.5k", 1500), ("2M", 2e6)]
)
def test_quantities_are_kubernetess(text, number):
    assert quantity(text) == number


@given(st.text(alphabet=string.printable.replace("/", ""), min_size=1, max_size=80), st.integers(1, 2000))
def test_a_made_name_is_a_dns_label_for_every_replica(tmp_path_factory, stem, workers):
    folder = tmp_path_factory.getbasetemp() / "names"
    folder.mkdir(exist_ok=True)
    script = folder / f"{stem}.py"
    script.touch()
    spec = JobSpec(script=script, workers=workers)
    name = job_name(spec)
    assert is_name(name)
    assert LABEL.fullmatch(f"{name}-worker-{workers - 1}")


def test_a_name_too_long_for_the_last_replica_is_refused(script):
    JobSpec(script=script)
    assert job_name(JobSpec(script=script, name="a" * 54, workers=10)) == "a" * 54
    with pytest.raises(ConfigurationError, match="at most 53"):
        job_name(JobSpec(script=script, name="a" * 54, workers=11))


@pytest.mark.parametrize("text", ["", ".", "..", "/tmp", "a/b", "A", "a" * 64, None, "a\n"])
def test_what_is_no_name_is_told(text):
    assert not is_name(text)
