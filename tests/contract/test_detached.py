"""A detached job from its launch to its end, by the verbs that find it again; each test looks at one of them."""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import pytest

SCRIPT = r"""
role_index = f"{os.environ['TFSPAWNER_ROLE']}-{os.environ['TFSPAWNER_INDEX']}"
print("after the gate:", role_index)
with open(os.environ["TFSPAWNER_OUTPUT"] + "/model", "w") as file:
    file.write("model of " + role_index)
"""
REPLICAS = ["worker-0", "worker-1"]


def state_of(job: str, listed) -> str | None:
    return {entry["job"]: entry["state"] for entry in listed.json}.get(job)


def is_seen_to_end(life) -> bool:
    """On Kubernetes only after a while: the agents are gone by now, and the Job's status comes late."""
    life.list_fetched = life.place.of("list", "--output", "json")
    return str(state_of("first", life.list_fetched)).startswith("succeeded")


@pytest.fixture(scope="module")
def life(shared_place, gate_code, wait_until):
    """What every verb answered while the job was at its gate, and after."""
    place = shared_place
    script = place.script(gate_code + SCRIPT)
    gate = ("--env", f"GATE={place.gate}")
    life = SimpleNamespace(place=place)
    life.launched = place.run(script, "--detach", "--name", "first", *gate, "-t", "mine")
    life.launched_json = place.run(script, "--detach", "-w", "1", *gate, "--output", "json")
    life.second = life.launched_json.json["job"]

    follow = place.start("logs", *place.target, "-f", "first")
    follow_json = place.start("logs", *place.target, "-f", "first", "--output", "json")
    follow_one = place.start("logs", *place.target, "-f", "first", "--replica", "worker-1")
    follow.prints(*(f"{replica} | at the gate\n" for replica in REPLICAS))
    follow_json.prints("worker-0", "worker-1")
    follow_one.prints("at the gate")
    status = ("status", "first", "--output", "json")
    wait_until(lambda: all(line["usage"] for line in place.of(*status).json["replicas"]), "what each uses")
    life.running = {verb: place.of(verb, "first", "--output", "json") for verb in ("status", "logs")}
    life.running_text = {verb: place.of(verb, "first") for verb in ("status", "logs")}
    watcher, leaver = (place.start("attach", *place.target, "first") for _ in range(2))
    for attached in (watcher, leaver):
        attached.prints(*(f"{replica} | at the gate\n" for replica in REPLICAS))
    leaver.send(signal.SIGINT)
    life.leaver = leaver.done()
    life.list = place.of("list")
    life.list_json = place.of("list", "--output", "json")
    life.wait_in_vain = place.of("wait", "first", "--timeout", "1s")
    life.fetch_early = place.of("fetch", "first", "--out", place.folder / "early", "--output", "json")
    wait = place.start("wait", *place.target, "first")
    wait_json = place.start("wait", *place.target, "first", "--output", "json")

    place.open_gate("first")
    life.follow, life.follow_json, life.follow_one = follow.done(), follow_json.done(), follow_one.done()
    life.wait, life.wait_json, life.watcher = wait.done(), wait_json.done(), watcher.done()
    life.ended = {verb: place.of(verb, "first", "--output", "json") for verb in ("status", "logs")}
    life.one_log = place.of("logs", "first", "--replica", "worker-1")
    life.fetch_json = place.of("fetch", "first", "--out", place.runs, "--keep", "--output", "json")
    life.list_held = place.of("list", "--output", "json")
    life.fetch = place.of("fetch", "first", "--out", place.folder / "again")
    if not is_seen_to_end(life) and place.on == "kubernetes":
        wait_until(lambda: is_seen_to_end(life), "the Job's status after its replicas were released")
    if place.on == "local":
        place.open_gate(life.second)
    life.delete = place.of("delete", "first")
    life.jobs_after_delete = place.jobs()
    life.delete_json = place.of("delete", life.second, "--output", "json")
    life.leftovers = place.leftovers()
    life.after = {verb: place.of(verb, "first") for verb in ("status", "logs", "wait", "fetch", "delete")}
    return life


def test_detached_run_prints_the_jobs_name_alone_and_what_to_do_next(life):
    assert life.launched.code == 0, life.launched.err
    assert life.launched.out == "first\n"
    assert "tf-spawner logs -f first" in life.launched.err


def test_attach_shows_the_output_and_the_end_and_ctrl_c_leaves_the_job_running(life):
    assert life.watcher.code == 0
    assert "worker-1 | after the gate: worker-1\n" in life.watcher.out
    assert "first: succeeded; bring it home: tf-spawner fetch first" in life.watcher.err
    assert life.leaver.code == 130
    assert "job first goes on" in life.leaver.err


def test_the_status_tells_what_each_script_uses(life):
    for replica in life.running["status"].json["replicas"]:
        assert replica["usage"]["memory"] > 1 << 20
        assert replica["usage"]["gpus"] == [] or replica["usage"]["gpus"][0]["memory_total"]


def test_detached_run_prints_json(life):
    assert life.launched_json.json == {"job": life.second, "on": life.place.on, "replicas": ["worker-0"]}


def test_list_shows_both_jobs(life):
    header, *rows = [line.split() for line in life.list.out.splitlines()]
    assert header == ["JOB", "ON", "STATE", "REPLICAS", "TAG", "AGE"]
    assert {row[0] for row in rows} == {"first", life.second}
    first = next(row for row in rows if row[0] == "first")
    assert first[2:6] == ["running", "2", "worker", "mine"]


