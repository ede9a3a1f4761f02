"""The live view: what fits which window, what a terminal is sent, how fast the steps are, and who is behind."""

import io
import math
import os
import time

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from terminal import Screen
from test_gang import report, running_gang

from tfspawner.backends.base import JobSummary
from tfspawner.follow.state import JobState, ReplicaState
from tfspawner.follow.sweep import Point
from tfspawner.replica.keras_output import Pace
from tfspawner.replica.log import Log
from tfspawner.replica.trail import Trail
from tfspawner.views.pane import Pane
from tfspawner.views.sweep import LiveSweepView, PlainSweepView, make_sweep_view
from tfspawner.views.table import jobs_list, jobs_table, phases, replica_table


def make_state(count: int = 4, **times: float) -> JobState:
    now = time.time()
    progress = {"epoch": 2, "epochs": 20, "steps": 100, "rate": 12.34, "metrics": {"loss": 0.4321, "accuracy": 0.9}}
    lines = [
        ReplicaState(replica=f"worker-{n}", state="running", node=f"node-{n % 7}.example", since=now - 75,
                     usage={"cpu": 1.5, "memory": 3 << 30, "gpus": [{"use": 40, "memory": 1 << 30}]},
                     progress=progress | {"step": 50 + n % 3})
        for n in range(count)
    ]  # fmt: skip
    state = JobState(job="digits", replicas={line.replica: line for line in lines}, phase="running")
    state.times = times or {"launched": now - 80, "forming": now - 77, "meeting": now - 76, "running": now - 75}
    return state


@pytest.mark.parametrize("width", [20, 60, 80, 120, 200])
@pytest.mark.parametrize(("count", "height"), [(4, 30), (1000, 24), (1000, 5), (40, 50)])
def test_the_table_fits_the_window(width, count, height):
    lines = replica_table(make_state(count), width, height).plain.split("\n")
    assert len(lines) <= max(height, 7)
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (60, "replica state epoch step rate metrics"),
        (80, "replica state gpu epoch step rate left metrics"),
        (200, "replica state node since cpu memory gpu epoch step rate left metrics"),
    ],
)
def test_a_narrow_window_shows_what_matters_most(width, columns):
    lines = replica_table(make_state(), width, 30).plain.split("\n")
    assert lines[1].split() == columns.split()
    assert "loss 0.4321" in lines[2]


def test_of_a_thousand_replicas_those_of_interest_have_a_line():
    state = make_state(1000)
    state.replicas["worker-700"].state, state.replicas["worker-700"].message = "failed", "was killed"
    state.replicas["worker-800"].behind_s = 42.0
    pending = state.replicas["worker-900"]
    pending.state, pending.message, pending.usage, pending.progress = "pending", "0/9 nodes are available", {}, {}
    state.replicas["worker-999"].progress = state.replicas["worker-999"].progress | {"step": 7, "rate": 0.25}
    heading, *lines = replica_table(state, 120, 12).plain.split("\n")
    assert heading.startswith("digits  starting 3s · forming 1s · meeting 1s · training 1m15s, 1m20s in all")
    assert lines[0] == "1,000 replicas: 998 running, 1 failed, 1 pending; 1 behind"
    assert lines[1] == "last worker-999 at epoch 2/20, step 7/100, first worker-998 at epoch 2/20, step 52/100"
    assert lines[2].startswith("least, median, most: rate 0.25/s, 12.3/s, 12.3/s · cpu 1.5, 1.5, 1.5 · memory 3.0 GiB")
    assert [line.split()[0] for line in lines[4:8]] == ["worker-0", "worker-700", "worker-800", "worker-900"]
    assert "42s behind" in lines[6]
    assert lines[-1] == "… and 994 more"


def test_what_has_never_spoken_is_shown_too():
    state = JobState(job="odd", replicas={f"ps-{n}": ReplicaState(replica=f"ps-{n}") for n in range(100)})
    lines = replica_table(state, 80, 10).plain.split("\n")
    assert lines[:2] == ["odd  pending", "100 replicas: 100 pending"]


