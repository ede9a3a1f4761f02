"""Runs TensorBoard on this machine for jobs anywhere: copies their event files as they grow."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tfspawner.backends.answers import Order
from tfspawner.backends.client import AgentClient
from tfspawner.backends.listing import checked
from tfspawner.backends.local.ports import HOST, is_free
from tfspawner.base.words import human_bytes
from tfspawner.errors import (
    AgentUnreachable,
    ArtifactError,
    ClusterError,
    ConfigurationError,
    NotFoundError,
    SpawnerError,
)
from tfspawner.follow.collect import FILES_AT_ONCE
from tfspawner.follow.landing import FreeSpace, Landing
from tfspawner.record.folder import RunFolder, find_run
from tfspawner.record.reading import read_id
from tfspawner.replica.processes import die_with_agent

from .job import Job

EVENTS = "*tfevents*"
PORTS = range(6006, 6106)  # TensorBoard's own port and those after it
START_S = 60.0
IN_TURN = 16  # how many replicas without event files are asked in one round
PARALLEL = 8
MOST_MISSES = 5  # tries to get a file that is shorter than its manifest says
HEAD = 64  # the first bytes, by which a file is recognised: they contain the time of its creation
WRITING = ("running", "stopping", "ended")  # the phases in which a script has run
NONE_YET = (
    "no event files yet. Scripts write them below $TFSPAWNER_OUTPUT, as by "
    "keras.callbacks.TensorBoard(log_dir=os.environ['TFSPAWNER_OUTPUT'] + '/logs'); "
    "those in /tmp or on s3:// do not come"
)

Note = Callable[[str], None]


@dataclass(slots=True)
class Tail:
    """The part of one event file that is here: its name, its size, and its first bytes."""

    name: str
    size: int = 0
    head: bytes = b""
    number: int = 0
    missing_size: int = 0  # a size in the manifest that the file did not have
    misses: int = 0  # how often in a row it did not have that size

    def missed(self, size: int) -> None:
        """Counts how often in a row the file was shorter than its manifest said."""
        self.misses = self.misses + 1 if size == self.missing_size else 1
        self.missing_size = size

    def is_wanted(self, size: int) -> bool:
        """Whether the file has grown to that size, and has not been missed too often."""
        return size > self.size and (size != self.missing_size or self.misses < MOST_MISSES)

    def again(self, path: str) -> Tail:
        """The tail for a file that replaced this one; under a new name, because TensorBoard reads on where it was."""
        return Tail(f"{path}.again{self.number + 1}", number=self.number + 1)


class EventFiles:
    """A job's event files, copied to folder/<replica>; only new bytes are fetched."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.disk = folder, FreeSpace(folder)
        self.tails: dict[str, dict[str, Tail]] = {}

    def bring(self, agent: AgentClient) -> bool:
        """Fetches one replica's new bytes; says whether there are new files. Raises AgentUnreachable, ArtifactError."""
        manifest = checked(agent.manifest(EVENTS))
        tails = self.tails.setdefault(agent.replica, {})
        before = [tail.name for tail in tails.values()]
        ranges: list[tuple[str, int, int]] = []
        for file in manifest.files:
            path, size = file["path"], file["size"]
            tail = tails.setdefault(path, Tail(path))
            if size < tail.size:
                tail = tails[path] = tail.again(path)
            if tail.is_wanted(size):
                ranges += [(path, 0, len(tail.head))] if tail.size else []
                ranges.append((path, tail.size, size))
        if ranges:
            self._receive(agent, ranges[:FILES_AT_ONCE], tails)
        return before != [tail.name for tail in tails.values()]

    def _receive(self, agent: AgentClient, ranges: list[tuple[str, int, int]], tails: dict[str, Tail]) -> None:
        needed = sum(size - offset for _, offset, size in ranges)
        with self.disk.taken(needed, agent.replica) as wrote:
            for (path, offset, size), (part, body) in zip(ranges, agent.files(ranges), strict=False):
                tail = tails[path]
                if part.missing and part.path == path:
                    tail.missed(size)  # it is gone or shorter now: the next manifest will show it
                    continue
                if (part.path, part.offset, part.size) != (path, offset, size - offset):
                    raise AgentUnreachable(f"{agent.replica}'s agent sent what was not asked for")
                if offset < tail.size:  # the beginning, to check that it is still the same file
                    if b"".join(body.pieces()) != tail.head:
                        tails[path] = tail.again(path)
                elif offset == tail.size:
                    self._append(agent.replica, tail, body.pieces(), wrote)

    def _append(self, replica: str, tail: Tail, pieces: Iterable[bytes], wrote: Callable[[int], None]) -> None:
        place = f"{replica}/{tail.name}"
        try:
            with Landing(self.folder, replica).writing(place, behind=tail.size > 0) as target:
                for data in pieces:
                    target.write(data)
                    tail.head += data[: HEAD - len(tail.head)]
                    tail.size += len(data)
                    wrote(len(data))
        except OSError as error:
            raise ArtifactError(f"{self.folder / place} cannot be written: {error.strerror}") from None

    def take(self, files: Path) -> None:
        """Takes from a run's record what had not come when the job was gone."""
        for path in sorted(path for path in files.rglob(EVENTS) if is_own(path)):
            replica, _, name = path.relative_to(files).as_posix().partition("/")
            tail = self.tails.setdefault(replica, {}).setdefault(name, Tail(name))
            with path.open("rb") as source:
                source.seek(tail.size)
                self._append(replica, tail, iter(lambda: source.read(1 << 20), b""), lambda count: None)

    def counted(self, *replicas: str) -> str:
        """The number and size of the files that are here, of these replicas or of all."""
        return counted([tail.size for replica in replicas or self.tails for tail in self.tails[replica].values()])


