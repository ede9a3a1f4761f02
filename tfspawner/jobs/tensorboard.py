"""A TensorBoard on this machine for jobs wherever they run: their event files come over as they grow."""

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
from tfspawner.follow.landing import Landing, Room
from tfspawner.record.folder import RunFolder, find_run
from tfspawner.record.reading import read_id
from tfspawner.replica.processes import die_with_agent

from .job import Job

EVENTS = "*tfevents*"
PORTS = range(6006, 6106)  # from TensorBoard's own on
START_S = 60.0
IN_TURN = 16  # replicas without event files that are asked at a time
PARALLEL = 8
MOST_MISSES = 5  # so often a file is asked for that does not have the size that was told of it
HEAD = 64  # bytes by which a file is known again: they hold the time when it was begun
WRITING = ("running", "stopping", "ended")  # the phases in which a script has run
NONE_YET = (
    "no event files yet. Scripts write them below $TFSPAWNER_OUTPUT, as by "
    "keras.callbacks.TensorBoard(log_dir=os.environ['TFSPAWNER_OUTPUT'] + '/logs'); those in /tmp or on s3:// do not come"
)

Note = Callable[[str], None]


@dataclass(slots=True)
class Tail:
    """What is here of one event file: under which name, how many bytes, and the first of them."""

    name: str
    size: int = 0
    head: bytes = b""
    number: int = 0
    missing_size: int = 0  # the size that was told of it, and that it did not have,
    misses: int = 0  # so often in a row

    def missed(self, size: int) -> None:
        """Counts how often in a row the file lacked what a manifest said it had."""
        self.misses = self.misses + 1 if size == self.missing_size else 1
        self.missing_size = size

    def is_wanted(self, size: int) -> bool:
        """Whether it has grown to that size, as far as is known."""
        return size > self.size and (size != self.missing_size or self.misses < MOST_MISSES)

    def again(self, path: str) -> Tail:
        """For the file that took its place: under a name of its own, since TensorBoard reads on from where it was."""
        return Tail(f"{path}.again{self.number + 1}", number=self.number + 1)


class EventFiles:
    """A job's event files, brought below folder/<replica>, each from the byte on that is not here yet."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.room = folder, Room(folder)
        self.tails: dict[str, dict[str, Tail]] = {}

    def bring(self, agent: AgentClient) -> bool:
        """Brings what is new at one replica; whether there are new files. Raises AgentUnreachable, ArtifactError."""
        manifest = checked(agent.manifest(EVENTS))
        tails = self.tails.setdefault(agent.replica, {})
        before = [tail.name for tail in tails.values()]
        wanted: list[tuple[str, int, int]] = []
        for file in manifest.files:
            path, size = file["path"], file["size"]
            tail = tails.setdefault(path, Tail(path))
            if size < tail.size:
                tail = tails[path] = tail.again(path)
            if tail.is_wanted(size):
                wanted += [(path, 0, len(tail.head))] if tail.size else []
                wanted.append((path, tail.size, size))
        if wanted:
            self._receive(agent, wanted[:FILES_AT_ONCE], tails)
        return before != [tail.name for tail in tails.values()]

    def _receive(self, agent: AgentClient, wanted: list[tuple[str, int, int]], tails: dict[str, Tail]) -> None:
        needed = sum(size - offset for _, offset, size in wanted)
        with self.room.taken(needed, agent.replica) as wrote:
            for (path, offset, size), (part, body) in zip(wanted, agent.files(wanted), strict=False):
                tail = tails[path]
                if part.missing and part.path == path:
                    tail.missed(size)  # it is gone or shorter by now: the next manifest tells
                    continue
                if (part.path, part.offset, part.size) != (path, offset, size - offset):
                    raise AgentUnreachable(f"{agent.replica}'s agent sent what was not asked for")
                if offset < tail.size:  # the beginning, to know it again
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
        """Takes over from a run's record what did not come before the job was gone."""
        for path in sorted(path for path in files.rglob(EVENTS) if is_own(path)):
            replica, _, name = path.relative_to(files).as_posix().partition("/")
            tail = self.tails.setdefault(replica, {}).setdefault(name, Tail(name))
            with path.open("rb") as source:
                source.seek(tail.size)
                self._append(replica, tail, iter(lambda: source.read(1 << 20), b""), lambda count: None)

    def counted(self, *replicas: str) -> str:
        """How many files of these replicas are here, or of all, and their size."""
        return counted([tail.size for replica in replicas or self.tails for tail in self.tails[replica].values()])


