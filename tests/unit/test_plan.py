"""What a plan says of its job: its name, what the agents are told, and what is too much."""

import gzip
import hashlib
import json
import tempfile

import pytest

from tfspawner.errors import ConfigurationError
from tfspawner.jobs.prepare import new_name, planned, planned_like
from tfspawner.plan.code import Code
from tfspawner.plan.limits import MAX_SECRET_BYTES
from tfspawner.plan.plan import CONFIGMAP_BYTES, MAX_NAME, id_of, make_plan
from tfspawner.plan.secrecy import HIDDEN, Known
from tfspawner.plan.spec import JobSpec
from tfspawner.replica.packing import packed

CANARY = "canary/value+7"


@pytest.fixture
def code():
    archive = tempfile.TemporaryFile()
    archive.write(gzip.compress(b"code", mtime=0))
    archive.flush()
    return Code(archive=archive, sha256="0" * 64, size_bytes=archive.tell(), file_count=1)


@pytest.fixture
def spec_of(folder):
    def make(script: str = "train.py", **values) -> JobSpec:
        (folder / script).parent.mkdir(parents=True, exist_ok=True)
        (folder / script).touch()
        return JobSpec(script=folder / script, **values)

    return make


def config_of(plan) -> dict:
    return json.loads(plan.files["job.json"])


# A host name is <job>-<role>-<index>, of at most 63 characters.
@pytest.mark.parametrize(
    ("roles", "most"),
    [
        ({"workers": 1}, 63 - len("-worker-0")),
        ({"workers": 10}, 63 - len("-worker-9")),
        ({"workers": 11}, 63 - len("-worker-10")),
        ({"workers": 100}, 63 - len("-worker-99")),
        ({"workers": 101}, 63 - len("-worker-100")),
        ({"workers": 1, "ps": 1001}, 63 - len("-worker-0")),
        ({"workers": 1, "ps": 5001}, 63 - len("-worker-0")),
        ({"workers": 0, "chief": True}, 63 - len("-chief-0")),
        ({"workers": 1, "evaluator": True}, 63 - len("-evaluator-0")),
        ({"workers": 5000, "evaluator": True}, 63 - len("-evaluator-0")),
    ],
)
def test_a_name_leaves_room_for_the_role_and_the_longest_index(spec_of, roles, most):
    name = "n" * most
    assert new_name(spec_of(name=name, **roles)) == name
    spec = spec_of(name=name + "n", **roles)
    with pytest.raises(ConfigurationError) as error:
        new_name(spec)
    assert f"{most + 1} characters; with {len(spec.replicas)} replicas at most {most} make" in error.value.message


@pytest.mark.parametrize(
    ("script", "stem"),
    [
        ("digits.py", "digits"),
        ("My Model_v2.py", "my-model-v2"),
        ("_x_.py", "x"),
        ("train.py", "code"),  # the folder's name says more
        ("main.py", "code"),
        ("training-script.py", "code"),
        ("Deep Sets/train.py", "deep-sets"),
        ("retrain.py", "retrain"),
        ("3d.py", "job-3d"),
        ("t5.py", "t5"),
        ("___.py", "job"),
        ("-/train.py", "job"),
        ("a" * 24 + "b.py", "a" * 24),
        ("a" * 23 + "-b.py", "a" * 23),
    ],
)
def test_a_job_without_a_name_takes_the_scripts_with_a_random_ending(spec_of, script, stem):
    spec = spec_of(script)
    names = {new_name(spec) for _ in range(20)}
    assert len(names) == 20
    for name in names:
        before, _, ending = name.rpartition("-")
        assert before == stem
        assert len(ending) == 5
        assert not set(ending) - set("bcdfghjkmnpqrstvwxz23456789")  # no vowels: no words


def test_the_bounds_are_those_of_kubernetes():
    assert (MAX_NAME, CONFIGMAP_BYTES) == (63, 1 << 20)


