"""One job from its spec to its files: prepare, launch, follow, collect. `run` and `attach` are the Python API."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tfspawner.agent import STARTING
from tfspawner.backends.base import Backend, JobSummary, backend_for, backend_of
from tfspawner.base.threads import each
from tfspawner.base.userfile import MOST_BYTES, TooLarge, named, read_bytes
from tfspawner.errors import (
    AgentUnreachable,
    ArtifactError,
    BadAnswer,
    ClusterError,
    ConfigurationError,
    Interrupted,
    JobFailed,
    SpawnerError,
    TimedOut,
)
from tfspawner.follow.follower import PARALLEL, Follower, JobState, ReplicaState, View
from tfspawner.follow.homecoming import (
    DELETE_TIMEOUT_S,
    Homecoming,
    all_here,
    came_before,
    left_of,
    seen_running,
    still_there,
)
from tfspawner.follow.homecoming import Outcome as Outcome
from tfspawner.plan import tf_keras as keras
from tfspawner.plan.code import Code, mentions, pack
from tfspawner.plan.plan import Plan, job_name, make_plan
from tfspawner.plan.script.findings import Finding, findings
from tfspawner.plan.secrecy import known_of, told_of_code
from tfspawner.plan.spec import JobSpec
from tfspawner.record.causes import explained
from tfspawner.record.reading import read_id
from tfspawner.record.writing import Record
from tfspawner.usage import packed_nvml

LAST_LINES = 15
ONCE = (
    "the code ({:.1f} MiB) is kept nowhere in the cluster: a pod that takes {}'s place does not get it, and --restarts {} "
    "is for this pod alone; leave out --detach, or leave files out of the code (.tfspawnerignore), or take a second worker"
)
MOST_LOG_BYTES = 4 << 30  # of one replica that are taken into memory
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


@dataclass(frozen=True, slots=True)
class Job:
    """A launched job, wherever it was launched from."""

    name: str
    backend: Backend
    replicas: tuple[str, ...]
    launched: float | None = None

    def check_whole(self, found: JobSummary | None = None) -> None:
        """Raises ClusterError for a job of which it is not known what it consists of, or, as it was found, is not all there."""
        if self.replicas and not (found and found.state == "incomplete"):
            return
        wrong = (found or self.backend.find(self.name)).warning
        why = f"cannot be asked: {wrong}" if wrong else "was not launched whole, and will not run"
        raise ClusterError(f"job {self.name} {why}", hint=f"tf-spawner delete {self.name}")

    def status(self) -> JobState:
        """What its replicas do now: as the coordinator's agent tells, else as the backend sees them."""
        self.check_whole()
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
            follower.hear(self.backend.agent(self.name, self.replicas[0]).status(self.replicas))
        except AgentUnreachable as error:
            follower.conclude()
            if isinstance(error, BadAnswer):
                state.replicas[self.replicas[0]].message = error.message
        return state

    def logs(self, replica: str | None = None) -> dict[str, bytes]:
        """The output so far of one replica, or of all; without those of which nothing is left."""
        self.check_whole()
        wanted = [replica] if replica else list(self.replicas)
        logs = each(self._whole_log, wanted, PARALLEL)
        return {name: data for name, data in zip(wanted, logs, strict=True) if data is not None}

    def _whole_log(self, replica: str) -> bytes | None:
        try:
            pieces = list(self.log(replica, MOST_LOG_BYTES))
            return b"".join(pieces) if pieces else None
        except AgentUnreachable:
            return self.backend.last_output(self.name, replica)

    def log(self, replica: str, most: int = sys.maxsize) -> Iterator[bytes]:
        """The output so far of one replica, in pieces: none where nothing is left, an empty one where it is silent.

        Of one that is longer than most bytes the backend's word is taken. Raises AgentUnreachable where it breaks off.
        """
        self.check_whole()
        came = False
        try:
            for _, data in self.backend.agent(self.name, replica).rest_of_log(0, most):
                yield data
                came = True
        except AgentUnreachable:
            if came:
                raise
            kept = self.backend.last_output(self.name, replica)
            if kept is not None:
                yield kept

    def _follower(self, view: View, *, logs: bool = True) -> Follower:
        return Follower(self.backend, self.name, list(self.replicas), None, view, start_timeout_s=None,
                        launched=self.launched, logs=logs)  # fmt: skip

    def wait(self, view: View | None = None, timeout_s: float | None = None, *, logs: bool = True) -> JobState:
        """Returns when the job has ended; it keeps its files. Raises TimedOut after timeout_s.

        Without logs, the replicas' output is not asked for. A notebook shows it.
        """
        if view is None and in_kernel():
            from tfspawner.views.notebook import shown

            return shown(self.name, lambda cell: self.wait(cell, timeout_s))
        self.check_whole(self.backend.find(self.name))
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
        found = self.backend.find(self.name)
        id = found.id or read_id(Path(out) / self.name) or ""  # one that is half removed knows no more who it was
        record = Record(Path(out) / self.name, id)
        view = view or Silent()
        record.tell_aside(view.note)
        home = Homecoming(self.backend, self.name, id, list(self.replicas), record, view)
        home.is_interrupted = True  # Ctrl-C has nothing to end here but the fetching
        try:
            before = came_before(record) if found.id or found.is_bare else None  # else it may be another job's
            if before:
                if release:
                    home.remove()
                return before
            self.check_whole(found)
            before, state = all_here(record) if found.id else None, self.status()
            if before and state.result and not self._answers():
                return before
            if state.phase == "stopping":  # its scripts may still write
                view.note(f"job {self.name} is stopping; its end is waited for")
                state = self._follower(Silent(), logs=False).follow()
            outcome = home.bring(state)
            if all(found.replica in outcome.earlier for found in outcome.collected) and not home.missing:
                home.missing = ArtifactError(
                    f"no replica of job {self.name} answers, and nothing of it could be fetched"
                )
            if home.missing:
                home.missing.outcome = outcome
                home.missing.hint = home.missing.hint or (
                    "if they were fetched before, or the hold time is over, they are gone; a longer one: --hold 48h"
                )
                raise home.missing
            if release and state.phase == "ended":
                _release(self.backend, state)
            elif release and state.result:
                _mark_fetched(self.backend, state)
            return outcome
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; what has come of job {self.name} is in {record.folder}, and nothing of it was removed",
                hint=f"to go on there: tf-spawner fetch {self.name}",
            ) from None
        finally:
            record.close()

    def _answers(self) -> bool:
        try:
            self.backend.agent(self.name, self.replicas[0]).ping()
        except AgentUnreachable:
            return False
        return True

    def is_unfetched(self) -> bool:
        """Whether its script has begun, and nobody has all of what it has written; an agent that runs and is silent may have."""
        if not self.replicas:
            return False
        try:
            told = self.backend.agent(self.name, self.replicas[0]).brief(self.replicas, timeout_s=2)
        except SpawnerError:
            left = left_of(self.backend, self.name, self.replicas)
            runs = seen_running(self.backend, self.name, [self.replicas[0]])
            return bool(runs) or any(one.is_missed() for one in left.values())
        return told["phase"] not in STARTING and not told["released"]

    def delete(self, timeout_s: float = DELETE_TIMEOUT_S, note: Callable[[str], None] | None = None) -> None:
        """Ends it and removes all of it; returns when it is gone, and tells by note what holds it up."""
        self.backend.delete(self.name, timeout_s, note=note)


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
            told = backend.agent(summary.job, summary.replicas[0]).brief(summary.replicas, timeout_s=2)
        except BadAnswer as error:
            return replace(summary, warning=f"job {summary.job}: {error.message}")
        except SpawnerError:
            return summary
        state = "starting" if told["phase"] in STARTING else told["phase"]
        if told["phase"] == "ended":
            state = f"{told['result']}, {'fetched' if told['released'] else 'to be fetched'}"
        return replace(summary, state=state, told=dict(told))

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(refine, backend.jobs()))


