"""JobSpec refuses what cannot be carried out, and names it."""

import doctest
import inspect
import json
import math
import re
import string
from dataclasses import asdict, fields, replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfspawner.errors import ConfigurationError
from tfspawner.jobs.prepare import new_name
from tfspawner.plan.checks import is_name, quantity
from tfspawner.plan.limits import MAX_ENV_BYTES
from tfspawner.plan.spec import KUBERNETES_ONLY, OPTIONS, JobSpec, flag_of
from tfspawner.record.reading import spec_shape
from tfspawner.replica.protocol import PORT

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
        ({"workers": 1.0}, "workers is 1.0"),
        ({"ps": -1}, "ps is -1"),
        ({"gpus": -1}, "gpus is -1"),
        ({"gpu_type": "A100"}, "gpu_type is 'A100', and no GPU is asked for"),
        ({"gpus": 1, "gpu_type": "a=b"}, "gpu_type is 'a=b'"),
        ({"gpus": 1, "gpu_type": " "}, "gpu_type is ' '"),
        ({"gpus": 1, "gpu_type": ""}, "gpu_type is ''"),
        ({"chief": 1}, "chief is 1"),
        ({"cpu": 4, "on": "kubernetes"}, "cpu is 4"),
        ({"out": 5}, "out is 5"),
        ({"workers": 0, "ps": 1}, "parameter servers need workers"),
        ({"memory": "4 GB", "on": "kubernetes"}, "memory is '4 GB'"),
        ({"memory": "4", "on": "kubernetes"}, "which is 4 bytes"),
        ({"cpu": "0", "on": "kubernetes"}, "cpu is '0'"),
        ({"cpu": "four", "on": "kubernetes"}, "cpu is 'four'"),
        ({"memory": "1e400", "on": "kubernetes"}, "memory is '1e400'"),
        ({"name": "Train"}, "name is 'Train'"),
        ({"name": "1st"}, "name is '1st'"),
        ({"name": "end-"}, "name is 'end-'"),
        ({"name": "a\n"}, "name is 'a\\n'"),
        ({"tag": "a b"}, "tag is 'a b'"),
        ({"tag": "a" * 64}, f"tag is '{'a' * 64}'"),
        ({"image": "UPPER case", "on": "kubernetes"}, "image is 'UPPER case'"),
        ({"port": 80}, "port is 80"),
        ({"port": 65535, "workers": 2}, "port is 65535"),
        ({"port": 7117, "on": "kubernetes"}, "port 7117"),
        ({"port": -1}, "port is -1"),
        ({"port": 0, "workers": 100}, "port is 0; it must be 1024 to 65436"),
        ({"port": 80, "workers": 100}, "port is 80; it must be 1024 to 65436"),
        ({"collect": [""]}, "collect is '', which is no file"),
        ({"collect": ["*\x1b[31m"]}, "collect is '*\\x1b[31m', which holds a line's end or a control character"),
        ({"out": "a\nb"}, "out is 'a\\nb', which is no path: it holds a line's end or a control character"),
        ({"collect": ["x" * 4097]}, "has more than 4,096 characters"),
        ({"context": "a\nb", "on": "kubernetes"}, "context is 'a\\nb', which holds a line's end"),
        ({"node_selector": {"a\n": "b"}, "on": "kubernetes"}, "node_selector is 'a\\n', which holds a line's end"),
        (
            {"node_selector": {f"a{n}": "b" for n in range(1001)}, "on": "kubernetes"},
            "node_selector has 1,001 entries, and 1,000 are possible",
        ),
        ({"args": [""] * 100_001}, "args has 100,001 entries, and 100,000 are possible"),
        (
            {"env": {f"A{n}": "" for n in range(2001)}},
            "2,001 environment variables are asked for, and 2,000 are possible",
        ),
        ({"timeout_s": -1}, "timeout_s is -1"),
        ({"start_timeout_s": -0.5}, "start_timeout_s is -0.5"),
        ({"hold_s": -2}, "hold_s is -2"),
        ({"ttl_s": -3, "on": "kubernetes"}, "ttl_s is -3"),
        ({"timeout_s": "5"}, "timeout_s is '5'"),
        ({"timeout_s": True}, "timeout_s is True"),
        ({"timeout_s": 10**400}, "timeout_s is 1"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"hold_s": None}, "hold_s is None"),
        ({"collect": "/tmp/x*"}, "collect is '/tmp/x*'"),
        ({"args": [1]}, "args is [1]"),
        ({"env": {"A": 1}}, "env must be a mapping of texts"),
        ({"env": {"A B": "1"}}, "'A B' is not a name"),
        ({"env": {"A\n": "1"}}, "'A\\n' is not a name"),
        ({"env": {"TFSPAWNER_TOKEN": "x"}}, "TFSPAWNER_TOKEN is set by tf-spawner"),
        ({"env": {"TF_CONFIG": "{}"}}, "TF_CONFIG is set by tf-spawner"),
        ({"env": {"A": "x\0"}}, "A cannot be passed on: it holds a NUL"),
        ({"env": {"A": "x" * 131072}}, "131,074 bytes"),
        ({"env": {f"A{i}": "x" * 131000 for i in range(9)}, "on": "kubernetes"}, "more than a Secret holds, 1 MiB"),
        ({"env": {f"A{i}": "é" * 65500 for i in range(9)}, "on": "kubernetes"}, "more than a Secret holds, 1 MiB"),
        ({"args": ["a\0b"]}, "argument of the script holds a NUL"),
        ({"node_selector": ["a=b"], "on": "kubernetes"}, "node_selector is ['a=b']"),
        ({"command_file": "/"}, "command file / is a folder"),
        ({"pod_file": "/no/pod.yaml", "on": "kubernetes"}, "pod file /no/pod.yaml does not exist"),
        ({"template_dir": "/nowhere", "on": "kubernetes"}, "--template-dir /nowhere is not a folder"),
        ({"on": "mars"}, "on is 'mars'"),
        ({"workdir": "/nowhere"}, "/nowhere is not a folder"),
    ],
)
def test_an_error_names_the_value(script, values, words):
    with pytest.raises(ConfigurationError) as error:
        JobSpec(script=script, **values)
    assert words in error.value.message


