"""Pods that are lost while they run, and pods that are gone when their logs are asked for."""

from __future__ import annotations

import json

import pytest

SLEEPS = "import time\nprint('sleeping', flush=True)\ntime.sleep(600)\n"


def test_a_replica_that_takes_more_memory_than_its_limit_is_called_out_of_memory(cluster_place):
    script = cluster_place.script("""
        import os, time
        print("allocating", flush=True)
        if os.environ["TFSPAWNER_INDEX"] == "1":
            held = [bytearray(os.urandom(1024)) * 1024 for _ in range(512)]
        time.sleep(600)
    """)
    done = cluster_place.run(script, "--memory", "64Mi", "--name", "greedy")
    assert done.code == 125, done.err
    assert "error: worker-1 was killed: out of memory (limit 64Mi)" in done.err
    assert "--memory" in done.err
    assert cluster_place.leftovers() == []
    assert (cluster_place.runs / "greedy/logs/worker-0.log").read_text() == "allocating\n"
    report = json.loads((cluster_place.runs / "greedy/report.json").read_text())
    assert (report["result"], report["cause"]["replica"]) == ("failed", "worker-1")


@pytest.mark.parametrize("replica", ["worker-0", "worker-1"])
def test_a_pod_deleted_while_it_runs_is_named_as_lost_and_ends_the_job(cluster_place, replica):
    running = cluster_place.start_run(cluster_place.script(SLEEPS), "--name", "robbed")
    running.prints("worker-0 | sleeping", "worker-1 | sleeping")
    (pod,) = [pod for pod in cluster_place.pods("robbed") if f"-{replica}-" in pod]
    cluster_place.kubectl("-n", cluster_place.namespace, "delete", "pod", pod, "--wait=false")
    done = running.done()
    assert done.code == 125, done.err
    error = done.err[done.err.index("error: ") :].splitlines()[0]
    assert error.startswith(f"error: {replica} "), done.err
    assert "deleted" in error or "lost" in error, done.err
    assert cluster_place.leftovers() == []
    for other in ("worker-0", "worker-1"):
        assert (cluster_place.runs / f"robbed/logs/{other}.log").read_text() == "sleeping\n"


def test_a_job_deleted_by_kubectl_while_it_runs_ends_the_call(cluster_place):
    running = cluster_place.start_run(cluster_place.script(SLEEPS), "--name", "robbed")
    running.prints("worker-0 | sleeping", "worker-1 | sleeping")
    cluster_place.kubectl("-n", cluster_place.namespace, "delete", "job", "robbed-worker", "--wait=false")
    done = running.done()
    assert done.code == 125, done.err
    assert "deleted" in done.err or "lost" in done.err
    assert "Traceback" not in done.err
    assert cluster_place.leftovers() == []


def test_logs_of_a_job_whose_pods_are_gone_are_whole_in_the_runs_record_which_logs_names(cluster_place):
    script = cluster_place.script("""
        import os
        for number in range(1000):
            print("line", number, "of", os.environ["TFSPAWNER_INDEX"])
    """)
    done = cluster_place.run(script, "--name", "kept", "--keep")
    assert done.code == 0, done.err
    before = cluster_place.of("logs", "kept")
    cluster_place.kubectl("-n", cluster_place.namespace, "delete", "pods", "--all")
    after = cluster_place.of("logs", "kept")
    assert len(before.out.splitlines()) == 2000
    assert (after.code, after.out) == (3, "")
    assert "the pods of job kept are gone" in after.err
    assert "runs/kept/logs" in after.err
    for index in (0, 1):
        log = (cluster_place.runs / f"kept/logs/worker-{index}.log").read_text()
        assert log == "".join(f"line {number} of {index}\n" for number in range(1000))