def running(backend: Backend) -> list[JobSummary]:
    """The backend's jobs that have not ended."""
    return [summary for summary in summaries(backend) if summary.state in RUNNING]


def run(spec: JobSpec, view: View | None = None) -> Outcome:
    """Launches the job, follows it to its end, brings back logs and files, and removes it.

    Raises JobFailed, TimedOut, ArtifactError, ClusterError or ConfigurationError; all but the last leave
    the run's record in spec.out/<job>. On KeyboardInterrupt the job is stopped, what it has comes back, the job is
    removed, and Interrupted raised. Where not all could come, the job is left, and `missing` of what is raised says why.
    Without a view, a notebook shows the replicas and the curves below the cell, and a program nothing.
    """
    if view is None and in_kernel():
        from tfspawner.views.notebook import shown

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
    record.tell_aside(view.note)
    try:
        return _run(backend, plan, record, view)
    finally:
        record.close()


def take_over(backend: Backend, plan: Plan, id: str, view: View) -> Outcome:
    """Goes on as `run` does with the job of that id, which a launcher that is gone made of the same plan."""
    record = Record(plan.spec.out / plan.job, id)
    try:
        home = Homecoming(backend, plan.job, id, plan.spec.replicas, record, view)
        with home.guarded():
            record.event("taken over")
            if not (record.folder / "spec.json").exists():
                record.write_json("spec.json", described(plan))
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
    code = pack(spec.folder, out=spec.out, asked=spec.workdir is not None, wheels=wheels, env_files=spec.env_files, known=known,
                script=spec.script_path.relative_to(spec.folder).as_posix())  # fmt: skip
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
    try:
        text = read_bytes(spec.script, "the script")
    except TooLarge:
        return [f"{spec.script.name} has more than {MOST_BYTES:,} bytes, and was not read for what will not work"]
    folders = {path.parent.name for path in spec.script_path.parent.glob("*/*.py")}
    found = findings(
        text, spec.script.name, workers=spec.workers + spec.has_chief, gpus=spec.gpus,
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


def raise_for(state: JobState, record: Record | None) -> None:
    """Raises what a job's end means: nothing, JobFailed or TimedOut."""
    if state.result == "succeeded":
        return
    cause = explained(state.cause or {})
    replica, message = cause.get("replica"), cause.get("message") or "failed"
    stands = cause.get("stands") or []
    kept = record.last_lines(replica, LAST_LINES) if record and replica and not state.replicas[replica].unkept else []
    lines = stands or kept or cause.get("tail") or []
    text = f"{replica} {message}" if replica else message
    error: SpawnerError
    if state.result == "timeout":
        longer = "raise --start-timeout" if "did not start" in message else "raise --timeout"
        error = TimedOut(text, hint=cause.get("hint") or longer)
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
    home = Homecoming(backend, plan.job, plan.id, plan.spec.replicas, record, view)
    with home.guarded():
        record.event("launched", seconds=round(time.time() - began, 3))
        _describe(plan, record)
        code = plan.code if backend.must_upload(plan) else None
        state = _follow(home, plan, code, began)
        for number in range(2, (plan.spec.start_tries or 1) + 1):
            if not (state.cause or {}).get("no_room"):
                break
            _give_back(backend, plan, state, record, view, number)
            backend.launch(plan)
            state = _follow(home, plan, code, began)
        outcome = _bring_home(home, plan, state)
    return _judged(home, state, outcome)


def _bring_home(home: Homecoming, plan: Plan, state: JobState) -> Outcome:
    """Brings home what the job left, and removes it once all is here."""
    outcome = home.bring(state)
    if home.is_home and plan.spec.keep and not home.is_interrupted:
        _release(home.backend, state)
    elif home.is_home:
        home.remove()
    return outcome


def _judged(home: Homecoming, state: JobState, outcome: Outcome) -> Outcome:
    """The outcome, or what is raised for it; beside the job's own failure, that not all could come."""
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
        home.backend, plan.job, plan.spec.replicas, home.record, home.view,
        start_timeout_s=plan.spec.start_timeout_s, upload=upload, launched=launched,
    )  # fmt: skip
    home.state = follower.state
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