@pytest.mark.parametrize("values", [
    {"workers": 0, "chief": True}, {"port": 1024}, {"port": 65534}, {"port": 65535, "on": "kubernetes"}, {"port": PORT},
    {"timeout_s": 0}, {"name": "a"}, {"name": "a--1"}, {"tag": "A" * 63}, {"env": {"A": "x" * (MAX_ENV_BYTES - 2)}},
    {"memory": "16Mi", "on": "kubernetes"}, {"image": "registry:5000/a/b:1@sha256:" + "0" * 64, "on": "kubernetes"},
    {"env": {f"A{i}": "x" * 131000 for i in range(9)}},
])  # fmt: skip
def test_what_stands_at_a_bound_is_accepted(script, values):
    spec = JobSpec(script=script, **values)
    assert {name: getattr(spec, name) for name in values} == values


@pytest.mark.parametrize("name", ["a\nb.py", "\x1b[31m.py", "a\u2028b.py", "a\x85.py"])
def test_a_scripts_name_of_several_lines_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ConfigurationError, match="which is no path: it holds a line's end or a control character"):
        JobSpec(script=tmp_path / name)


CHARACTERS = st.sampled_from([*"ab-/:=.* \n\r\t\x00\x1b\x85\u2028\u2029\u202e\udc80\ud800é"])
ANY_TEXT = st.text(CHARACTERS, max_size=8) | st.sampled_from(
    ["claim:/data", "a=b:NoSchedule", "x" * 4096, "x" * 4097, "x" * 70_000]
)
ANY_FIELDS = {
    "args": st.lists(ANY_TEXT, max_size=3), "collect": st.lists(ANY_TEXT, max_size=3), "tolerations": st.lists(ANY_TEXT, max_size=2),
    "volumes": st.lists(ANY_TEXT, max_size=2), "image_pull_secrets": st.lists(ANY_TEXT, max_size=2), "out": ANY_TEXT, "kubeconfig": ANY_TEXT,
    "name": ANY_TEXT, "tag": ANY_TEXT, "artifacts": ANY_TEXT.map("s3://b/{}".format), "context": ANY_TEXT, "queue": ANY_TEXT, "image": ANY_TEXT,
    "service_account": ANY_TEXT, "gpu_type": ANY_TEXT, "gpus": st.integers(0, 3), "node_selector": st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=2),
    "env": st.dictionaries(st.sampled_from(["A", "B.c", "x" * 253]), ANY_TEXT, max_size=2), "ttl_s": st.integers(-1, 2**31),
    "port": st.integers(0, 70_000), "restarts": st.integers(0, 2**31), "timeout_s": st.floats(0, 1e12), "ps": st.integers(0, 9),
    "egress": st.lists(st.sampled_from(["none", "10.0.0.0/8", "a\n"]), max_size=1), "start_tries": st.integers(0, 9),
}  # fmt: skip


