"""Jobs and replicas as lines that fit a screen: values in, rich's Text out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

from tfspawner.base.states import State
from tfspawner.base.terminal import one_line, text_of
from tfspawner.base.words import age, human_bytes, left

from .words import STYLES, describe_gpus, describe_progress, describe_rate, describe_usage

if TYPE_CHECKING:
    from rich.text import Text

    from tfspawner.backends.base import JobSummary
    from tfspawner.follow.state import JobState, ReplicaState

MEASURED = ("cpu", "memory", "gpu", "epoch", "step", "rate", "left", "metrics")
REPLICA_COLUMNS = ("replica", "state", "node", "since", *MEASURED)
JOB_COLUMNS = ("job", "on", "state", "replicas", "age", *MEASURED)
LIST_COLUMNS = ("job", "on", "state", "replicas", "tag", "age")
GIVEN_UP = (
    "since",
    "node",
    "on",
    "age",
    "memory",
    "cpu",
    "gpu",
    "left",
    "rate",
    "epoch",
    "step",
)  # on a narrow screen, in this order
MOST_ROWS = 20  # on a page
LAST_COLUMN = 14  # cells that the last column has at least
GAP = "  "
PHASES = {"launched": "starting", "running": "training"}  # others are shown by their names
Row = dict[str, str | tuple[str, str]]  # column -> text, or text and style


def replica_table(state: JobState, width: int | None = None, height: int | None = None) -> Text:
    """A job's phases and replicas, at most `width` columns wide and `height` lines high.

    If there are more replicas than fit: a summary, and the interesting ones: failed, behind, not there yet.
    """
    lines, now = list(state.replicas.values()), time.time()
    shown = lines
    above, below = [heading(state, now)], []
    most_rows = len(lines) if height is None else max(1, height - 2)
    if len(lines) > most_rows:
        above += summary(lines)
        shown = of_interest(lines, max(1, most_rows - len(above)))
        below = [text_of(f"… and {len(lines) - len(shown):,} more")]
    rows = [replica_row(line, now) for line in shown]
    return joined([*above, *lay_out(REPLICA_COLUMNS, rows, width), *below], width)


def replica_cells(state: JobState) -> tuple[list[str], list[tuple[ReplicaState, list[str]]], str]:
    """The replicas for a page: the columns that are not empty, rows, and the states' counts if rows are left out."""
    lines, now = list(state.replicas.values()), time.time()
    shown = of_interest(lines, MOST_ROWS) if len(lines) > MOST_ROWS else lines
    rows = [{key: one_line(words(row, key)) for key in row} for row in (replica_row(line, now) for line in shown)]
    columns = [key for key in REPLICA_COLUMNS if any(cells[key] for cells in rows)]
    listed = [(line, [cells[key] for key in columns]) for line, cells in zip(shown, rows, strict=True)]
    return columns, listed, one_line(counted(lines)) if len(lines) > len(shown) else ""


def jobs_table(jobs: Sequence[JobSummary], width: int | None = None, height: int | None = None) -> Text:
    """Jobs in one line each, the newest last; only the newest if not all fit."""
    shown = jobs if height is None else jobs[-max(1, height - 2) :]
    older = [text_of(f"… and {len(jobs) - len(shown):,} older")] if len(shown) < len(jobs) else []
    return joined([*lay_out(JOB_COLUMNS, [job_row(job, time.time()) for job in shown], width), *older], width)


def jobs_list(jobs: Sequence[JobSummary]) -> Text:
    """Jobs in one line each, with titles. Programs may read the columns, so none is left out."""
    now = time.time()
    rows: list[Row] = [
        {
            "job": job.job,
            "on": _place(job),
            "state": job.state,
            "replicas": ", ".join(f"{count} {role}" for role, count in job.roles.items()),
            "tag": job.tag,
            "age": age(now - job.created),
        }
        for job in jobs
    ]
    return joined(lay_out(LIST_COLUMNS, rows, None, title=str.upper, with_empty=True), None)


def _place(job: JobSummary) -> str:
    return f"{job.on}/{job.namespace}" if job.namespace else job.on


