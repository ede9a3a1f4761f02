"""The manifests: golden files, quoting, and what users may put in."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tfspawner import agent
from tfspawner.errors import ConfigurationError
from tfspawner.render import redacted, render, role_manifest, to_yaml, to_yaml_string

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
POD = """
apiVersion: v1
kind: Pod
metadata: {labels: {team: physics}}
spec:
  affinity: {podAntiAffinity: {}}
  nodeSelector:
  containers:
  - {name: side-car, image: side}
  - name: worker
    image: theirs
    command: [sleep]
    env: [{name: THEIRS, value: "1"}, {name: SECRET, valueFrom: {secretKeyRef: {name: s, key: k}}}]
    volumeMounts: [{name: eos, mountPath: /eos}]
    ports:
    resources: {limits: {memory: 1Gi}}
  volumes: [{name: eos, hostPath: {path: /eos}}]
"""
CASES = {
    "two-workers": {"workers": 2},
    "all-roles": {
        "workers": 2, "chief": True, "ps": 1, "evaluator": True, "gpus": 2, "cpu": "4", "memory": "8Gi", "tag": "night",
        "image": "registry.example/tf:1", "ttl_s": 60, "timeout_s": 3600.0, "queue": "team-a", "port": 1999,
        "volumes": ("data:/data:ro", "/eos:/eos"), "tolerations": ("nvidia.com/gpu:NoSchedule", "a=b"),
        "node_selector": {"pool": "gpu"}, "service_account": "trainer", "image_pull_secrets": ("pull",), "namespace": "ml",
        "env": {"KEY": "canary-value"}, "collect": ("/tmp/m*",), "args": ("--epochs", "3"),
    },
    "pod-file": {"workers": 1},
}  # fmt: skip


@pytest.fixture
def pod_file(tmp_path):
    path = tmp_path / "pod.yaml"
    path.write_text(POD)
    return path


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_the_golden_ones(case, make_fixed_plan, pod_file, request):
    values = dict(CASES[case], **({"pod_file": pod_file} if case == "pod-file" else {}))
    manifests = render(make_fixed_plan("golden", **values))
    config = next(m for m in manifests if m["kind"] == "ConfigMap")
    config["data"]["agent.py"] = "tfspawner/agent.py\n"
    text = to_yaml(manifests)
    path = GOLDEN / f"{case}.yaml"
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert text == path.read_text(), "if it is meant to change: pytest --update-golden"


def test_the_configmap_holds_the_agent_as_it_is(make_fixed_plan):
    config = next(m for m in render(make_fixed_plan("j")) if m["kind"] == "ConfigMap")
    assert config["data"]["agent.py"] == Path(agent.__file__).read_text()


def test_no_secret_value_stands_in_what_is_shown(make_fixed_plan):
    text = to_yaml(redacted(render(make_fixed_plan("j", env={"KEY": "canary-value"}))))
    assert "canary-value" not in text
    assert "the-token" not in text
    assert "redacted: 12 characters" in text


HOSTILE = ['x"\n    privileged: true', "{{ 7*7 }}", "{% raw %}", "a: b", "- a", "yes", "null", "0123", "1:30", "\U0001f600 \\ud83d", "\x7f\x85\u2028", "# c", "---\nkind: X"]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_adds_nothing_but_itself(value, make_fixed_plan):
    plain = render(make_fixed_plan("j", env={"A": "x"}, args=("x",), node_selector={"k": "x"}))
    manifests = render(make_fixed_plan("j", env={"A": value}, args=(value,), node_selector={"k": value}))
    secret = next(m for m in manifests if m["metadata"]["name"] == "j-env")
    assert secret["stringData"] == {"A": value}
    assert manifests[0]["spec"]["template"]["spec"]["nodeSelector"] == {"k": value}
    manifests[0]["spec"]["template"]["spec"]["nodeSelector"] = {"k": "x"}
    assert manifests[0] == plain[0]


@given(st.text() | st.text(alphabet='\\ud83de00{}"%\U0001f600\x7f'))
def test_any_text_comes_back_from_yaml(text):
    assert yaml.safe_load(to_yaml_string(text)) == text


def test_a_template_cannot_reach_python(make_fixed_plan, tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/service.yaml").write_text("kind: {{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(ConfigurationError, match=r"template service\.yaml"):
        render(make_fixed_plan("j", template_dir=tmp_path / "templates"))


def test_one_template_of_the_users_leaves_the_others(make_fixed_plan, tmp_path):
    (tmp_path / "templates").mkdir()
    mine = "apiVersion: v1\nkind: Service\nmetadata: {name: {{ job | tojson }}, annotations: {mine: yes-it-is}}\n"
    (tmp_path / "templates/service.yaml").write_text(mine)
    plain, changed = render(make_fixed_plan("j")), render(make_fixed_plan("j", template_dir=tmp_path / "templates"))
    different = [one["kind"] for one, other in zip(plain, changed, strict=True) if one != other]
    assert different == ["Service"]


@pytest.mark.parametrize("text", ["kind: A\n---\nkind: B", "[1]", "kind: Service", "a: b: c", "{{ nothing }}"])
def test_a_template_that_gives_no_manifest_is_named(text, make_fixed_plan, tmp_path):
    (tmp_path / "service.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"template service\.yaml"):
        render(make_fixed_plan("j", template_dir=tmp_path))


def test_a_pod_file_keeps_what_it_says_and_becomes_the_replica(make_fixed_plan, pod_file):
    spec = render(make_fixed_plan("j", workers=1, pod_file=pod_file))[0]["spec"]["template"]["spec"]
    replica, side_car = spec["containers"]
    assert side_car == {"name": "side-car", "image": "side"}
    assert (replica["name"], replica["image"]) == ("tensorflow", "theirs")
    assert replica["command"][1] == "/tf-spawner/agent.py"
    assert [variable["name"] for variable in replica["env"]][:2] == ["THEIRS", "SECRET"]
    assert {"TFSPAWNER_TOKEN", "HOME"} <= {variable["name"] for variable in replica["env"]}
    assert {"name": "eos", "hostPath": {"path": "/eos"}} in spec["volumes"]
    assert replica["resources"] == {"limits": {"memory": "1Gi"}}
    assert spec["affinity"] == {"podAntiAffinity": {}}
    assert spec["restartPolicy"] == "Never"


def test_flags_win_over_the_pod_file(make_fixed_plan, pod_file):
    plan = make_fixed_plan("j", workers=1, pod_file=pod_file, image="ours", memory="2Gi")
    replica = render(plan)[0]["spec"]["template"]["spec"]["containers"][0]
    assert (replica["image"], replica["resources"]["limits"]) == ("ours", {"memory": "2Gi"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: Deployment", "one manifest of kind Pod"),
        ("kind: Pod\nspec: {}", "has no containers"),
        ("kind: Pod\nspec: {containers: [a]}", "has no containers"),
        ("kind: Pod\nmetadata: [a]\nspec: {containers: [{name: a}]}", "metadata must be a mapping"),
        ("kind: Pod\nspec: {volumes: {}, containers: [{name: a}]}", "volumes must be a list"),
        ("kind: Pod\nspec: {containers: [{name: a, env: {}}]}", "env must be a list"),
        ("a: b: c", "is not YAML"),
    ],
)
def test_a_pod_file_that_is_none_is_told(text, words, make_fixed_plan, tmp_path):
    path = tmp_path / "pod.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        render(make_fixed_plan("j", pod_file=path))
    assert words in error.value.message


@pytest.mark.parametrize(
    "text",
    ["data", "data:relative", ":/x", "data:/x:rwx", "data:/work", "/x:/tmp/", "/x://tmp", "/x:/a/../work", "/x:/"],
)
def test_a_volume_that_is_none_is_told(text, make_fixed_plan):
    with pytest.raises(ConfigurationError, match="--volume"):
        render(make_fixed_plan("j", volumes=(text,)))


@pytest.mark.parametrize("text", ["", "a b", "a:Sometimes", "=b"])
def test_a_toleration_that_is_none_is_told(text, make_fixed_plan):
    with pytest.raises(ConfigurationError, match="--toleration"):
        render(make_fixed_plan("j", tolerations=(text,)))


def test_the_role_is_yaml_and_names_the_namespace_and_user():
    role, binding = yaml.safe_load_all(role_manifest("ml", "ann"))
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "ml"
    assert binding["subjects"][0]["name"] == "ann"
    assert "*" not in str(role["rules"])