def described(plan: Plan) -> dict[str, Any]:
    """What a record tells of a job: its options, of variables the names alone, and the code's SHA-256."""
    shown = replace(plan.spec, args=tuple(map(plan.known.mask, plan.spec.args)), env_files=())
    spec = {k: v for k, v in asdict(shown).items() if v is not None and v not in ((), {})}
    return {"job": plan.job, "code_sha256": plan.code.sha256, **spec, "env": sorted(plan.spec.env)}


def _describe(plan: Plan, record: Record) -> None:
    record.write_json("spec.json", described(plan))
    if plan.spec.on == "kubernetes":
        from tfspawner.backends.kubernetes.manifests import redacted, render, to_yaml

        record.write("manifests.yaml", to_yaml(redacted(render(plan))))


def _release(backend: Backend, state: JobState) -> None:
    """All of it is here: its agents may end."""
    with suppress(AgentUnreachable):  # it has ended already
        backend.agent(state.job, next(iter(state.replicas))).release()
    _mark_fetched(backend, state)


def _mark_fetched(backend: Backend, state: JobState) -> None:
    """Of agents that were killed, nobody misses the files any more."""
    for left in left_of(backend, state.job, state.replicas).values():
        left.mark_fetched()


def _upload_or_remove(backend: Backend, plan: Plan) -> None:
    """A job without its code is of no use: whatever ends the upload removes the job, or says that it is there."""
    try:
        _upload(backend, plan)
    except BaseException as error:
        is_interrupted = isinstance(error, KeyboardInterrupt)
        told = Interrupted(f"interrupted; nothing of job {plan.job} is left") if is_interrupted else error
        try:
            backend.delete(plan.job, DELETE_TIMEOUT_S, plan.id)
        except (KeyboardInterrupt, SpawnerError):
            if is_interrupted:
                told = Interrupted(f"interrupted; job {plan.job} was launched without its code")
            raise still_there(told, plan.job) if isinstance(told, SpawnerError) else told from None
        raise told from None


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
