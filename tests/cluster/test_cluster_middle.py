"""Something between launcher and API server answers in its place: it tells nothing about what is there."""

from __future__ import annotations

from between import between

IN_PLACE = ("302", "empty", "page", "{}", "404")


def test_an_answer_in_the_api_servers_place_neither_ends_a_run_nor_hides_its_job(cluster_place, gate_code):
    place, fault = cluster_place, ""

    def answered(method: str, path: str) -> str | None:
        return fault if fault and "/proxy/" not in path else None

    script = place.script(gate_code)
    with between(place.folder / "kubeconfig", answered):
        running = place.start_run(script, "--name", "held", "-w", "1", "--env", f"GATE={place.gate}")
        running.prints("at the gate")
        for fault in IN_PLACE:
            for words in (("list",), ("status", "held"), ("delete", "held")):
                done = place.of(*words)
                assert (done.code, done.out) == (3, ""), (fault, done)
                assert "something between, such as a proxy's login, answers in its place" in done.err, (fault, done.err)
        fault = ""
        place.open_gate("held")
        done = running.done()
    assert done.code == 0, done.err
    assert place.leftovers() == []


def test_a_job_whose_annotations_a_webhook_takes_away_is_refused_and_nothing_is_left(cluster_place, wait_until):
    def strip(method: str, path: str) -> str | None:
        return "strip" if method == "POST" and path.partition("?")[0].endswith("/jobs") else None

    with between(cluster_place.folder / "kubeconfig", strip):
        done = cluster_place.run(cluster_place.script("print('hi')"), "-w", "1")
    assert done.code == 3, done.err
    assert "mutating webhooks" in done.err
    wait_until(lambda: cluster_place.leftovers() == [], "the end of what was made")


def test_a_job_whose_annotations_go_while_it_runs_is_removed_all_the_same(cluster_place, gate_code):
    place = cluster_place
    running = place.start_run(place.script(gate_code), "--name", "bare", "-w", "1", "--env", f"GATE={place.gate}")
    running.prints("at the gate")
    place.kubectl("-n", place.namespace, "annotate", "job", "bare-worker", "tf-spawner/id-")
    place.open_gate("bare")
    done = running.done()
    assert done.code == 0, done.err
    assert place.leftovers() == []


def test_watches_that_end_at_once_are_begun_again_with_pauses_and_the_run_goes_on(cluster_place):
    """Each watch is answered by nothing at all: what is there is listed again."""
    with between(cluster_place.folder / "kubeconfig", lambda _, path: "empty" if "watch=1" in path else None) as server:
        done = cluster_place.run(cluster_place.script("import time; time.sleep(5)"), "-w", "1")
    assert done.code == 0, done.err
    assert sum("watch=1" in request for request in server.requests) < 30 * done.seconds
