"""The manifests: golden files, quoting, and what users may put in."""

import base64
import io
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tfspawner.backends.kubernetes.manifests import (
    redacted,
    render,
    role_manifest,
    to_yaml,
    to_yaml_string,
    travels_in_configmap,
)
from tfspawner.errors import ConfigurationError
from tfspawner.plan.plan import CONFIGMAP_BYTES
from tfspawner.replica import starter

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
    "egress": {"workers": 1, "egress": ("192.0.2.0/24:443", "198.51.100.7", "2001:db8::/32")},
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
    config["data"]["agent.py"] = "tfspawner/replica/starter.py\n"
    config["binaryData"]["replica.zip"] = "tfspawner/replica"
    text = to_yaml(manifests)
    path = GOLDEN / f"{case}.yaml"
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert text == path.read_text(), "if it is meant to change: pytest --update-golden"


def test_the_configmap_holds_the_agent_as_it_is(make_fixed_plan):
    config = next(m for m in render(make_fixed_plan("j")) if m["kind"] == "ConfigMap")
    folder = Path(starter.__file__).parent
    assert config["data"]["agent.py"] == (folder / "starter.py").read_text()
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(config["binaryData"]["replica.zip"]))) as archive:
        for name in ("main.py", "agent.py", "s3.py"):
            assert archive.read(f"replica/{name}") == (folder / name).read_bytes()


def test_no_secret_value_stands_in_what_is_shown(make_fixed_plan):
    manifests = render(make_fixed_plan("j", env={"KEY": "canary-value"}))
    whole, text = to_yaml(manifests), to_yaml(redacted(manifests))
    for secret in ("canary-value", "the-token"):
        assert secret in whole  # what was rendered is left as it is
        assert secret not in text
        assert base64.b64encode(secret.encode()).decode() not in text
    assert "redacted: 12 characters" in text
    for one, other in zip(manifests, redacted(manifests), strict=True):
        assert {**one, "stringData": 0} == {**other, "stringData": 0}


def test_a_secrets_value_stands_in_no_other_object(make_fixed_plan):
    for manifest in render(make_fixed_plan("j", env={"KEY": "canary-value"}, workers=1, ps=1, evaluator=True)):
        if manifest["kind"] != "Secret":
            assert "canary-value" not in str(manifest)
            assert "the-token" not in str(manifest)


HOSTILE = ['x"\n    privileged: true', "{{ 7*7 }}", "{% raw %}", "a: b", "- a", "yes", "null", "0123", "1:30", "\U0001f600 \\ud83d", "\x7f\x85\u2028", "# c", "---\nkind: X"]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_adds_nothing_but_itself(value, make_fixed_plan):
    plain = render(make_fixed_plan("j", env={"A": "x"}, args=("x",), node_selector={"k": "x"}))
    manifests = render(make_fixed_plan("j", env={"A": value}, args=(value,), node_selector={"k": value}))
    secret = next(m for m in manifests if m["metadata"]["name"] == "j" and m["kind"] == "Secret")
    assert secret["stringData"] == {"A": value, "TFSPAWNER_TOKEN": "the-token"}
    assert manifests[0]["spec"]["template"]["spec"]["nodeSelector"] == {"k": value}
    manifests[0]["spec"]["template"]["spec"]["nodeSelector"] = {"k": "x"}
    assert manifests[0] == plain[0]


@given(st.text() | st.text(alphabet='\\ud83de00{}"%\U0001f600\x7f'))
def test_any_text_comes_back_from_yaml(text):
    quoted = to_yaml_string(text)
    assert (yaml.safe_load(quoted), quoted.isascii(), quoted.isprintable()) == (text, True, True)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_from_what_is_shown(text):
    assert yaml.safe_load(to_yaml([{"key": text}])) == {"key": text}