def test_logs_of_an_ended_pod_come_from_the_kubelet_where_no_record_is(cluster_place):
    script = cluster_place.script("print('kept by the kubelet')")
    name = cluster_place.run(script, "--detach", "-w", "1", "--hold", "0").out.strip()
    namespace = cluster_place.namespace
    cluster_place.kubectl("-n", namespace, "wait", "--for=condition=complete", f"job/{name}-worker", "--timeout=60s")
    done = cluster_place.of("logs", name)
    assert (done.code, done.out) == (0, "worker-0 | kept by the kubelet\n"), done.err
    assert cluster_place.of("wait", name).code == 0
    (entry,) = cluster_place.of("list", "--output", "json").json
    assert entry["state"] == "succeeded"


def test_files_of_a_job_whose_hold_time_is_over_are_told_as_gone(cluster_place):
    script = cluster_place.script("import os\nopen(os.environ['TFSPAWNER_OUTPUT'] + '/model', 'w').write('lost')")
    name = cluster_place.run(script, "--detach", "-w", "1", "--hold", "0").out.strip()
    namespace = cluster_place.namespace
    cluster_place.kubectl("-n", namespace, "wait", "--for=condition=complete", f"job/{name}-worker", "--timeout=60s")
    done = cluster_place.of("fetch", name)
    assert done.code == 5, done.err
    assert "could not be collected" in done.err
    assert "--hold" in done.err


def end_and_lose_pods(place, name: str, condition: str, which: tuple[str, ...] = ()) -> None:
    """Waits for the Job's end, and takes its pods away by force, as where their node is lost: all, or those that are named."""
    place.kubectl("-n", place.namespace, "wait", f"--for=condition={condition}", f"job/{name}-worker", "--timeout=120s")
    pods = [pod for pod in place.pods(name) if not which or any(f"{name}-{replica}-" in pod for replica in which)]
    place.kubectl("-n", place.namespace, "delete", "pod", "--force", "--grace-period=0", *pods)


@pytest.mark.parametrize("which", [(), ("worker-0",), ("worker-1",)], ids=["all", "the coordinator's", "another"])
def test_a_job_that_succeeded_and_whose_pods_are_gone_has_succeeded(cluster_place, which):
    place = cluster_place
    name = place.run(place.script("print('hi')"), "--detach", "-w", "2", "--hold", "0").out.strip()
    end_and_lose_pods(place, name, "complete", which)
    for verb in ("wait", "attach"):
        done = place.of(verb, name, timeout_s=60)
        assert done.code == 0, done.err
        told = f"the pods of {which[0]} are gone" if which else "its pods are gone"
        assert told in done.out + done.err
    status = place.of("status", name, "-o", "json").json
    assert status["result"] == "succeeded"
    fetched = place.of("fetch", name, timeout_s=60)
    assert fetched.code == 5, fetched.err
    assert "could not be collected" in fetched.err


def test_a_job_that_failed_and_whose_pods_are_gone_has_failed_and_why_is_told_as_far_as_known(cluster_place):
    place = cluster_place
    name = place.run(place.script("raise SystemExit(3)"), "--detach", "-w", "2", "--hold", "0").out.strip()
    end_and_lose_pods(place, name, "failed")
    for verb in ("wait", "attach"):
        done = place.of(verb, name, timeout_s=60)
        assert done.code == 125, done.err
        assert "error: the workers' Job " in done.err
        assert "its pods are gone" in done.err
    assert place.of("status", name, "-o", "json").json["result"] == "failed"
    assert place.of("fetch", name, timeout_s=60).code in (5, 125)


def test_a_wait_that_has_begun_ends_with_the_jobs_own_word_when_its_pods_go_by_force(cluster_place, gate_code):
    """What the Job says of its end counts more than that its pods are lost after it."""
    place = cluster_place
    script = place.script(gate_code)
    name = place.run(script, "--detach", "-w", "2", "--hold", "0", "--env", f"GATE={place.gate}").out.strip()
    followed = place.start("logs", "--on", "kubernetes", "-f", name)
    followed.prints("worker-0 | at the gate", "worker-1 | at the gate")
    waiting = place.start("wait", "--on", "kubernetes", name)
    place.open_gate(name)
    end_and_lose_pods(place, name, "complete")
    for running in (waiting, followed):
        assert running.done(60).code == 0
