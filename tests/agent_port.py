"""A real agent's HTTP server, for worker-0 of a job whose token is "right", without the rest of an agent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tfspawner.replica.log import Log
from tfspawner.replica.proofs import Answered, Key
from tfspawner.replica.protocol import PROOF_HEADER
from tfspawner.replica.routes import Server

TOKEN = "right"


@contextmanager
def agent_port(
    folder: Path, *, serving: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(), **known: Any
) -> Iterator[int]:
    """The port where it listens until the end; `known` is what else its agent has, `serving` is told each request that it serves."""
    has = {"replica": "worker-0", "report": {}, "gang": None, "log": Log(folder / "log"), **known}
    around = SimpleNamespace(key=Key(TOKEN), answered=Answered(), serving=serving, **has)
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(around, listener)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield listener.getsockname()[1]
    server.shutdown()
    server.server_close()


def proof(method: str, path: str) -> str:
    """The header that lets a request in, for this once."""
    return f"{PROOF_HEADER}: {Key(TOKEN).request('worker-0', method, path)}\r\n"