class Followed:
    """A job whose event files are fetched until it ends, in a thread of its own."""

    def __init__(
        self, job: Job, attach: Callable[[], Job], record: Path, files: EventFiles, note: Note, every_s: float
    ) -> None:
        self.name, self.job, self.attach, self.record, self.files = job.name, job, attach, record, files
        self.id = job.backend.find(job.name).id
        self.every_s = every_s
        self.note: Note = lambda text: note(f"{self.name}: {text}")
        self.waiting = list(job.replicas)  # replicas without event files, in the order in which they are asked
        self.is_stale = False  # a replica may have another pod now
        self.bug: Exception | None = None  # what ended the thread, to be raised by watch()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    @property
    def has_files(self) -> bool:
        return any(list(self.files.tails.values()))

    def run(self) -> None:
        """Follows the job until it ends; notes errors, and keeps a bug for the main thread."""
        try:
            self.note(self.follow())
        except SpawnerError as error:
            self.note(f"warning: no more event files come: {error.message}")
        except Exception as bug:
            self.bug = bug

    def follow(self) -> str:
        """Fetches event files until the job ends; returns how it ended, in words."""
        version, answered = -1, 0
        while True:
            asked_at = time.monotonic()
            try:
                order = self.order(version)
                if order is None and self.job.backend.find(self.name).state in ("succeeded", "failed"):
                    return self.gone()
            except NotFoundError:
                return self.gone()
            except ClusterError:  # the API server is away for a while
                order = None
            if order is None:
                time.sleep(self.every_s)
                continue
            if (
                order["version"] == version and time.monotonic() - asked_at < min(self.every_s, 5.0) / 2
            ):  # it answered at once instead of waiting for a new version
                time.sleep(self.every_s)
            version = order["version"]
            if order["phase"] == "ended":
                self.round(self.job.replicas)
                return f"{order['result']}; {self.files.counted()} are here" if self.has_files else str(order["result"])
            if order["phase"] not in WRITING:
                continue
            answered += self.round(self.next_ones())
            if answered >= len(self.job.replicas) and not self.has_files:
                self.note(NONE_YET)
                answered = -sys.maxsize

    def order(self, version: int) -> Order | None:
        """The gang's phase, as soon as it has changed or after every_s; None if no coordinator answers."""
        try:
            if self.is_stale:
                self.job, self.is_stale = self._same(self.attach()), False
            return self.job.backend.agent(self.name, self.job.replicas[0]).order(version, self.every_s)
        except AgentUnreachable:
            self.is_stale = True
            return None

    def _same(self, job: Job) -> Job:
        """The job, if it is still the same and not a later one of that name. Raises NotFoundError."""
        if job.backend.find(self.name).id != self.id:
            raise NotFoundError(f"job {self.name} is gone; another has its name now")
        return job

    def next_ones(self) -> list[str]:
        """The replicas to ask next: all that have event files, and some of the others in turn."""
        having = [replica for replica, tails in self.files.tails.items() if tails]
        self.waiting = [replica for replica in self.waiting if replica not in having]
        others, self.waiting = self.waiting[:IN_TURN], self.waiting[IN_TURN:]
        self.waiting += others
        return having + others

    def round(self, replicas: Iterable[str]) -> int:
        """Asks these replicas; returns how many answered."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            answered = list(pool.map(self.bring, replicas))
        self.is_stale = not all(answered)
        return sum(answered)

    def bring(self, replica: str) -> bool:
        """Fetches the new bytes of a replica's event files; False if its agent cannot be reached."""
        try:
            if self.files.bring(self.job.backend.agent(self.name, replica)):
                self.note(f"{replica}: {self.files.counted(replica)}")
        except AgentUnreachable:
            return False
        return True

    def gone(self) -> str:
        """Takes the rest from the run's record, if the job was followed or fetched here."""
        files = RunFolder(self.record).files
        if files.is_dir() and read_id(self.record) == self.id:
            self.files.take(files)
            return f"has ended; the rest is from {files}"
        return "is gone; its last events may not be here" if self.has_files else "is gone"