def test_a_pod_file_keeps_what_it_says_and_becomes_the_replica(make_fixed_plan, pod_file):
    spec = render(make_fixed_plan("j", workers=1, pod_file=pod_file))[0]["spec"]["template"]["spec"]
    replica, side_car = spec["containers"]
    assert side_car == {"name": "side-car", "image": "side"}
    assert (replica["name"], replica["image"]) == ("tensorflow", "theirs")
    assert replica["command"][1] == "/tf-spawner/agent.py"
    assert [variable["name"] for variable in replica["env"]][:2] == ["THEIRS", "SECRET"]
    assert {"TFSPAWNER_HOST"} <= {variable["name"] for variable in replica["env"]}
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
        ("", "one manifest of kind Pod"),
        ("kind: Pod\n---\nkind: Pod", "one manifest of kind Pod"),
        ("[Pod]", "one manifest of kind Pod"),
        ("kind: Pod", "has no containers"),
        ("kind: Pod\nspec: {}", "has no containers"),
        ("kind: Pod\nspec: [a]", "pod.yaml"),
        ("kind: Pod\nspec: {containers: {name: a}}", "has no containers"),
        ("kind: Pod\nmetadata: {labels: [a]}\nspec: {containers: [{name: a}]}", "labels must be a mapping"),
        ("kind: Pod\nmetadata: {annotations: a}\nspec: {containers: [{name: a}]}", "annotations must be a mapping"),
        ("kind: Pod\nspec: {nodeSelector: [a], containers: [{name: a}]}", "nodeSelector must be a mapping"),
        ("kind: Pod\nspec: {containers: [{name: a}, {name: b, volumeMounts: a}]}", "volumeMounts must be a list"),
        ("kind: Pod\nspec: {containers: [{name: a, date: 2024-13-45}]}", "is not YAML"),
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


@pytest.mark.parametrize("where", ["container", "spec", "metadata"])
def test_a_pod_file_with_nothing_behind_a_key_is_as_without_it(where, make_fixed_plan, tmp_path):
    empty = {
        "container": "{name: a, image: , env: , envFrom: , volumeMounts: , ports: , resources: , securityContext: }",
        "spec": "{name: a}\n  volumes:\n  tolerations:\n  imagePullSecrets:\n  nodeSelector:\n  securityContext:",
        "metadata": "{name: a}\nmetadata: {labels: , annotations: }",
    }
    found = []
    for container in ("{name: a}", empty[where]):
        (tmp_path / "pod.yaml").write_text(f"kind: Pod\nspec:\n  containers:\n  - {container}")
        found.append(render(make_fixed_plan("j", pod_file=tmp_path / "pod.yaml"))[0])
    assert found[0] == found[1]


def test_flags_join_the_pod_files_lists(make_fixed_plan, pod_file):
    pod_file.write_text(POD + "  tolerations: [{key: a}]\n  imagePullSecrets: [{name: s}]\n")
    plan = make_fixed_plan("j", pod_file=pod_file, tolerations=("b",), image_pull_secrets=("t",), volumes=("c:/c:ro",),
                           node_selector={"pool": "gpu"}, tag="night")  # fmt: skip
    template = render(plan)[0]["spec"]["template"]
    spec = template["spec"]
    assert [toleration["key"] for toleration in spec["tolerations"]] == ["a", "b"]
    assert spec["imagePullSecrets"] == [{"name": "s"}, {"name": "t"}]
    assert {"name": "volume-0", "mountPath": "/c", "readOnly": True} in spec["containers"][0]["volumeMounts"]
    assert {"name": "volume-0", "persistentVolumeClaim": {"claimName": "c"}} in spec["volumes"]
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert template["metadata"]["labels"]["team"] == "physics"
    assert template["metadata"]["labels"]["tf-spawner/tag"] == "night"


@pytest.mark.parametrize(
    ("text", "source", "read_only"),
    [
        ("data:/data", {"persistentVolumeClaim": {"claimName": "data"}}, False),
        ("data:/data:rw", {"persistentVolumeClaim": {"claimName": "data"}}, False),
        ("/eos:/data:ro", {"hostPath": {"path": "/eos"}}, True),
    ],
)
def test_a_volume_is_a_claim_or_a_folder_of_the_host(text, source, read_only, make_fixed_plan):
    for manifest in render(make_fixed_plan("j", ps=1, volumes=(text,)))[:3]:
        spec = manifest["spec"]["template"]["spec"]
        assert spec["volumes"][-1] == {"name": "volume-0", **source}
        mount = {"name": "volume-0", "mountPath": "/data", "readOnly": read_only}
        assert spec["containers"][0]["volumeMounts"][-1] == mount


