"""One job from its spec to its files: prepare, launch, follow, collect. `run` and `attach` are the Python API."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from . import keras
from .agent import STARTING
from .backends import Backend, JobSummary, backend_for, backend_of
from .causes import explained
from .code import Code, mentions, pack
from .collect import Collected, collect
from .errors import (
    AgentUnreachable,
    ArtifactError,
    ClusterError,
    ConfigurationError,
    Interrupted,
    JobFailed,
    SpawnerError,
    TimedOut,
)
from .follow import Follower, JobState, ReplicaState, View, complete_logs, reachable_agents
from .plan import Plan, job_name, make_plan
from .record import Record
from .script import Finding, findings
from .secrecy import known_of, told_of_code
from .spec import JobSpec
from .usage import packed_nvml
from .userfile import MOST_BYTES, named

DELETE_TIMEOUT_S = 120.0
LAST_LINES = 15
RUNNING = ("queued", "pending", "starting", "running", "stopping")  # a summary's states of a job that has not ended
DEFAULT_PAUSE_S, LONGEST_PAUSE_S = 30.0, 300.0  # around which the wait between two tries to start lies


class HasNote(Protocol):
    def note(self, text: str) -> None: ...


class Silent:
    """The view of a program that only wants the outcome."""

    def show(self, state: JobState) -> None:
        pass

    def log(self, replica: str, data: bytes) -> None:
        pass

    def received(self, size_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended and what came back."""

    job: str
    result: str  # succeeded, failed, timeout
    folder: Path
    cause: Mapping[str, Any] | None
    collected: list[Collected] = field(default_factory=list)
    seconds: float = 0.0
    artifacts: str | None = None  # the URI of the folder that --artifacts filled

    def file(self, name: str) -> Path:
        """The path of a collected file, from the first replica that has it. Raises ArtifactError."""
        for replica in self.collected:
            if any(file["path"] == name for file in replica.files):
                return self.folder / "files" / replica.replica / name
        raise ArtifactError(f"no replica of job {self.job} left a file {name!r}", hint=f"see {self.folder / 'files'}")


@dataclass(frozen=True, slots=True)
class Job:
    """A launched job, wherever it was launched from."""

    name: str
    backend: Backend
    replicas: tuple[str, ...]
    launched: float | None = None

    def status(self) -> JobState:
        """What its replicas do now: as the coordinator's agent tells, else as the backend sees them."""
        follower = self._follower(Silent())
        follower.state = state = JobState(
            job=self.name, replicas={r: ReplicaState(replica=r) for r in self.replicas}, times=follower.state.times
        )
        stop = threading.Event()
        for observation in self.backend.watch(self.name, stop):
            if observation is None:
                stop.set()
            else:
                follower.observe(observation)
        try:
            if self.replicas[0] in state.gone:
                raise AgentUnreachable(f"{self.replicas[0]} has ended")
            follower.hear(self.backend.agent(self.name, self.replicas[0]).status())
        except AgentUnreachable:
            follower.conclude()
        return state

    def logs(self, replica: str | None = None) -> dict[str, bytes]:
        """The output so far of one replica, or of all; without those of which nothing is left."""
        found = {}
        for name in [replica] if replica else self.replicas:
            try:
                found[name] = b"".join(_log_pieces(self.backend, self.name, name))
            except AgentUnreachable:
                data = self.backend.last_output(self.name, name)
                if data is not None:
                    found[name] = data
        return found

    def _follower(self, view: View, *, logs: bool = True) -> Follower:
        return Follower(self.backend, self.name, list(self.replicas), None, view, start_timeout_s=None,
                        launched=self.launched, logs=logs)  # fmt: skip

    def wait(self, view: View | None = None, timeout_s: float | None = None, *, logs: bool = True) -> JobState:
        """Returns when the job has ended; it keeps its files. Raises TimedOut after timeout_s.

        Without logs, the replicas' output is not asked for. A notebook shows it.
        """
        if view is None and in_kernel():
            from .notebook import shown

            return shown(self.name, lambda cell: self.wait(cell, timeout_s))
        if self.backend.find(self.name).state == "incomplete":
            raise ClusterError(
                f"job {self.name} was not launched whole, and will not run", hint=f"tf-spawner delete {self.name}"
            )
        view = view or Silent()
        follower = self._follower(view, logs=logs)
        state = follower.follow(deadline=None if timeout_s is None else time.monotonic() + timeout_s)
        if logs and not follower.heard:  # its agents are gone: what they said is all that is left
            for replica in self.replicas:
                view.log(replica, self.backend.last_output(self.name, replica) or b"")
        view.finish()
        return state

    def fetch(self, out: Path | str = "runs", view: View | None = None, *, release: bool = True) -> Outcome:
        """Brings its logs and files to out/<job>; once they are here whole, an ended job may end its pods."""
        record = Record(Path(out) / self.name, self.backend.find(self.name).id)
        try:
            state = self.status()
            collected, missing = bring_back(self.backend, state, record, view or Silent())
            outcome = write_report(record, state, collected, missing)
            if missing:
                missing.hint = missing.hint or (
                    "if they were fetched before, or the hold time is over, they are gone; a longer one: --hold 48h"
                )
                raise missing
            if release and state.result:
                _release(self.backend, state)
            return outcome
        finally:
            record.close()

    def delete(self, timeout_s: float = DELETE_TIMEOUT_S) -> None:
        """Ends it and removes all of it; returns when it is gone."""
        self.backend.delete(self.name, timeout_s)