# ---- jobs and runs, and the program that shows them ----------------------------------------------


def serve(
    names: tuple[str, ...],
    attach: Callable[[str], Job],
    out: Path,
    note: Note,
    tell: Note,
    *,
    port: int | None,
    every_s: float,
) -> None:
    """Shows jobs and recorded runs until TensorBoard ends or Ctrl-C comes.

    attach finds a job by its name; tell gets the URL. Raises SpawnerError if there is nothing to show, or no
    TensorBoard.
    """
    command, port, secret = program(), free_port(port), secret_path()
    with tempfile.TemporaryDirectory(prefix="tf-spawner-tensorboard-") as folder:
        logs = Path(folder, "logs")
        logs.mkdir()
        places = [place(name, logs, attach, out, note, every_s) for name in names]
        followed = [followed_job for followed_job in places if followed_job]
        shown = logs if len(names) > 1 else next(logs.iterdir())
        with tensorboard(command, shown, port, secret, every_s) as process:
            tell(f"http://{HOST}:{port}{secret}/")
            watch(process, followed, has_runs=len(followed) < len(names))


def place(
    name: str, logs: Path, attach: Callable[[str], Job], out: Path, note: Note, every_s: float
) -> Followed | None:
    """Starts to fetch a job's event files into logs; if there is no such job, links a run's files there."""
    run = find_run(name, out, with_files=True)
    target = logs / (run.path.resolve() if run else Path(name)).name
    if target.is_symlink() or target.exists():
        raise ConfigurationError(f"two of these are called {target.name}", hint="show them one after the other")
    try:
        if run and run.path == Path(name):
            raise NotFoundError(f"{name} is a run's folder")
        job = attach(name)
        job.check_whole()
    except ClusterError as error:
        if run is None:
            raise
        if not isinstance(error, NotFoundError):
            note(f"warning: whether job {name} runs is not known: {error.message}")
    else:
        return Followed(job, lambda: attach(name), out / name, EventFiles(target), note, every_s)
    if run.files.is_symlink():
        raise ConfigurationError(f"{run.files} is a link, and leads out of the run", hint="name the run's own folder")
    files = [path for path in run.files.rglob(EVENTS) if is_own(path)]
    if not files:
        raise NotFoundError(f"run {run.path} has no event files", hint=f"see what it has: {run.files}")
    target.symlink_to(run.files.resolve())
    note(f"{run.path}: {counted([path.stat().st_size for path in files])}")
    return None


