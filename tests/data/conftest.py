"""A real S3 server, versitygw, on this machine's loopback."""

import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"
KEY, SECRET = "the-access-key", "the-secret-key-of-the-tests"


@dataclass
class S3Server:
    """Files put below `folder` are objects; the first level are buckets."""

    folder: Path
    host: str
    port: int
    options: tuple[object, ...] = ()
    process: subprocess.Popen | None = None

    @property
    def variables(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://{self.host}:{self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def start(self, gateway: Path) -> None:
        self.process = subprocess.Popen(
            [gateway, "--port", f"{self.host}:{self.port}", "--quiet", "--keep-alive", *self.options, "posix", self.folder],
            env={**os.environ, "ROOT_ACCESS_KEY_ID": KEY, "ROOT_SECRET_ACCESS_KEY": SECRET},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            try:
                return socket.create_connection((self.host, self.port)).close()
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def gateway() -> Path:
    """versitygw's binary, built by Go from tests/tools; `make test` has done that before, since it takes minutes."""
    if not shutil.which("go"):
        pytest.skip("the S3 server of the tests needs Go to be built")
    binary = TOOLS / "bin/versitygw"
    binary.parent.mkdir(exist_ok=True)
    with open(binary.parent / "lock", "w") as lock:  # one of ours: go build waits for who has locked go.sum
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run side by side
        subprocess.run(["make", "-s", "gateway"], cwd=TOOLS.parents[1], check=True)
    return binary


@contextmanager
def serving(gateway: Path, folder: Path, host: str, *options: object) -> Iterator[S3Server]:
    """An S3 server with one bucket, called bucket."""
    (folder / "bucket").mkdir(parents=True)
    with socket.create_server((host, 0)) as free:
        server = S3Server(folder, host, free.getsockname()[1], options)
    server.start(gateway)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3_with_a_log(gateway, tmp_path) -> Iterator[tuple[S3Server, Path]]:
    """A server, and the file in which it logs every request."""
    with serving(gateway, tmp_path / "s3", "127.0.0.1", "--access-log", tmp_path / "requests") as server:
        yield server, tmp_path / "requests"


@pytest.fixture
def s3_over_tls(gateway, tmp_path) -> Iterator[tuple[S3Server, Path]]:
    """A server called localhost, and its certificate, which signs itself."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate], check=True, capture_output=True,
    )  # fmt: skip
    with serving(gateway, tmp_path / "s3", "127.0.0.1", "--cert", certificate, "--key", key) as server:
        yield server, certificate


@pytest.fixture(scope="session")
def s3_server(gateway, tmp_path_factory) -> Iterator[S3Server]:
    with serving(gateway, tmp_path_factory.mktemp("s3"), "127.0.0.1") as server:
        yield server


@pytest.fixture
def reachable_s3(place, gateway, tmp_path) -> Iterator[S3Server]:
    """A server that the place's replicas reach."""
    host = "127.0.0.1" if place.on == "local" else os.environ.get("TFSPAWNER_TEST_HOST", "")
    if not host:
        pytest.skip("needs TFSPAWNER_TEST_HOST, an address of this machine that the cluster's pods reach")
    with serving(gateway, tmp_path / "s3", host) as server:
        yield server


@pytest.fixture
def s3(s3_server, monkeypatch) -> S3Server:
    """The server, with this process's variables set for it."""
    from tfspawner.data.filesystems import SCHEMES, S3Files

    for name, value in s3_server.variables.items():
        monkeypatch.setenv(name, value)
    SCHEMES["s3"].cache_clear()
    assert SCHEMES["s3"].__wrapped__ is S3Files
    yield s3_server
    SCHEMES["s3"].cache_clear()