def attach(name: str, *, on: str | None = None, namespace: str | None = None, context: str | None = None,
           kubeconfig: Path | None = None) -> Job:  # fmt: skip
    """The job of that name, on this machine or else on the cluster. Raises NotFoundError."""
    backend = backend_of(name, on, namespace=namespace, context=context, kubeconfig=kubeconfig)
    found = backend.find(name)
    return Job(name, backend, tuple(found.replicas), found.created)


def summaries(backend: Backend) -> list[JobSummary]:
    """The backend's jobs; of those that run, the coordinators are asked whether they have ended and hold files."""

    def refine(summary: JobSummary) -> JobSummary:
        if summary.state != "running":
            return summary
        try:
            told = backend.agent(summary.job, summary.replicas[0]).brief(timeout_s=2)
        except SpawnerError:
            return summary
        if told["phase"] == "ended":
            return replace(
                summary, state=f"{told['result']}, {'fetched' if told['released'] else 'to be fetched'}", told=told
            )
        return replace(summary, state="starting" if told["phase"] in STARTING else told["phase"], told=told)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(refine, backend.jobs()))


def running(backend: Backend) -> list[JobSummary]:
    """The backend's jobs that have not ended."""
    return [summary for summary in summaries(backend) if summary.state in RUNNING]


def run(spec: JobSpec, view: View | None = None) -> Outcome:
    """Launches the job, follows it to its end, brings back logs and files, and removes it.

    Raises JobFailed, TimedOut, ArtifactError, ClusterError or ConfigurationError; all but the last leave
    the run's record in spec.out/<job>. On KeyboardInterrupt the job is removed, and Interrupted raised.
    Without a view, a notebook shows the replicas and the curves below the cell, and a program nothing.
    """
    if view is None and in_kernel():
        from .notebook import shown

        return shown(spec.name or spec.script.stem, lambda cell: run(spec, cell))
    view = view or Silent()
    backend, plan = prepare(spec)
    tell(plan, view)
    return carry_out(backend, plan, view)


def tell(plan: Plan, view: HasNote) -> None:
    """Says what was noticed before the launch."""
    for note in plan.notes:
        view.note(f"note: {note}")
    for warning in plan.warnings:
        view.note(f"warning: {warning}")


