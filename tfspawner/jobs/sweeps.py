"""Runs a sweep: each point as a job, some in parallel; finished points are not repeated. `sweep` is the Python API."""

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
from tfspawner.base.states import Phase
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
    """Passes a point's progress to the sweep's view; if the sweep must stop, ends the job as Ctrl-C does."""

    def __init__(self, point: Point, view: SweepView, stop: threading.Event) -> None:
        self.point, self.view, self.stop = point, view, stop
        self.is_stopped = False

    def show(self, state: JobState) -> None:
        if self.stop.is_set() and not self.is_stopped and not state.result:
            self.is_stopped = True  # only once: the job's files are still brought home
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

    Points that an earlier sweep of that name has finished are not repeated. Raises what `run` raises before a launch,
    and Interrupted. A point that fails does not end the others: the outcome says which failed.
    """
    outcome = run_sweep(Sweep(spec=spec, grid=grid, parallel=parallel), view)
    if isinstance(outcome.error, Interrupted):
        raise outcome.error
    return outcome


def run_sweep(request: Sweep, view: SweepView | None = None) -> SweepOutcome:
    """As `sweep`, for a Sweep."""
    view = view or SilentSweep()
    planned = prepare(request)
    tell(planned.plan, view)
    record = Record(planned.folder, planned.id, is_sweep=True)
    record.logs.rmdir()  # each point has logs of its own
    record.tell_aside(view.note)
    try:
        return _Run(request, planned, record, view).run()
    finally:
        record.close()


def _is_there(backend: Backend, point: Point) -> bool:
    """Whether the job with the point's name exists and is the one that was launched for it."""
    try:
        return backend.find(point.job).id in ("", point.id)
    except NotFoundError:
        return False


def _is_starting(phase: str) -> bool:
    return phase in ("pending", *STARTING)


