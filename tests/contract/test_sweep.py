"""A sweep whose launcher is killed, goes on with more points, fails in one, and is interrupted; each test looks at one thing."""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import pytest

SCRIPT = """
import argparse, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("--base", type=float)
parser.add_argument("--rate", type=float)
given = parser.parse_args()
if given.rate > 100:
    sys.exit("it diverges")
{gate}
for epoch in (1, 2):
    print(f"Epoch {{epoch}}/2")
    print(f"22/22 - 1s - loss: {{given.base + given.rate / epoch:.4f}} - accuracy: {{1 / (1 + given.rate):.4f}}")
open(os.environ["TFSPAWNER_OUTPUT"] + "/model", "w").write(str(given.rate))
"""


@pytest.fixture(scope="module")
def life(shared_place, gate_code, wait_until):
    """What came of each call."""
    place = shared_place
    script = place.script(SCRIPT.format(gate=gate_code))
    life = SimpleNamespace(place=place)

    def words(grid: str, *more: str):
        return (script, "-w", "1", "--name", "swp", "--env", f"GATE={place.gate}", "--parallel", "3", "--grid", f"rate={grid}",
                *more, "--", "--base", "1")  # fmt: skip

    killed = place.start_run(*words("1,2"))
    killed.prints("swp-1 (rate=1): running", "swp-2 (rate=2): running", stream="stderr")
    wait_until(lambda: all("at the gate" in at_gate(place, job) for job in ("swp-1", "swp-2")), "both in the script")
    life.at_once = place.jobs()
    killed.send(signal.SIGKILL)
    life.killed = killed.done()
    life.left = place.jobs()
    life.tagged = place.of("list", "-t", "swp", "-o", "json").json
    life.ids = ids(place)

    resumed = place.start_run(*words("1,2,1e3"))
    resumed.prints("swp-1: its job is there", "swp-2: its job is there", "swp-3 (rate=1e3): failed", stream="stderr")
    life.second_launcher = place.run(*words("1,2,1e3"))
    for job in ("swp-1", "swp-2"):
        place.open_gate(job)
    life.resumed = resumed.done()
    life.ids_after = ids(place)
    life.leftovers = place.leftovers()

    life.again = place.run(*words("1,2,1e3", "-o", "json"))
    life.ids_again = ids(place)
    if place.on == "local":
        (place.folder / "gate").unlink()
    interrupted = place.start_run(*words("4,2,1"))
    interrupted.prints("swp-4 (rate=4): running", stream="stderr")
    interrupted.send(signal.SIGINT)
    life.interrupted = interrupted.done()
    life.leftovers_of_interrupt = place.leftovers()
    return life


def at_gate(place, job: str) -> str:
    return place.of("logs", job).out


def ids(place) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in place.runs.glob("swp-*/.job-id")}


def test_points_run_at_once_as_jobs_of_their_own_with_the_sweeps_tag(life):
    assert sorted(life.at_once) == ["swp-1", "swp-2"]
    assert sorted(entry["job"] for entry in life.tagged) == ["swp-1", "swp-2"]


def test_where_the_launcher_is_killed_the_next_one_takes_over_what_still_runs(life):
    assert life.killed.code == -signal.SIGKILL
    assert sorted(life.left) == ["swp-1", "swp-2"]
    assert {name: life.ids_after[name] for name in life.ids} == life.ids
    for number in (1, 2):
        log = (life.place.runs / f"swp-{number}/logs/worker-0.log").read_text()
        assert log.count("at the gate") == 1
        assert (life.place.runs / f"swp-{number}/files/worker-0/model").read_text() == f"{number}.0"


def test_two_launchers_do_not_work_on_one_sweep(life):
    assert life.second_launcher.code == 2
    assert "another tf-spawner is writing into" in life.second_launcher.err


def test_a_point_that_fails_ends_no_other_and_is_named_at_the_end(life):
    assert life.resumed.code == 125
    assert "error: 1 of 3 points failed: swp-3 (rate=1e3): worker-0 ended with exit code 1" in life.resumed.err
    assert "worker-0 | it diverges" in life.resumed.err
    assert "hint: the same command runs those again" in life.resumed.err
    assert life.leftovers == []


def test_the_table_has_the_best_first(life):
    header, *rows = [line.split() for line in life.resumed.out.splitlines()]
    assert header[:6] == ["point", "rate", "result", "time", "loss", "accuracy"]
    assert [row[0] for row in rows] == ["swp-1", "swp-2", "swp-3"]
    assert rows[0][4:] == ["1.5*", "0.5*"]
    assert rows[1][4:] == ["2", "0.3333"]
    assert rows[2][2] == "failed"


def test_what_is_done_is_not_done_again(life):
    assert life.again.code == 125
    told = life.again.json
    assert (told["sweep"], told["result"], told["best"]) == ("swp", "failed", {"loss": "swp-1", "accuracy": "swp-1"})
    points = {point["job"]: point for point in told["points"]}
    assert {job: point["result"] for job, point in points.items()} == {
        "swp-1": "succeeded", "swp-2": "succeeded", "swp-3": "failed"
    }  # fmt: skip
    assert points["swp-2"]["metrics"] == {"loss": 2.0, "accuracy": 0.3333}
    changed = {job for job, id in life.ids_again.items() if life.ids_after.get(job) != id}
    assert changed == {"swp-3", "swp-3.1"}
    assert life.ids_again["swp-3.1"] == life.ids_after["swp-3"]


def test_ctrl_c_removes_what_runs_and_says_how_to_go_on(life):
    assert life.interrupted.code == 130, life.interrupted.err
    assert "2 of 3 points of sweep swp are done" in life.interrupted.err
    assert "hint: the same command goes on with the others" in life.interrupted.err
    assert "swp-4 (rate=4): interrupted" in life.interrupted.err
    assert life.leftovers_of_interrupt == []


def test_the_records_of_points_and_of_the_sweep_are_found(life):
    stored = json.loads((life.place.runs / "swp/sweep.json").read_text())
    assert [(point["job"], point["values"]["rate"]) for point in stored["points"]] == [
        ("swp-4", "4"), ("swp-2", "2"), ("swp-1", "1"), ("swp-3", "1e3")
    ]  # fmt: skip
    rows = life.place.tf("compare", "swp", "--out", life.place.runs, "-o", "json").json
    assert {row["run"].rpartition("/")[2]: row["args"] for row in rows}["swp-2"] == ["--base", "1", "--rate=2"]
    page = life.place.tf("report", "swp", "--out", life.place.runs).out.strip()
    assert page == str(life.place.runs / "swp/sweep.html")


def test_what_still_runs_with_other_code_is_replaced_where_nothing_is_done(local_place, gate_code):
    place = local_place
    words = ("-w", "1", "--name", "swp", "--grid", "x=1", "--env", f"GATE={place.gate}")
    killed = place.start_run(place.script(gate_code), *words)
    killed.prints("swp-1 (x=1): running", stream="stderr")
    killed.send(signal.SIGKILL)
    killed.done()
    done = place.run(place.script("print('repaired')"), *words)
    assert done.code == 0, done.err
    assert (place.runs / "swp-1/logs/worker-0.log").read_text() == "repaired\n"
    assert place.leftovers() == []