def is_own(path: Path) -> bool:
    """Whether it is a file, and not a link to one elsewhere."""
    return path.is_file() and not path.is_symlink()


def counted(sizes: list[int]) -> str:
    """The number of event files and their size in words."""
    return f"{len(sizes)} event file{'s' * (len(sizes) != 1)}, {human_bytes(sum(sizes))}"


def program() -> list[str]:
    """TensorBoard's command: this Python's own, else the one on the path."""
    if find_spec("tensorboard"):
        return [sys.executable, "-m", "tensorboard.main"]
    path = shutil.which("tensorboard")
    if not path:
        raise ConfigurationError("TensorBoard is not installed here", hint="pip install 'tf-spawner[tensorboard]'")
    return [path]


def free_port(requested: int | None) -> int:
    """The requested port, or else the first free one of PORTS. Raises ConfigurationError if it is taken."""
    free = next((port for port in ([requested] if requested else PORTS) if is_free(port)), None)
    if free is None:
        which = f"port {requested} is" if requested else f"all ports from {PORTS[0]} to {PORTS[-1]} are"
        raise ConfigurationError(f"{which} taken on this machine", hint="give another --port")
    return free


def secret_path() -> str:
    """A path that nobody can guess."""
    return f"/{secrets.token_urlsafe(16)}"


@contextmanager
def tensorboard(
    command: list[str], logs: Path, port: int, secret: str, every_s: float
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts TensorBoard and yields its process once it answers; it ends with this process, however that ends.

    TensorBoard has no login and accepts any Host header. So it serves only below a path that nobody can guess: not a
    page in the browser that reaches the port by some name, nor another user of this machine. The path is kept out of
    the process list, and out of the note in /tmp that TensorBoard leaves for other instances.
    """
    words = {"logdir": logs, "host": HOST, "port": port, "path_prefix": secret, "reload_interval": f"{every_s:g}"}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory(prefix="tf-spawner-tensorboard-") as private:
        flags = Path(private, "flags")
        flags.write_text("".join(f"--{name}={value}\n" for name, value in words.items()))
        process = subprocess.Popen(
            [*command, f"--flagfile={flags}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_agent(),
            env={**os.environ, "TMPDIR": private},
        )
        try:
            deadline = time.monotonic() + START_S
            while not answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ended(process, output)
                time.sleep(0.05)
            yield process
            raise ended(process, output)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(port: int) -> bool:
    """Whether something listens on this port."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def ended(process: subprocess.Popen[bytes], output: Any) -> SpawnerError:
    """How TensorBoard ended, and what it said last."""
    output.seek(0)
    lines = [line for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    code = process.poll()
    how = f"did not answer within {START_S:g} s" if code is None else f"ended with exit code {code}"
    return ConfigurationError(f"TensorBoard {how}: " + " ".join(lines[-3:])[-500:])


def watch(process: subprocess.Popen[bytes], followed: list[Followed], *, has_runs: bool) -> None:
    """Returns when TensorBoard ends. Raises NotFoundError if there is nothing to show and nothing will come."""
    while process.poll() is None:
        for bug in (job.bug for job in followed if job.bug):
            raise bug
        if not has_runs and not any(job.thread.is_alive() or job.has_files for job in followed):
            raise NotFoundError(f"there are no event files of {', '.join(job.name for job in followed)}")
        time.sleep(0.2)
