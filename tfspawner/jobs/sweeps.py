"""Runs a sweep: its points as jobs, so many at a time; what is done is not done again. `sweep` is the Python API."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tfspawner.backends.base import Backend, JobSummary
from tfspawner.backends.choice import backend_for
from tfspawner.base.userfile import brief_line
from tfspawner.errors import ArtifactError, Command, Hint, Interrupted, JobFailed, NotFoundError, SpawnerError
from tfspawner.follow.agents import seen_running
from tfspawner.follow.homecoming import DELETE_TIMEOUT_S
from tfspawner.follow.outcome import Outcome
from tfspawner.follow.state import JobState, Silent
from tfspawner.follow.sweep import ENDED, Point, SilentSweep, SweepOutcome, SweepView
from tfspawner.pages.run import compared
from tfspawner.pages.sweep import write_page
from tfspawner.plan.grid import Sweep, best, ranked
from tfspawner.plan.spec import JobSpec
from tfspawner.record.folder import SWEEP_FILE
from tfspawner.record.reading import read_events
from tfspawner.record.writing import Record
from tfspawner.replica.protocol import STARTING

from .job import Job
from .prepare import planned_like
from .running import carry_out, take_over, tell
from .sweep_plan import STORED, Planned, is_done, prepare, report_of

SHOWN_FAILURES = 3


class PointView(Silent):
    """Shows a point's job to the sweep's view; where the sweep is to stop, it ends the job as Ctrl-C does. Logs are in the record."""

    def __init__(self, point: Point, view: SweepView, stop: threading.Event) -> None:
        self.point, self.view, self.stop = point, view, stop
        self.is_stopped = False

    def show(self, state: JobState) -> None:
        if self.stop.is_set() and not self.is_stopped and not state.result:
            self.is_stopped = True  # once: what the job has is waited for
            raise KeyboardInterrupt
        self.point.replica = next(iter(state.replicas.values()))
        self.turn("collecting" if state.result else "starting" if _is_starting(state.phase) else state.phase)

    def turn(self, word: str) -> None:
        """Sets the point's state to this word and shows the point."""
        self.point.result = word
        self.view.show(self.point)

    def note(self, text: str) -> None:
        if not self.stop.is_set():
            self.view.note(f"{self.point.job}: {text}")


def sweep(
    spec: JobSpec, grid: Mapping[str, Sequence[Any]], *, parallel: int = 1, view: SweepView | None = None
) -> SweepOutcome:
    """Runs the script once for each combination of the grid's values, each as a job, and records them in spec.out.

    What a sweep of that name has done already is not done again. Raises what `run` raises before anything is launched, and
    Interrupted; points that fail are told by the outcome, and do not end the others.
    """
    outcome = run_sweep(Sweep(spec=spec, grid=grid, parallel=parallel), view)
    if isinstance(outcome.error, Interrupted):
        raise outcome.error
    return outcome


def run_sweep(asked: Sweep, view: SweepView | None = None) -> SweepOutcome:
    """`sweep`, of what a command line asks for."""
    view = view or SilentSweep()
    planned = prepare(asked)
    tell(planned.plan, view)
    record = Record(planned.folder, planned.id, is_sweep=True)
    record.logs.rmdir()  # each point has its own
    record.tell_aside(view.note)
    try:
        return _Run(asked, planned, record, view).run()
    finally:
        record.close()


def _is_there(backend: Backend, point: Point) -> bool:
    """Whether the job of the point's name is the one that was launched for it."""
    try:
        return backend.find(point.job).id in ("", point.id)
    except NotFoundError:
        return False


def _is_starting(phase: str) -> bool:
    return phase in ("pending", *STARTING)


