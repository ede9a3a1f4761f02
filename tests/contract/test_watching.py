"""Running jobs, watched by top and attach: in a terminal, as a table, as JSON; watching leaves them running."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from terminal import Terminal

SLOW = 0.1  # of the others' rate
SCRIPT = f"""
step_s = 0.05 / ({SLOW} if os.environ["TFSPAWNER_INDEX"] == "1" else 1)
print("Epoch 1/2")
for step in range(1, 100_000):
    print(f"\\r{{step:5}}/99999 [==>......] - ETA: 3s - loss: {{1 / step:.4f}}", end="")
    time.sleep(step_s)
"""


@pytest.fixture(scope="module")
def watched(shared_place, gate_code, wait_until) -> Iterator[SimpleNamespace]:
    """A job whose worker-1 is slow and one that waits, and how they were shown."""
    place, terminals = shared_place, []
    gate = f"--env=GATE={place.gate}"

    def terminal(*words: str, **size: int) -> Terminal:
        terminals.append(Terminal([sys.executable, "-m", "tfspawner", *words], place.env, place.folder, **size))
        return terminals[-1]

    def told(word: str) -> Callable[[], object]:
        return lambda: [job for job in place.of("top", "-o", "json").json if job["job"] == "slow" and job.get(word)]

    try:
        place.run(place.script(gate_code, "waits.py"), "--detach", "-w", "1", "--name", "waits", gate)
        place.run(place.script("import os, time\n" + SCRIPT), "--detach", "-w", "3", "--name", "slow")
        wait_until(told("progress"), "progress")
        everything, one = terminal("top", *place.target, width=160), terminal("top", *place.target, "slow", width=80)
        whole = terminal("attach", *place.target, "waits", height=12)
        seen = SimpleNamespace(place=place)
        seen.jobs = everything.shows(r"slow .* running .* 3/3 .*/99999 .*loss")
        wait_until(told("behind"), "a worker that is behind")
        seen.slow = one.shows(r"worker-1 +\d+s behind")
        seen.attached = whole.shows(r"(?s)worker-0 │ at the gate.*training \d+s.*worker-0 +running")
        seen.codes = []
        for each in (everything, one, whole):
            each.ctrl_c()
            seen.codes.append(each.done())
        seen.left = one.screen.shown
        seen.json, seen.piped = place.of("top", "-o", "json").json, place.of("top")
        seen.piped_slow, seen.json_slow = place.of("top", "slow"), place.of("top", "slow", "-o", "json").json
        place.of("delete", "--all", "-y")
        seen.none, seen.none_json = place.of("top"), place.of("top", "-o", "json")
        yield seen
    finally:
        for each in terminals:
            each.end()


def test_top_shows_all_running_jobs_in_a_line_each(watched):
    columns = watched.jobs[0].split()  # "on" gives way where others are long
    assert [column for column in columns if column != "on"][:3] == ["job", "state", "replicas"]
    assert "on" not in columns or columns[1] == "on"
    assert {line.split()[0] for line in watched.jobs[1:] if line} == {"slow", "waits"}


def test_top_of_a_job_shows_its_replicas_and_who_is_behind(watched):
    heading, header, *lines = (line for line in watched.slow if line)
    assert heading.startswith("slow  starting ")
    assert " · training " in heading
    assert header.split()[:2] == ["replica", "state"]
    assert [line.split()[0] for line in lines] == ["worker-0", "worker-1", "worker-2"]
    assert [line.split()[1] for line in (lines[0], lines[2])] == ["running", "running"]
    assert all(len(line) <= 80 for line in watched.slow)


def test_attach_shows_the_output_above_the_table(watched):
    assert any(line.startswith("worker-0 │ at the gate") for line in watched.attached)


def test_ctrl_c_leaves_the_jobs_running(watched):
    assert watched.codes == [0, 0, 130]
    assert any("worker-1" in line for line in watched.left)
    assert {job["job"]: job["state"] for job in watched.json} == {"slow": "running", "waits": "running"}


def test_the_rate_of_steps_is_told(watched):
    rates = {line["replica"]: line["progress"]["rate"] for line in watched.json_slow["replicas"]}
    assert 0.5 * SLOW < rates["worker-1"] / rates["worker-0"] < 2 * SLOW
    assert rates["worker-0"] == pytest.approx(rates["worker-2"], rel=0.2)
    assert {line["replica"]: line["behind_s"] > 0 for line in watched.json_slow["replicas"]} == {
        "worker-0": False, "worker-1": True, "worker-2": False,
    }  # fmt: skip


def test_off_a_terminal_top_looks_once(watched):
    assert watched.piped.code == watched.piped_slow.code == 0
    header, *rows = watched.piped.out.splitlines()
    assert header.split()[:4] == ["job", "on", "state", "replicas"]
    assert sorted(row.split()[0] for row in rows) == ["slow", "waits"]
    assert [line.split()[0] for line in watched.piped_slow.out.splitlines()[1:]] == [
        "replica", "worker-0", "worker-1", "worker-2",
    ]  # fmt: skip
    assert "\x1b" not in watched.piped.out + watched.piped_slow.out


def test_where_nothing_runs_top_says_so(watched):
    assert (watched.none.code, watched.none.out, watched.none.err) == (0, "", "no running jobs\n")
    assert watched.none_json.json == []