def replica_row(line: ReplicaState, now: float) -> Row:
    """A replica's row: the column's name -> its text, or text and style."""
    epoch, step, metrics = describe_progress(line.progress)
    cpu, memory, gpu = describe_usage(line)
    return {
        "replica": line.replica,
        "state": state_of(line),
        "node": line.node,
        "since": age(now - line.since) if line.since else "",
        "cpu": cpu,
        "memory": memory,
        "gpu": gpu,
        "epoch": epoch,
        "step": step,
        "rate": describe_rate(line.progress) if line.state == State.RUNNING else "",
        "left": left(line.progress) if line.state == State.RUNNING else "",
        "metrics": one_line(line.message) or metrics,
    }


def job_row(job: JobSummary, now: float) -> Row:
    """A job's row, as `tf-spawner top` shows it."""
    brief, everything = job.brief, len(job.replicas)
    states, usage, progress = brief.get("states", {}), brief.get("usage") or {}, brief.get("progress", {})
    epoch, step, metrics = describe_progress(progress)
    gpus = usage.get("gpus", {})
    behind = f", {len(brief['behind'])} behind" if brief.get("behind") else ""
    restarts = f", restart {brief['restarts']}" if brief.get("restarts") else ""
    return {
        "job": job.job,
        "on": _place(job),
        "state": (job.state + behind + restarts, "yellow" if behind else STYLES.get(job.state, "")),
        "replicas": f"{states.get('running', 0)}/{everything}" if states else str(everything),
        "age": age(now - job.created),
        "cpu": f"{usage['cpu']:.1f}" if usage else "",
        "memory": human_bytes(usage["memory"]) if usage else "",
        "gpu": describe_gpus([gpus]) if gpus.get("count") else "",
        "epoch": epoch,
        "step": step,
        "rate": describe_rate(progress),
        "left": left(progress),
        "metrics": metrics,
    }


def state_of(line: ReplicaState) -> tuple[str, str]:
    """A replica's state in words, and its style."""
    if line.behind_s and line.state == State.RUNNING:
        return f"{age(line.behind_s)} behind", "bold yellow"
    return line.word, STYLES.get(line.state, "")


def of_interest(lines: Sequence[ReplicaState], most: int) -> list[ReplicaState]:
    """At most `most` of the replicas, the most interesting ones."""
    return sorted(lines, key=lambda line: interest(line, lines[0]))[:most]


def interest(line: ReplicaState, coordinator: ReplicaState) -> int:
    """A replica's rank, 0 first: the coordinator, then failed, late, waiting with a reason, waiting, all others."""
    reasons = (
        line is coordinator,
        line.state in (State.FAILED, State.GONE),
        line.behind_s,
        line.message and line.state != "stopped",
        line.state not in (State.RUNNING, State.SUCCEEDED),
    )
    return next((rank for rank, is_so in enumerate(reasons) if is_so), len(reasons))


def heading(state: JobState, now: float) -> Text:
    """The job's name and result, and its phases with their times; after a restart those since then."""
    durations = phases(state, now)
    words = [f"{PHASES.get(name, name)} {age(seconds)}" for name, seconds in durations]
    if state.restarts:
        words.insert(0, f"restart {len(state.restarts)}")
    if state.times and len(words) > 1:
        words[-1] += f", {age(state.times.get('ended', now) - min(state.times.values()))} in all"
    why = state.cause.text if state.cause and state.result != "succeeded" else ""
    result = ": ".join(filter(None, (state.result, one_line(why))))
    return text_of(
        (state.job, "bold"), GAP, " · ".join(words) or state.phase, GAP, (result, STYLES.get(state.result or "", "red"))
    )


def phases(state: JobState, now: float) -> list[tuple[str, float]]:
    """(phase, how long it took, or takes so far) in their order, those since the last restart."""
    since = state.times.get("forming", 0.0) if state.restarts else 0.0
    times = sorted((at, name) for name, at in state.times.items() if at >= since)
    ends = [*(at for at, _ in times[1:]), now]
    return [(name, max(0.0, end - at)) for (at, name), end in zip(times, ends, strict=False) if name != "ended"]