def test_a_message_cannot_break_the_table():
    state = make_state(2)
    state.replicas["worker-1"].message = "two\nlines \x1b[2J\x1b]0;title\x07 größe 漢字" + "x" * 500
    state.replicas["worker-1"].state = "failed"
    lines = replica_table(state, 120, 10).plain.split("\n")
    assert len(lines) == 4
    assert "two lines größe 漢字" in lines[3]
    assert "\x1b" not in lines[3]


def test_the_phases_since_a_restart_are_told_and_all_of_the_time():
    state = make_state(2, launched=0, forming=100, meeting=102, running=50, stopping=90)
    assert [name for name, _ in phases(state, 110)] == ["launched", "running", "stopping", "forming", "meeting"]
    state.restarts = [{"generation": 1}]
    assert phases(state, 110) == [("forming", 2), ("meeting", 8)]
    state.times["ended"] = 105
    assert phases(state, 110) == [("forming", 2), ("meeting", 3)]


def test_jobs_are_told_in_a_line_each():
    told = {"states": {"running": 2, "starting": 1}, "usage": {"cpu": 3.5, "memory": 5 << 20, "gpus": {"count": 0}},
            "progress": {"epoch": 1, "epochs": 3, "step": 5, "steps": 10, "rate": 0.5, "metrics": {"loss": 2}},
            "behind": {"worker-1": 12.0}, "restarts": 1}  # fmt: skip
    job = JobSummary(job="a", on="kubernetes", namespace="physics", tag="", roles={"worker": 3}, created=time.time() - 61,
                     state="running", brief=told)  # fmt: skip
    _, line, silent = jobs_table([job, JobSummary(job="b", on="local", namespace="", tag="", roles={"worker": 2},
                                                  created=0, state="pending")]).plain.split("\n")  # fmt: skip
    assert " ".join(line.split()) == (
        "a kubernetes/physics running, 1 behind, restart 1 2/3 1m1s 3.5 5.0 MiB 1/3 5/10 2.0s/step 50s loss 2"
    )
    assert silent.split()[:4] == ["b", "local", "pending", "2"]


# ---- what a terminal is sent


