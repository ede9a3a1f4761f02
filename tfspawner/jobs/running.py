"""Runs or launches one job, from its spec to its files. `run` and `launch` are the Python API."""

from __future__ import annotations

import random
import time
from dataclasses import asdict, replace
from typing import Any, Protocol

from tfspawner.backends.base import Backend
from tfspawner.errors import AgentUnreachable, Interrupted, SpawnerError, TimedOut
from tfspawner.follow.follower import Follower
from tfspawner.follow.homecoming import DELETE_TIMEOUT_S, Homecoming, release_agents, still_there
from tfspawner.follow.outcome import Outcome, raise_for, raise_for_artifacts
from tfspawner.follow.state import JobState, Silent, View
from tfspawner.plan.code import Code
from tfspawner.plan.plan import Plan
from tfspawner.plan.spec import JobSpec
from tfspawner.record.folder import MANIFESTS_FILE, SPEC_FILE
from tfspawner.record.writing import Record
from tfspawner.views.choice import in_kernel

from .job import Job
from .prepare import prepare

ONCE = (
    "the code ({:.1f} MiB) is kept nowhere in the cluster: a pod that takes {}'s place does not get it, and "
    "--restarts {} is for this pod alone; leave out --detach, or leave files out of the code (.tfspawnerignore), "
    "or take a second worker"
)
DEFAULT_PAUSE_S, LONGEST_PAUSE_S = 30.0, 300.0  # between two tries to start, on average


class HasNote(Protocol):
    """Anything that can show a line to the user."""

    def note(self, text: str) -> None:
        """Shows a line to the user."""


def run(spec: JobSpec, view: View | None = None) -> Outcome:
    """Launches the job, follows it to its end, brings back logs and files, and removes it.

    Raises JobFailed, TimedOut, ArtifactError, ClusterError or ConfigurationError; all but the last leave the run's
    record in spec.out/<job>. After KeyboardInterrupt it stops the job, brings back its files, removes it and raises
    Interrupted. If not all files could come, the job is kept, and the exception's `missing` says why. Without a view,
    a notebook shows the replicas and the curves below the cell, and a program shows nothing.
    """
    if view is None and in_kernel():
        from tfspawner.views.notebook import shown

        return shown(spec.name or spec.script.stem, lambda cell: run(spec, cell))
    view = view or Silent()
    backend, plan = prepare(spec)
    tell(plan, view)
    return carry_out(backend, plan, view)


def tell(plan: Plan, view: HasNote) -> None:
    """Shows the notes and warnings of a plan."""
    for note in plan.notes:
        view.note(f"note: {note}")
    for warning in plan.warnings:
        view.note(f"warning: {warning}")


def carry_out(backend: Backend, plan: Plan, view: View) -> Outcome:
    """Launches the plan, and continues as `run` does."""
    record = Record(plan.spec.out / plan.job, plan.id)
    record.tell_aside(view.note)
    try:
        return _run(backend, plan, record, view)
    finally:
        record.close()


def take_over(backend: Backend, plan: Plan, id: str, view: View) -> Outcome:
    """Continues as `run` does with the job of that id, which a former launcher launched from the same plan."""
    record = Record(plan.spec.out / plan.job, id)
    try:
        home = Homecoming(backend, plan.job, id, plan.spec.replicas, record, view)
        with home.guarded():
            record.event("taken over")
            if not record.run.spec.exists():
                record.write_json(SPEC_FILE, described(plan))
            state = _follow(home, plan, plan.code if backend.must_upload(plan) else None)
            outcome = _bring_home(home, plan, state)
        return _judged(home, state, outcome)
    finally:
        record.close()


def launch(spec: JobSpec, view: View | None = None) -> Job:
    """Launches the job and returns; `attach` finds it again."""
    view = view or Silent()
    backend, plan = prepare(spec)
    tell(plan, view)
    if backend.must_upload(plan) and plan.spec.restarts and len(plan.spec.replicas) == 1:
        view.note(f"warning: {ONCE.format(plan.code.size_bytes / 1024**2, plan.spec.replicas[0], plan.spec.restarts)}")
    backend.launch(plan)
    job = Job(plan.job, backend, tuple(plan.spec.replicas), time.time())
    if backend.must_upload(plan):
        view.note(f"waiting for {job.replicas[0]} to take the code ({plan.code.size_bytes / 1024**2:.1f} MiB)")
        _upload_or_remove(backend, plan)
    return job


