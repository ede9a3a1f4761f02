"""What the coordinator decides from its replicas' reports."""

import subprocess
import sys
import threading
import time

import pytest

from tfspawner.replica.endings import classify, place_in, stands_at
from tfspawner.replica.gang import FROZEN, Gang, step_of
from tfspawner.replica.job import Job
from tfspawner.replica.protocol import LOST, PEER_LOST_MESSAGE, is_trainer

ABORTED = b"x\nCollective ops is aborted by: recvmsg\ntensorflow.python.framework.errors_impl.UnavailableError: y\n"


def make_gang(roles=None, **config) -> Gang:
    defaults = {"job": "j", "roles": roles or {"worker": 3}, "start_timeout_s": 60, "timeout_s": None,
                "stall_timeout_s": None, "restarts": 0, "restart_on": ["lost", "stalled"]}  # fmt: skip
    return Gang(Job({**defaults, **config}))


def report(gang: Gang, replica: str, state: str, **news) -> None:
    gang.report(
        replica,
        {
            "replica": replica,
            "state": state,
            "since": time.time(),
            "message": "",
            "finished": time.time(),
            "address": f"{replica}:2222",
            "agent": f"{replica}:7117",
            "life": replica,
            "generation": gang.generation,
            "met": gang.generation - (gang.phase == "forming"),
            **news,
        },
    )


def all_report(gang: Gang, state: str) -> None:
    for replica in gang.job.replicas:
        report(gang, replica, state)


def running_gang(*args, **config) -> Gang:
    gang = make_gang(*args, **config)
    all_report(gang, "ready")
    all_report(gang, "running")
    return gang


def fail(gang: Gang, replica: str, code: int = 1, **news) -> None:
    report(gang, replica, "failed", exit_code=code, **news)


def test_the_gang_runs_once_all_are_ready():
    gang = make_gang()
    report(gang, "worker-0", "ready")
    report(gang, "worker-1", "ready")
    assert gang.phase == "forming"
    report(gang, "worker-2", "getting the code")
    assert gang.phase == "meeting"
    report(gang, "worker-2", "ready")
    assert gang.phase == "running"


def test_the_addresses_are_in_the_order_of_roles_and_indices_however_they_came():
    gang = make_gang({"chief": 1, "worker": 11})
    for replica in reversed(gang.job.replicas):
        report(gang, replica, "starting")
    cluster = gang.cluster()
    assert cluster["tensorflow"]["chief"] == ["chief-0:2222"]
    assert cluster["tensorflow"]["worker"] == [f"worker-{index}:2222" for index in range(11)]
    assert cluster["agents"] == {replica: f"{replica}:7117" for replica in gang.job.replicas}


def test_it_succeeds_when_all_have():
    gang = running_gang()
    all_report(gang, "succeeded")
    assert (gang.phase, gang.result) == ("ended", "succeeded")


def test_the_first_failure_is_the_cause():
    gang = running_gang()
    fail(gang, "worker-1", 7)
    fail(gang, "worker-2", 8)
    assert (gang.phase, gang.result, gang.cause["replica"]) == ("stopping", "failed", "worker-1")


def test_a_replica_that_lost_its_peer_waits_for_the_peers_own_word():
    gang = running_gang()
    fail(gang, "worker-0", 75, peer_lost=True)
    assert gang.phase == "running"
    fail(gang, "worker-1", 137, message="was killed")
    assert gang.cause["replica"] == "worker-1"


@pytest.mark.parametrize("blames", ["worker-7", "worker-" + "9" * 5000, "ps-0", "worker-00", "nobody-1"])
def test_a_peer_that_output_names_and_that_is_not_there_is_not_to_blame(blames):
    gang = running_gang()
    for replica in gang.job.replicas:
        fail(gang, replica, 75, peer_lost=True, kind="lost", blames=blames)
    assert gang.result == "failed"
    assert gang.cause["replica"] == "worker-0"


def test_lost_peers_alone_are_a_failure_as_soon_as_nobody_is_left():
    gang = running_gang({"worker": 2})
    report(gang, "worker-1", "succeeded")
    fail(gang, "worker-0", 75, peer_lost=True)
    assert (gang.phase, gang.result, gang.cause["replica"]) == ("ended", "failed", "worker-0")


def test_a_scripts_own_exit_code_75_is_its_own_failure():
    gang = running_gang()
    fail(gang, "worker-2", 75, peer_lost=False)
    assert gang.cause["replica"] == "worker-2"


def test_a_replica_that_ended_does_not_come_back():
    gang = running_gang()
    report(gang, "worker-1", "succeeded")
    report(gang, "worker-1", "starting")
    assert gang.reports["worker-1"]["state"] == "succeeded"


def test_the_gang_has_ended_when_all_have_stopped():
    gang = running_gang()
    fail(gang, "worker-0")
    report(gang, "worker-1", "stopped")
    assert gang.phase == "stopping"
    report(gang, "worker-2", "stopped")
    assert (gang.phase, gang.result) == ("ended", "failed")


def test_with_parameter_servers_the_chiefs_end_is_the_end():
    gang = running_gang({"chief": 1, "worker": 2, "ps": 1})
    report(gang, "chief-0", "succeeded")
    assert (gang.phase, gang.result) == ("stopping", "succeeded")


def test_the_evaluator_may_go_on_for_a_while():
    gang = running_gang({"worker": 1, "evaluator": 1})
    report(gang, "worker-0", "succeeded")
    assert gang.phase == "running"
    gang.trained_at -= 31
    gang.tick()
    assert (gang.phase, gang.result) == ("stopping", "succeeded")


def test_a_replica_that_hung_up_is_lost_and_the_cause():
    gang = running_gang()
    gang.hung_up["worker-2"] = time.monotonic() - 4
    gang.tick()
    assert gang.cause["replica"] == "worker-2"
    assert gang.cause["message"] == LOST


def test_a_replica_that_is_silent_is_lost():
    gang = running_gang()
    gang.seen["worker-1"] -= 16
    gang.tick()
    assert gang.cause["replica"] == "worker-1"


def test_who_did_not_come_in_time_is_named():
    gang = make_gang()
    report(gang, "worker-0", "meeting")
    report(gang, "worker-2", "meeting")
    gang.formed_at -= 61
    gang.tick()
    assert gang.result == "timeout"
    assert gang.cause["message"] == "did not start within 60 s (missing: worker-1)"