def in_kernel() -> bool:
    """Whether this is a Jupyter kernel, which has imported IPython."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and hasattr(get_ipython(), "kernel")


def carry_out(backend: Backend, plan: Plan, view: View) -> Outcome:
    """Launches what is planned, and goes on as `run` does."""
    record = Record(plan.spec.out / plan.job, plan.id)
    if record.aside:
        view.note(f"the former {record.folder} is now {record.aside}")
    try:
        return _run(backend, plan, record, view)
    finally:
        record.close()


def take_over(backend: Backend, plan: Plan, id: str, view: View) -> Outcome:
    """Goes on as `run` does with the job of that id, which a launcher that is gone made of the same plan."""
    record = Record(plan.spec.out / plan.job, id)
    try:
        with _deleted_on_interrupt(backend, plan.job, id, view, record):
            record.event("taken over")
            if not (record.folder / "spec.json").exists():
                record.write_json("spec.json", described(plan))
            with _still_there(plan.job):
                state = _follow(backend, plan, record, view, None)
                outcome = _bring_home(backend, state, record, view)
            _clear(backend, plan, id, state, record)
        return _judged(state, record, outcome)
    finally:
        record.close()


def launch(spec: JobSpec, view: View | None = None) -> Job:
    """Launches the job and returns; `attach` finds it again."""
    view = view or Silent()
    backend, plan = prepare(spec)
    tell(plan, view)
    backend.launch(plan)
    job = Job(plan.job, backend, tuple(plan.spec.replicas), time.time())
    if backend.must_upload(plan):
        view.note(f"waiting for {job.replicas[0]} to take the code ({plan.code.size_bytes / 1024**2:.1f} MiB)")
        _upload(backend, plan)
    return job


def prepare(spec: JobSpec, *, check: bool = True, at_once: int = 1) -> tuple[Backend, Plan]:
    """All that can be known and refused before anything is created, for so many jobs at once."""
    warnings = read_script(spec)
    name = job_name(spec)
    backend = backend_for(spec.on, namespace=spec.namespace, context=spec.context, kubeconfig=spec.kubeconfig)
    warnings += backend.check(spec) if check else []
    needed = keras.needs_tf_keras(spec)
    wheels: tuple[Path, ...] = ()
    if needed:
        wheels, more = backend.provide_tf_keras(spec)
        warnings += more
    gpus, more = backend.gpus(spec, at_once) if check and spec.gpus else ({}, [])
    warnings += more
    known = known_of(spec)
    code = pack(spec.folder, out=spec.out, asked=spec.workdir is not None, wheels=wheels, env_files=spec.env_files, known=known)  # fmt: skip
    plan = make_plan(
        spec,
        name,
        backend.coordinator_address(spec, name),
        code,
        needs_tf_keras=needed,
        speaks_of_s3=_speaks_of_s3(spec),
        needs_gpus=_needs_gpus(spec),
        gpus=gpus,
        nvml=packed_nvml() if spec.gpus and spec.on == "kubernetes" else None,
    )
    warnings += [*plan.warnings, *told_of_code(code.secrets), *(backend.preflight(plan) if check else [])]
    return backend, replace(plan, warnings=tuple(warnings), notes=(code.left_out,) if code.left_out else ())


def read_script(spec: JobSpec) -> list[str]:
    """What of the script will not work, as warnings; raises ConfigurationError for what is no Python."""
    if os.stat(spec.script).st_size > MOST_BYTES:
        return [f"{spec.script.name} has more than {MOST_BYTES:,} bytes, and was not read for what will not work"]
    folders = {path.parent.name for path in spec.script_path.parent.glob("*/*.py")}
    found = findings(
        spec.script.read_bytes(), spec.script.name, workers=spec.workers + spec.has_chief, gpus=spec.gpus,
        image=spec.image, legacy_keras=keras.gets_legacy_keras(spec), on=spec.on, restarts=spec.restarts,
        local_modules=frozenset({path.stem for path in spec.script_path.parent.glob("*.py")} | folders),
        mounts=tuple(volume.split(":")[1] for volume in spec.volumes if ":" in volume), collect=spec.collect,
    )  # fmt: skip
    wrong = next((finding for finding in found if finding.is_error), None)
    if wrong and not spec.command_file:  # which may run it by other means
        raise ConfigurationError(f"{named(spec.script)} {wrong.message}", hint=wrong.hint)
    return [f"{_place(spec, finding)}: {finding.message}; {finding.hint}" for finding in found]


def _place(spec: JobSpec, finding: Finding) -> str:
    return f"{spec.script.name}, line {finding.line}" if finding.line else spec.script.name


def _speaks_of_s3(spec: JobSpec) -> bool:
    """Whether s3:// stands in the code, the arguments or the variables, so that TensorFlow is given it."""
    return any("s3://" in word for word in (*spec.args, *spec.env.values())) or bool(
        mentions(spec.folder, "s3://", out=spec.out)
    )