def test_an_id_tells_nothing_of_the_token():
    assert id_of("the-token") == hashlib.sha256(b"the-token").hexdigest()[:16]


def test_the_agents_are_told_all_that_the_job_is(spec_of, code, folder, tmp_path):
    spec = spec_of("sub/x.py", workdir=folder, on="kubernetes", workers=2, ps=1, chief=True, gpus=1, args=("--a", "b"),
                   collect=("/tmp/*",), artifacts="s3://bucket/x", start_timeout_s=5.0, timeout_s=6.0, stall_timeout_s=7.0,
                   restarts=2, restart_on=("lost",), hold_s=8.0, env={"API_KEY": CANARY})  # fmt: skip
    plan = planned(spec, "j", "host:1", code, ("a warning",), needs_tf_keras=True, gpus={"worker-0": ("GPU-1",)})
    assert config_of(plan) == {
        "job": "j", "roles": {"chief": 1, "worker": 2, "ps": 1}, "coordinator_address": "host:1", "script": "sub/x.py",
        "args": ["--a", "b"], "gpus": 1, "command_file": False, "original_script_path": True, "code_sha256": "0" * 64,
        "collect": ["/tmp/*"], "artifacts": "s3://bucket/x", "start_timeout_s": 5.0, "timeout_s": 6.0,
        "stall_timeout_s": 7.0, "restarts": 2, "restart_on": ["lost"], "replaces_lost": True, "hold_s": 8.0,
        "legacy_keras": spec.legacy_keras, "needs_tf_keras": True, "needs_gpus": False, "speaks_of_s3": False,
        "secret_names": ["API_KEY"],
    }  # fmt: skip
    assert (plan.job, plan.spec, plan.code, plan.hidden) == ("j", spec, code, {})
    assert (plan.warnings, plan.notes, plan.slot) == (("a warning",), (), 0)
    assert plan.gpus == {"worker-0": ("GPU-1",)}
    assert plan.id == id_of(plan.token)
    assert len(plan.token) == 32  # of 24 random bytes
    assert plan.token != planned(spec, "j", "host:1", code, needs_tf_keras=True).token
    assert plan.token not in repr(plan)
    assert CANARY not in repr(plan.files)
    assert plan.known.holds(CANARY)


@pytest.mark.parametrize(
    ("on", "restarts", "workers", "expected"),
    [
        ("local", 1, 2, {"original_script_path": False, "replaces_lost": False, "start_timeout_s": 600.0}),
        ("kubernetes", 0, 2, {"original_script_path": True, "replaces_lost": False}),
        ("kubernetes", 1, 2, {"original_script_path": True, "replaces_lost": True}),
        ("local", 0, 2, {"legacy_keras": True}),
        ("local", 0, 1, {"legacy_keras": False}),
    ],
)
def test_what_the_agents_do_depends_on_where_and_how_many_they_are(spec_of, code, on, restarts, workers, expected):
    spec = spec_of(on=on, restarts=restarts, workers=workers, legacy_keras=True)
    config = config_of(planned(spec, "j", "host:1", code, needs_tf_keras=False))
    assert {key: config[key] for key in expected} == expected


def test_who_asks_for_the_new_keras_gets_it_however_many_they_are(spec_of, code):
    spec = spec_of(legacy_keras=False, workers=2)
    assert config_of(planned(spec, "j", "host:1", code, needs_tf_keras=False))["legacy_keras"] is False


def test_a_start_time_out_of_0_is_no_missing_one(spec_of, code):
    plan = planned(spec_of(start_timeout_s=0.5), "j", "host:1", code, needs_tf_keras=False)
    assert config_of(plan)["start_timeout_s"] == 0.5


@pytest.mark.parametrize(("options", "more"), [({}, set()), ({"nvml": b"zip"}, {"pynvml.zip"})])
def test_the_starter_and_one_zip_file_travel(spec_of, code, options, more):
    plan = planned(spec_of(), "j", "host:1", code, needs_tf_keras=False, **options)
    assert set(plan.files) == {"job.json", *packed(), *more}
    assert {name: plan.files[name] for name in packed()} == packed()
    assert plan.gpus == {}


