"""Finalizers that others put on a job's objects: delete waits for them, says for which, and ends."""

from __future__ import annotations

import pytest
from strangers import HOLD, get, set_finalizers

from tfspawner.errors import ClusterError
from tfspawner.jobs.job import attach


def name_of(place, kind: str) -> str:
    """The name of the job's one object of that kind."""
    if kind == "pod":
        (pod,) = place.pods("held")
        return pod
    return "held-worker" if kind == "job" else "held"


@pytest.mark.parametrize("kind", ["job", "pod", "secret", "configmap", "service", "networkpolicy"])
def test_a_delete_names_the_finalizer_that_it_waits_for_and_ends_once_that_is_gone(launched, wait_until, kind):
    place, name = launched, name_of(launched, kind)
    set_finalizers(place, kind, name, *get(place, kind, name)["metadata"].get("finalizers", []), HOLD)
    deleting = place.start("delete", "--on", "kubernetes", "held")
    deleting.prints(f" {name} waits for the finalizer {HOLD}", stream="stderr", timeout_s=60)
    wait_until(lambda: place.pods("held") == ([name] if kind == "pod" else []), "the end of its other pods")
    set_finalizers(place, kind, name)
    done = deleting.done()
    assert done.code == 0, done.err
    assert done.out.startswith("held is deleted")
    assert place.leftovers() == []


@pytest.mark.parametrize("kind", ["job", "pod", "secret"])
def test_a_delete_that_waits_in_vain_says_what_is_left_and_what_for(launched, kind):
    place, name, notes = launched, name_of(launched, kind), []
    set_finalizers(place, kind, name, *get(place, kind, name)["metadata"].get("finalizers", []), HOLD)
    job = attach("held", on="kubernetes", kubeconfig=place.folder / "kubeconfig")
    with pytest.raises(ClusterError) as raised:
        job.delete(timeout_s=15, note=notes.append)
    (note,) = notes
    assert f"{name} waits for the finalizer {HOLD}" in note
    assert f"{name} waits for the finalizer {HOLD}" in raised.value.message
    assert "after 15 s" in raised.value.message
    assert f"kubectl get {kind} -n {place.namespace} {name}" in raised.value.hint
    if kind == "job":
        assert "then: tf-spawner delete held" in raised.value.hint
    else:
        assert "all else of the job is gone" in raised.value.hint
    set_finalizers(place, kind, name)