@pytest.fixture
def terminal():
    """A Pane, the screen that shows it, and what it was sent."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=40, height=8, highlight=False)
    pane, screen = Pane(console), Screen(40, 8)

    def draw(text: str, above: str = "") -> str:
        file.seek(0)
        file.truncate()
        pane.draw(Text.from_markup(text), above)
        screen.feed(file.getvalue().replace("\n", "\r\n"))  # as a terminal's driver does
        return file.getvalue()

    draw.pane = pane
    return draw, screen, console


def test_the_pane_stays_below_what_scrolls_away(terminal):
    draw, screen, _ = terminal
    for number in range(20):
        draw(f"[bold]table {number}[/]\nrow", f"line {number}\n" * (number % 3))
    assert screen.lines[-4:] == ["line 19", "table 19", "row", ""]
    assert screen.lines.count("line 17") == 2
    assert sum(line.startswith("table") for line in screen.lines) == 1


def test_only_the_lines_that_changed_are_sent(terminal):
    draw, screen, _ = terminal
    draw("one\ntwo\nthree is long")
    assert draw("one\ntwo\nthree is long") == ""
    sent = draw("one\nTWO\nthree")
    assert "one" not in sent
    assert screen.shown == ["one", "TWO", "three", ""]


def test_a_pane_that_grows_shrinks_and_goes_leaves_nothing(terminal):
    draw, screen, _ = terminal
    for text in ("1\n2\n3", "1", "1\n2\n3\n4\n5", ""):
        draw(text, "said\n")
    assert screen.lines == ["said"] * 4 + [""]


def test_a_pane_in_a_window_made_narrower_is_taken_away_whole(terminal):
    draw, _, console = terminal
    draw("x" * 39 + "\ny")
    console.width = 20
    assert draw("z").startswith("\x1b[3A\r\x1b[J")


def test_a_slow_link_gets_no_more_than_it_can_carry(terminal, monkeypatch):
    draw, _, _ = terminal
    draw("\n".join(["x" * 40] * 1000))
    sent_at = time.monotonic()
    monkeypatch.setattr("tfspawner.views.pane.time.monotonic", lambda: sent_at + 4.5)
    assert not draw.pane.is_due(True)
    monkeypatch.setattr("tfspawner.views.pane.time.monotonic", lambda: sent_at + 5.5)
    assert draw.pane.is_due(True)


# ---- how fast


def paced(pace: Pace, begin: float, *steps: tuple[float, int], of: int | None = 100) -> list[float | None]:
    pace.begin(begin)
    return [pace.step(now, step, of) for now, step in steps]


def test_the_rate_is_that_of_the_last_ten_seconds():
    told = paced(
        Pace(), 0, *((0.5 * n, 5 * n) for n in range(1, 20)), *((10 + n, 95 + n) for n in range(1, 13)), of=900
    )
    assert told[18] == pytest.approx(10)
    assert told[-1] == pytest.approx(1, rel=0.1)


def test_the_first_step_in_which_tensorflow_traces_does_not_count():
    assert paced(Pace(), 0, (8, 1), (8.5, 6), (9.5, 16))[-1] == pytest.approx(10)


def test_where_only_epochs_are_told_the_rate_is_the_epochs():
    pace = Pace()
    assert paced(pace, 0, (20, 100)) == [5]
    assert paced(pace, 20, (30, 100)) == [10]
    assert paced(pace, 30, (30.01, 100)) == [None]  # nothing can be told of so little time


def test_lines_that_come_all_at_once_tell_no_rate():
    assert paced(Pace(), 0, (0.001, 1), (0.001, 50), (0.002, 99)) == [None] * 3


def test_an_evaluation_has_no_rate_and_the_next_epoch_has():
    pace = Pace()
    paced(pace, 0, (1, 1), (5, 50), (9, 100))
    assert [pace.step(10, 1, 300), pace.step(11, 200, 300), pace.step(12, 300, 300)] == [None] * 3
    assert pace.step(13, 313, 313) is None
    assert paced(pace, 20, (30, 100)) == [10]


def test_without_epochs_another_count_begins_anew():
    pace = Pace()
    assert [pace.step(0, 1, 10), pace.step(4, 9, 10)] == [None, 2]
    assert [pace.step(5, 1, 10), pace.step(9, 5, 10)] == [None, 1]


def test_an_epoch_of_unknown_length_has_a_rate():
    pace = Pace()
    pace.begin(0)
    assert [pace.step(1, 1, None), pace.step(4, 31, None), pace.step(5, 41, 41)] == [1, 10, 10]


def test_what_was_told_before_a_restart_counts_no_more(tmp_path):
    log = Log(tmp_path / "log")
    log.write(b"Epoch 1/9\n 5/10 [=>...] - loss: 1.0\r 6/10 [=>...] - loss: 1.0\r")
    log.begin_again("restart 1 of 1")
    assert (log.progress, log.pace.has_epochs) == ({}, False)


# ---- who is behind


def walk(trail: Trail, seconds: float, *every_s: float, steps: int | None = 1000) -> dict[str, float]:
    """Trainers that take so many seconds for each step, and report once a second."""
    for now in range(int(seconds)):
        for number, step_s in enumerate(every_s):
            epoch, step = divmod(int((now + 0.3 * number) / step_s), steps or 1)
            told = {"step": step, "steps": steps} if steps else {}
            trail.take(f"worker-{number}", {"epoch": epoch + 1, "epochs": 99, **told}, now + 0.3 * number)
    return trail.late()


def test_who_steps_more_slowly_falls_behind():
    late = walk(Trail(), 60, 0.1, 0.1, 0.2, 0.1)
    assert late.pop("worker-2") == pytest.approx(30, abs=2)
    assert max(late.values()) < 2


def test_of_two_the_slower_is_behind():
    assert walk(Trail(), 60, 0.2, 0.1)["worker-0"] == pytest.approx(30, abs=2)


def test_who_stands_still_is_ever_more_behind():
    trail = Trail()
    walk(trail, 10, 0.1, 0.1, 0.1)
    for now in range(10, 100):
        for number in (0, 1):
            trail.take(f"worker-{number}", {"epoch": 1, "step": now * 10, "steps": 1000}, now)
        trail.take("worker-2", {"epoch": 1, "step": 95, "steps": 1000}, now)
    assert trail.late()["worker-2"] == pytest.approx(89, abs=2)


@pytest.mark.parametrize("step_s", [0.001, 0.1, 3, 30])
@pytest.mark.parametrize("steps", [10, 1000, None])
def test_none_is_behind_where_all_step_alike(step_s, steps):
    trail = Trail()
    for _ in range(3):
        late = walk(trail, 200, *[step_s] * 5, steps=steps)
        assert max(late.values()) < 5


def test_who_tells_of_whole_epochs_alone_is_not_behind_one_who_tells_of_steps():
    trail = Trail()
    for now in range(100):
        trail.take("worker-0", {"epoch": 1 + now // 50, "step": now % 50, "steps": 50}, now)
        trail.take("worker-1", {"epoch": 1 + now // 50}, now)
    assert max(trail.late().values()) < 2


def test_who_evaluates_meanwhile_is_not_behind():
    trail = Trail()
    for now in range(60):
        for number in range(3):
            evaluates = number == 1 and now > 30
            told = {"epoch": 1, "step": 1 if evaluates else 100, "steps": 313 if evaluates else 1000}
            trail.take(f"worker-{number}", told, now)
    assert set(trail.late().values()) == {0}


def test_the_gang_tells_who_is_behind_while_it_runs_and_forgets_it_at_a_restart(monkeypatch):
    gang, now = running_gang(restarts=1, restart_on=["lost"]), time.monotonic()
    for seconds in range(15):
        monkeypatch.setattr("tfspawner.replica.gang.time.monotonic", lambda at=now + seconds: at)
        for replica, step in (("worker-0", 10 * seconds), ("worker-1", 10 * seconds), ("worker-2", 5)):
            report(gang, replica, "running", progress={"epoch": 1, "step": step, "steps": 900}, usage={
                "cpu": 1.0, "memory": 5, "gpus": [{"use": 50, "memory": 7}]})  # fmt: skip
        gang.tick()
    assert set(gang.behind) == {"worker-2"}
    assert 12 < gang.snapshot()["behind"]["worker-2"] < 15
    brief = gang.brief()
    assert (brief["states"], brief["behind"], brief["progress"]["step"]) == ({"running": 3}, gang.behind, 140)
    assert brief["usage"] == {"cpu": 3.0, "memory": 15, "gpus": {"count": 3, "use": 50, "memory": 21}}
    with gang.changed:
        gang.begin(1, {"replica": "worker-2", "message": "was lost", "kind": "lost"})
    gang.tick()
    assert (gang.behind, gang.trail.places) == ({}, {})


def test_the_trail_of_a_long_training_stays_small():
    trail = Trail()
    for step in range(20_000):
        for number in range(2):
            trail.take(f"worker-{number}", {"epoch": 1, "step": step, "steps": 99_999}, step)
    assert len(trail.passed) == len(trail.passed_at) <= 1001
    assert max(trail.late().values()) == 0


def test_a_trail_thins_out_its_older_half_once_it_has_more_than_1000_places():
    trail = Trail()
    for step in range(1000):
        trail.take("worker-0", {"epoch": 1, "step": step, "steps": 9999}, float(step))
    assert trail.passed == [(1, step) for step in range(1000)]
    trail.take("worker-0", {"epoch": 1, "step": 1000, "steps": 9999}, 1000.0)
    steps = [*range(1, 501, 2), *range(501, 1001)]
    assert (trail.passed, trail.passed_at) == ([(1, step) for step in steps], [float(step) for step in steps])


def test_who_tells_no_place_leaves_no_trail_and_who_tells_half_of_one_is_at_its_beginning():
    trail = Trail()
    trail.take("worker-0", {}, 1.0)
    assert (trail.places, trail.told_at, trail.passed) == ({}, {}, [])
    trail.take("worker-0", {"epoch": 3}, 2.0)
    trail.take("worker-1", {"step": 5}, 3.0)
    assert trail.places == {"worker-0": (3, 0), "worker-1": (0, 5)}
    assert trail.told_at == {"worker-0": 2.0, "worker-1": 3.0}


def test_the_last_step_alone_is_the_end_of_an_epoch_and_no_word_of_steps():
    trail = Trail()
    trail.take("worker-0", {"epoch": 1, "step": 10, "steps": 10}, 1.0)
    assert trail.tells_steps == set()
    trail.take("worker-0", {"epoch": 2, "step": 9, "steps": 10}, 2.0)
    assert trail.tells_steps == {"worker-0"}


def test_a_terminal_without_cursor_gets_plain_lines(monkeypatch):
    from tfspawner.views.choice import make_view
    from tfspawner.views.plain import PlainView

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setitem(os.environ, "TERM", "dumb")
    assert type(make_view()) is PlainView


# ---- a sweep's


@pytest.fixture
def watched_sweep():
    """A sweep's live view and the screen that shows it, of 60 columns and 12 lines."""
    file = io.StringIO()
    view = LiveSweepView(Console(file=file, force_terminal=True, width=60, height=12, highlight=False))
    view.ended.set()  # the test draws by itself
    screen = Screen(60, 12)

    def look(*, drawn: bool = True) -> list[str]:
        if drawn:
            view.live.pane.drawn_at = -math.inf
            view.live.draw()
        screen.feed(file.getvalue().replace("\n", "\r\n"))
        file.seek(0)
        file.truncate()
        return screen.shown

    return view, look