def _needs_gpus(spec: JobSpec) -> bool:
    """Whether each replica's TensorFlow must see a GPU.

    A command file may prepare another environment for it, and beside JAX or PyTorch it may be there for the data alone.
    """
    if not spec.gpus or spec.command_file:
        return False
    tensorflow, *others = (mentions(spec.folder, word, out=spec.out) for word in ("tensorflow", "jax", "torch"))
    return bool(tensorflow) and not any(others)


def bring_back(
    backend: Backend, state: JobState, record: Record, view: View
) -> tuple[list[Collected], ArtifactError | None]:
    """The rest of the logs and all files; and what is missing of them."""
    agents = reachable_agents(backend, state)
    without_log = complete_logs(backend, state, agents, record, view)
    collected, errors = collect(list(agents.values()), record.files, view.received)
    record.event("collected", files=sum(len(replica.files) for replica in collected))
    for found in collected:
        if found.skipped:
            view.note(f"warning: {found.replica}: links and devices do not travel: {', '.join(found.skipped[:5])}")
    if without_log and state.result == "succeeded":
        view.note(f"warning: no log of {', '.join(without_log[:5])} could be had")
    unreachable = [replica for replica in state.replicas if replica not in agents]
    if unreachable:
        shown = ", ".join(unreachable[:5]) + (f" and {len(unreachable) - 5} more" if len(unreachable) > 5 else "")
        errors.append(ArtifactError(f"the files of {shown} could not be collected: no agent answers there"))
    if state.result == "succeeded":
        return collected, errors[0] if errors else None
    for error in errors:
        if not unreachable or error is not errors[-1]:  # of a failed job, what is gone is expected
            view.note(f"warning: {error.message}")
    return collected, None


def write_report(
    record: Record, state: JobState, collected: list[Collected], missing: ArtifactError | None = None
) -> Outcome:
    """Writes report.json, and gives the same as an Outcome."""
    began = state.times.get("began") or state.times.get("forming")
    seconds = state.times.get("ended", time.time()) - began if began else 0.0
    outcome = Outcome(job=state.job, result=state.result or state.phase, folder=record.folder, cause=state.cause,
                      collected=collected, seconds=seconds,
                      artifacts=next((line.stored["uri"] for line in state.replicas.values() if line.stored), None))  # fmt: skip
    record.write_json("report.json", {
        "job": state.job, "result": outcome.result, "cause": state.cause and explained(state.cause), "seconds": round(seconds, 3),
        "restarts": state.restarts,
        "times": state.times, "replicas": [asdict(line) for line in state.replicas.values()],
        "files": {replica.replica: replica.files for replica in collected}, "artifacts": outcome.artifacts,
        "missing": missing and missing.message,
    })  # fmt: skip
    from .report import write_page  # Jinja, which a local job needs for nothing else

    write_page(record.folder)
    return outcome


