"""Processes of Python that have read their modules before they began: a server has, and forks for each.

To read what tf-spawner needs costs a processor half a second, and the tests call it thousands of times; TensorFlow costs
several. A `Forked` is what `subprocess.Popen` of `python -m tfspawner`, or of `python -c`, would be.
"""

from __future__ import annotations

import array
import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import BinaryIO

TF_SPAWNER = "from tfspawner.__main__ import main\nmain()\n"
MODULES = (
    "tfspawner.cli.options",
    "tfspawner.backends.kubernetes.backend",
    "tfspawner.backends.local.backend",
    "tfspawner.jobs.running",
    "tfspawner.jobs.tensorboard",
    "tfspawner.pages.run",
    "kubernetes.client.rest",
    "kubernetes.config",
    "rich.live",
)
ONE_AT_A_TIME = Lock()  # a request is two messages
AS_IT_STARTS = ("PYTHON", "LANG", "LC_", "LD_", "TZ")  # the variables that Python looks at


def can_be_forked(env: Mapping[str, str]) -> bool:
    """Whether a Python that starts with these variables would be as this one."""

    def looked_at(variables: Mapping[str, str]) -> dict[str, str]:
        return {key: value for key, value in variables.items() if key.startswith(AS_IT_STARTS)}

    return looked_at(env) == looked_at(os.environ) | {"PYTHONUNBUFFERED": "1"}


class Forked:
    """A process that runs `code`, by itself the command line of tf-spawner; its standard input is empty."""

    def __init__(
        self,
        words: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        code: str = TF_SPAWNER,
        modules: tuple[str, ...] = MODULES,
    ) -> None:
        self.returncode: int | None = None
        (self.stdout, out), (self.stderr, err), (self.status, status) = piped(), piped(), piped()
        request = {"code": code, "words": words, "env": dict(env), "cwd": str(cwd)}
        with out, err, status, ONE_AT_A_TIME:
            send(server(modules), request, out, err, status)
        self.pid = int(self.status.readline())

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it goes on."""
        if self.returncode is None and select.select([self.status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self.status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("tf-spawner", timeout or 0)
            self.returncode = int(self.status.readline())
            self.status.close()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def piped() -> tuple[BinaryIO, BinaryIO]:
    reader, writer = os.pipe()
    return open(reader, "rb"), open(writer, "wb", buffering=0)


@cache
def server(modules: tuple[str, ...]) -> socket.socket:
    """The way to the server that has read those modules. It ends with this process."""
    ours, its = socket.socketpair()
    with its:
        command = [sys.executable, __file__, str(its.fileno()), *modules]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        subprocess.Popen(command, pass_fds=[its.fileno()], env=env, stdin=subprocess.DEVNULL)
    return ours


def send(way: socket.socket, request: dict[str, object], *files: BinaryIO) -> None:
    content = json.dumps(request).encode()
    numbers = array.array("i", [file.fileno() for file in files])
    way.sendmsg([len(content).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
    way.sendall(content)


def serve(way: socket.socket) -> str:
    """Forks for each request; returns its code in the process that it is for, and nothing at the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        size, files, *_ = socket.recv_fds(way, 4, 3)
        if not size:
            return ""
        request = json.loads(way.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        if os.fork() == 0:
            way.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if watched(*files):
                os.environ.clear()
                os.environ.update(request["env"])
                os.chdir(request["cwd"])
                sys.argv[1:] = request["words"]
                return str(request["code"])
            os._exit(0)
        for file in files:
            os.close(file)


def watched(out: int, err: int, status: int) -> bool:
    """Forks once more, and says of the new process its id and how it ended; True in that process."""
    process = os.fork()
    if process == 0:
        os.close(status)
        for file, number in ((out, 1), (err, 2)):
            os.dup2(file, number)
            os.close(file)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(number, "w"), write_through=True) for number in (1, 2))
        sys.stderr.reconfigure(errors="backslashreplace")
        return True
    os.close(out)
    os.close(err)
    os.write(status, b"%d\n" % process)
    _, ended = os.waitpid(process, 0)
    os.write(status, b"%d\n" % os.waitstatus_to_exitcode(ended))
    return False


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    for module in sys.argv[2:]:
        import_module(module)
    gc.freeze()
    CODE = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.path[0] = ""
    exec(compile(CODE, "<forked>", "exec"), {"__name__": "__main__"})