@given(st.sampled_from(sorted(ANY_FIELDS)).flatmap(lambda name: st.tuples(st.just(name), ANY_FIELDS[name])), st.data())
def test_whatever_a_job_takes_its_record_takes(tmp_path_factory, first, data):
    script = tmp_path_factory.getbasetemp() / "recorded.py"
    script.write_text("print()\n")
    values = dict([first])
    for name in data.draw(st.sets(st.sampled_from(sorted(ANY_FIELDS)), max_size=2)):
        values.setdefault(name, data.draw(ANY_FIELDS[name]))
    try:
        spec = JobSpec(script=script, on="kubernetes", **values)
    except ConfigurationError:
        return
    stored = {k: v for k, v in asdict(replace(spec, env_files=())).items() if v is not None and v not in ((), {})}
    spec_shape()(
        json.loads(json.dumps({"job": "a", "code_sha256": "0" * 64, **stored, "env": sorted(spec.env)}, default=str))
    )


@pytest.mark.parametrize("value", ["canary\0", "canary\udcff", "canary" * 30000])
def test_an_env_values_error_does_not_show_it(script, value):
    with pytest.raises(ConfigurationError, match="variable KEY") as error:
        JobSpec(script=script, env={"KEY": value})
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
        "ttl_s": 1, "start_tries": 2, "node_selector": {"a": "b"}, "tolerations": ("a",), "image_pull_secrets": ("a",), "volumes": ("a:/b",), "egress": ("none",),
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


SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{letter}i": 1024**power for power, letter in enumerate("KMGTP", 1)
}


@given(st.integers(0, 10**9), st.integers(0, 999), st.sampled_from(sorted(SUFFIXES)))
def test_a_quantity_is_its_number_times_its_suffix(whole, thousandths, suffix):
    assert quantity(f"{whole}{suffix}") == float(whole * SUFFIXES[suffix])
    exact = Fraction(whole * 1000 + thousandths, 1000) * SUFFIXES[suffix]
    assert quantity(f"{whole}.{thousandths:03}{suffix}") == pytest.approx(float(exact), rel=1e-12)


@given(st.text(alphabet="0123456789.eEmkKMGi-+ ") | st.text())
@example("9" * 400)
@example("9" * 5000)
@example("1e999")
@example("1e" + "9" * 5000)
def test_any_text_is_a_finite_quantity_or_refused_as_none(text):
    try:
        told = "a quantity" if 0 <= quantity(text) < math.inf else "a number"
    except ValueError as error:
        told = str(error)[:25]
    assert told in ("a quantity", "not a Kubernetes quantity")


@given(st.text(max_size=80) | st.from_regex(r"[a-z][a-z0-9-]{0,70}", fullmatch=True), st.integers(1, 200))
def test_any_name_is_a_dns_label_for_every_replica_or_refused_with_its_value(tmp_path_factory, name, workers):
    script = tmp_path_factory.getbasetemp() / "named.py"
    script.touch()
    try:
        made, told = new_name(JobSpec(script=script, name=name, workers=workers)), ""
    except ConfigurationError as error:
        made, told = name, error.message
    assert made == name
    fits = is_name(name) and LABEL.fullmatch(f"{name}-worker-{workers - 1}")
    assert told.startswith(f"name is {name!r}"[:100]) != bool(fits)  # a long one is cut