def raise_for(state: JobState, record: Record | None) -> None:
    """Raises what a job's end means: nothing, JobFailed or TimedOut."""
    if state.result == "succeeded":
        return
    cause = explained(state.cause or {})
    replica, message = cause.get("replica"), cause.get("message") or "failed"
    stands = cause.get("stands") or []
    lines = stands or (record.last_lines(replica, LAST_LINES) if record and replica else []) or cause.get("tail") or []
    text = f"{replica} {message}" if replica else message
    error: SpawnerError
    if state.result == "timeout":
        error = TimedOut(text, hint="raise --start-timeout" if "did not start" in message else "raise --timeout")
    elif cause.get("never_ran"):
        error = ClusterError(text, hint=cause.get("hint"))
    else:
        error = JobFailed(text, hint=cause.get("hint") or _restart_hint(cause))
        error.about = f"{replica} stood at, innermost first:" if stands else f"{replica}'s last lines:"
        error.lines = [f"{replica} | {line}" for line in lines[:LAST_LINES]]
    raise error


def _restart_hint(cause: Mapping[str, Any]) -> str | None:
    """The next step where nothing is wrong with the script itself; with restarts, they are over."""
    again = "--restarts 1 starts all again from the last checkpoint"
    if cause.get("kind") == "stalled":
        return f"where each replica stood is at the end of its log; {again}"
    return again if cause.get("kind") == "lost" else None


def raise_for_artifacts(state: JobState, where: str) -> None:
    """Raises ArtifactError where a replica's files did not come into the bucket that --artifacts names."""
    for line in state.replicas.values():
        failure = line.stored["failure"] if line.stored else "its agent was lost meanwhile" if line.storing else None
        if failure:
            uri = line.stored["uri"] if line.stored else line.storing
            raise ArtifactError(f"{line.replica} could not put all into {uri}: {failure}", hint=where)


def _run(backend: Backend, plan: Plan, record: Record, view: View) -> Outcome:
    began = time.time()
    try:
        backend.launch(plan)
    except BaseException as error:
        record.discard()
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted; nothing of job {plan.job} is left") from None
        raise
    with _deleted_on_interrupt(backend, plan.job, plan.id, view, record):
        record.event("launched", seconds=round(time.time() - began, 3))
        _describe(plan, record)
        code = plan.code if backend.must_upload(plan) else None
        with _still_there(plan.job):
            state = _follow(backend, plan, record, view, code, began)
            for number in range(2, (plan.spec.start_tries or 1) + 1):
                if not (state.cause or {}).get("no_room"):
                    break
                _give_back(backend, plan, state, record, view, number)
                backend.launch(plan)
                state = _follow(backend, plan, record, view, code, began)
            outcome = _bring_home(backend, state, record, view)
        _clear(backend, plan, plan.id, state, record)
    return _judged(state, record, outcome)


def _bring_home(backend: Backend, state: JobState, record: Record, view: View) -> Outcome:
    collected, missing = bring_back(backend, state, record, view)
    outcome = write_report(record, state, collected, missing)
    if missing:
        raise missing
    return outcome


def _clear(backend: Backend, plan: Plan, id: str, state: JobState, record: Record) -> None:
    """Removes the job, all of which is here."""
    if plan.spec.keep:
        _release(backend, state)
    else:
        backend.delete(plan.job, DELETE_TIMEOUT_S, id)
        record.event("deleted")


def _judged(state: JobState, record: Record, outcome: Outcome) -> Outcome:
    """The outcome, or what is raised for it."""
    try:
        raise_for(state, record)
        raise_for_artifacts(state, f"all is here: {record.folder}")
    except SpawnerError as error:
        error.outcome = outcome
        raise
    return outcome