@pytest.mark.parametrize(
    ("text", "toleration"),
    [
        ("a", {"key": "a", "operator": "Exists"}),
        ("x.io/a:NoExecute", {"key": "x.io/a", "operator": "Exists", "effect": "NoExecute"}),
        ("a=b", {"key": "a", "operator": "Equal", "value": "b"}),
        ("a=:NoSchedule", {"key": "a", "operator": "Equal", "value": "", "effect": "NoSchedule"}),
    ],
)
def test_a_toleration_is_in_kubectls_notation(text, toleration, make_fixed_plan):
    assert render(make_fixed_plan("j", tolerations=(text,)))[0]["spec"]["template"]["spec"]["tolerations"] == [
        toleration
    ]


def test_parameter_servers_get_no_gpus(make_fixed_plan):
    jobs = {m["metadata"]["name"]: str(m) for m in render(make_fixed_plan("j", ps=1, gpus=2)) if m["kind"] == "Job"}
    assert [name for name, text in jobs.items() if "nvidia.com/gpu" in text] == ["j-chief", "j-worker"]


def test_a_gpu_type_is_required_of_the_nodes_but_for_parameter_servers(make_fixed_plan, pod_file):
    plan = make_fixed_plan("j", ps=1, gpus=2, gpu_type="NVIDIA A100", pod_file=pod_file)
    specs = {m["metadata"]["name"]: m["spec"]["template"]["spec"] for m in render(plan) if m["kind"] == "Job"}
    term = {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-A100"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    for role in ("chief", "worker"):
        assert specs[f"j-{role}"]["affinity"] == {"podAntiAffinity": {}, "nodeAffinity": required}
    assert specs["j-ps"]["affinity"] == {"podAntiAffinity": {}}


@pytest.mark.parametrize(
    "text", ["data", "data:relative", ":/x", "data:/x:rwx", "data:/x:ro:ro", "data:/", "data:/work", "/x:/tmp/", "/x://tmp", "/x:/a/../tmp"]
)  # fmt: skip
def test_a_volume_that_is_none_is_told(text, make_fixed_plan):
    with pytest.raises(ConfigurationError, match="--volume"):
        render(make_fixed_plan("j", volumes=(text,)))


@pytest.mark.parametrize("text", ["", "a b", "a:Sometimes", "=b", "a=b=c", "a:", "a\n"])
def test_a_toleration_that_is_none_is_told(text, make_fixed_plan):
    with pytest.raises(ConfigurationError, match="toleration"):
        render(make_fixed_plan("j", tolerations=(text,)))


def test_the_role_is_yaml_and_names_the_namespace_and_user():
    role, binding = yaml.safe_load_all(role_manifest("ml", "ann"))
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "ml"
    assert binding["subjects"][0]["name"] == "ann"
    assert "*" not in str(role["rules"])


def configmap_bytes(plan) -> int:
    config = next(m for m in render(plan) if m["kind"] == "ConfigMap")
    texts, binaries = config.get("data") or {}, config.get("binaryData") or {}
    return sum(len(text.encode()) for text in texts.values()) + sum(map(len, map(base64.b64decode, binaries.values())))


def with_code_of(plan, size: int):
    archive = tempfile.TemporaryFile()
    archive.write(bytes(size))
    archive.flush()
    return replace(plan, code=replace(plan.code, archive=archive, size_bytes=size))


def test_code_that_fills_a_configmap_of_exactly_1_mib_travels_in_it_and_with_a_byte_more_is_uploaded(make_fixed_plan):
    plan = with_code_of(make_fixed_plan("j"), 1)
    size = CONFIGMAP_BYTES - configmap_bytes(plan) + 1
    full = with_code_of(plan, size)
    assert travels_in_configmap(full)
    assert configmap_bytes(full) == CONFIGMAP_BYTES == 1 << 20
    more = with_code_of(plan, size + 1)
    assert not travels_in_configmap(more)
    assert configmap_bytes(more) == CONFIGMAP_BYTES - size


def test_a_description_of_exactly_1_mib_is_rendered_and_one_of_a_byte_more_is_refused(make_fixed_plan):
    plan = with_code_of(make_fixed_plan("j"), 2 << 20)
    size = CONFIGMAP_BYTES - configmap_bytes(plan)
    full = replace(plan, files={**plan.files, "command": bytes(size)})
    assert configmap_bytes(full) == CONFIGMAP_BYTES
    with pytest.raises(ConfigurationError, match="description takes 1,048,577 bytes; a ConfigMap holds 1,048,576"):
        render(replace(plan, files={**plan.files, "command": bytes(size + 1)}))
