"""The API server is away for a while. Alone, since every other test needs it."""

from __future__ import annotations

import time

from counted import HELD, assert_complete
from strangers import HOLD, set_finalizers


def test_a_run_goes_on_though_the_api_server_is_away_for_30_s(cluster_place, api_server):
    running = cluster_place.start_run(cluster_place.script(HELD), "-w", "2", "--name", "away")
    running.prints("worker-0 | ready", "worker-1 | ready")
    api_server.stop()
    time.sleep(30)  # the fault itself
    assert running.process.poll() is None, "it gave up"
    api_server.start()
    cluster_place.open_gate("away")
    done = running.done()
    assert done.code == 0, done.err
    assert_complete(cluster_place, "away", 2, first="ready\n")
    api_server.run_a_job_again()
    after = cluster_place.run(cluster_place.script("print('the cluster works again')"), "-w", "1")
    assert after.code == 0, after.err


def test_an_api_server_that_is_away_does_not_say_that_a_job_is_gone(launched, api_server):
    place, (name,) = launched, launched.pods("held")
    set_finalizers(place, "pod", name, HOLD)
    deleting = place.start("delete", "--on", "kubernetes", "held")
    deleting.prints(f"{name} waits for the finalizer {HOLD}", stream="stderr", timeout_s=60)
    api_server.stop()
    time.sleep(25)  # the fault itself
    assert deleting.process.poll() is None, deleting.done()
    api_server.start()
    set_finalizers(place, "pod", name)
    done = deleting.done()
    assert done.code == 0, done.err
    assert place.leftovers() == []
