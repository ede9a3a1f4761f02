"""A job that is deleted and launched again under its name is another job, to whoever was attached to the former."""

from __future__ import annotations

import pytest

from tfspawner.errors import NotFoundError
from tfspawner.jobs.job import attach


@pytest.fixture
def launch(place, gate_code):
    """A function that launches a job called again, which waits at its gate, and returns."""
    script = place.script(gate_code)

    def run() -> None:
        done = place.run(script, "--name", "again", "-w", "1", "--detach", "--env", f"GATE={place.gate}-closed")
        assert done.code == 0, done.err

    return run


@pytest.fixture
def attached(place, monkeypatch):
    """A function that attaches to it, as a program does that goes on meanwhile."""
    monkeypatch.setenv("XDG_STATE_HOME", place.env["XDG_STATE_HOME"])
    target = {"on": place.on} | ({"kubeconfig": place.folder / "kubeconfig"} if place.on == "kubernetes" else {})
    return lambda: attach("again", **target)


def test_who_was_attached_to_the_former_job_reaches_and_deletes_no_later_one(place, launch, attached, wait_until):
    launch()
    former = attached()
    wait_until(lambda: b"at the gate" in former.logs().get("worker-0", b""), "the former job's output")
    following = place.start("logs", "-f", *place.target, "again")
    following.prints("worker-0 | at the gate")
    assert place.of("delete", "again").code == 0
    launch()
    later = attached()
    wait_until(lambda: b"at the gate" in later.logs().get("worker-0", b""), "the later job's output")
    done = following.done()
    assert done.code in (3, 125), done.err
    assert "Traceback" not in done.err
    assert done.out.count("at the gate") == 1, "the later job's output is another's"
    with pytest.raises(NotFoundError, match="another has its name now"):
        former.backend.find("again")
    former.delete()
    assert place.jobs() == ["again"]
    assert later.status().result is None


def test_a_run_whose_job_was_deleted_brings_no_file_of_the_next_one_of_its_name(place, gate_code):
    waiting = ("-w", "1", "--env", f"GATE={place.gate}-closed")
    former = place.start_run(place.script(gate_code), "--name", "again", *waiting)
    former.prints("worker-0 | at the gate")
    assert place.of("delete", "again").code == 0
    writes = "import os, time; open(os.environ['TFSPAWNER_OUTPUT'] + '/of-the-next', 'w').write('x'); time.sleep(600)"
    later = place.run(place.script(writes, "later.py"), "--name", "again", "-w", "1", "--detach")
    assert later.code == 0, later.err
    done = former.done()
    assert done.code in (3, 125), done.err
    assert not list(place.runs.rglob("of-the-next")), done.err
    assert place.jobs() == ["again"]