class _Run:
    """One launcher's part of a sweep: so many threads, each of which takes one point after the other."""

    def __init__(self, asked: Sweep, planned: Planned, record: Record, view: SweepView) -> None:
        self.spec, self.parallel = asked.spec, asked.parallel
        self.planned, self.record, self.view = planned, record, view
        self.specs = {str(spec.name): spec for spec in planned.specs}
        self.points = planned.points[: len(planned.specs)]
        self.there: dict[str, JobSummary] = {}  # jobs that a former launcher left
        self.todo: deque[Point] = deque()
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.errors: dict[str, SpawnerError] = {}  # job -> how it failed
        self.bug: BaseException | None = None  # what is no point's, and ends the sweep
        self.began = time.monotonic()

    def run(self) -> SweepOutcome:
        todo = self._look_back()
        self.save()
        self.view.begin(self.planned.name, self.points, self.parallel)
        interrupted = any(self._run_all(points) for points in self._batches(todo))
        self.view.finish()
        if self.bug:
            raise self.bug
        write_page(self.record.folder)
        return self._outcome(interrupted)

    def save(self) -> None:
        """Writes sweep.json: whoever goes on with the sweep begins with it."""
        with self.lock:
            points = [{name: getattr(point, name) for name in STORED} for point in self.planned.points]
            self.record.write_json(SWEEP_FILE, {**self.planned.record, "points": points})

    def _backend(self) -> Backend:
        spec = self.spec
        return backend_for(spec.on, namespace=spec.namespace, context=spec.context, kubeconfig=spec.kubeconfig)

    # -- what a former launcher did

    def _look_back(self) -> list[Point]:
        """The points that are not done; what is left of the others is removed."""
        backend, todo = self._backend(), []
        launched = {point.job: point for point in self.planned.points if point.id}
        found = backend.jobs() if launched else []
        self.there = {job.job: job for job in found if job.job in launched and job.id in ("", launched[job.job].id)}
        for point in self.planned.points:
            left = point.job in self.there
            if is_done(self.spec.out, point):
                self._learn(point)
                point.result, point.error = "succeeded", ""
                if left and not self.spec.keep:
                    self._remove(backend, point)
            elif point.job in self.specs:
                point.result, point.error, point.metrics, point.seconds = "waiting", "", {}, 0.0
                todo.append(point)
                if left and self.planned.is_other:
                    self._remove(backend, point)
            elif left:
                self.view.note(
                    f"warning: {point.title} is no point of this grid, and its job is still there: "
                    f"{Command('delete', point.job)}"
                )
        return todo

    def _remove(self, backend: Backend, point: Point) -> None:
        """Removes what a former launcher left of it, once all that it has written is here."""
        left = self.there[point.job]
        if not is_done(self.spec.out, point) and left.state != "incomplete":
            try:
                Job(point.job, backend, tuple(left.replicas)).fetch(self.spec.out, release=False)
            except ArtifactError as error:
                if seen_running(backend, point.job, list(left.replicas)):
                    raise
                self.view.note(f"warning: {point.title}: {error.message}; no process or pod of it is left to ask")
        backend.delete(point.job, DELETE_TIMEOUT_S, point.id, self.view.note)
        del self.there[point.job]

    def _batches(self, todo: list[Point]) -> list[list[Point]]:
        """First what is left of a former launcher; where that has GPUs of this machine, all else only when it has ended."""
        left = [point for point in todo if point.job in self.there]
        rest = [point for point in todo if point.job not in self.there]
        return [left, rest] if self.spec.gpus and self.spec.on == "local" else [[*left, *rest]]

    def _learn(self, point: Point) -> None:
        if report_of(self.spec.out, point):
            row = compared([self.spec.out / point.job])[0]
            point.metrics, point.seconds = row["metrics"], row["seconds"]

    def _goes_on(self, backend: Backend, point: Point) -> bool:
        """Whether the job that is left of it can still succeed: it trains, or holds what it has trained."""
        events = {event["event"] for event in read_events(self.spec.out / point.job)}
        if report_of(self.spec.out, point).get("result") in ("failed", "timeout") or "interrupted" in events:
            return False
        left = self.there[point.job]
        if left.state in ("incomplete", "damaged") or not _is_there(backend, point):
            return False
        state = Job(point.job, backend, tuple(left.replicas)).status()
        is_silent = state.phase == "pending" and left.state == "running"  # which its follower will judge
        return is_silent or not (_is_starting(state.phase) or left.replicas[0] in state.gone)

    # -- what this one does

    def _run_all(self, points: list[Point]) -> bool:
        """Returns when all that was begun of the points has ended; whether Ctrl-C stopped it."""
        self.todo = deque(points)
        slots = range(min(self.parallel, len(points)))
        ended = {slot: threading.Event() for slot in slots}
        begun = []
        try:
            for slot in slots:
                begun.append(ended[slot])
                threading.Thread(target=self._work, args=(slot, ended[slot]), daemon=True).start()
            _await(begun)
            return False
        except KeyboardInterrupt:
            self.stop.set()
        running = [point.job for point in self.points if point.since and point.result not in ENDED]
        self.view.note(
            f"\ninterrupted: stopping {', '.join(running) or 'nothing'}; what they have comes back "
            "(Ctrl-C again leaves what is there)"
        )
        try:
            _await(begun)
        except KeyboardInterrupt:
            self.view.finish()
            raise Interrupted(
                f"interrupted; files of sweep {self.planned.name}'s jobs that had not come yet are given up here: "
                f"{', '.join(running)} may be left",
                hint=Hint(
                    f"{self._again} brings them home; or: ", Command("delete", "-t", self.spec.tag or self.planned.name)
                ),
            ) from None
        return True

    def _work(self, slot: int, ended: threading.Event) -> None:
        try:
            while not self.stop.is_set() and (point := self._next()):
                self._carry_out(point, slot)
        except BaseException as bug:
            self.bug = bug
            self.stop.set()
        finally:
            ended.set()

    def _next(self) -> Point | None:
        with self.lock:
            return self.todo.popleft() if self.todo else None

    def _carry_out(self, point: Point, slot: int) -> None:
        """One point to its end; whatever happens to it, also what nobody thought of, ends no other."""
        shown_as = PointView(point, self.view, self.stop)
        point.since = time.time()
        try:
            shown_as.turn("starting")
            result = self._run_job(point, slot, shown_as).result
        except Interrupted as stopped:
            result = "interrupted"
            point.error = stopped.missing.message if stopped.missing else ""
        except SpawnerError as error:
            result = self._fails(point, error)
        except Exception as bug:
            result = self._fails(point, self._unexpected(point, bug))
        try:
            self._learn(point)
        except Exception as bug:  # of a record that cannot be read; the job itself ended as it did
            if result == "succeeded":
                result = self._fails(point, self._unexpected(point, bug))
        point.replica = None
        try:
            shown_as.turn(result)
            self.save()
        except Exception as bug:
            point.result = result
            self._unexpected(point, bug)

    def _fails(self, point: Point, error: SpawnerError) -> str:
        self.errors[point.job] = error
        point.error = error.message
        if error.missing:
            point.error += f"; besides, not all files are here: {error.missing.message}"
        has_trained = isinstance(error, ArtifactError)
        return "incomplete" if has_trained else error.outcome.result if error.outcome else "failed"

    def _unexpected(self, point: Point, bug: Exception) -> SpawnerError:
        """An error of our own for a point, whose traceback goes into the sweep's folder."""
        name, mask = f"{point.job}-traceback.txt", self.planned.plan.known.mask
        with suppress(SpawnerError):
            self.record.write(name, mask("".join(traceback.format_exception(bug))).encode(errors="replace").decode())
        return SpawnerError(
            f"{type(bug).__name__}: {brief_line(mask(str(bug)))}",
            hint=Hint(
                f"this is a bug in tf-spawner: report it with {self.record.folder / name}; ",
                Command("delete", point.job),
                " removes what is left",
            ),
        )

    def _run_job(self, point: Point, slot: int, view: PointView) -> Outcome:
        """Takes over the job that is there, or launches one; never both, for a job's name is there once."""
        spec, backend = self.specs[point.job], self._backend()
        plan = planned_like(self.planned.plan, spec, backend.reserve(spec, point.job), slot)
        if point.job in self.there:
            if self._goes_on(backend, point):
                view.note("its job is there from before, and is followed to its end")
                return take_over(backend, plan, point.id, view)
            view.note("its job is there from before, and cannot succeed: it is removed, and run again")
            self._remove(backend, point)
        if self.stop.is_set():
            raise Interrupted("interrupted before it was launched")
        point.id = plan.id
        self.save()
        return carry_out(backend, plan, view)

    # -- what came of it

    def _outcome(self, interrupted: bool) -> SweepOutcome:
        rows = ranked([self._row(point) for point in self.points])
        interrupted = interrupted and any(row["result"] in ("waiting", "interrupted") for row in rows)
        error = self._interrupted(rows) if interrupted else self._failed(rows) if self.errors else None
        result = "interrupted" if interrupted else "failed" if error else "succeeded"
        return SweepOutcome(
            name=self.planned.name,
            result=result,
            folder=self.record.folder,
            points=rows,
            best=best(rows),
            seconds=time.monotonic() - self.began,
            error=error,
        )

    def _row(self, point: Point) -> dict[str, Any]:
        row = {name: getattr(point, name) for name in STORED if name != "id"}
        return {**row, "folder": str(self.spec.out / point.job)}

    @property
    def _again(self) -> str:
        return "the same command" + ("" if self.spec.name else f" with --name {self.planned.name}")

    def _interrupted(self, rows: list[dict[str, Any]]) -> Interrupted:
        done = sum(row["result"] == "succeeded" for row in rows)
        return Interrupted(
            f"interrupted; {done} of {len(rows)} points of sweep {self.planned.name} are done",
            hint=f"{self._again} goes on with the others",
        )

    def _failed(self, rows: list[dict[str, Any]]) -> SpawnerError:
        """One error for all that failed: of their own kind, if they are of one."""
        failed = [point for point in self.points if point.job in self.errors]
        kinds = {type(error) for error in self.errors.values()}
        kind = kinds.pop() if len(kinds) == 1 else JobFailed
        alike: dict[str, list[Point]] = {}
        for point in failed:
            alike.setdefault(point.error, []).append(point)
        told = [
            f"{points[0].title}{f' and {len(points) - 1} more' if len(points) > 1 else ''}: {message}"
            for message, points in alike.items()
        ]
        more = [f"and {len(told) - SHOWN_FAILURES} other failures"] if len(told) > SHOWN_FAILURES else []
        first = self.errors[failed[0].job]
        before = (first.hint, "; ") if first.hint else ()
        error = kind(
            f"{len(failed)} of {len(rows)} points failed: {'; '.join([*told[:SHOWN_FAILURES], *more])}",
            hint=Hint(*before, f"{self._again} runs those again"),
        )
        if isinstance(error, JobFailed) and isinstance(first, JobFailed):
            error.about, error.lines = f"{failed[0].job}: {first.about}", first.lines
        return error


def _await(events: Sequence[threading.Event]) -> None:
    """Waits for all; Thread.join() would take a thread for ended once Ctrl-C has come while it waited."""
    for event in events:
        while not event.wait(0.5):
            pass
