"""This machine as a backend: an agent process per replica, and a folder per job."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import urllib3

from tfspawner import agent
from tfspawner.backends.base import JobSummary, Observation
from tfspawner.backends.client import AgentClient
from tfspawner.backends.kubernetes.capacity import is_product
from tfspawner.backends.tf_keras import installed_tensorflow, wheel
from tfspawner.base.names import ID_FILE
from tfspawner.base.retrying import patient
from tfspawner.base.shapes import DamagedFile
from tfspawner.errors import AgentUnreachable, ClusterError, ConfigurationError, NotFoundError
from tfspawner.plan.spec import JobSpec, is_name
from tfspawner.record.reading import read_id
from tfspawner.usage import NO_NVML, Gpus

from .left_files import LeftFiles
from .removing import remove_folder
from .state import is_agent_of, last_words, read_exit, read_log, read_meta, read_pids, read_roles, read_token

if TYPE_CHECKING:
    from tfspawner.plan.plan import Plan

HOST = "127.0.0.1"
KEEPER = Path(__file__).with_name("keeper.py")
NUMBER_WITHIN_S = 10.0  # so long a keeper may take to tell its agent's number
FULL_BYTES = 1 << 16  # who has less room cannot write anything any more
VISIBLE = "CUDA_VISIBLE_DEVICES"
OUTPUT = "TFSPAWNER_OUTPUT"  # the variable by which a job's processes are told from others'
TENSORFLOW_BYTES = 600 << 20  # what a process has once it has imported TensorFlow 2.21
PORTS = range(20000, 32000)  # below Linux's ephemeral ports: no outgoing connection takes one between look and use


def state_folder() -> Path:
    """Where this machine's jobs lie: $XDG_STATE_HOME/tf-spawner/jobs."""
    base = Path(os.environ.get("XDG_STATE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".local/state") / "tf-spawner" / "jobs"


class _Agents(NamedTuple):
    """A job's agents: its id, where each listens, the token they share, and each one's process and when that started."""

    id: str
    addresses: dict[str, str]
    token: str
    pids: dict[str, list[int]]


class LocalBackend:
    """Replicas are processes in sessions of their own, which live on when the launcher ends."""

    name = "local"

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_folder()
        self.pool = patient(urllib3.PoolManager(maxsize=64, retries=False))
        self.listeners: dict[str, socket.socket] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.launched: dict[str, _Agents] = {}  # what scripts, which are this user's, could change on disk meanwhile
        self.known: dict[str, str] = {}  # name -> the id of the job that is meant by it here
        self.made: dict[str, tuple[str, int]] = {}  # name -> the id of what was launched here; its folder, held open

    def coordinator_address(self, spec: JobSpec, job: str) -> str:
        """All agents' sockets are bound here, and are inherited at launch."""
        for replica in spec.replicas:
            try:
                self.listeners[replica] = socket.create_server((HOST, 0))
            except OSError as error:
                raise ClusterError(
                    f"{replica} gets no socket on this machine: {error.strerror}",
                    hint="fewer replicas, or: ulimit -n 4096",
                ) from None
        return _address(self.listeners[spec.replicas[0]])

    def check(self, spec: JobSpec) -> list[str]:
        if spec.name and (self.folder / spec.name).exists():
            raise _name_in_use(spec.name)
        return []

    def gpus(self, spec: JobSpec, jobs: int = 1) -> tuple[Mapping[str, tuple[str, ...]], list[str]]:
        """Those of this machine, but for what CUDA_VISIBLE_DEVICES keeps from this process."""
        found, needed = Gpus(), spec.gpus * len(spec.gpu_replicas) * jobs
        if found.missing == NO_NVML:
            raise ConfigurationError("--gpus needs nvidia-ml-py here", hint="pip install 'tf-spawner[gpu]'")
        if found.missing:
            raise ConfigurationError(
                f"--gpus: this machine shows no NVIDIA GPU: {found.missing}", hint="leave --gpus out"
            )
        fitting = [gpu for gpu in found.devices if is_product(spec.gpu_type, gpu.name)]
        if len(fitting) < needed:
            names = Counter(gpu.name for gpu in found.devices)
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
        return [f"{len(plan.spec.replicas)} replicas with TensorFlow take {needed / 1024**3:.1f} GiB before they hold "
                f"any data, and {free / 1024**3:.1f} GiB are free here"]  # fmt: skip

    def provide_tf_keras(self, spec: JobSpec) -> tuple[tuple[Path, ...], list[str]]:
        if not find_spec("tensorflow") or find_spec("tf_keras"):
            return (), []
        found = installed_tensorflow()
        try:
            return (wheel(found),), []
        except OSError as error:
            raise ConfigurationError(
                "the script uses Keras on several workers, which Keras 3 cannot do, and tf-keras, which can, "
                f"could not be downloaded: {error}",
                hint=f"pip install --no-deps 'tf-keras=={found or ''}'  (its minor version is TensorFlow's)",
            ) from None

    def must_upload(self, plan: Plan) -> bool:
        return False

    def launch(self, plan: Plan) -> None:
        folder = self.folder / plan.job
        ports = _free_ports(len(plan.spec.replicas), plan.spec.port)
        try:
            folder.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            raise _name_in_use(plan.job) from None
        except OSError as error:
            raise _unwritable(plan, folder, error) from None
        self.known[plan.job] = plan.id
        self.made[plan.job] = (plan.id, os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        try:
            self._write(plan, folder)
            pids: dict[str, list[int]] = {}
            _write_json(folder / "pids.json", pids)
            numbers = {}
            for replica, port in zip(plan.spec.replicas, ports, strict=True):
                above, numbers[replica] = self._start(plan, folder, replica, port)
                pids[replica] = [above, _started(above)] * 2  # which passes signals on
                _write_json(folder / "pids.json", pids)
            for replica, number in numbers.items():
                pid = _read_number(number) or pids[replica][0]
                pids[replica][:2] = pid, _started(pid)
            _write_json(folder / "pids.json", pids)
            self.launched[plan.job] = self._agents(plan.job)
        except BaseException as error:
            failure = _unwritable(plan, folder, error) if isinstance(error, OSError) else error
            self.delete(plan.job, 10, plan.id)
            raise failure from None

    def find(self, job: str) -> JobSummary:
        folder = self.folder / job
        missing = NotFoundError(f"there is no job {job!r} on this machine", hint="tf-spawner list")
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
            raise NotFoundError(f"job {job} is gone; another has its name now", hint=f"tf-spawner attach {job}")
        if meta is None or not roles:
            try:
                created, is_bare = folder.stat().st_mtime, _is_empty(folder)
            except FileNotFoundError:
                raise missing from None
            return JobSummary(job=job, on="local", namespace="", tag="", roles={}, created=created, id=id,
                              state="damaged" if wrong else "incomplete", warning=wrong and f"job {job} is damaged: {wrong}",
                              is_bare=is_bare)  # fmt: skip
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
        self.known.clear()  # whoever asks for all means those that are there now
        found = []
        for name in filter(is_name, self._names()):
            with suppress(NotFoundError):  # it was deleted meanwhile
                found.append(self.find(name))
        return sorted(found, key=lambda summary: summary.created)

    def left_out(self, *, thorough: bool = False) -> list[str]:
        places = [self.folder / name for name in self._names()]
        no_folder = "it is a link, or no folder, and so no job's"
        return [f"{place}: {no_folder if is_name(place.name) else 'no job can have this name'}" for place in places
                if not is_name(place.name) or not is_folder(place)]  # fmt: skip

    def _names(self) -> list[str]:
        """What lies in the state folder. Raises ClusterError."""
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
        """Looks after the agents' processes; what their scripts do is told by the agents themselves."""
        told: dict[str, str] = {}
        host = socket.gethostname()
        while not stop.is_set():
            if not is_folder(self.folder / job):
                yield Observation(replica=None, state="gone", message=f"job {job} was deleted")
            for replica in self._pids(job):
                state, message = self._state(job, replica)
                if told.get(replica) != state:
                    told[replica] = state
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
        if not self._alive(job, replica):  # its port may be another's by now
            raise AgentUnreachable(f"{replica}'s agent has ended")
        url = f"http://{agents.addresses[replica]}"
        return AgentClient(replica=replica, url=url, token=agents.token, pool=self.pool, headers=dict)

    def _agents(self, job: str) -> _Agents:
        """As the job's folder tells. Raises DamagedFile."""
        meta = read_meta(self.folder / job) or {"id": "", "agents": {}}
        return _Agents(meta["id"], meta["agents"], read_token(self.folder / job) or "", self._pids(job))

    def last_output(self, job: str, replica: str) -> bytes | None:
        known = self.known.get(job)
        return read_log(self.folder / job, replica) if known is None or self._is_there(job, known) else None

    def left(self, job: str, replica: str) -> LeftFiles | None:
        """The files of a replica whose agent ended without a word; one that could leave a note had held them as long as it should."""
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
            return bool(self._living(job, self._pids(job).get(replica, [])[2:]) or any(_strays(root)))

        return LeftFiles(replica, root, folder / "code.tar.gz", writes)

    def delete(
        self, job: str, timeout_s: float, id: str | None = None, note: Callable[[str], None] | None = None
    ) -> None:
        """Ends every process of the job's agents and scripts, and removes its folder."""
        if not is_name(job):
            raise NotFoundError(f"{job!r} is not a job's name")
        try:
            found = self.find(job)
        except NotFoundError:
            return
        if id is not None and found.id and found.id != id:
            return  # another job under the same name
        if id is not None and not found.id and not found.is_bare and not self._made_here(job, id):
            raise ClusterError(
                f"job {job} is not removed: its id cannot be read, and it may be another's"
                + (f" ({found.warning})" if found.warning else ""),
                hint=f"if it is to go: tf-spawner delete {job} --on local",
            )
        deadline = time.monotonic() + timeout_s
        kill_at = time.monotonic() + 2 * agent.STOP_GRACE_S
        for pid in self._alive_pids(job, agents=True):
            agent.kill_group(pid, signal.SIGTERM)
        while pids := self._alive_pids(job):
            if time.monotonic() > kill_at:
                for pid in pids:  # while it lives, what its script left behind is below it
                    agent.end_descendants(pid, agent.KILL_WITHIN_S)
                    agent.kill_group(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise ClusterError(f"processes of job {job} did not end within {timeout_s:g} s")
            time.sleep(0.02)
        for pid in _strays(self.folder / job):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        remove_folder(self.folder / job)
        self.launched.pop(job, None)
        if job in self.made:
            os.close(self.made.pop(job)[1])

    def _made_here(self, job: str, id: str) -> bool:
        """Whether this process launched the job of that id in the very folder that is there now, whatever that says."""
        made, folder = self.made.get(job, ("", -1))
        with suppress(OSError):
            return made == id and os.path.samestat(os.fstat(folder), (self.folder / job).lstat())
        return False

    def _is_there(self, job: str, id: str) -> bool:
        """Whether the folder of that name is that job's, and not a later one's."""
        try:
            meta = read_meta(self.folder / job)
        except DamagedFile:
            meta = None
        return meta["id"] == id if meta else self._made_here(job, id)

    # -- files and processes

    def _write(self, plan: Plan, folder: Path) -> None:
        (folder / ID_FILE).write_text(plan.id)
        for name, data in plan.files.items():
            (folder / name).write_bytes(data)
        with open(folder / "code.tar.gz", "wb") as archive:
            shutil.copyfileobj(plan.code.open(), archive)
        descriptor = os.open(folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(plan.token)
        agents = {replica: _address(listener) for replica, listener in self.listeners.items()}
        _write_json(
            folder / "meta.json",
            {"id": plan.id, "created": time.time(), "tag": plan.spec.tag or "", "agents": agents},
        )

    def _start(self, plan: Plan, folder: Path, replica: str, port: int) -> tuple[int, int]:
        """Starts a replica's keeper, and with it its agent; its number, and a file in which the agent's comes."""
        role, _, index = replica.rpartition("-")
        root = folder / replica
        root.mkdir()
        listener = self.listeners.pop(replica)
        env = {
            **os.environ,
            **plan.spec.env,
            **plan.hidden,
            OUTPUT: str(root / "output"),
        }
        if plan.spec.gpus:
            env[VISIBLE] = _share(plan, replica)
            env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # NVML's, by which the numbers count
        command = [sys.executable, agent.__file__, "--config", str(folder), "--role", role, "--index", index,
                   "--root", str(root), "--host", HOST, "--port", str(port), "--fd", str(listener.fileno())]  # fmt: skip
        number, told = os.pipe()
        token, given = os.pipe()
        os.write(given, plan.token.encode())
        os.close(given)
        command = [sys.executable, "-I", "-S", str(KEEPER), str(told), *command, "--token-fd", str(token)]
        with listener, open(root / "agent.log", "wb") as output, open(told, "wb"), open(token, "rb"):
            process = subprocess.Popen(
                command, env=env, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=output,
                pass_fds=[listener.fileno(), told, token], start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process.pid, number

    def _pids(self, job: str) -> dict[str, list[int]]:
        """Of a damaged file none: `delete` then finds the processes by their environment."""
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
        """Of processes, each with when it started, those that have not ended and are the job's."""
        for process in self.processes:
            process.poll()
        pairs = zip(noted[::2], noted[1::2], strict=True)
        return [
            pid for pid, at in pairs if _started(pid) == at != 0 and is_agent_of(self.folder / job, pid, may_wait=True)
        ]

    def _state(self, job: str, replica: str) -> tuple[str, str]:
        """A replica's state and a message: its agent runs, or left a note when it ended, or was killed."""
        if self._alive(job, replica):
            return "running", ""
        try:
            ended = read_exit(self.folder / job, replica)
        except DamagedFile as error:
            return "gone", f"was lost: {error.message}"
        if ended is None:
            why = self._full() or "was lost: its agent's process is gone"
            return "gone", f"{why}{self._last_words(job, replica)}"
        return ("succeeded", "") if ended["code"] == 0 else ("failed", ended["message"])

    def _full(self) -> str:
        """That the state folder is full, if it is: why an agent's process is gone."""
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:
            return ""
        return f"ended, its folder is full: {free:,} bytes are free at {self.folder}" if free < FULL_BYTES else ""

    def _last_words(self, job: str, replica: str) -> str:
        words = last_words(self.folder / job, replica)
        return f" ({words})" if words else ""

    def _alive_pids(self, job: str, *, agents: bool = False) -> list[int]:
        """The job's processes that have not ended: the agents', behind those that stand above them."""
        return self._living(
            job, [n for of in self._pids(job).values() for n in (of[:2] if agents else of[2:] + of[:2])]
        )


def _read_number(file: int) -> int:
    """A process's number, as soon as it comes; 0 where none does."""
    with open(file, "rb", buffering=0) as source:
        waiting = select.poll()
        waiting.register(source, select.POLLIN)
        return int(source.read(20) or 0) if waiting.poll(NUMBER_WITHIN_S * 1000) else 0


def _started(pid: int) -> int:
    """When a process started, in the kernel's ticks since boot; 0 where there is none (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return 0 if Path("/proc/self").exists() else int(_exists(pid))
    return 0 if fields[0] in "ZX" else int(fields[19])


def is_folder(path: Path) -> bool:
    """Whether a folder lies there itself: through a link nothing is looked at, and nothing removed."""
    return path.is_dir() and not path.is_symlink()


def _is_empty(folder: Path) -> bool:
    with suppress(PermissionError):
        return not os.listdir(folder)
    return False


def _exists(pid: int) -> bool:
    """For systems without /proc, where a reused process number is not told apart."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _strays(folder: Path) -> Iterator[int]:
    """Processes of scripts of the job, or of one replica, that outlived their agents, and agents that were not noted in time.

    Scripts are known by a variable; agents, whose environment nobody may read, by their command line.
    """
    mark = f"{OUTPUT}={folder}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if is_agent_of(folder, int(process.name)) or any(
                variable.startswith(mark) for variable in (process / "environ").read_bytes().split(b"\0")
            ):
                yield int(process.name)


def _address(listener: socket.socket) -> str:
    return agent.address(*listener.getsockname()[:2])


def _name_in_use(job: str) -> ConfigurationError:
    return ConfigurationError(
        f"the name {job!r} is in use by another job on this machine",
        hint=f"choose another --name, or remove that job: tf-spawner delete {job} --on local",
    )


def _unwritable(plan: Plan, folder: Path, error: OSError) -> ClusterError:
    """The job's folder cannot be made or filled. Called before what is there of it is removed."""
    if error.errno not in agent.NO_ROOM:
        return ClusterError(
            f"job {plan.job} cannot be started in {folder}: {error.strerror}",
            hint="set XDG_STATE_HOME to a folder of yours",
        )
    needed = plan.code.size_bytes + sum(map(len, plan.files.values()))
    return ClusterError(
        f"the state folder is full: job {plan.job} takes at least {needed:,} bytes there, and "
        f"{shutil.disk_usage(next(p for p in folder.parents if p.exists())).free:,} are free at {folder.parent}",
        hint="make room, or set XDG_STATE_HOME to a folder on another disk",
    )


def _free_ports(count: int, first: int | None) -> list[int]:
    if first is not None:
        ports = list(range(first, first + count))
        taken = [port for port in ports if not is_free(port)]
        if taken:
            raise ConfigurationError(f"port {taken[0]} is taken on this machine", hint="give another --port, or none")
        return ports
    found: list[int] = []
    for port in islice(_port_order(), len(PORTS)):
        if len(found) == count:
            return found
        if is_free(port):
            found.append(port)
    raise ClusterError(f"{count} free ports are needed on this machine, and there are {len(found)}")


@cache
def _port_order() -> Iterator[int]:
    """This process's own order: a port comes again after all others, for TensorFlow opens it only some seconds later."""
    return cycle(random.sample(PORTS, len(PORTS)))


def _free_memory() -> int | None:
    """Bytes that new processes can have; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _share(plan: Plan, replica: str) -> str:
    """A replica's own GPUs, in CUDA_VISIBLE_DEVICES's words; -1 are none."""
    replicas = plan.spec.gpu_replicas
    if replica not in replicas:
        return "-1"
    first = (plan.slot * len(replicas) + replicas.index(replica)) * plan.spec.gpus
    return ",".join(plan.gpus[VISIBLE][first : first + plan.spec.gpus])


def _write_json(path: Path, value: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.replace(path)