STEMS = st.text(alphabet=string.printable.rstrip("\t\n\r\x0b\x0c").replace("/", ""), min_size=1, max_size=80) | st.text(
    alphabet=st.characters(exclude_characters="/", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=50
)


@given(STEMS, st.integers(1, 2000), st.booleans())
def test_a_made_name_is_a_dns_label_for_every_replica(tmp_path_factory, stem, workers, evaluator):
    folder = tmp_path_factory.getbasetemp() / "names"
    folder.mkdir(exist_ok=True)
    script = folder / f"{stem}.py"
    script.touch()
    spec = JobSpec(script=script, workers=workers, evaluator=evaluator)
    name = new_name(spec)
    assert is_name(name)
    for role, count in spec.roles.items():
        assert LABEL.fullmatch(f"{name}-{role}-{count - 1}")


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("mnist/fit.py", "fit"),
        ("mnist/train.py", "mnist"),
        ("My Models/main.py", "my-models"),
        ("_nets_/main.py", "nets"),
        ("a/Deep_Net.v2.py", "deep-net-v2"),
        ("a/3d.py", "job-3d"),
        ("a/雪.py", "job"),
        ("雪/train.py", "job"),
        (f"a/{'x' * 40}.py", "x" * 24),
        (f"a/{'x' * 23}-y.py", "x" * 23),
    ],
)
def test_a_made_name_begins_with_the_scripts_and_ends_at_random(tmp_path, path, start):
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).touch()
    names = {new_name(JobSpec(script=tmp_path / path)) for _ in range(3)}
    assert len(names) == 3
    assert all(re.fullmatch(re.escape(start) + "-[a-z0-9]{5}", name) for name in names)


def test_a_name_too_long_for_the_last_replica_is_refused(script):
    JobSpec(script=script)
    assert new_name(JobSpec(script=script, name="a" * 54, workers=10)) == "a" * 54
    with pytest.raises(ConfigurationError, match="at most 53"):
        new_name(JobSpec(script=script, name="a" * 54, workers=11))


@pytest.mark.parametrize("text", ["", "2 Gi", "-1", "1e-3", "Gi", "2gi", "2KI", "1Gi\n", "٣", "nan"])
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(ValueError, match="not a Kubernetes quantity"):
        quantity(text)


@pytest.mark.parametrize("text", ["", ".", "..", "/tmp", "a/b", "A", "a" * 64, None, "a\n"])
def test_what_is_no_name_is_told(text):
    assert not is_name(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("100n", 1e-7),
        ("250u", 0.00025),
        ("1E", 1e18),
        ("2Ei", 2.0**61),
        ("1e3", 1000.0),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
    ],
)
def test_kubernetess_less_usual_quantities_are_numbers(text, number):
    assert quantity(text) == pytest.approx(number)


def explained() -> dict[str, str]:
    """What JobSpec's docstring says of each field."""
    described = str(inspect.getdoc(JobSpec)).split("Args:")[1].split("Raises")[0]
    told = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", described, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in told}


def test_the_docstring_explains_every_field_in_their_order():
    assert list(explained()) == [field.name for field in fields(JobSpec)]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_docstring_says_default_unit_and_place(name):
    option, text = OPTIONS[name], explained()[name]
    default = {"hold_s": "24 h", "restart_on": "lost, stalled"}.get(name, option.default)
    if default or name == "restarts":
        assert f"({default}" in text.replace('"', "")
    if name.endswith("_s"):
        assert "seconds" in text
    assert text.endswith(" K") == (name in KUBERNETES_ONLY)


def test_the_docstrings_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").touch()
    (example,) = doctest.DocTestFinder(recurse=False).find(JobSpec, globs={"JobSpec": JobSpec, "Path": Path})
    done = doctest.DocTestRunner().run(example)
    assert (done.attempted, done.failed) == (1, 0)
