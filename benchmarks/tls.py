"""What TLS between agents would cost: one server, asked over HTTP and over HTTPS in turn.

    python benchmarks/tls.py [MiB of the large answer]

Prints the median of each and the ratio: a small answer over a new connection (as a report's), over one that is kept (as an
order's), the server's processor time for the new ones, and a large file. Needs the openssl program, for a certificate of
an elliptic curve, the cheapest there is.
"""

from __future__ import annotations

import http.client
import multiprocessing
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROUNDS, SMALL = 7, 100


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/cpu":
            data = repr(time.process_time()).encode()
        elif self.path == "/small":
            data = b"{}"
        else:
            with open(self.path[1:], "rb") as file:
                self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
                self.end_headers()
                self.wfile.flush()
                self.connection.sendfile(file)
            return
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def serve(folder: str, has_tls: bool, ready: multiprocessing.Queue[int]) -> None:
    os.chdir(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if has_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("cert.pem", "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    ready.put(server.server_port)
    server.serve_forever()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
             "-subj", "/CN=job", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
        size = int(sys.argv[1]) if len(sys.argv) > 1 else 200
        (Path(folder) / "large").write_bytes(os.urandom(1 << 20) * size)
        trusted = ssl.create_default_context(cafile=f"{folder}/cert.pem")
        ready: multiprocessing.Queue[int] = multiprocessing.Queue()
        servers, ports = [], {}
        for has_tls in (False, True):
            servers.append(multiprocessing.Process(target=serve, args=(folder, has_tls, ready), daemon=True))
            servers[-1].start()
            ports[has_tls] = ready.get()

        def connect(has_tls: bool) -> http.client.HTTPConnection:
            if has_tls:
                return http.client.HTTPSConnection("127.0.0.1", ports[True], context=trusted)
            return http.client.HTTPConnection("127.0.0.1", ports[False])

        def read(connection: http.client.HTTPConnection, path: str) -> bytes:
            connection.request("GET", path)
            return connection.getresponse().read()

        def new_connections(has_tls: bool) -> None:
            for _ in range(SMALL):
                connection = connect(has_tls)
                read(connection, "/small")
                connection.close()

        def kept_connection(has_tls: bool) -> None:
            connection = connect(has_tls)
            for _ in range(SMALL):
                read(connection, "/small")
            connection.close()

        def large(has_tls: bool) -> None:
            assert len(read(connect(has_tls), "/large")) == size << 20

        for name, work, unit, per in (
            ("a small answer, new connection", new_connections, "ms", 1000 / SMALL),
            ("a small answer, kept connection", kept_connection, "ms", 1000 / SMALL),
            (f"{size} MiB", large, "s", 1),
        ):
            took: dict[bool, list[float]] = {False: [], True: []}
            cpu = {False: 0.0, True: 0.0}
            for _ in range(ROUNDS):
                for has_tls in (False, True):
                    before = float(read(connect(has_tls), "/cpu"))
                    began = time.perf_counter()
                    work(has_tls)
                    took[has_tls].append((time.perf_counter() - began) * per)
                    cpu[has_tls] += (float(read(connect(has_tls), "/cpu")) - before) * per / ROUNDS
            plain, secure = (statistics.median(took[has_tls]) for has_tls in (False, True))
            print(f"{name:32} HTTP {plain:.3f} {unit}  HTTPS {secure:.3f} {unit}  ratio {secure / plain:.1f}; "
                  f"server's processor {cpu[False]:.3f} and {cpu[True]:.3f} {unit}")  # fmt: skip
        for server in servers:
            server.terminate()


if __name__ == "__main__":
    main()