@contextmanager
def _still_there(job: str) -> Iterator[None]:
    """Adds to what goes wrong that the job is left, and what to do with it."""
    try:
        yield
    except SpawnerError as error:
        there = f"job {job} is still there: tf-spawner fetch {job}, or tf-spawner delete {job}"
        error.hint = f"{error.hint}; {there}" if error.hint else there
        raise


def _follow(backend: Backend, plan: Plan, record: Record, view: View, upload: Code | None, launched: float | None = None) -> JobState:  # fmt: skip
    follower = Follower(
        backend, plan.job, plan.spec.replicas, record, view,
        start_timeout_s=plan.spec.start_timeout_s, upload=upload, launched=launched,
    )  # fmt: skip
    return follower.follow()


def _give_back(backend: Backend, plan: Plan, state: JobState, record: Record, view: View, number: int) -> None:
    """Removes a job that did not become whole, and waits: two that each hold half of the room wait differently long."""
    placed = sum(line.state != "pending" for line in state.replicas.values())
    backend.delete(plan.job, DELETE_TIMEOUT_S, plan.id)
    pause_s = random.uniform(0.5, 1.5) * min(LONGEST_PAUSE_S, plan.spec.start_timeout_s or DEFAULT_PAUSE_S)
    record.event("given back", placed=placed, pause_s=round(pause_s, 1), message=(state.cause or {}).get("message"))
    view.note(f"there is room for {placed} of {len(state.replicas)} replicas: all given back; "
              f"try {number} of {plan.spec.start_tries} in {pause_s:.0f} s")  # fmt: skip
    time.sleep(pause_s)


@contextmanager
def _deleted_on_interrupt(backend: Backend, job: str, id: str, view: View, record: Record) -> Iterator[None]:
    """Ctrl-C removes the job; a second one leaves the removing to `tf-spawner delete`."""
    try:
        yield
    except KeyboardInterrupt:
        record.event("interrupted")
        view.note(f"\ninterrupted: removing job {job} (Ctrl-C again leaves it)")
        try:
            backend.delete(job, DELETE_TIMEOUT_S, id)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; the removing of job {job} was cut short, and some of it may be left",
                hint=f"tf-spawner delete {job}",
            ) from None
        raise Interrupted(f"interrupted; job {job} is removed, its logs so far are in {record.logs}") from None


def described(plan: Plan) -> dict[str, Any]:
    """What a record tells of a job: its options, of variables the names alone, and the code's SHA-256."""
    shown = replace(plan.spec, args=tuple(map(plan.known.mask, plan.spec.args)), env_files=())
    spec = {k: v for k, v in asdict(shown).items() if v is not None and v not in ((), {})}
    return {"job": plan.job, "code_sha256": plan.code.sha256, **spec, "env": sorted(plan.spec.env)}


def _describe(plan: Plan, record: Record) -> None:
    record.write_json("spec.json", described(plan))
    if plan.spec.on == "kubernetes":
        from .render import redacted, render, to_yaml

        record.write("manifests.yaml", to_yaml(redacted(render(plan))))


def _release(backend: Backend, state: JobState) -> None:
    try:
        backend.agent(state.job, next(iter(state.replicas))).release()
    except AgentUnreachable:
        pass  # it has ended already


def _upload(backend: Backend, plan: Plan) -> None:
    coordinator = plan.spec.replicas[0]
    deadline = time.monotonic() + (plan.spec.start_timeout_s or 600)
    while True:
        try:
            backend.agent(plan.job, coordinator).send_code(plan.code)
            return
        except AgentUnreachable as error:
            if time.monotonic() > deadline:
                backend.delete(plan.job, DELETE_TIMEOUT_S, plan.id)
                raise TimedOut(f"{coordinator} did not take the code: {error.message}") from None
            time.sleep(0.5)


def _log_pieces(backend: Backend, job: str, replica: str) -> Iterator[bytes]:
    agent, offset = backend.agent(job, replica), 0
    while True:
        offset, data, ended = agent.log(offset)
        yield data
        offset += len(data)
        if ended or not data:
            return