def _run(backend: Backend, plan: Plan, record: Record, view: View) -> Outcome:
    began = time.time()
    try:
        backend.launch(plan)
    except BaseException as error:
        record.discard()
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted; nothing of job {plan.job} is left") from None
        raise
    home = Homecoming(backend, plan.job, plan.id, plan.spec.replicas, record, view)
    with home.guarded():
        record.event("launched", seconds=round(time.time() - began, 3))
        _describe(plan, record)
        code = plan.code if backend.must_upload(plan) else None
        state = _follow(home, plan, code, began)
        for number in range(2, (plan.spec.start_tries or 1) + 1):
            if not (state.cause and state.cause.no_room):
                break
            _give_back(backend, plan, state, record, view, number)
            backend.launch(plan)
            state = _follow(home, plan, code, began)
        outcome = _bring_home(home, plan, state)
    return _judged(home, state, outcome)


def _bring_home(home: Homecoming, plan: Plan, state: JobState) -> Outcome:
    """Brings home the job's logs and files, and removes the job once all are here."""
    outcome = home.bring(state)
    if home.is_home and plan.spec.keep and not home.is_interrupted:
        release_agents(home.backend, state)
    elif home.is_home:
        home.remove()
    return outcome


def _judged(home: Homecoming, state: JobState, outcome: Outcome) -> Outcome:
    """Returns the outcome or raises the job's failure; error.missing says that not all files could come."""
    missing, record = home.missing, home.record
    if missing:
        still_there(missing, state.job)
    try:
        raise_for(state, record)
        if missing:
            raise missing
        raise_for_artifacts(state, f"all is here: {record.folder}")
    except SpawnerError as error:
        error.outcome = outcome
        error.missing = missing if error is not missing else None
        raise
    return outcome


def _follow(home: Homecoming, plan: Plan, upload: Code | None, launched: float | None = None) -> JobState:
    follower = Follower(
        home.backend,
        plan.job,
        plan.spec.replicas,
        home.record,
        home.view,
        start_timeout_s=plan.spec.start_timeout_s,
        upload=upload,
        launched=launched,
    )
    home.state = follower.state
    return follower.follow()


def _give_back(backend: Backend, plan: Plan, state: JobState, record: Record, view: View, number: int) -> None:
    """Removes a job of which only some replicas were placed, and waits for a random time.

    Two such jobs may each hold half of the capacity that the other needs.
    """
    placed = sum(line.state != "pending" for line in state.replicas.values())
    backend.delete(plan.job, DELETE_TIMEOUT_S, plan.id)
    pause_s = random.uniform(0.5, 1.5) * min(LONGEST_PAUSE_S, plan.spec.start_timeout_s or DEFAULT_PAUSE_S)
    record.event("given back", placed=placed, pause_s=round(pause_s, 1), message=state.cause and state.cause.message)
    view.note(
        f"there is room for {placed} of {len(state.replicas)} replicas: all given back; "
        f"try {number} of {plan.spec.start_tries} in {pause_s:.0f} s"
    )
    time.sleep(pause_s)


def described(plan: Plan) -> dict[str, Any]:
    """What a record says of a job: its options, the names of its variables without values, and the code's SHA-256."""
    shown = replace(plan.spec, args=tuple(map(plan.known.mask, plan.spec.args)), env_files=())
    spec = {k: v for k, v in asdict(shown).items() if v is not None and v not in ((), {})}
    return {"job": plan.job, "code_sha256": plan.code.sha256, **spec, "env": sorted(plan.spec.env)}


def _describe(plan: Plan, record: Record) -> None:
    record.write_json(SPEC_FILE, described(plan))
    if plan.spec.on == "kubernetes":
        from tfspawner.backends.kubernetes.manifests import redacted, render, to_yaml

        record.write(MANIFESTS_FILE, to_yaml(redacted(render(plan))))


def _upload_or_remove(backend: Backend, plan: Plan) -> None:
    """Uploads the code. If that fails, removes the job, useless without it, or says that it is still there."""
    try:
        _upload(backend, plan)
    except BaseException as error:
        is_interrupted = isinstance(error, KeyboardInterrupt)
        failure = Interrupted(f"interrupted; nothing of job {plan.job} is left") if is_interrupted else error
        try:
            backend.delete(plan.job, DELETE_TIMEOUT_S, plan.id)
        except (KeyboardInterrupt, SpawnerError):
            if is_interrupted:
                failure = Interrupted(f"interrupted; job {plan.job} was launched without its code")
            raise still_there(failure, plan.job) if isinstance(failure, SpawnerError) else failure from None
        raise failure from None


def _upload(backend: Backend, plan: Plan) -> None:
    coordinator = plan.spec.replicas[0]
    deadline = time.monotonic() + (plan.spec.start_timeout_s or 600)
    while True:
        try:
            backend.agent(plan.job, coordinator).send_code(plan.code)
            return
        except AgentUnreachable as error:
            if time.monotonic() > deadline:
                raise TimedOut(f"{coordinator} did not take the code: {error.message}") from None
            time.sleep(0.5)