def test_who_cannot_reach_a_peer_in_time_is_named_with_it():
    gang = make_gang()
    report(gang, "worker-0", "ready")
    report(gang, "worker-1", "ready")
    report(gang, "worker-2", "meeting", message="worker-1 (10.0.0.1:7117: timed out)")
    gang.formed_at -= 61
    gang.tick()
    assert gang.result == "timeout"
    assert "(missing: worker-2); worker-2 waits for worker-1 (10.0.0.1:7117: timed out)" in gang.cause["message"]


def test_a_job_over_its_time_is_stopped():
    gang = running_gang(timeout_s=60)
    report(gang, "worker-0", "succeeded")
    gang.running_since -= 61
    gang.tick()
    assert gang.result == "timeout"
    assert gang.cause["replica"] == "worker-1"


@pytest.mark.parametrize(
    ("returncode", "tail", "ended"),
    [
        (1, b"Traceback", (1, "ended with exit code 1")),
        (1, ABORTED, (75, PEER_LOST_MESSAGE)),
        (2, ABORTED, (2, "ended with exit code 2")),
        (1, ABORTED.replace(b"Unavailable", b"Internal"), (1, "ended with exit code 1")),
        (-9, b"", (137, "was killed by SIGKILL")),
        (-11, b"", (139, "was killed by SIGSEGV")),
        (-40, b"", (168, "was killed by signal 40")),
    ],
)
def test_an_end_is_classified(returncode, tail, ended):
    assert classify(returncode, tail) == ended


def test_a_gang_ends_once_its_files_are_in_the_bucket():
    gang = running_gang()
    for replica in gang.job.replicas:
        report(gang, replica, "succeeded", storing="s3://bucket/j/")
    gang.phase_since -= 3600  # however long it takes
    gang.tick()
    assert (gang.phase, gang.result) == ("stopping", "succeeded")
    for replica in gang.job.replicas:
        report(gang, replica, "succeeded", storing="", stored={})
    assert gang.phase == "ended"


def test_a_replica_lost_while_it_puts_its_files_is_not_waited_for():
    gang = running_gang()
    report(gang, "worker-0", "succeeded", storing="")
    report(gang, "worker-1", "succeeded", storing="")
    report(gang, "worker-2", "succeeded", storing="s3://bucket/j/")
    gang.tick()
    assert gang.phase == "stopping"
    gang.seen["worker-2"] -= 3600
    gang.tick()
    assert gang.phase == "ended"


def lose(gang: Gang, replica: str) -> None:
    fail(gang, replica, 137, message="was killed by SIGKILL", kind="lost")


def stop_all(gang: Gang) -> None:
    for replica in gang.job.replicas:
        report(gang, replica, "stopped")


def test_a_lost_replica_restarts_the_gang_when_all_have_stopped():
    gang = running_gang(restarts=1)
    lose(gang, "worker-1")
    assert (gang.phase, gang.result) == ("stopping", None)
    stop_all(gang)
    assert (gang.phase, gang.generation) == ("forming", 1)
    assert [(r["replica"], r["message"]) for r in gang.snapshot()["restarts"]] == [
        ("worker-1", "was killed by SIGKILL")
    ]
    all_report(gang, "ready")
    assert gang.phase == "running"
    all_report(gang, "succeeded")
    assert (gang.phase, gang.result) == ("ended", "succeeded")


def test_reports_of_the_generation_before_do_not_count():
    gang = running_gang(restarts=1)
    lose(gang, "worker-1")
    stop_all(gang)
    for replica in gang.job.replicas:
        report(gang, replica, "stopped", generation=0, met=0)
    assert (gang.phase, gang.reports) == ("forming", {})


def test_it_is_restarted_as_often_as_is_allowed():
    gang = running_gang(restarts=2)
    for _ in range(2):
        lose(gang, "worker-1")
        stop_all(gang)
        all_report(gang, "ready")
        all_report(gang, "running")
    lose(gang, "worker-0")
    assert (gang.phase, gang.result, gang.cause["replica"]) == ("stopping", "failed", "worker-0")


def test_a_scripts_own_failure_is_no_reason_to_restart_unless_asked():
    gang = running_gang(restarts=1)
    fail(gang, "worker-1", 1, kind="failed")
    assert (gang.phase, gang.result) == ("stopping", "failed")
    gang = running_gang(restarts=1, restart_on=["failed"])
    fail(gang, "worker-1", 1, kind="failed")
    assert (gang.phase, gang.result) == ("stopping", None)


def test_a_new_pod_of_a_running_replica_means_that_the_former_is_lost():
    gang = running_gang(restarts=1)
    report(gang, "worker-1", "starting", life="another", generation=0, met=-1)
    assert (gang.phase, gang.restarting["replica"], gang.restarting["message"]) == ("stopping", "worker-1", LOST)
    report(gang, "worker-0", "stopped")
    report(gang, "worker-2", "stopped")
    assert (gang.phase, gang.generation) == ("forming", 1)
    report(gang, "worker-1", "starting", life="another", generation=1, met=-1)
    assert gang.reports["worker-1"]["life"] == "another"


def test_a_new_coordinator_goes_on_after_the_generation_of_the_others():
    gang = make_gang(restarts=3)
    report(gang, "worker-0", "starting", met=-1)
    report(gang, "worker-1", "stopped", generation=1, met=1)
    assert (gang.phase, gang.generation, gang.restarts[0]["replica"]) == ("forming", 2, "worker-0")
    all_report(gang, "ready")
    assert gang.phase == "running"


def test_a_new_coordinator_ends_a_gang_that_has_no_restart_left():
    gang = make_gang(restarts=1)
    report(gang, "worker-1", "stopped", generation=1, met=1)
    assert (gang.phase, gang.result, gang.cause["message"]) == ("stopping", "failed", LOST)


def test_a_replica_lost_before_the_restart_is_waited_for():
    gang = running_gang(restarts=1)
    gang.hung_up["worker-2"] = time.monotonic() - 4
    gang.tick()
    report(gang, "worker-0", "stopped")
    report(gang, "worker-1", "stopped")
    gang.seen["worker-2"] = time.monotonic() - 30  # its old connection was noticed late
    gang.tick()
    assert (gang.phase, gang.generation) == ("forming", 1)


