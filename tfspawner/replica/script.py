"""A replica's script: its environment, its run, its end."""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from .endings import MISSING_MODULE, UNHEALTHY, classify, memory_cgroup, stands_at
from .job import tf_config
from .masking import masked
from .processes import KILL_WITHIN_S, die_with_agent, end_descendants, kill_group, reap
from .protocol import (
    AGENT_MARK,
    CHUNK,
    EXIT_PEER_LOST,
    EXIT_PREEMPTED,
    EXIT_TERMINATED,
    PEER_LOST_MESSAGE,
    STOP_GRACE_S,
    TERMINATED,
)
from .reporting import Reporting
from .usage import Usage

GPU_LOOK_S = 60.0  # how long it may take to find out whether TensorFlow sees GPUs
S3_MODULES = (
    "s3.py",
    "s3_answers.py",
    "gfile.py",
    "filesystem.py",
    "structures.py",
    "reading.py",
    "retrying.py",
    "elf.py",
)


class Script(Reporting):
    """Runs the script in its environment, and says how it ended."""

    def environment(self, cluster: dict[str, list[str]], site: Path | None) -> dict[str, str]:
        """The script's environment variables; of ours, only the documented ones."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("TFSPAWNER_")}
        env.update(
            TF_CONFIG=tf_config(cluster, self.role, self.index),
            WORKER_NUMBER=str(self.job.replicas.index(self.replica)),
            TOT_WORKERS=str(len(self.job.replicas)),
            TFSPAWNER_JOB=self.job.name,
            TFSPAWNER_ROLE=self.role,
            TFSPAWNER_INDEX=str(self.index),
            TFSPAWNER_OUTPUT=str(self.root / "output"),
            TFSPAWNER_CHECKPOINTS=str(self.checkpoints.folder),
            TFSPAWNER_RESTART=str(self.generation),
            PYTHONUNBUFFERED="1",
        )
        env.setdefault("PYTHONFAULTHANDLER", "1")  # SIGABRT makes it tell where each of its threads is
        if not os.access(env.get("HOME") or "/", os.W_OK):  # a container's may be read-only
            env["HOME"] = str(self.root / "home")
        env.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # without TensorFlow's dozens of informational lines a replica
        if self.job.legacy_keras:
            env.setdefault("TF_USE_LEGACY_KERAS", "1")
        if self.job.speaks_of_s3:
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(self.place_s3()), env.get("PYTHONPATH")]))
        if site:  # behind all that the image has
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), str(site)]))
        return env

    def place_s3(self) -> Path:
        """A folder for the start of PYTHONPATH, with the module that gives TensorFlow s3://."""
        first = self.root / "s3"
        package = first / "tfspawner_s3"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        for name in S3_MODULES:
            place(name, package)
        place("sitecustomize.py", first)
        return first

    def missing_tf_keras(self, env: dict[str, str]) -> str | None:
        """Why the script would not find tf-keras; None if it does not need it, or finds it."""
        if not self.job.needs_tf_keras or env.get("TF_USE_LEGACY_KERAS") != "1":
            return None
        find = "import importlib.util as u, sys; sys.exit(u.find_spec('tensorflow') and not u.find_spec('tf_keras'))"
        if subprocess.run([sys.executable, "-c", find], env=env, cwd=self.root).returncode == 0:
            return None
        return (
            "tf-keras is missing here: Keras 3 cannot train on several workers, and tf-keras can. "
            "Add it without its dependencies: pip install --no-deps tf-keras==<TensorFlow's version>.*"
        )

    def missing_gpus(self, env: dict[str, str]) -> str | None:
        """Why TensorFlow sees none of this replica's GPUs; None if it sees some, or if it is unknown."""
        if self.role == "ps" or not self.job.needs_gpus:
            return None
        try:
            command = [sys.executable, str(place("gpu.py", self.root))]
            done = subprocess.run(command, env=env, cwd=self.root, capture_output=True, timeout=GPU_LOOK_S)
            problem = json.loads(done.stdout.splitlines()[-1])
            self.report["hint"] = problem["hint"]
            return f"was given GPUs, and its TensorFlow sees none: {problem['message']}"
        # Others print there, too, and there may be no room for the look.
        except (OSError, subprocess.TimeoutExpired, IndexError, ValueError, KeyError, TypeError):
            return None

    def place_original_script(self) -> None:
        """Links the script to /script, where those written for the original tf-spawner expect it."""
        target = Path("/script")
        if self.job.original_script_path and target.is_dir() and os.access(target, os.W_OK):
            shutil.copy(self.code.folder / self.job.script, target / "training-script.py")

    def command(self) -> list[str]:
        """The script's command line."""
        if not self.job.command_file:
            script = self.job.script
            return [sys.executable, f"./{script}" if script.startswith("-") else script, *self.job.args]
        path = self.config_dir / "command"
        if self.job.command is not None:
            path = self.root / "command"
            path.touch(0o600)
            path.write_bytes(self.job.command.encode(errors="surrogateescape"))
        first = path.read_bytes().split(b"\n", 1)[0].decode(errors="replace")
        interpreter = first[2:].split(None, 1) if first.startswith("#!") else [shutil.which("bash") or "sh", "-e"]
        return [*interpreter, str(path), *self.job.args]

    def run(self, env: dict[str, str]) -> int:
        """Runs the script to its end; returns this replica's exit code."""
        sys.path.append(str(self.config_dir / "pynvml.zip"))  # for an image that has none
        read_end, write_end = os.pipe()
        try:
            child = self.child = self.start(env, write_end)
        except OSError as error:
            return self.fail(127, f"cannot run {self.command()[0]}: {error.strerror}", "configuration")
        finally:
            os.close(write_end)
        kills_before, _ = memory_cgroup()
        self.log.last_output = time.monotonic()
        self.usage = Usage(child.pid, wants_gpus=self.job.gpus > 0 and self.role != "ps")
        self.log_problems(self.usage)  # before any output, so that these messages have their own lines
        self.pump = self.begin(self.keep_output, read_end)
        self.tell("running", pid=child.pid, started=time.time())
        if self.stop.is_set():
            self.stop_child()
        returncode = self.wait_for_child()
        finished, self.usage = time.time(), None
        kill_group(child.pid, signal.SIGKILL)  # what the script may have left behind
        end_descendants(os.getpid(), KILL_WITHIN_S)
        reap()
        self.pump.join(5)
        if self.checkpoints.folder.is_symlink():
            self.log.write(
                f"{AGENT_MARK.decode()} {self.checkpoints.folder} is a link now, "
                "and what it leads to is not kept over a restart\n".encode()
            )
        return self.ended(returncode, finished, kills_before)

    def start(self, env: dict[str, str], output: int) -> subprocess.Popen[bytes]:
        """Starts the script in the code's folder, in a group of processes of its own."""
        return subprocess.Popen(
            self.command(),
            cwd=self.code.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_agent(),
        )

    def ended(self, returncode: int, finished: float, kills_before: int) -> int:
        """Reports how the script ended; returns this replica's exit code."""
        if self.broken:
            return self.fail(1, self.broken)
        if self.terminated.is_set():
            return self.fail(EXIT_TERMINATED, TERMINATED, "lost")
        if self.stop.is_set() and returncode != 0:
            code, message = EXIT_PEER_LOST, "was stopped with the others"
            if self.report.get("kind") == "lost":
                message = self.report["message"]
            if self.order.get("result") == "succeeded":
                code, message = 0, "was stopped when training had ended"
            stands = stands_at(self.log.tail) if self.order.get("stalled") else []
            self.tell("stopped", exit_code=code, message=message, finished=finished, stands=stands)
            return code
        if returncode == 0:
            self.tell("succeeded", exit_code=0, finished=finished)
            return 0
        return self.failed(returncode, kills_before)

    def failed(self, returncode: int, kills_before: int) -> int:
        """Reports a script's failure, with the reason from its last output."""
        code, message = classify(returncode, self.log.tail)
        kills, limit = memory_cgroup()
        if returncode == -signal.SIGKILL and kills > kills_before:
            message = "was killed: out of memory" + (f" (limit {limit // 1024**2}Mi)" if limit else "")
            self.report["hint"] = "give it more: --memory" + (f" {2 * limit // 1024**2}Mi" if limit else "")
        missing = MISSING_MODULE.search(self.log.tail)
        if missing:
            is_image = self.job.original_script_path
            where, how = ("the image", "name another: -i") if is_image else (sys.executable, "pip install it")
            self.report["hint"] = f"{where} has no {missing[1].decode()}: {how}"
        blamed = UNHEALTHY.search(self.log.tail)
        if blamed and message == PEER_LOST_MESSAGE:
            self.report["blames"] = f"{blamed[1].decode()}-{blamed[2].decode()}"
        lost = returncode < 0 or message == PEER_LOST_MESSAGE or returncode == EXIT_PREEMPTED
        return self.fail(code, message, "lost" if lost else "failed")

    def keep_output(self, read_end: int) -> None:
        """Copies the script's output to its log and the container's; reads to the end even if these fail."""
        with open(read_end, "rb", buffering=0) as output:
            try:
                for data in filter(None, masked(output, self.masker)):
                    self.log.write(data)
                    with suppress(OSError):  # the log has it
                        sys.stdout.buffer.write(data)
                        sys.stdout.buffer.flush()
            except Exception as error:
                self.break_off("keep_output", error)
                while output.read(CHUNK):  # a script must not hang while it is ended
                    pass

    def wait_for_child(self) -> int:
        """Reaps whatever ends, as the first process of a container must, until the script itself has ended."""
        assert self.child
        while True:
            pid, status = os.wait()
            if pid == self.child.pid:
                self.child.returncode = os.waitstatus_to_exitcode(status)
                return self.child.returncode

    def end_scripts(self) -> None:
        """Ends each script that stop_child names.

        A thread that is there from the start, since later there may be none to have.
        """
        while True:
            child, dump = self.ending.get()
            self.wake()
            if child is None or child.returncode is not None:
                continue
            if dump:
                with suppress(Exception):
                    self.log.write(
                        f"{AGENT_MARK.decode()} stalled: aborted by tf-spawner, to say where it stands\n".encode()
                    )
            kill_group(child.pid, signal.SIGABRT if dump else signal.SIGTERM)
            deadline = time.monotonic() + STOP_GRACE_S
            while child.returncode is None and time.monotonic() < deadline:
                time.sleep(0.05)
            if child.returncode is None:
                kill_group(child.pid, signal.SIGKILL)


def place(name: str, folder: Path) -> Path:
    """Copies one of these modules into a folder, for another Python to run."""
    source = pkgutil.get_data(__package__, name)  # out of the zip file that they are imported from
    assert source is not None
    path = folder / name
    path.write_bytes(source)
    return path
