"""A web server on loopback that answers as it is told: what a broken or hostile S3 or web server sends."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, dict[str, str], bytes]


class Server(ThreadingHTTPServer):
    """`answer` takes the method, path and headers, and gives status, headers and body; the body is sent as it is."""

    daemon_threads = True
    answer: Callable[[str, str, dict[str, str]], Answer]
    paths: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, body = self.server.answer(self.command, self.path, dict(self.headers))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if value:  # "" leaves a header out
                self.send_header(name, value)
        self.end_headers()
        try:
            if self.command != "HEAD":
                self.wfile.write(body)
        except OSError:
            pass  # who asked has hung up
        if len(body) != int(headers.get("Content-Length") or len(body)) or headers.get("Content-Length") == "":
            self.close_connection = True

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def lying_server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.paths = []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