def test_a_frozen_replica_is_named_by_those_who_lost_it():
    gang = running_gang()
    for survivor in ("worker-0", "worker-2"):
        fail(gang, survivor, 75, peer_lost=True, kind="lost", blames="worker-1")
    gang.reports["worker-0"]["finished"] -= 6
    gang.tick()
    assert (gang.cause["replica"], gang.cause["message"]) == ("worker-1", FROZEN)


def test_a_gang_stalls_when_no_trainer_says_anything_and_the_one_behind_is_named():
    gang = running_gang({"worker": 3, "ps": 1, "chief": 1}, stall_timeout_s=60)
    for replica in gang.job.replicas:
        report(gang, replica, "running", silent_s=61, progress={"epoch": 2, "step": 5 - (replica == "worker-1")})
    gang.tick()
    assert (gang.phase, gang.cause["replica"], gang.cause["kind"]) == ("stopping", "worker-1", "stalled")
    assert gang.order()["stalled"]


def stalled_gang(**steps: dict) -> Gang:
    """Two workers with that progress, both silent for 61 s and now stopping."""
    gang = running_gang({"worker": 2}, stall_timeout_s=60)
    for replica, progress in steps.items():
        report(gang, replica.replace("_", "-"), "running", silent_s=61, progress=progress)
    gang.tick()
    return gang


def test_who_has_told_no_step_of_an_epoch_is_behind_who_has():
    gang = stalled_gang(worker_0={"epoch": 2, "step": 16}, worker_1={"epoch": 2})
    assert (gang.cause["replica"], gang.cause["message"][:13]) == ("worker-1", "stopped first")


def test_progress_that_only_one_tells_says_nothing():
    gang = stalled_gang(worker_0={"epoch": 2, "step": 16}, worker_1={})
    assert gang.cause["message"].startswith("stands still, as all others do: ")


IN_KERAS = [
    'File "/site/tensorflow/python/eager/execute.py", line 53 in quick_execute',
    'File "/c/t.py", line 3 in <module>',
]
IN_SCRIPT = [
    'File "/c/t.py", line 33 in on_epoch_end',
    'File "/site/tf_keras/src/callbacks.py", line 9 in on_epoch_end',
]


@pytest.mark.parametrize(
    ("stands", "replica", "words"),
    [
        ((IN_KERAS, IN_SCRIPT), "worker-1", "stopped first, in t.py, line 33, in on_epoch_end: no replica"),
        ((IN_SCRIPT, IN_KERAS), "worker-0", "stopped first, in t.py, line 33, in on_epoch_end: no replica"),
        ((IN_SCRIPT, []), "worker-1", "stopped first: no replica"),
        ((IN_KERAS, IN_KERAS), "worker-0", "stands still, as all others do: no replica"),
        (([], []), "worker-0", "stands still, as all others do: no replica"),
    ],
    ids=["the second's own code", "the first's own code", "a frozen one", "both wait", "no Python"],
)
def test_the_stacks_tell_who_stopped_first(stands, replica, words):
    gang = stalled_gang(worker_0={"epoch": 2}, worker_1={"epoch": 2})
    for index, stack in enumerate(stands):
        report(gang, f"worker-{index}", "stopped", stands=stack)
    assert gang.phase == "ended"
    assert (gang.cause["replica"], gang.cause["message"][: len(words)]) == (replica, words)


def test_a_stack_is_read_from_what_faulthandler_wrote():
    script = "import faulthandler, os, threading, time\nfaulthandler.enable()\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\ndef stand():\n    os.abort()\nprint('before')\nstand()\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert stands_at(done.stderr) == ['File "<string>", line 5 in stand', 'File "<string>", line 7 in <module>']
    assert stands_at(b"no stack\n") == []


def test_one_trainer_that_still_speaks_is_enough():
    gang = running_gang(stall_timeout_s=60)
    report(gang, "worker-0", "running", silent_s=3)
    report(gang, "worker-1", "running", silent_s=600)
    report(gang, "worker-2", "running", silent_s=600)
    gang.tick()
    assert gang.phase == "running"


def test_the_newest_checkpoint_is_the_coordinators_or_else_its_copy():
    gang = make_gang(restarts=1)
    report(gang, "worker-0", "meeting", checkpoint=20)
    report(gang, "worker-1", "meeting", checkpoint=20)
    report(gang, "worker-2", "meeting", checkpoint=0)
    assert gang.cluster()["checkpoint"] == "worker-0"
    report(gang, "worker-0", "meeting", checkpoint=0)
    assert gang.cluster()["checkpoint"] == "worker-1"


@pytest.mark.parametrize(
    ("checkpoints", "newest"),
    [((None, 1), "worker-1"), ((None, 0), "worker-0"), ((None, None), "worker-0"), ((3, 5), "worker-1")],
)
def test_who_has_told_no_checkpoint_has_the_oldest(checkpoints, newest):
    gang = make_gang({"worker": 2})
    for index, checkpoint in enumerate(checkpoints):
        report(gang, f"worker-{index}", "meeting", **({} if checkpoint is None else {"checkpoint": checkpoint}))
    assert gang.cluster()["checkpoint"] == newest


def test_an_interrupted_gang_stops_for_good_also_where_it_was_to_start_again():
    gang = running_gang(restarts=3)
    fail(gang, "worker-1", kind="lost")
    assert (gang.phase, gang.result) == ("stopping", None)
    assert gang.interrupt()["phase"] == "stopping"
    all_report(gang, "stopped")
    assert (gang.phase, gang.result, gang.cause["message"]) == ("ended", "interrupted", "was interrupted")


def test_who_is_interrupted_after_the_end_learns_how_it_ended():
    gang = running_gang()
    all_report(gang, "succeeded")
    assert gang.interrupt()["phase"] == "ended"
    assert gang.result == "succeeded"
    assert gang.order()["kept"] is False
    gang.keep()
    assert gang.order()["kept"] is True


# ---- to the second ----