def points_of(count: int) -> list[Point]:
    return [Point(job=f"p-{n}", values={"lr": f"0.{n}"}, result="waiting") for n in range(1, count + 1)]


def test_the_points_of_a_sweep_are_redrawn_below_its_notes_and_taken_away(watched_sweep):
    view, look = watched_sweep
    points = points_of(2)
    view.begin("p", points, 1)
    assert look(drawn=False) == ["sweep p: 2 points", "point  lr   state    time  epoch  left  metrics", "p-1    0.1  waiting",
                                 "p-2    0.2  waiting", ""]  # fmt: skip
    points[0].result, points[0].seconds, points[0].metrics = "succeeded", 65, {"loss": 0.5}
    view.show(points[0])
    assert look()[2] == "p-1    0.1  succeeded  1m5s               loss 0.5"
    view.note("p-1: it is told")
    assert [line.split("  ")[0] for line in look()] == [
        "sweep p: 2 points",
        "p-1: it is told",
        "point",
        "p-1",
        "p-2",
        "",
    ]
    view.finish()
    view.note("after all")
    assert look() == ["sweep p: 2 points", "p-1: it is told", "after all", ""]


def test_more_points_than_the_window_has_lines_are_cut_and_redrawn_in_place(watched_sweep):
    view, look = watched_sweep
    view.begin("p", points_of(15), 1)
    for n in (1, 2, 3):
        view.points[0].result = f"state{n}"
        shown = look()
        assert shown[1].split() == ["p-1", "0.1", f"state{n}"]
        assert shown[-3:] == ["p-9    0.9   waiting", "…", ""]


