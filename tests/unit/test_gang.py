"""What the coordinator decides from its replicas' reports."""

import subprocess
import sys
import time

import pytest

from tfspawner.agent import FROZEN, LOST, PEER_LOST_MESSAGE, Gang, Job, classify, stands_at

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