class _Run:
    """One launcher's run of a sweep: several threads, each of which takes one point after the other."""

    def __init__(self, request: Sweep, planned: Planned, record: Record, view: SweepView) -> None:
        self.spec, self.parallel = request.spec, request.parallel
        self.planned, self.record, self.view = planned, record, view
        self.specs = {str(spec.name): spec for spec in planned.specs}
        self.points = planned.points[: len(planned.specs)]
        self.existing: dict[str, JobSummary] = {}  # jobs that a former launcher left behind
        self.todo: deque[Point] = deque()
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.errors: dict[str, SpawnerError] = {}  # job -> how it failed
        self.bug: BaseException | None = None  # an error outside of any point, which ends the sweep
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
        """Writes sweep.json, from which a later launcher continues."""
        with self.lock:
            points = [{name: getattr(point, name) for name in STORED} for point in self.planned.points]
            self.record.write_json(SWEEP_FILE, {**self.planned.record, "points": points})

    def _backend(self) -> Backend:
        spec = self.spec
        return backend_for(spec.on, namespace=spec.namespace, context=spec.context, kubeconfig=spec.kubeconfig)

    # -- what a former launcher did

    def _look_back(self) -> list[Point]:
        """The points that are not done; removes jobs that are left of the others."""
        backend, todo = self._backend(), []
        launched = {point.job: point for point in self.planned.points if point.id}
        jobs = backend.jobs() if launched else []
        self.existing = {job.job: job for job in jobs if job.job in launched and job.id in ("", launched[job.job].id)}
        for point in self.planned.points:
            is_left = point.job in self.existing
            if is_done(self.spec.out, point):
                self._learn(point)
                point.result, point.error = "succeeded", ""
                if is_left and not self.spec.keep:
                    self._remove(backend, point)
            elif point.job in self.specs:
                point.result, point.error, point.metrics, point.seconds = "waiting", "", {}, 0.0
                todo.append(point)
                if is_left and self.planned.is_other:
                    self._remove(backend, point)
            elif is_left:
                self.view.note(
                    f"warning: {point.title} is not a point of this grid, and its job is still there: "
                    f"{Command('delete', point.job)}"
                )
        return todo

    def _remove(self, backend: Backend, point: Point) -> None:
        """Removes the job that a former launcher left, after its files have been fetched."""
        job = self.existing[point.job]
        if not is_done(self.spec.out, point) and job.state != "incomplete":
            try:
                Job(point.job, backend, tuple(job.replicas)).fetch(self.spec.out, release=False)
            except ArtifactError as error:
                if seen_running(backend, point.job, list(job.replicas)):
                    raise
                self.view.note(f"warning: {point.title}: {error.message}; no process or pod of it is left to ask")
        backend.delete(point.job, DELETE_TIMEOUT_S, point.id, self.view.note)
        del self.existing[point.job]

    def _batches(self, todo: list[Point]) -> list[list[Point]]:
        """The points in order: first those whose jobs are left. If they hold this machine's GPUs, the others wait."""
        taken_over = [point for point in todo if point.job in self.existing]
        rest = [point for point in todo if point.job not in self.existing]
        return [taken_over, rest] if self.spec.gpus and self.spec.on == "local" else [[*taken_over, *rest]]

    def _learn(self, point: Point) -> None:
        if report_of(self.spec.out, point):
            row = compared([self.spec.out / point.job])[0]
            point.metrics, point.seconds = row["metrics"], row["seconds"]

    def _goes_on(self, backend: Backend, point: Point) -> bool:
        """Whether the point's remaining job can still succeed: it is training, or holds its results."""
        events = {event["event"] for event in read_events(self.spec.out / point.job)}
        if report_of(self.spec.out, point).get("result") in ("failed", "timeout") or "interrupted" in events:
            return False
        job = self.existing[point.job]
        if job.state in ("incomplete", "damaged") or not _is_there(backend, point):
            return False
        state = Job(point.job, backend, tuple(job.replicas)).status()
        is_silent = state.phase == Phase.PENDING and job.state == "running"  # its follower will decide
        return is_silent or not (_is_starting(state.phase) or job.replicas[0] in state.gone)

    # -- what this one does

    def _run_all(self, points: list[Point]) -> bool:
        """Runs the points; returns when all that were begun have ended, and whether Ctrl-C stopped it."""
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
        """Runs one point to its end. No error in it, however unexpected, ends another point."""
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
        except Exception as bug:  # the record cannot be read, whatever the job's own result
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
        """The error for a bug in a point; writes its traceback into the sweep's folder."""
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
        """Takes over the point's existing job or launches one; never both, because a name has only one job."""
        spec, backend = self.specs[point.job], self._backend()
        plan = planned_like(self.planned.plan, spec, backend.reserve(spec, point.job), slot)
        if point.job in self.existing:
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
        """One error for all points that failed; of the same class as theirs, if they share one."""
        failed = [point for point in self.points if point.job in self.errors]
        kinds = {type(error) for error in self.errors.values()}
        kind = kinds.pop() if len(kinds) == 1 else JobFailed
        alike: dict[str, list[Point]] = {}
        for point in failed:
            alike.setdefault(point.error, []).append(point)
        failures = [
            f"{points[0].title}{f' and {len(points) - 1} more' if len(points) > 1 else ''}: {message}"
            for message, points in alike.items()
        ]
        rest = [f"and {len(failures) - SHOWN_FAILURES} other failures"] if len(failures) > SHOWN_FAILURES else []
        first = self.errors[failed[0].job]
        before = (first.hint, "; ") if first.hint else ()
        error = kind(
            f"{len(failed)} of {len(rows)} points failed: {'; '.join([*failures[:SHOWN_FAILURES], *rest])}",
            hint=Hint(*before, f"{self._again} runs those again"),
        )
        if isinstance(error, JobFailed) and isinstance(first, JobFailed):
            error.about, error.lines = f"{failed[0].job}: {first.about}", first.lines
        return error


def _await(events: Sequence[threading.Event]) -> None:
    """Waits for all events. Not Thread.join(): after Ctrl-C during a wait it takes a running thread for ended."""
    for event in events:
        while not event.wait(0.5):
            pass