class Clock:
    """The time of the gang's module and of this one, which stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_000_000.0 + self.now

    def time_ns(self) -> int:
        return int(self.time() * 1e9)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (Gang.__module__, __name__):
        monkeypatch.setattr(sys.modules[module], "time", clock)
    return clock


def tick_after(gang: Gang, clock: Clock, seconds: float, *heard: str) -> str:
    """The phase so many seconds later; those heard of meanwhile are not silent."""
    clock.now += seconds
    gang.seen.update(dict.fromkeys(heard, clock.now))
    gang.tick()
    return gang.phase


def test_a_replica_is_lost_after_15_seconds_of_silence(clock):
    gang = running_gang()
    assert tick_after(gang, clock, 15, "worker-0", "worker-2") == "running"
    assert tick_after(gang, clock, 0.5, "worker-0", "worker-2") == "stopping"
    lost = gang.reports["worker-1"]
    assert (lost["state"], lost["exit_code"], lost["message"], lost["kind"]) == ("failed", 137, LOST, "lost")
    assert lost["finished"] == clock.time()
    assert gang.cause == lost


def test_all_who_are_lost_at_once_are_marked_and_the_first_is_the_cause(clock):
    gang = running_gang()
    assert tick_after(gang, clock, 16, "worker-0") == "stopping"
    assert {name: report.get("kind") for name, report in gang.reports.items()} == {
        "worker-0": None,
        "worker-1": "lost",
        "worker-2": "lost",
    }
    assert gang.cause["replica"] == "worker-1"


def test_a_replica_whose_connection_closed_has_3_seconds_to_come_back(clock):
    gang = running_gang()
    gang.hung_up["worker-1"] = clock.now
    assert tick_after(gang, clock, 3, *gang.job.replicas) == "running"
    gang.hung_up["worker-2"] = clock.now
    report(gang, "worker-1", "running")  # it is back
    assert gang.hung_up == {"worker-2": clock.now}
    assert tick_after(gang, clock, 3.5, *gang.job.replicas) == "stopping"
    assert gang.cause["replica"] == "worker-2"


def test_who_was_never_here_and_who_has_ended_is_not_lost(clock):
    gang = make_gang()
    report(gang, "worker-0", "meeting")
    assert tick_after(gang, clock, 60, "worker-0") == "forming"
    gang = running_gang()
    report(gang, "worker-1", "succeeded")
    assert tick_after(gang, clock, 60, "worker-0", "worker-2") == "running"


def test_who_was_heard_of_and_never_reported_is_lost_in_the_first_generation_alone(clock):
    gang = make_gang(restarts=1)
    report(gang, "worker-0", "meeting")
    gang.seen["worker-1"] = clock.now
    assert tick_after(gang, clock, 15.5, "worker-0") == "stopping"
    assert gang.restarting["replica"] == "worker-1"
    report(gang, "worker-0", "stopped")
    report(gang, "worker-2", "stopped")
    assert (gang.phase, gang.generation) == ("forming", 1)
    report(gang, "worker-0", "meeting")
    gang.seen["worker-1"] = clock.now
    assert tick_after(gang, clock, 15.5, "worker-0") == "forming"


def test_a_replica_of_a_later_generation_can_be_lost_as_well(clock):
    gang = running_gang(restarts=1)
    lose(gang, "worker-1")
    stop_all(gang)
    all_report(gang, "ready")
    assert (gang.phase, gang.generation) == ("running", 1)
    assert tick_after(gang, clock, 15.5, "worker-0", "worker-2") == "stopping"
    assert gang.cause["replica"] == "worker-1"


def test_who_lost_a_peer_waits_5_seconds_for_that_peers_word(clock):
    gang = running_gang()
    fail(gang, "worker-0", 75, peer_lost=True)
    clock.now += 2
    fail(gang, "worker-2", 75, peer_lost=True)
    assert tick_after(gang, clock, 3, "worker-1") == "running"
    assert tick_after(gang, clock, 0.5, "worker-1") == "stopping"


def test_of_failures_the_one_that_finished_first_is_the_cause_whoever_reports_first(clock):
    gang = running_gang()
    with gang.changed:
        for replica, at in (("worker-0", 30.0), ("worker-1", 20.0), ("worker-2", 25.0)):
            gang.take(
                replica, dict(gang.reports[replica], state="failed", finished=at, peer_lost=replica == "worker-9")
            )
        gang.decide()
    assert gang.cause["replica"] == "worker-1"


def test_of_those_who_lost_a_peer_the_first_is_the_cause_where_nobody_is_to_blame(clock):
    gang = running_gang()
    for replica, at in (("worker-0", 3.0), ("worker-1", 1.0), ("worker-2", 2.0)):
        fail(gang, replica, 75, peer_lost=True, finished=clock.time() + at)
    assert gang.cause["replica"] == "worker-1"


@pytest.mark.parametrize(
    ("blamed", "states", "cause"),
    [
        (["worker-3", "worker-3"], {}, "worker-3"),
        (["worker-3", "worker-2"], {}, "worker-0"),  # they do not agree
        (["worker-3", None], {}, "worker-3"),
        (["worker-3", "worker-3"], {"worker-3": "succeeded"}, "worker-0"),  # it has ended by itself
        ([None, None], {"worker-2": "succeeded"}, "worker-3"),  # the only one left
        ([None, None], {}, "worker-0"),  # two are left
        ([None, None], {"worker-2": "succeeded", "worker-3": "storing"}, "worker-0"),  # none runs
    ],
)
def test_who_is_to_blame_for_lost_peers(clock, blamed, states, cause):
    gang = running_gang({"worker": 4, "evaluator": 1})
    for replica, state in states.items():
        report(gang, replica, state)
    for index, name in enumerate(blamed):
        fail(gang, f"worker-{index}", 75, peer_lost=True, kind="lost", **({"blames": name} if name else {}))
        clock.now += 1
    tick_after(gang, clock, 5, *gang.job.replicas)
    assert gang.cause["replica"] == cause
    is_frozen = cause != "worker-0"
    assert (gang.cause["message"] == FROZEN) is is_frozen
    assert gang.cause["exit_code"] == (None if is_frozen else 75)


def test_an_evaluator_may_go_on_for_30_seconds(clock):
    gang = running_gang({"worker": 1, "evaluator": 1})
    report(gang, "worker-0", "succeeded")
    assert tick_after(gang, clock, 10, "evaluator-0") == "running"
    assert tick_after(gang, clock, 20, "evaluator-0") == "running"
    assert tick_after(gang, clock, 0.5, "evaluator-0") == "stopping"
    assert gang.result == "succeeded"


def test_a_job_ends_when_its_evaluator_has(clock):
    gang = running_gang({"worker": 1, "evaluator": 1})
    report(gang, "worker-0", "succeeded")
    report(gang, "evaluator-0", "succeeded")
    assert (gang.phase, gang.result) == ("ended", "succeeded")


def test_an_evaluator_alone_does_not_end_a_job(clock):
    gang = running_gang({"worker": 1, "evaluator": 1})
    report(gang, "evaluator-0", "succeeded")
    assert gang.phase == "running"


@pytest.mark.parametrize(
    ("roles", "ended", "phase"),
    [
        ({"chief": 1, "worker": 1, "ps": 1}, ["chief-0"], "stopping"),
        ({"chief": 1, "worker": 1, "ps": 1}, ["worker-0"], "running"),
        ({"chief": 1, "worker": 1}, ["chief-0"], "running"),
        ({"chief": 1, "worker": 1}, ["chief-0", "worker-0"], "ended"),
        ({"worker": 2}, ["worker-1"], "running"),
    ],
)
def test_training_has_ended_when_its_trainers_have(clock, roles, ended, phase):
    gang = running_gang(roles)
    for replica in ended:
        report(gang, replica, "succeeded")
    assert gang.phase == phase


def test_a_jobs_time_out_counts_from_when_it_runs(clock):
    gang = make_gang(timeout_s=60)
    clock.now += 50
    all_report(gang, "ready")
    assert gang.phase == "running"
    gang.tick()
    assert tick_after(gang, clock, 60, *gang.job.replicas) == "running"
    assert tick_after(gang, clock, 0.5, *gang.job.replicas) == "stopping"
    message = "was still running when the job's time-out of 60 s had passed"
    assert gang.cause == {"replica": "worker-0", "message": message, "exit_code": None}
    assert gang.result == "timeout"


def test_a_job_that_is_out_of_time_has_not_succeeded_though_only_its_evaluator_is_left(clock):
    gang = running_gang({"worker": 1, "evaluator": 1}, timeout_s=60)
    gang.tick()
    clock.now += 10
    report(gang, "worker-0", "succeeded")
    assert tick_after(gang, clock, 50.5, "evaluator-0") == "stopping"
    assert gang.result == "timeout"


def test_a_chief_that_lost_a_peer_has_not_ended_the_training(clock):
    gang = running_gang({"chief": 1, "worker": 1, "ps": 1})
    fail(gang, "chief-0", 75, peer_lost=True)
    assert (gang.phase, gang.result) == ("running", None)


def test_a_job_that_has_ended_is_not_out_of_time(clock):
    gang = running_gang({"worker": 1}, timeout_s=60)
    gang.tick()
    clock.now += 100
    report(gang, "worker-0", "succeeded")
    assert (gang.phase, gang.result) == ("ended", "succeeded")


def test_a_start_has_its_whole_time(clock):
    gang = make_gang()
    report(gang, "worker-0", "meeting")
    assert tick_after(gang, clock, 60, "worker-0") == "forming"
    assert tick_after(gang, clock, 0.5, "worker-0") == "stopping"
    message = "did not start within 60 s (missing: worker-1, worker-2)"
    assert gang.cause == {"replica": "worker-1", "message": message, "hint": None, "exit_code": None}


@pytest.mark.parametrize(("workers", "more"), [(9, ""), (10, " and 1 more"), (12, " and 3 more")])
def test_of_many_who_are_missing_8_are_named(clock, workers, more):
    gang = make_gang({"worker": workers})
    report(gang, "worker-0", "meeting")
    tick_after(gang, clock, 61, "worker-0")
    names = ", ".join(f"worker-{index}" for index in range(1, 9))
    assert gang.cause["message"] == f"did not start within 60 s (missing: {names}{more})"


def test_what_a_start_waits_for_is_told_with_the_hint_of_the_first_and_is_not_endless(clock):
    gang = make_gang()
    report(gang, "worker-0", "ready", message="x", hint="not this one")
    report(gang, "worker-1", "meeting", message="y" * 600, hint="open the port")
    report(gang, "worker-2", "meeting", message="z", hint="nor this one")
    tick_after(gang, clock, 61, *gang.job.replicas)
    waits = ("worker-1 waits for " + "y" * 600)[:500]
    assert gang.cause["message"] == f"did not start within 60 s (missing: worker-1, worker-2); {waits}"
    assert (gang.cause["replica"], gang.cause["hint"]) == ("worker-1", "open the port")


def stall(clock: Clock, silent_s: tuple[float, ...], progress: tuple[dict, ...], limit_s: float = 60) -> Gang:
    gang = running_gang({"worker": len(silent_s)}, stall_timeout_s=limit_s)
    with gang.changed:
        for index, (seconds, told) in enumerate(zip(silent_s, progress, strict=True)):
            gang.take(f"worker-{index}", dict(gang.reports[f"worker-{index}"], silent_s=seconds, progress=told))
    gang.tick()
    return gang


@pytest.mark.parametrize(
    ("silent_s", "steps", "replica", "words"),
    [
        ((60, 60), (5, 5), "worker-0", "stands still, as all others do: no replica has put out anything for 60 s"),
        ((60, 59.5), (5, 5), None, ""),
        ((60, 62), (5, 5), "worker-1", "stands still, as all others do: no replica"),
        ((60, 62.5), (5, 5), "worker-1", "stopped first: no replica"),
        ((60, 60), (5, 4), "worker-1", "stopped first: no replica"),
        ((90, 60), (5, 4), "worker-1", "stopped first: no replica"),  # the step says more than the silence
        ((60, 61, 64), (5, 5, 5), "worker-2", "stopped first: no replica"),
        ((60, 63, 64), (5, 5, 5), "worker-2", "stands still, as all others do: no replica"),
    ],
)
def test_who_stopped_first_is_behind_or_has_been_silent_for_2_seconds_longer(clock, silent_s, steps, replica, words):
    gang = stall(clock, silent_s, tuple({"epoch": 1, "step": step} for step in steps))
    assert (gang.cause or {}).get("replica") == replica
    if replica:
        assert gang.cause["message"].startswith(words)
        assert (gang.cause["kind"], gang.cause["exit_code"]) == ("stalled", None)


def test_silence_goes_on_while_nothing_is_reported(clock):
    gang = stall(clock, (50, 50), ({}, {}))
    assert gang.phase == "running"
    clock.now += 9.5
    gang.tick()
    assert gang.phase == "running"
    clock.now += 0.5
    gang.tick()
    assert (gang.phase, gang.cause["kind"]) == ("stopping", "stalled")


def test_without_a_limit_or_a_running_trainer_nothing_stalls(clock):
    assert stall(clock, (900, 900), ({}, {}), limit_s=0).phase == "running"
    gang = running_gang({"worker": 2, "evaluator": 1}, stall_timeout_s=60)
    report(gang, "evaluator-0", "running", silent_s=900)
    report(gang, "worker-0", "running", silent_s=900)
    report(gang, "worker-1", "running", silent_s=10)
    assert gang.phase == "running"
    report(gang, "worker-1", "succeeded", silent_s=900)
    assert gang.cause["replica"] == "worker-0"


def test_a_report_that_tells_no_silence_begins_one(clock):
    gang = running_gang({"worker": 2}, stall_timeout_s=10)
    assert tick_after(gang, clock, 9.5) == "running"
    assert tick_after(gang, clock, 0.5) == "stopping"
    assert gang.cause["kind"] == "stalled"


def test_nothing_stalls_while_the_evaluator_alone_is_left(clock):
    gang = running_gang({"worker": 1, "evaluator": 1}, stall_timeout_s=10)
    report(gang, "worker-0", "succeeded", silent_s=20)
    assert tick_after(gang, clock, 20, "evaluator-0") == "running"


def test_a_stall_is_put_on_the_one_trainer_that_is_not_in_tensorflow(clock):
    gang = running_gang({"worker": 4}, stall_timeout_s=60)
    report(gang, "worker-3", "succeeded")
    with gang.changed:
        for index in range(3):
            gang.take(f"worker-{index}", dict(gang.reports[f"worker-{index}"], silent_s=60.0))
    gang.tick()
    assert (gang.phase, gang.cause["replica"]) == ("stopping", "worker-0")
    for index, stands in enumerate((IN_KERAS, IN_SCRIPT, IN_KERAS)):
        report(gang, f"worker-{index}", "stopped", stands=stands, exit_code=143)
    assert gang.phase == "ended"
    assert (gang.cause["replica"], gang.cause["kind"], gang.cause["exit_code"]) == ("worker-1", "stalled", None)
    assert gang.cause["message"].startswith("stopped first, in t.py, line 33, in on_epoch_end: no replica")


@pytest.mark.parametrize(
    ("stands", "replica"),
    [
        ((IN_KERAS, IN_SCRIPT, IN_SCRIPT), "worker-0"),  # two are in their own code
        ((IN_KERAS, [], []), "worker-0"),  # two are mute
        ((IN_KERAS, IN_SCRIPT, []), "worker-2"),  # the mute one says most
    ],
)
def test_a_stall_stays_where_it_was_if_more_than_one_may_have_stopped(clock, stands, replica):
    gang = stall(clock, (60, 60, 60), ({}, {}, {}))
    for index, stack in enumerate(stands):
        report(gang, f"worker-{index}", "stopped", stands=stack)
    assert (gang.phase, gang.cause["replica"]) == ("ended", replica)
    if replica == "worker-0":
        assert gang.cause["stands"] == IN_KERAS


def test_one_trainer_alone_that_stalls_and_is_mute_is_still_the_one(clock):
    gang = stall(clock, (60,), ({},))
    report(gang, "worker-0", "stopped")
    assert (gang.phase, gang.cause["replica"]) == ("ended", "worker-0")
    assert gang.cause["message"].startswith("stopped first: ")


def test_a_gang_that_stops_waits_18_seconds_for_scripts_and_15_for_silent_stores(clock):
    gang = running_gang()
    fail(gang, "worker-0")
    assert tick_after(gang, clock, 18, "worker-1", "worker-2") == "stopping"
    assert tick_after(gang, clock, 0.5, "worker-1", "worker-2") == "ended"
    gang = running_gang({"worker": 2})
    fail(gang, "worker-0")
    report(gang, "worker-1", "stopped", storing="s3://bucket/j/")
    assert tick_after(gang, clock, 15) == "stopping"
    assert tick_after(gang, clock, 0.5) == "ended"


def test_a_report_counts_one_up_and_a_lost_one_too(clock):
    gang = running_gang()
    assert [gang.reports[r]["revision"] for r in gang.job.replicas] == [2, 2, 2]
    report(gang, "worker-1", "running")
    gang.mark_lost("worker-1")
    assert [gang.reports[r]["revision"] for r in gang.job.replicas] == [2, 4, 2]
    gang.mark_lost("worker-2")
    assert gang.reports["worker-2"]["address"] == "worker-2:2222"


def test_one_that_never_reported_can_be_marked_lost(clock):
    gang = make_gang()
    gang.mark_lost("worker-1")
    lost = gang.reports["worker-1"]
    assert (lost["replica"], lost["since"], lost["finished"], lost["revision"]) == ("worker-1", clock.time(), clock.time(), 1)  # fmt: skip


def test_versions_are_no_former_coordinators_and_each_move_is_another(clock):
    gang = make_gang()
    first = gang.version
    assert first == 1_001_000_000
    clock.now += 1
    assert make_gang().version == first + 1000
    all_report(gang, "starting")
    assert (gang.phase, gang.version) == ("meeting", first + 1)
    gang.release()
    gang.keep()
    assert (gang.version, gang.released, gang.kept) == (first + 3, True, True)


def test_what_the_gang_tells_of_itself(clock):
    gang = make_gang(restarts=2)
    began = clock.time()
    assert gang.order() == {"version": 1_001_000_000, "generation": 0, "phase": "forming", "result": None,
                            "released": False, "kept": False, "stalled": False}  # fmt: skip
    clock.now += 1
    all_report(gang, "starting")
    clock.now += 1
    all_report(gang, "ready")
    assert gang.snapshot() == {**gang.order(), "cause": None, "replicas": gang.reports, "restarts": [], "behind": {},
                               "restarts_allowed": 2,
                               "times": {"began": began, "forming": began, "meeting": began + 1, "running": began + 2}}  # fmt: skip
    assert gang.phase_since == clock.now


def test_a_restart_is_recorded_and_all_is_forgotten_but_the_others(clock):
    gang = running_gang(restarts=3, restart_on=["failed"])
    report(gang, "worker-0", "running", progress={"epoch": 1, "step": 1})
    gang.hung_up["worker-2"] = clock.now
    fail(gang, "worker-1", 3, message="ended with exit code 3")
    assert (gang.phase, gang.result, gang.cause, gang.restarting["replica"]) == ("stopping", None, None, "worker-1")
    clock.now += 2
    stop_all(gang)
    assert gang.restarts == [{"replica": "worker-1", "message": "ended with exit code 3", "kind": None, "generation": 1,
                              "time": clock.time()}]  # fmt: skip
    assert (gang.reports, gang.seen, gang.hung_up, gang.trail.places) == ({}, {}, {}, {})
    assert (gang.restarting, gang.formed_at, gang.times["forming"]) == (None, clock.now, clock.time())
    assert tick_after(gang, clock, 60) == "forming"
    assert tick_after(gang, clock, 0.5) == "stopping"  # the start's time begins anew, and ends


def test_a_stalled_restart_is_said_to_be_one(clock):
    gang = running_gang({"worker": 2}, stall_timeout_s=60, restarts=1)
    with gang.changed:
        for replica in gang.job.replicas:
            gang.take(replica, dict(gang.reports[replica], silent_s=61.0))
    gang.tick()
    assert (gang.phase, gang.result, gang.order()["stalled"]) == ("stopping", None, True)
    report(gang, "worker-0", "stopped", stands=IN_KERAS)
    report(gang, "worker-1", "stopped", stands=IN_SCRIPT)
    assert (gang.phase, gang.order()["stalled"]) == ("forming", False)
    assert gang.restarts[0]["replica"] == "worker-1"


@pytest.mark.parametrize(
    ("restarts", "generation", "met", "phase", "now"),
    [
        (3, 0, -1, "forming", 0),
        (3, 0, 0, "forming", 1),  # it has met the others already, of a gang that this coordinator does not know
        (3, 1, 0, "forming", 1),
        (3, 1, 1, "forming", 2),
        (3, 2, 2, "forming", 3),
        (3, 3, 3, "stopping", 0),
        (1, 1, -1, "forming", 1),
        (0, 1, -1, "stopping", 0),
    ],
)
def test_a_new_coordinator_learns_the_generation(clock, restarts, generation, met, phase, now):
    gang = make_gang(restarts=restarts)
    report(gang, "worker-1", "starting", generation=generation, met=met)
    assert (gang.phase, gang.generation) == (phase, now)
    assert gang.result == ("failed" if phase == "stopping" else None)


def test_a_gang_that_met_is_not_told_another_generation(clock):
    gang = running_gang(restarts=3)
    report(gang, "worker-1", "running", generation=2, met=2)
    assert (gang.phase, gang.generation, gang.reports["worker-1"]["generation"]) == ("running", 0, 0)


def test_another_life_may_begin_while_the_gang_forms_and_is_no_loss_once_a_replica_has_ended(clock):
    gang = make_gang(restarts=1)
    report(gang, "worker-1", "starting")
    report(gang, "worker-1", "meeting", life="another")
    assert (gang.phase, gang.reports["worker-1"]["life"]) == ("forming", "another")
    assert gang.reports["worker-1"]["revision"] == 2  # it was not marked lost meanwhile
    gang = running_gang(restarts=1)
    report(gang, "worker-1", "succeeded")
    report(gang, "worker-1", "starting", life="another")
    assert (gang.phase, gang.reports["worker-1"]["state"]) == ("running", "succeeded")


def test_the_first_report_of_a_replica_is_no_other_life(clock):
    gang = make_gang(restarts=1)
    report(gang, "worker-0", "starting")
    assert gang.seen == {"worker-0": clock.now}
    assert gang.reports["worker-0"]["revision"] == 1


@pytest.mark.parametrize(
    ("replica", "state", "is_kept"),
    [
        ("worker-0", "running", True),
        ("worker-0", "succeeded", True),
        ("worker-0", "ready", False),
        ("chief-0", "running", True),
        ("ps-0", "running", False),
        ("evaluator-0", "running", False),
    ],
)
def test_the_places_of_trainers_that_train_are_kept(clock, replica, state, is_kept):
    gang = make_gang({"chief": 1, "worker": 1, "ps": 1, "evaluator": 1})
    report(gang, replica, state, progress={"epoch": 1, "step": 2, "steps": 9})
    assert (gang.trail.told_at == {replica: clock.now}) is is_kept
    report(gang, replica, state, progress=None)


@pytest.mark.parametrize(
    ("ran_s", "late_s", "is_behind"),
    [(0, 10, False), (0, 10.5, True), (200, 10, False), (400, 20, False), (400, 20.5, True), (1200, 60, False),
     (1200, 60.5, True), (9999, 60.5, True)],
)  # fmt: skip
def test_how_late_a_trainer_may_be_grows_with_the_time_it_ran(clock, ran_s, late_s, is_behind):
    gang = running_gang({"worker": 2})
    gang.trail.late = lambda: {"worker-0": 0.0, "worker-1": late_s}
    tick_after(gang, clock, ran_s, *gang.job.replicas)
    assert gang.behind == ({"worker-1": late_s} if is_behind else {})
    report(gang, "worker-1", "succeeded")
    gang.tick()
    assert gang.behind == {}


def test_nobody_is_behind_before_it_runs_and_seconds_are_told_to_a_tenth(clock):
    gang = make_gang({"worker": 2})
    gang.trail.late = lambda: {"worker-1": 99.123}
    all_report(gang, "running")
    assert (gang.phase, gang.find_behind()) == ("meeting", {})
    all_report(gang, "ready")
    all_report(gang, "running")
    assert gang.find_behind() == {"worker-1": 99.1}


def test_the_gang_in_one_line_sums_what_running_replicas_use(clock):
    gang = running_gang({"worker": 4}, restarts=1)
    gpu = {"use": 50, "memory": 7}
    report(gang, "worker-0", "running", usage={"cpu": 1.004, "memory": 5, "gpus": [gpu, {"use": None, "memory": None}]})
    report(gang, "worker-1", "running", usage={"cpu": 0.25, "memory": 6, "gpus": [{"use": 20, "memory": 3}]},
           progress={"epoch": 2})  # fmt: skip
    report(gang, "worker-2", "running")
    report(gang, "worker-3", "succeeded", usage={"cpu": 9, "memory": 9, "gpus": [gpu]}, progress={"epoch": 9})
    brief = gang.brief()
    assert brief == {**gang.order(), "times": gang.times, "states": {"running": 3, "succeeded": 1},
                     "usage": {"cpu": 1.25, "memory": 11, "gpus": {"count": 3, "use": 35, "memory": 10}},
                     "progress": {"epoch": 2}, "behind": {}, "restarts": 0}  # fmt: skip
    gang = running_gang()
    assert (gang.brief()["usage"], gang.brief()["progress"]) == ({}, {})
    report(gang, "worker-0", "running", usage={"cpu": 1, "memory": 5, "gpus": []})
    assert gang.brief()["usage"]["gpus"] == {"count": 0, "use": None, "memory": None}


def test_who_is_interrupted_learns_what_was_before_and_the_rest_is_told_to_stop(clock):
    gang = running_gang()
    version = gang.version
    before = gang.interrupt()
    assert (before["phase"], before["version"], before["result"]) == ("running", version, None)
    assert gang.order()["phase"] == "stopping"
    cause = {"replica": None, "message": "was interrupted", "kind": "interrupted", "exit_code": None}
    assert (gang.result, gang.cause, gang.version) == ("interrupted", cause, version + 1)
    assert gang.interrupt()["version"] == gang.version == version + 1


def test_a_second_failure_changes_nothing_about_the_end(clock):
    gang = running_gang()
    fail(gang, "worker-0", 1, message="first")
    version = gang.version
    fail(gang, "worker-1", 2, message="second")
    assert (gang.cause["message"], gang.version) == ("first", version)


def test_an_order_that_is_new_is_given_at_once(clock):
    gang = make_gang()
    assert gang.wait(gang.version - 1, 60, alive=lambda: pytest.fail("it waited"))["version"] == gang.version
    assert gang.wait(gang.version, 0, alive=lambda: pytest.fail("it waited"))["version"] == gang.version


def test_who_waits_for_an_order_is_heard_of_until_the_connection_closes(clock):
    gang = running_gang()
    gang.hung_up["worker-1"] = 1.0
    alive = [True, False]

    def is_alive() -> bool:
        clock.now += 1
        gang.changed.wait = lambda seconds: waits.append(seconds)
        return alive.pop(0)

    waits: list[float] = []
    order = gang.wait(gang.version, 60, is_alive, "worker-1")
    assert order == gang.order()
    assert waits == [1.0]
    assert gang.seen["worker-1"] == clock.now - 1
    assert gang.hung_up == {"worker-1": clock.now}


def test_who_waits_without_a_name_is_no_replica(clock):
    gang = running_gang()
    seen = dict(gang.seen)
    alive = [True, False]
    gang.changed.wait = lambda seconds: None
    gang.wait(gang.version, 60, lambda: alive.pop(0))
    assert (gang.seen, gang.hung_up, alive) == (seen, {}, [])


def test_who_asks_for_an_order_has_come_back(clock):
    gang = running_gang()
    gang.hung_up = {"worker-1": clock.now, "worker-2": clock.now}
    gang.wait(gang.version - 1, 60, lambda: True, "worker-1")
    assert gang.hung_up == {"worker-2": clock.now}


def test_a_wait_ends_with_its_time_and_the_last_is_as_short_as_is_left(clock):
    gang = running_gang()
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        clock.now += seconds

    gang.changed.wait = wait
    gang.wait(gang.version, 2.25, lambda: True, "worker-1")
    assert waits == [1.0, 1.0, 0.25]
    assert gang.hung_up == {}


def test_a_wait_ends_with_the_next_order():
    gang, orders, waits = running_gang(), [], threading.Event()
    wait = gang.changed.wait

    def wait_for_a_word(seconds: float) -> None:
        waits.set()
        wait(60)

    gang.changed.wait = wait_for_a_word
    waiter = threading.Thread(target=lambda: orders.append(gang.wait(gang.version, 60, lambda: True)), daemon=True)
    waiter.start()
    assert waits.wait(30)
    gang.interrupt()
    waiter.join(20)
    assert [order["phase"] for order in orders] == ["stopping"]


@pytest.mark.parametrize(
    ("replica", "is_one"),
    [("worker-0", True), ("worker-10", True), ("chief-0", True), ("ps-0", False), ("evaluator-0", False)],
)
def test_workers_and_the_chief_train(replica, is_one):
    assert is_trainer(replica) is is_one


def test_a_place_is_the_epoch_and_its_step():
    assert step_of({"progress": {"epoch": 3, "step": 4}}) == (3, 4)
    assert step_of({"progress": {"epoch": 3}}) == (3, 0)
    assert step_of({"progress": {"step": 4}}) == (0, 4)
    assert step_of({"progress": None}) == step_of({}) == (0, 0)


def test_a_stack_is_the_last_one_and_ends_with_its_lines():
    two = b'Current thread 1:\n  File "a", line 1 in x\nmore\nCurrent thread 2:\n  File "b", line 2 in y\nend\n  File "c", line 3 in z\n'
    assert stands_at(two) == ['File "b", line 2 in y']
    assert place_in(stands_at(two)) == "b, line 2, in y"
    assert place_in(["something else", "below"]) == "something else"
    assert place_in(IN_SCRIPT) == "t.py, line 33, in on_epoch_end"


def test_a_job_has_its_own_words_and_no_others():
    job = make_gang({"chief": 1, "worker": 2}, timeout_s=5).job
    assert (job.replicas, job.coordinator, job.timeout_s) == (["chief-0", "worker-0", "worker-1"], "chief-0", 5)
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = job.nothing_such


@pytest.mark.parametrize(
    ("returncode", "tail", "ended"), [(0, ABORTED, (0, "ended with exit code 0")), (-1, b"", (129, "was killed by SIGHUP"))]
)  # fmt: skip
def test_the_ends_at_the_edge_are_classified(returncode, tail, ended):
    assert classify(returncode, tail) == ended


def test_a_lost_peer_is_told_by_both_of_its_words():
    words, error = ABORTED.splitlines(keepends=True)[1:3]
    assert classify(1, words)[0] == classify(1, error)[0] == 1
    assert classify(1, words + error)[0] == 75


def test_a_gang_that_starts_again_waits_for_nothing_to_be_stored():
    """A replica names the bucket as soon as its script has ended, and stores once it is certain to start none again."""
    gang = running_gang(restarts=1)
    fail(gang, "worker-1", kind="lost", storing="s3://bucket/j/")
    for replica in ("worker-0", "worker-2"):
        report(gang, replica, "stopped", storing="s3://bucket/j/")
    assert (gang.phase, gang.generation) == ("forming", 1)


def test_a_gang_that_ends_for_good_waits_until_all_is_stored():
    gang = running_gang(restarts=1)
    for replica in gang.job.replicas:
        report(gang, replica, "succeeded", storing="s3://bucket/j/")
    assert (gang.phase, gang.result) == ("stopping", "succeeded")
    for replica in gang.job.replicas:
        report(gang, replica, "succeeded", storing="")
    assert gang.phase == "ended"
