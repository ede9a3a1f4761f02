"""This machine as a backend: an agent process per replica, and a folder per job."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import urllib3

from tfspawner.backends.base import JobSummary, Observation
from tfspawner.backends.client import AgentClient
from tfspawner.backends.gpu_types import is_product
from tfspawner.backends.tf_keras import installed_tensorflow, wheel
from tfspawner.base.patience import patient
from tfspawner.base.shapes import DamagedFile
from tfspawner.base.states import PodState
from tfspawner.errors import AgentUnreachable, ClusterError, Command, ConfigurationError, Hint, NotFoundError
from tfspawner.plan.checks import is_name
from tfspawner.plan.spec import JobSpec
from tfspawner.record.reading import read_id
from tfspawner.replica.processes import KILL_WITHIN_S, end_descendants, kill_group
from tfspawner.replica.protocol import STOP_GRACE_S
from tfspawner.replica.usage import NO_NVML, Gpus

from .launching import FULL_BYTES, VISIBLE, address, name_in_use, start_replica, unwritable, write_job, write_json
from .left_files import LeftFiles
from .ports import HOST, free_ports
from .processes import read_number, started, strays
from .removing import remove_folder
from .state import is_agent_of, last_words, read_exit, read_log, read_meta, read_pids, read_roles, read_token

if TYPE_CHECKING:
    from tfspawner.plan.plan import Plan

TENSORFLOW_BYTES = 600 << 20  # the memory of a process that has imported TensorFlow 2.21


def state_folder() -> Path:
    """The folder of this machine's jobs: $XDG_STATE_HOME/tf-spawner/jobs."""
    base = Path(os.environ.get("XDG_STATE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".local/state") / "tf-spawner" / "jobs"


class _Agents(NamedTuple):
    """A job's agents: the job's id, their addresses, their common token, and their processes as in read_pids()."""

    id: str
    addresses: dict[str, str]
    token: str
    pids: dict[str, list[int]]


class LocalBackend:
    """Replicas are processes in sessions of their own, so they live on when the launcher ends."""

    name = "local"

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_folder()
        self.pool = patient(urllib3.PoolManager(maxsize=64, retries=False))
        self.listeners: dict[str, socket.socket] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.launched: dict[str, _Agents] = {}  # kept in memory: scripts could change the files on disk
        self.known: dict[str, str] = {}  # name -> the id of the job that this process means by it
        self.made: dict[str, tuple[str, int]] = {}  # name -> (id, open folder) of each job launched here

    def reserve(self, spec: JobSpec, job: str) -> str:
        """Binds the sockets of all agents, which inherit them at launch."""
        for replica in spec.replicas:
            try:
                self.listeners[replica] = socket.create_server((HOST, 0))
            except OSError as error:
                raise ClusterError(
                    f"{replica} gets no socket on this machine: {error.strerror}",
                    hint="fewer replicas, or: ulimit -n 4096",
                ) from None
        return address(self.listeners[spec.replicas[0]])

    def check(self, spec: JobSpec) -> list[str]:
        if spec.name and (self.folder / spec.name).exists():
            raise name_in_use(spec.name)
        return []

    def gpus(self, spec: JobSpec, jobs: int = 1) -> tuple[Mapping[str, tuple[str, ...]], list[str]]:
        """This machine's GPUs, without those that CUDA_VISIBLE_DEVICES hides from this process."""
        detected, needed = Gpus(), spec.gpus * len(spec.gpu_replicas) * jobs
        if detected.missing == NO_NVML:
            raise ConfigurationError("--gpus needs nvidia-ml-py here", hint="pip install 'tf-spawner[gpu]'")
        if detected.missing:
            raise ConfigurationError(
                f"--gpus: this machine shows no NVIDIA GPU: {detected.missing}", hint="leave --gpus out"
            )
        fitting = [gpu for gpu in detected.devices if is_product(spec.gpu_type, gpu.name)]
        if len(fitting) < needed:
            names = Counter(gpu.name for gpu in detected.devices)
            kind = f" of type {spec.gpu_type}" if spec.gpu_type else ""
            raise ConfigurationError(
                f"--gpus: the replicas ask for {needed} GPUs{kind} in all, and this machine has "
                + ", ".join(f"{count} {name}" for name, count in names.items())
            )
        return {VISIBLE: tuple(gpu.word for gpu in fitting[:needed])}, []

    def preflight(self, plan: Plan) -> list[str]:
        free, needed = _free_memory(), TENSORFLOW_BYTES * len(plan.spec.replicas)
        if free is None or free >= needed:
            return []
        return [
            f"{len(plan.spec.replicas)} replicas with TensorFlow take {needed / 1024**3:.1f} GiB before they hold "
            f"any data, and {free / 1024**3:.1f} GiB are free here"
        ]

    def provide_tf_keras(self, spec: JobSpec) -> tuple[tuple[Path, ...], list[str]]:
        if not find_spec("tensorflow") or find_spec("tf_keras"):
            return (), []
        tensorflow = installed_tensorflow()
        try:
            return (wheel(tensorflow),), []
        except OSError as error:
            raise ConfigurationError(
                "the script uses Keras on several workers, which Keras 3 cannot do, and tf-keras, which can, "
                f"could not be downloaded: {error}",
                hint=f"pip install --no-deps 'tf-keras=={tensorflow or ''}'  (its minor version is TensorFlow's)",
            ) from None

    def must_upload(self, plan: Plan) -> bool:
        return False

    def launch(self, plan: Plan) -> None:
        folder = self.folder / plan.job
        ports = free_ports(len(plan.spec.replicas), plan.spec.port)
        try:
            folder.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            raise name_in_use(plan.job) from None
        except OSError as error:
            raise unwritable(plan, folder, error) from None
        self.known[plan.job] = plan.id
        self.made[plan.job] = (plan.id, os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        try:
            write_job(plan, folder, self.listeners)
            pids: dict[str, list[int]] = {}
            write_json(folder / "pids.json", pids)
            numbers = {}
            for replica, port in zip(plan.spec.replicas, ports, strict=True):
                process, numbers[replica] = start_replica(plan, folder, replica, port, self.listeners.pop(replica))
                self.processes.append(process)
                pids[replica] = [process.pid, started(process.pid)] * 2  # the keeper, which passes signals on
                write_json(folder / "pids.json", pids)
            for replica, number in numbers.items():
                pid = read_number(number) or pids[replica][0]
                pids[replica][:2] = pid, started(pid)
            write_json(folder / "pids.json", pids)
            self.launched[plan.job] = self._agents(plan.job)
        except BaseException as error:
            failure = unwritable(plan, folder, error) if isinstance(error, OSError) else error
            self.delete(plan.job, 10, plan.id)
            raise failure from None

    def find(self, job: str) -> JobSummary:
        folder = self.folder / job
        missing = NotFoundError(f"there is no job {job!r} on this machine", hint=Hint(Command("list")))
        if not is_name(job) or not is_folder(folder):
            raise missing
        meta, roles, wrong = None, {}, ""
        try:
            meta = read_meta(folder)
            roles = read_roles(folder)
            read_pids(folder)
        except DamagedFile as error:
            roles, wrong = {}, error.message
        try:
            id = meta["id"] if meta else read_id(folder) or ""
        except DamagedFile as error:
            id, wrong = "", wrong or error.message
        if id and id != self.known.setdefault(job, id):
            raise NotFoundError(f"job {job} is gone; another has its name now", hint=Hint(Command("attach", job)))
        if meta is None or not roles:
            try:
                created, is_bare = folder.stat().st_mtime, _is_empty(folder)
            except FileNotFoundError:
                raise missing from None
            return JobSummary(
                job=job,
                on="local",
                namespace="",
                tag="",
                roles={},
                created=created,
                id=id,
                state="damaged" if wrong else "incomplete",
                warning=wrong and f"job {job} is damaged: {wrong}",
                is_bare=is_bare,
            )
        states = {self._state(job, replica)[0] for replica in self._pids(job)}
        state = "running" if "running" in states else "succeeded" if states == {"succeeded"} else "failed"
        return JobSummary(
            job=job,
            on="local",
            namespace="",
            tag=meta["tag"],
            roles=roles,
            created=meta["created"],
            state=state,
            id=meta["id"],
        )

    def jobs(self) -> list[JobSummary]:
        self.known.clear()  # a list is of the jobs that exist now
        summaries = []
        for name in filter(is_name, self._names()):
            with suppress(NotFoundError):  # deleted meanwhile
                summaries.append(self.find(name))
        return sorted(summaries, key=lambda summary: summary.created)

    def left_out(self, *, thorough: bool = False) -> list[str]:
        places = [self.folder / name for name in self._names()]
        no_folder = "it is a link, or no folder, and so no job's"
        return [
            f"{place}: {no_folder if is_name(place.name) else 'no job can have this name'}"
            for place in places
            if not is_name(place.name) or not is_folder(place)
        ]

    def _names(self) -> list[str]:
        """The names in the state folder. Raises ClusterError."""
        try:
            return os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ClusterError(
                f"the jobs of this machine in {self.folder} cannot be listed: {error.strerror}",
                hint="make that possible, or set XDG_STATE_HOME to a folder of yours",
            ) from None

    def watch(self, job: str, stop: threading.Event) -> Iterator[Observation | None]:
        """Watches the agents' processes; the agents themselves report on their scripts."""
        last_states: dict[str, str] = {}
        host = socket.gethostname()
        while not stop.is_set():
            if not is_folder(self.folder / job):
                yield Observation(replica=None, state=PodState.GONE, message=f"job {job} was deleted")
            for replica in self._pids(job):
                state, message = self._state(job, replica)
                if last_states.get(replica) != state:
                    last_states[replica] = state
                    yield Observation(replica=replica, state=state, node=host, message=message)
            yield None
            stop.wait(0.2)

    def agent(self, job: str, replica: str) -> AgentClient:
        try:
            agents = self.launched.get(job) or self._agents(job)
        except DamagedFile as error:
            raise AgentUnreachable(f"{replica}'s agent cannot be found: {error.message}", hint=error.hint) from None
        if not agents.token or replica not in agents.addresses:
            raise AgentUnreachable(f"{replica}'s agent is not there any more")
        if agents.id != self.known.setdefault(job, agents.id):
            raise AgentUnreachable(f"job {job} is gone; another has its name now")
        if not self._alive(job, replica):  # another process may have its port now
            raise AgentUnreachable(f"{replica}'s agent has ended")
        url = f"http://{agents.addresses[replica]}"
        return AgentClient(replica=replica, url=url, token=agents.token, pool=self.pool, headers=dict)

    def _agents(self, job: str) -> _Agents:
        """The job's agents, from its folder. Raises DamagedFile."""
        meta = read_meta(self.folder / job) or {"id": "", "agents": {}}
        return _Agents(meta["id"], meta["agents"], read_token(self.folder / job) or "", self._pids(job))

    def last_output(self, job: str, replica: str) -> bytes | None:
        known = self.known.get(job)
        return read_log(self.folder / job, replica) if known is None or self._is_there(job, known) else None

    def left(self, job: str, replica: str) -> LeftFiles | None:
        """The files of a replica whose agent was killed; None for one that ended by itself and left exit.json."""
        folder = self.folder / job
        root = folder / replica
        if not is_folder(folder) or not is_folder(root) or self._alive(job, replica):
            return None
        try:
            agents = self.launched.get(job) or self._agents(job)
            if replica not in agents.addresses or agents.id != self.known.setdefault(job, agents.id):
                return None
            if not self._is_there(job, agents.id):
                return None
            if read_exit(folder, replica) is not None:
                return None
        except DamagedFile:
            return None

        def writes() -> bool:
            return bool(self._living(job, self._pids(job).get(replica, [])[2:]) or any(strays(root)))

        return LeftFiles(replica, root, folder / "code.tar.gz", writes)

    def delete(
        self, job: str, timeout_s: float, id: str | None = None, note: Callable[[str], None] | None = None
    ) -> None:
        """Ends all processes of the job's agents and scripts, and removes the job's folder."""
        if not is_name(job):
            raise NotFoundError(f"{job!r} is not a job's name")
        try:
            summary = self.find(job)
        except NotFoundError:
            return
        if id is not None and summary.id and summary.id != id:
            return  # another job under the same name
        if id is not None and not summary.id and not summary.is_bare and not self._made_here(job, id):
            raise ClusterError(
                f"job {job} is not removed: its id cannot be read, and it may be another's"
                + (f" ({summary.warning})" if summary.warning else ""),
                hint=Hint("if it is to go: ", Command("delete", job, "--on", "local")),
            )
        deadline = time.monotonic() + timeout_s
        kill_at = time.monotonic() + 2 * STOP_GRACE_S
        for pid in self._alive_pids(job, agents=True):
            kill_group(pid, signal.SIGTERM)
        while pids := self._alive_pids(job):
            if time.monotonic() > kill_at:
                for pid in pids:  # what its script left behind can be found below it only while it lives
                    end_descendants(pid, KILL_WITHIN_S)
                    kill_group(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise ClusterError(f"processes of job {job} did not end within {timeout_s:g} s")
            time.sleep(0.02)
        for pid in strays(self.folder / job):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        remove_folder(self.folder / job)
        self.launched.pop(job, None)
        if job in self.made:
            os.close(self.made.pop(job)[1])

    def _made_here(self, job: str, id: str) -> bool:
        """Whether this process launched the job with that id in this same folder, whatever the folder's files say."""
        made, folder = self.made.get(job, ("", -1))
        with suppress(OSError):
            return made == id and os.path.samestat(os.fstat(folder), (self.folder / job).lstat())
        return False

    def _is_there(self, job: str, id: str) -> bool:
        """Whether the folder of that name still belongs to that job, and not to a later one."""
        try:
            meta = read_meta(self.folder / job)
        except DamagedFile:
            meta = None
        return meta["id"] == id if meta else self._made_here(job, id)

    # -- files and processes

    def _pids(self, job: str) -> dict[str, list[int]]:
        """As read_pids(); empty if the file is damaged: `delete` then finds the processes by their environment."""
        if job in self.launched:
            return self.launched[job].pids
        try:
            return read_pids(self.folder / job)
        except DamagedFile:
            return {}

    def _alive(self, job: str, replica: str) -> bool:
        for process in self.processes:
            process.poll()
        return bool(self._living(job, self._pids(job).get(replica, [])[:2]))

    def _living(self, job: str, noted: list[int]) -> list[int]:
        """The job's living processes among those noted: [pid, when it started, …]."""
        for process in self.processes:
            process.poll()
        pairs = zip(noted[::2], noted[1::2], strict=True)
        return [
            pid for pid, at in pairs if started(pid) == at != 0 and is_agent_of(self.folder / job, pid, may_wait=True)
        ]

    def _state(self, job: str, replica: str) -> tuple[PodState, str]:
        """A replica's state and a message: its agent runs, or left exit.json when it ended, or was killed."""
        if self._alive(job, replica):
            return PodState.RUNNING, ""
        try:
            ended = read_exit(self.folder / job, replica)
        except DamagedFile as error:
            return PodState.GONE, f"was lost: {error.message}"
        if ended is None:
            why = self._full() or "was lost: its agent's process is gone"
            return PodState.GONE, f"{why}{self._last_words(job, replica)}"
        return (PodState.SUCCEEDED, "") if ended["code"] == 0 else (PodState.FAILED, ended["message"])

    def _full(self) -> str:
        """Says that the state folder is full, if it is: that is why an agent's process is gone."""
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:
            return ""
        return f"ended, its folder is full: {free:,} bytes are free at {self.folder}" if free < FULL_BYTES else ""

    def _last_words(self, job: str, replica: str) -> str:
        words = last_words(self.folder / job, replica)
        return f" ({words})" if words else ""

    def _alive_pids(self, job: str, *, agents: bool = False) -> list[int]:
        """The pids of the job's living processes: each replica's keeper and then its agent; agents: only the agents."""
        return self._living(
            job, [n for of in self._pids(job).values() for n in (of[:2] if agents else of[2:] + of[:2])]
        )


def is_folder(path: Path) -> bool:
    """Whether the path is a folder and not a link to one: links are neither followed nor removed."""
    return path.is_dir() and not path.is_symlink()


def _is_empty(folder: Path) -> bool:
    with suppress(PermissionError):
        return not os.listdir(folder)
    return False


def _free_memory() -> int | None:
    """The memory in bytes that new processes can have; None if the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