def test_list_prints_json(life):
    entries = {entry["job"]: entry for entry in life.list_json.json}
    assert set(entries) == {"first", life.second}
    assert entries["first"]["roles"] == {"worker": 2}
    assert (entries["first"]["on"], entries["first"]["state"], entries["first"]["tag"]) == (
        life.place.on,
        "running",
        "mine",
    )


def test_status_shows_every_replica_running(life):
    assert life.running_text["status"].code == 0
    for replica in REPLICAS:
        assert [
            line.split()[1] for line in life.running_text["status"].out.splitlines() if line.startswith(replica)
        ] == ["running"]


def test_status_prints_json_with_the_node_of_each_replica(life):
    state = life.running["status"].json
    assert (state["job"], state["phase"], state["result"]) == ("first", "running", None)
    assert [line["replica"] for line in state["replicas"]] == REPLICAS
    assert {line["state"] for line in state["replicas"]} == {"running"}
    assert all(line["node"] for line in state["replicas"])


def test_status_tells_how_it_ended(life):
    state = life.ended["status"].json
    assert (state["phase"], state["result"]) == ("ended", "succeeded")
    assert {line["exit_code"] for line in state["replicas"]} == {0}


def test_logs_prints_what_there_is_so_far(life):
    assert sorted(life.running_text["logs"].out.splitlines()) == [f"{replica} | at the gate" for replica in REPLICAS]


def test_logs_prints_json(life):
    assert life.running["logs"].json == dict.fromkeys(REPLICAS, "at the gate\n")
    assert life.ended["logs"].json == {r: f"at the gate\nafter the gate: {r}\n" for r in REPLICAS}


def test_logs_of_one_replica_come_as_they_are(life):
    assert life.one_log.out == "at the gate\nafter the gate: worker-1\n"


def test_logs_follows_to_the_end(life):
    assert life.follow.code == 0, life.follow.err
    expected = [f"{r} | {text}" for r in REPLICAS for text in ("at the gate", f"after the gate: {r}")]
    assert sorted(life.follow.out.splitlines()) == sorted(expected)


def test_logs_follows_as_json_lines(life):
    assert life.follow_json.code == 0, life.follow_json.err
    lines = [json.loads(line) for line in life.follow_json.out.splitlines()]
    expected = [(r, text) for r in REPLICAS for text in ("at the gate", f"after the gate: {r}")]
    assert sorted((line["replica"], line["line"]) for line in lines) == sorted(expected)


def test_logs_follows_one_replica_as_it_is(life):
    assert life.follow_one.code == 0, life.follow_one.err
    assert life.follow_one.out == "at the gate\nafter the gate: worker-1\n"


def test_wait_returns_when_the_job_has_ended(life):
    assert (life.wait.code, life.wait.out) == (0, "first: succeeded\n"), life.wait.err
    assert life.wait_json.json["result"] == "succeeded"


def test_wait_gives_up_at_its_time_out_with_124(life):
    assert life.wait_in_vain.code == 124
    assert "first is still " in life.wait_in_vain.err


def test_fetch_of_a_running_job_brings_what_there_is_and_lets_it_go_on(life):
    assert life.fetch_early.code == 0, life.fetch_early.err
    assert life.fetch_early.json["result"] == "running"
    assert (life.place.folder / "early/first/logs/worker-0.log").read_text() == "at the gate\n"
    assert life.ended["status"].json["result"] == "succeeded"


def test_fetch_brings_logs_and_files(life):
    for folder in (life.place.runs / "first", life.place.folder / "again/first"):
        for replica in REPLICAS:
            log = (folder / f"logs/{replica}.log").read_text()
            assert log == f"at the gate\nafter the gate: {replica}\n"
            assert (folder / f"files/{replica}/model").read_text() == f"model of {replica}"
        assert json.loads((folder / "report.json").read_text())["result"] == "succeeded"
    assert life.fetch.code == 0, life.fetch.err


def test_list_says_to_be_fetched_until_it_is(life):
    assert state_of("first", life.list_held) == "succeeded, to be fetched"
    assert state_of("first", life.list_fetched) in ("succeeded, fetched", "succeeded")


def test_fetch_prints_json(life):
    told = life.fetch_json.json
    assert (told["job"], told["result"]) == ("first", "succeeded")
    assert told["files"] == {replica: ["model"] for replica in REPLICAS}
    assert told["folder"] == str(life.place.runs / "first")


def test_delete_removes_the_job_and_no_other(life):
    assert (life.delete.code, life.delete.out) == (0, "first is deleted\n"), life.delete.err
    assert life.jobs_after_delete == [life.second]


def test_delete_of_a_running_job_leaves_nothing(life):
    assert life.delete_json.json == {"deleted": [life.second]}
    assert life.leftovers == []


@pytest.mark.parametrize("verb", ["status", "logs", "wait", "fetch", "delete"])
def test_a_job_that_is_gone_is_called_so_by_every_verb(life, verb):
    done = life.after[verb]
    assert done.code == 3
    assert "there is no job 'first'" in done.err.lower()
    assert "Traceback" not in done.err
    assert not (life.place.folder / "runs-of-nobody").exists()
