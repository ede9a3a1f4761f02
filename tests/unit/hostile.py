"""An agent that is broken, or means harm: a real server that sends what the test says."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import urllib3

from tfspawner.backends.client import AgentClient
from tfspawner.replica.proofs import Key
from tfspawner.replica.protocol import PROOF_HEADER

Pieces = bytes | Callable[[], Iterable[bytes]]


class Hostile:
    """An agent with a manifest and, for each request of files in turn, a number of bytes to send before it hangs up.

    `reply` is sent in place of the manifest, `stream` in place of the files, `raw` in place of HTTP; `over` is set at the test's end.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.manifest: dict = {"folders": [], "skipped": [], "unreadable": []}
        self.entries: list[dict] | None = None
        self.cuts: list[int] = []
        self.asked: list[list] = []
        self.reply: Pieces | None = None
        self.stream: Pieces | None = None
        self.raw: bytes | None = None
        self.status = 200
        self.replicas = {"worker-0"}
        self.headers: dict[str, str] = {}
        self.over = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                self.answer(outer.listing() if outer.reply is None else outer.reply)

            def do_POST(self):
                wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(wanted)
                data = outer.frames(wanted) if outer.stream is None else outer.stream
                self.answer(data[: outer.cuts.pop(0)] if outer.cuts else data)

            def answer(self, data: Pieces) -> None:
                if outer.raw is not None:
                    self.wfile.write(outer.raw)
                    return
                self.send_response(outer.status)
                self.send_header(PROOF_HEADER, outer.proof(self))
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    for piece in [data] if isinstance(data, bytes) else data():
                        self.wfile.write(piece)
                except OSError:
                    pass  # the collector had enough

        return Handler

    def proof(self, request: BaseHTTPRequestHandler) -> str:
        """What a true agent would show: a script may have got into its memory."""
        key, header = Key("t"), request.headers.get(PROOF_HEADER, "")
        for replica in self.replicas:
            if key.verified(header, replica, request.command, request.path):
                return key.answer(header, replica, self.status)
        return ""

    def listing(self) -> bytes:
        entries = self.entries if self.entries is not None else [entry(n, d) for n, d in self.files.items()]
        return json.dumps({"files": entries, **self.manifest}).encode()

    def frames(self, wanted: list[list]) -> bytes:
        parts = [frame(path, self.files[path][offset:size], offset) for path, offset, size in wanted]
        return b"".join(parts) + END

    def client(self, replica: str = "worker-0", **patience: float) -> AgentClient:
        self.replicas.add(replica)
        url = f"http://127.0.0.1:{self.server.server_port}"
        return AgentClient(
            replica=replica, url=url, token="t", pool=urllib3.PoolManager(retries=False), headers=dict, **patience
        )

    def until_over(self, first: bytes, again: bytes = b"", every_s: float = 0.01) -> Callable[[], Iterator[bytes]]:
        """Sends first, and then, until the test's end, again and again."""

        def pieces() -> Iterator[bytes]:
            yield first
            while not self.over.wait(every_s):
                yield again

        return pieces

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


END = b'{"end": true}\n'


def frame(path: object, body: bytes, offset: object = 0, **head: object) -> bytes:
    """A file's bytes as an agent sends them; the keywords are lies about them."""
    return json.dumps({"path": path, "offset": offset, "size": len(body), **head}).encode() + b"\n" + body


def entry(path: object, data: bytes, **changes: object) -> dict:
    return {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}


def nothing(count: int) -> None:
    pass


def everything_below(folder: Path) -> list[str]:
    """The files, and links, below folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