@pytest.mark.parametrize("name", ["needs_tf_keras", "speaks_of_s3", "needs_gpus"])
def test_the_agents_are_told_what_tensorflow_must_have(spec_of, code, name):
    facts = dict.fromkeys(("needs_tf_keras", "speaks_of_s3", "needs_gpus"), False)
    config = config_of(planned(spec_of(), "j", "host:1", code, **{**facts, name: True}))
    assert {fact: config[fact] for fact in facts} == {**facts, name: True}


def test_the_same_values_make_the_same_plan(spec_of, code):
    values = {"known": Known({}), "token": "t" * 32, "agent": {"agent.py": b"#"}, "command": b"echo"}
    first, again = (make_plan(spec_of(name="j"), "j", "host:1", code, **values) for _ in range(2))
    assert (first.files, first.token, first.hidden) == (again.files, again.token, again.hidden)
    assert first.files["command"] == b"echo"


def test_a_command_file_travels_without_its_secret(spec_of, code, tmp_path):
    (tmp_path / "run.sh").write_text(f"echo {CANARY}\n")
    spec = spec_of(command_file=tmp_path / "run.sh", env={"API_KEY": CANARY}, on="kubernetes")
    plan = planned(spec, "j", "host:1", code, ("first",), needs_tf_keras=False)
    assert plan.files["command"] == b"echo ***\n"
    assert config_of(plan)["command_file"] is True
    assert json.loads(plan.hidden[HIDDEN]) == {"command": f"echo {CANARY}\n"}
    assert HIDDEN not in repr(plan)
    assert "Known" not in repr(plan)
    assert (plan.warnings[0], len(plan.warnings)) == ("first", 2)
    again = planned_like(plan, spec, "host:2")
    assert again.hidden == plan.hidden
    assert again.files["command"] == b"echo ***\n"


@pytest.mark.parametrize(("on", "more"), [("kubernetes", 0), ("kubernetes", 1), ("local", 1)])
def test_a_secret_holds_1_mib_and_not_a_byte_more(spec_of, code, on, more):
    env = {f"V{number}": "/" + "é" * 60_000 for number in range(8)}  # paths, which nobody has to look for
    args = (CANARY,)
    hidden = json.dumps({"args": args}, separators=(",", ":"))
    env["REST"] = "/" + "x" * (MAX_SECRET_BYTES - 8 * 120_001 - len(CANARY) - len(hidden) - 1 + more)
    spec = spec_of(env={**env, "API_KEY": CANARY}, args=args, on=on)
    if on == "local" or not more:
        assert planned(spec, "j", "host:1", code, needs_tf_keras=False).hidden == {HIDDEN: hidden}
        return
    with pytest.raises(ConfigurationError, match="are more than a Secret holds, 1 MiB"):
        planned(spec, "j", "host:1", code, needs_tf_keras=False)


def test_a_plan_like_another_has_its_code_and_a_name_and_token_of_its_own(spec_of, code):
    first = planned(spec_of(args=("--a", "1")), "first", "host:1", code, ("w",), needs_tf_keras=True, needs_gpus=True)
    spec = spec_of(args=("--a", "2"), name="second")
    plan = planned_like(first, spec, "host:2", slot=3)
    assert (plan.job, plan.spec, plan.slot, plan.warnings, plan.notes) == ("second", spec, 3, (), ())
    assert (plan.code, plan.known, plan.hidden) == (code, first.known, {})
    assert plan.token != first.token
    assert len(plan.token) == 32
    changes = {"job": "second", "coordinator_address": "host:2", "args": ["--a", "2"]}
    assert config_of(plan) == {**config_of(first), **changes}
    assert {**plan.files, "job.json": b""} == {**first.files, "job.json": b""}
    assert b" " not in plan.files["job.json"]
    assert planned_like(first, spec, "host:2").slot == 0