def test_the_times_of_a_sweep_go_on_while_no_point_tells_anything(wait_until):
    file = io.StringIO()
    view = LiveSweepView(Console(file=file, force_terminal=True, width=60, height=12, highlight=False))
    try:
        view.points = points_of(1)
        wait_until(lambda: "p-1" in file.getvalue(), "the table")
        view.points[0].since = time.time() - 3600
        wait_until(lambda: "1h0m" in file.getvalue(), "the time that the point takes")
    finally:
        view.finish()


def test_a_dumb_terminal_gets_a_line_for_each_change_of_a_sweep(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setitem(os.environ, "TERM", "dumb")
    assert type(make_sweep_view()) is PlainSweepView


def test_a_list_of_jobs_has_all_its_columns():
    jobs = [JobSummary(job="a", on="local", namespace="", tag="", roles={"chief": 1, "worker": 2}, created=time.time() - 61, state="running"),
            JobSummary(job="long", on="kubernetes", namespace="physics", tag="", roles={"worker": 1}, created=time.time(), state="pending")]  # fmt: skip
    assert jobs_list(jobs).plain == (
        "JOB   ON                  STATE    REPLICAS           TAG  AGE\n"
        "a     local               running  1 chief, 2 worker       1m1s\n"
        "long  kubernetes/physics  pending  1 worker                0s"
    )