class Followed:
    """A job whose event files come until it ends, in a thread of their own."""

    def __init__(
        self, job: Job, attach: Callable[[], Job], record: Path, files: EventFiles, note: Note, every_s: float
    ) -> None:
        self.name, self.job, self.attach, self.record, self.files = job.name, job, attach, record, files
        self.id = job.backend.find(job.name).id
        self.every_s = every_s
        self.note: Note = lambda text: note(f"{self.name}: {text}")
        self.waiting = list(job.replicas)  # those without event files, in the order in which they are asked
        self.is_stale = False  # another pod may have taken a replica's place
        self.bug: Exception | None = None  # what ended the thread, to be raised by watch()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    @property
    def has_files(self) -> bool:
        return any(list(self.files.tails.values()))

    def run(self) -> None:
        """Follows the job until it ends; what goes wrong is noted, and a bug is kept for the main thread."""
        try:
            self.note(self.follow())
        except SpawnerError as error:
            self.note(f"warning: no more event files come: {error.message}")
        except Exception as bug:
            self.bug = bug

    def follow(self) -> str:
        """Brings what there is again and again; returns how it ended."""
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
            ):  # it was to wait for another
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
        """The gang's phase, once it is another than version's or after a while; None where no coordinator answers."""
        try:
            if self.is_stale:
                self.job, self.is_stale = self._same(self.attach()), False
            return self.job.backend.agent(self.name, self.job.replicas[0]).order(version, self.every_s)
        except AgentUnreachable:
            self.is_stale = True
            return None

    def _same(self, job: Job) -> Job:
        """The job, if it is still the one whose events are here, and not a later one of its name."""
        if job.backend.find(self.name).id != self.id:
            raise NotFoundError(f"job {self.name} is gone; another has its name now")
        return job

    def next_ones(self) -> list[str]:
        """The replicas that have event files, and some of the others in turn."""
        having = [replica for replica, tails in self.files.tails.items() if tails]
        self.waiting = [replica for replica in self.waiting if replica not in having]
        asked, self.waiting = self.waiting[:IN_TURN], self.waiting[IN_TURN:]
        self.waiting += asked
        return having + asked

    def round(self, replicas: Iterable[str]) -> int:
        """Asks these replicas; returns how many answered."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            answered = list(pool.map(self.bring, replicas))
        self.is_stale = not all(answered)
        return sum(answered)

    def bring(self, replica: str) -> bool:
        """Fetches what is new of a replica's event files; False where its agent cannot be reached."""
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
    named: tuple[str, ...],
    attach: Callable[[str], Job],
    out: Path,
    note: Note,
    tell: Note,
    *,
    port: int | None,
    every_s: float,
) -> None:
    """Shows jobs, and runs that are recorded, until TensorBoard ends, or Ctrl-C does.

    attach finds a job by its name; tell gets the URL. Raises SpawnerError where there is nothing to show, or no TensorBoard.
    """
    command, port, secret = program(), free_port(port), secret_path()
    with tempfile.TemporaryDirectory(prefix="tf-spawner-tensorboard-") as folder:
        logs = Path(folder, "logs")
        logs.mkdir()
        places = [place(name, logs, attach, out, note, every_s) for name in named]
        followed = [found for found in places if found]
        shown = logs if len(named) > 1 else next(logs.iterdir())
        with tensorboard(command, shown, port, secret, every_s) as process:
            tell(f"http://{HOST}:{port}{secret}/")
            watch(process, followed, has_runs=len(followed) < len(named))


def place(
    named: str, logs: Path, attach: Callable[[str], Job], out: Path, note: Note, every_s: float
) -> Followed | None:
    """Begins to bring a job's event files below logs; where there is no such job, puts a run's files there."""
    run = find_run(named, out, with_files=True)
    target = logs / (run.path.resolve() if run else Path(named)).name
    if target.is_symlink() or target.exists():
        raise ConfigurationError(f"two of these are called {target.name}", hint="show them one after the other")
    try:
        if run and run.path == Path(named):
            raise NotFoundError(f"{named} is a run's folder")
        job = attach(named)
        job.check_whole()
    except ClusterError as error:
        if run is None:
            raise
        if not isinstance(error, NotFoundError):
            note(f"warning: whether job {named} runs is not known: {error.message}")
    else:
        return Followed(job, lambda: attach(named), out / named, EventFiles(target), note, every_s)
    if run.files.is_symlink():
        raise ConfigurationError(f"{run.files} is a link, and leads out of the run", hint="name the run's own folder")
    found = [path for path in run.files.rglob(EVENTS) if is_own(path)]
    if not found:
        raise NotFoundError(f"run {run.path} has no event files", hint=f"see what it has: {run.files}")
    target.symlink_to(run.files.resolve())
    note(f"{run.path}: {counted([path.stat().st_size for path in found])}")
    return None


def is_own(path: Path) -> bool:
    """Whether it is a file, and no link to one elsewhere."""
    return path.is_file() and not path.is_symlink()


def counted(sizes: list[int]) -> str:
    """The number of event files and their size in words."""
    return f"{len(sizes)} event file{'s' * (len(sizes) != 1)}, {human_bytes(sum(sizes))}"


def program() -> list[str]:
    """TensorBoard's command: this Python's own, else the one on the path."""
    if find_spec("tensorboard"):
        return [sys.executable, "-m", "tensorboard.main"]
    found = shutil.which("tensorboard")
    if not found:
        raise ConfigurationError("TensorBoard is not installed here", hint="pip install 'tf-spawner[tensorboard]'")
    return [found]


def free_port(asked: int | None) -> int:
    """The port asked for, else the first free one of PORTS. Raises ConfigurationError where it is taken."""
    found = next((port for port in ([asked] if asked else PORTS) if is_free(port)), None)
    if found is None:
        which = f"port {asked} is" if asked else f"all ports from {PORTS[0]} to {PORTS[-1]} are"
        raise ConfigurationError(f"{which} taken on this machine", hint="give another --port")
    return found


def secret_path() -> str:
    """A path that nobody can guess."""
    return f"/{secrets.token_urlsafe(16)}"


@contextmanager
def tensorboard(
    command: list[str], logs: Path, port: int, secret: str, every_s: float
) -> Iterator[subprocess.Popen[bytes]]:
    """The program, once it answers; it ends with this process, however that ends.

    TensorBoard has no login and believes any Host header. So it shows nothing but below a path that nobody can guess: neither
    a page in the browser, by whatever name it reaches the port, nor another user of this machine. The path is kept out
    of the process list and of TensorBoard's note for its siblings in /tmp.
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
    """Returns when TensorBoard ends. Raises NotFoundError where nothing is there to be shown, nor will be."""
    while process.poll() is None:
        for bug in (job.bug for job in followed if job.bug):
            raise bug
        if not has_runs and not any(job.thread.is_alive() or job.has_files for job in followed):
            raise NotFoundError(f"there are no event files of {', '.join(job.name for job in followed)}")
        time.sleep(0.2)