def summary(lines: Sequence[ReplicaState]) -> list[Text]:
    """Many replicas in two or three lines: the states' counts; who is first and last; least, median, most."""
    behind = sum(bool(line.behind_s) for line in lines)
    texts = [text_of(counted(lines) + (f"; {behind} behind" if behind else ""))]
    running = [line for line in lines if line.state == State.RUNNING]
    placed = [line for line in running if "step" in line.progress or "epoch" in line.progress]
    if placed:
        last, *_, first = sorted(placed, key=place) if len(placed) > 1 else placed * 2
        texts.append(
            text_of(f"last {last.replica} at {place_words(last)}, first {first.replica} at {place_words(first)}")
        )
    spreads = [
        spread("rate", [line.progress["rate"] for line in running if "rate" in line.progress], "{:.3g}/s".format),
        spread("cpu", [line.usage["cpu"] for line in running if line.usage], "{:.1f}".format),
        spread("memory", [line.usage["memory"] for line in running if line.usage], human_bytes),
    ]
    if any(spreads):
        texts.append(text_of("least, median, most: " + " · ".join(filter(None, spreads))))
    return texts


def counted(lines: Sequence[ReplicaState]) -> str:
    """The number of replicas, in all and in each state."""
    counts = Counter(line.word for line in lines)
    return f"{len(lines):,} replicas: " + ", ".join(f"{count:,} {word}" for word, count in counts.most_common())


def spread(name: str, values: Sequence[float], words: Any) -> str:
    """The least, the median and the greatest value in words; "" where there is none."""
    return f"{name} {words(min(values))}, {words(median(values))}, {words(max(values))}" if values else ""


def place(line: ReplicaState) -> tuple[int, int]:
    """How far a replica has trained: (epoch, step)."""
    return line.progress.get("epoch", 0), line.progress.get("step", 0)


def place_words(line: ReplicaState) -> str:
    """The same in words; "" where nothing is known."""
    epoch, step, _ = describe_progress(line.progress)
    return ", ".join(filter(None, (epoch and f"epoch {epoch}", step and f"step {step}")))


# ---- columns ------------------------------------------------------------------------------------


def lay_out(
    columns: Sequence[str],
    rows: Sequence[Row],
    width: int | None,
    *,
    title: Callable[[str], str] = str,
    with_empty: bool = False,
) -> list[Text]:
    """The rows under their header. Empty columns are left out, and so are those that do not fit the width."""
    rows = [{name: (one_line(words(row, name)), style(row, name)) for name in row} for row in rows]
    names = [name for name in columns if with_empty or any(words(row, name) for row in rows)]
    widths = {name: max(cell_len(name), *(cell_len(words(row, name)) for row in rows)) for name in names}
    for name in GIVEN_UP:
        if width is None or needed(widths) <= width:
            break
        widths.pop(name, None)
    header: Row = {name: (title(name), "bold") for name in names}
    return [laid_out(row, widths) for row in (header, *rows)] if names else []


def needed(widths: Mapping[str, int]) -> int:
    """The cells that the columns take; the last one may be cut."""
    *others, last = widths.values()
    return sum(others) + len(GAP) * len(others) + min(last, LAST_COLUMN)


def laid_out(row: Row, widths: Mapping[str, int]) -> Text:
    """A row as one line, each cell as wide as its column."""
    line = text_of()
    for name, cells in widths.items():
        line.append(set_cell_size(words(row, name), cells) + GAP, style(row, name))
    return line


def words(row: Row, name: str) -> str:
    """A cell's text."""
    value = row.get(name, "")
    return value if isinstance(value, str) else value[0]


def style(row: Row, name: str) -> str:
    """A cell's style; "" for the plain one."""
    value = row.get(name, "")
    return "" if isinstance(value, str) else value[1]


def joined(lines: Sequence[Text], width: int | None) -> Text:
    """The lines below one another, each cut to the width."""
    for line in lines:
        line.rstrip()
        if width is not None:
            line.truncate(width, overflow="ellipsis")
    return text_of("\n").join(lines)
