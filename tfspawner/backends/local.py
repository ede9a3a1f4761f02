"""This machine as a backend: an agent process per replica, and a folder per job."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import urllib3

from .. import agent
from ..client import AgentClient
from ..errors import AgentUnreachable, ClusterError, ConfigurationError, NotFoundError
from ..keras import installed_tensorflow, wheel
from ..preflight import is_product
from ..spec import JobSpec, is_name
from ..usage import NO_NVML, Gpus
from . import JobSummary, Observation

if TYPE_CHECKING:
    from ..plan import Plan

HOST = "127.0.0.1"
VISIBLE = "CUDA_VISIBLE_DEVICES"
OUTPUT = "TFSPAWNER_OUTPUT"  # the variable by which a job's processes are told from others'
TENSORFLOW_BYTES = 600 << 20  # what a process has once it has imported TensorFlow 2.21
PORTS = range(20000, 32000)  # below Linux's ephemeral ports: no outgoing connection takes one between look and use


def state_folder() -> Path:
    """Where this machine's jobs lie: $XDG_STATE_HOME/tf-spawner/jobs."""
    base = Path(os.environ.get("XDG_STATE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".local/state") / "tf-spawner" / "jobs"


class LocalBackend:
    """Replicas are processes in sessions of their own, which live on when the launcher ends."""

    name = "local"

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_folder()
        self.pool = urllib3.PoolManager(maxsize=64, retries=False)
        self.listeners: dict[str, socket.socket] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.known: dict[str, str] = {}  # name -> the id of the job that is meant by it here

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
            raise ClusterError(
                f"{folder} cannot be made: {error.strerror}", hint="set XDG_STATE_HOME to a folder of yours"
            ) from None
        self.known[plan.job] = plan.id
        try:
            self._write(plan, folder)
            pids: dict[str, list[int]] = {}
            _write_json(folder / "pids.json", pids)
            for replica, port in zip(plan.spec.replicas, ports, strict=True):
                pids[replica] = self._start(plan, folder, replica, port)
                _write_json(folder / "pids.json", pids)
        except BaseException:
            self.delete(plan.job, 10, plan.id)
            raise

    def find(self, job: str) -> JobSummary:
        try:
            meta = json.loads((self.folder / job / "meta.json").read_text())
            config = json.loads((self.folder / job / "job.json").read_text())
        except (OSError, ValueError):
            if not (self.folder / job).is_dir():
                raise NotFoundError(f"there is no job {job!r} on this machine", hint="tf-spawner list") from None
            created = (self.folder / job).stat().st_mtime  # killed while it was made
            return JobSummary(job=job, on="local", namespace="", tag="", roles={}, created=created, state="incomplete")
        if meta["id"] != self.known.setdefault(job, meta["id"]):
            raise NotFoundError(f"job {job} is gone; another has its name now", hint=f"tf-spawner attach {job}")
        states = {self._state(job, replica)[0] for replica in self._pids(job)}
        state = "running" if "running" in states else "succeeded" if states == {"succeeded"} else "failed"
        return JobSummary(
            job=job,
            on="local",
            namespace="",
            tag=meta["tag"],
            roles=config["roles"],
            created=meta["created"],
            state=state,
            id=meta["id"],
        )

    def jobs(self) -> list[JobSummary]:
        self.known.clear()  # whoever asks for all means those that are there now
        return sorted((self.find(name) for name in self._folders() if is_name(name)), key=lambda found: found.created)

    def left_out(self, *, thorough: bool = False) -> list[str]:
        return [f"{self.folder}/{name}: no job can have this name" for name in self._folders() if not is_name(name)]

    def _folders(self) -> list[str]:
        return [path.name for path in self.folder.iterdir() if path.is_dir()] if self.folder.is_dir() else []

    def watch(self, job: str, stop: threading.Event) -> Iterator[Observation | None]:
        """Looks after the agents' processes; what their scripts do is told by the agents themselves."""
        told: dict[str, str] = {}
        host = socket.gethostname()
        while not stop.is_set():
            if not (self.folder / job).is_dir():
                yield Observation(replica=None, state="gone", message=f"job {job} was deleted")
            for replica in self._pids(job):
                state, message = self._state(job, replica)
                if told.get(replica) != state:
                    told[replica] = state
                    yield Observation(replica=replica, state=state, node=host, message=message)
            yield None
            stop.wait(0.2)

    def agent(self, job: str, replica: str) -> AgentClient:
        folder = self.folder / job
        try:
            meta = json.loads((folder / "meta.json").read_text())
            address, token = meta["agents"][replica], (folder / "token").read_text()
        except OSError:
            raise AgentUnreachable(f"{replica}'s agent is not there any more") from None
        if meta["id"] != self.known.setdefault(job, meta["id"]):
            raise AgentUnreachable(f"job {job} is gone; another has its name now")
        return AgentClient(replica=replica, url=f"http://{address}", token=token, pool=self.pool, headers=dict)

    def last_output(self, job: str, replica: str) -> bytes | None:
        try:
            return (self.folder / job / replica / "log").read_bytes()
        except OSError:
            return None

    def delete(self, job: str, timeout_s: float, id: str | None = None) -> None:
        """Ends every process of the job's agents and scripts, and removes its folder."""
        if not is_name(job):
            raise NotFoundError(f"{job!r} is not a job's name")
        try:
            if self.find(job).id not in ("", id) and id is not None:
                return  # another job under the same name
        except NotFoundError:
            return
        deadline = time.monotonic() + timeout_s
        kill_at = time.monotonic() + 2 * agent.STOP_GRACE_S
        self._signal(job, signal.SIGTERM)
        while any(self._alive(job, replica) for replica in self._pids(job)):
            if time.monotonic() > kill_at:
                self._signal(job, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise ClusterError(f"processes of job {job} did not end within {timeout_s:g} s")
            time.sleep(0.02)
        for pid in _strays(self.folder / job):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder / job, ignore_errors=True)

    # -- files and processes

    def _write(self, plan: Plan, folder: Path) -> None:
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

    def _start(self, plan: Plan, folder: Path, replica: str, port: int) -> list[int]:
        role, _, index = replica.rpartition("-")
        root = folder / replica
        root.mkdir()
        listener = self.listeners.pop(replica)
        env = {
            **os.environ,
            **plan.spec.env,
            OUTPUT: str(root / "output"),
            "TFSPAWNER_TOKEN": plan.token,
        }
        if plan.spec.gpus:
            env[VISIBLE] = _share(plan, replica)
            env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # NVML's, by which the numbers count
        command = [sys.executable, agent.__file__, "--config", str(folder), "--role", role, "--index", index,
                   "--root", str(root), "--host", HOST, "--port", str(port), "--fd", str(listener.fileno())]  # fmt: skip
        with listener, open(root / "agent.log", "wb") as output:
            process = subprocess.Popen(
                command, env=env, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=output,
                pass_fds=[listener.fileno()], start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return [process.pid, _started(process.pid)]

    def _pids(self, job: str) -> dict[str, list[int]]:
        try:
            pids: dict[str, list[int]] = json.loads((self.folder / job / "pids.json").read_text())
            return pids
        except (OSError, ValueError):
            return {}

    def _alive(self, job: str, replica: str) -> bool:
        for process in self.processes:
            process.poll()
        pid, started = self._pids(job).get(replica, [0, 0])
        return bool(pid) and _started(pid) == started != 0

    def _state(self, job: str, replica: str) -> tuple[str, str]:
        """A replica's state and a message: its agent runs, or left a note when it ended, or was killed."""
        if self._alive(job, replica):
            return "running", ""
        try:
            ended = json.loads((self.folder / job / replica / "exit.json").read_text())
        except (OSError, ValueError):
            return "gone", f"was lost: its agent's process is gone{self._last_words(job, replica)}"
        return ("succeeded", "") if ended["code"] == 0 else ("failed", ended["message"])

    def _last_words(self, job: str, replica: str) -> str:
        try:
            lines = (self.folder / job / replica / "agent.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f" ({lines[-1]})" if lines else ""

    def _signal(self, job: str, how: signal.Signals) -> None:
        for replica, (pid, _) in self._pids(job).items():
            if self._alive(job, replica):
                agent.kill_group(pid, how)


def _started(pid: int) -> int:
    """When a process started, in the kernel's ticks since boot; 0 where there is none (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return 0 if Path("/proc/self").exists() else int(_exists(pid))
    return 0 if fields[0] in "ZX" else int(fields[19])


def _exists(pid: int) -> bool:
    """For systems without /proc, where a reused process number is not told apart."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _strays(folder: Path) -> Iterator[int]:
    """Processes of the job's scripts that outlived their agents, and agents that were not noted in time."""
    mark = f"{OUTPUT}={folder}/".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if any(variable.startswith(mark) for variable in environment.read_bytes().split(b"\0")):
                yield int(environment.parent.name)
        except OSError:
            continue


def _address(listener: socket.socket) -> str:
    return agent.address(*listener.getsockname()[:2])


def _name_in_use(job: str) -> ConfigurationError:
    return ConfigurationError(
        f"the name {job!r} is in use by another job on this machine",
        hint=f"choose another --name, or remove that job: tf-spawner delete {job} --on local",
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
