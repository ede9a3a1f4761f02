"""root:// against Debian's xrootd, in a network namespace that has a loopback alone: it listens on all addresses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tfspawner.data.records import frame

pytest.importorskip("XRootD")
RECORDS = [bytes([number % 256]) * (number * 97 % 5000) for number in range(600)]
HEAD = """
import json, os, sys, time
from tfspawner.data import list_files
from tfspawner.data.filesystems import filesystem_of
from tfspawner.data.files import File
from tfspawner.data.reading import read_records
from tfspawner.data.sharding import divide
from tfspawner.errors import SpawnerError
URI = "root://localhost//eos/data"
"""


@dataclass
class XRootDServer:
    """A server in a namespace; what lies below `files` is its /eos."""

    namespace: str
    folder: Path
    process: subprocess.Popen | None = None

    @property
    def files(self) -> Path:
        return self.folder / "root/eos"

    def command(self, *words: object) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *map(str, words)]

    def start(self, more: str = "") -> None:
        config = self.folder / "xrd.cfg"
        config.write_text(
            f"all.export /eos\noss.localroot {self.folder}/root\nall.adminpath {self.folder}/admin\n"
            f"all.pidpath {self.folder}/admin\nxrd.port 1094\n{more}"
        )
        self.process = subprocess.Popen(
            self.command("xrootd", "-R", "nobody", "-c", config, "-n", self.namespace), cwd=self.folder,
            stdout=subprocess.DEVNULL, stderr=(self.folder / "log").open("ab"), env={**os.environ, "LANG": "C"},
        )  # fmt: skip
        deadline = time.monotonic() + 30
        probe = "import socket; socket.create_connection(('127.0.0.1', 1094)).close()"
        while subprocess.run(self.command(sys.executable, "-c", probe), capture_output=True).returncode:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def popen(self, code: str, *args: object, **variables: str) -> subprocess.Popen:
        command = self.command(sys.executable, "-c", HEAD + code, *args)
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )

    def run(self, code: str, *args: object, **variables: str):
        """What the code, which runs in the namespace, prints as JSON."""
        process = self.popen(code, *args, **variables)
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, err[-3000:]
        return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[XRootDServer]:
    if os.getuid() or not all(map(shutil.which, ("ip", "xrootd"))):
        pytest.skip("needs root, ip, and Debian's xrootd-server")
    name = f"tfs-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr}")
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    folder = tmp_path_factory.mktemp("xrootd")
    for path in (folder, *folder.parents):
        if path.stat().st_mode & 0o777 == 0o700:
            path.chmod(0o755)  # the server is nobody
    found = XRootDServer(name, folder)
    (found.files / "data/deeper").mkdir(parents=True)
    (folder / "admin").mkdir()
    for number in range(3):
        data = b"".join(map(frame, RECORDS[number * 200 : number * 200 + 200]))
        (found.files / f"data/part-{number}").write_bytes(data)
    (found.files / "data/_SUCCESS").touch()
    (found.files / "data/deeper/part-9").write_bytes(b"not asked for")
    subprocess.run(["chown", "-R", "nobody", folder / "root", folder / "admin"], check=True)
    found.start()
    yield found
    found.stop()
    subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.mark.parametrize("uri", ["/part-*", "/part-[0-2]", "", "/"])
def test_patterns_and_folders_are_their_files(server, uri):
    sizes = {f"root://localhost//eos/data/part-{n}": (server.files / f"data/part-{n}").stat().st_size for n in range(3)}
    assert server.run(f"print(json.dumps({{f.uri: f.size for f in list_files(URI + {uri!r})}}))") == sizes


def test_a_pattern_may_stand_for_folders_too(server):
    assert server.run("print(json.dumps([f.uri for f in list_files('root://localhost//eos/*/dee*/p*')]))") == [
        "root://localhost//eos/data/deeper/part-9"
    ]


def test_a_name_with_a_pattern_in_it_is_a_file_s_own_name_where_that_file_is_there(server):
    for name in ("a[1].tfrecord", "a1.tfrecord", "b*.tfrecord", "bx.tfrecord"):
        (server.files / "data/deeper" / name).write_bytes(b"x")
    try:
        deeper = "root://localhost//eos/data/deeper"
        listing = "print(json.dumps([[f.uri for f in list_files(uri)] for uri in sys.argv[1:]]))"
        uris = [f"{deeper}/a[1].tfrecord", f"{deeper}/b*.tfrecord"]
        assert server.run(listing, *uris) == [[uri] for uri in uris]
        (server.files / "data/deeper/a[1].tfrecord").unlink()
        assert server.run(listing, uris[0]) == [[f"{deeper}/a1.tfrecord"]]
    finally:
        for path in (server.files / "data/deeper").glob("*.tfrecord"):
            path.unlink()


def test_what_a_folder_holds_besides_its_files_is_told_with_counts(server):
    told = server.run("told = []; list_files(URI, told.append); print(json.dumps(told))")
    assert told == ["root://localhost//eos/data also holds 1 folder and 1 hidden file"]


READ = """
count, total = 0, 0
for share in divide(list_files(URI + "/part-*"), int(sys.argv[1])):
    for records in read_records(share, window_bytes=200_000, chunk_bytes=50_000):
        count, total = count + len(records), total + sum(map(sum, records))
print(json.dumps([count, total]))
"""
EXPECTED = [len(RECORDS), sum(map(sum, RECORDS))]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_read_each_record_once(server, workers):
    assert server.run(READ, workers) == EXPECTED


def test_tensorflow_in_the_same_process_does_no_harm(server):
    pytest.importorskip("tensorflow")
    code = """
import tensorflow as tf
from tfspawner.data import tfrecords
feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[7]))
with tf.io.TFRecordWriter(sys.argv[1]) as writer:
    for _ in range(100):
        writer.write(tf.train.Example(features=tf.train.Features(feature={"x": feature})).SerializeToString())
filesystem_of(URI).put(sys.argv[1], "root://localhost//eos/examples/part-0")
data = tfrecords("root://localhost//eos/examples/part-*", {"x": tf.io.FixedLenFeature([], tf.int64)}, 30)
print(json.dumps([int(tf.reduce_sum(batch["x"])) for batch in data]))
"""
    assert server.run(code, server.folder / "examples") == [210, 210, 210, 70]


def test_a_file_is_put_whole_and_over_another(server, tmp_path):
    path = tmp_path / "file"
    for content in (b"one" * 1000, os.urandom(20_000_000)):
        path.write_bytes(content)
        code = "filesystem_of(URI).put(sys.argv[1], 'root://localhost//eos/put/to/file'); print('null')"
        server.run(code, path)
        assert (server.files / "put/to/file").read_bytes() == content
        assert os.listdir(server.files / "put/to") == ["file"]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("root://localhost//eos/data/none", "root://localhost//eos/data/none: there is no such file"),
        ("root://localhost//eos/none/part-*", "there is no such file"),
        ("root://localhost:1095//eos/data/x", "localhost:1095 does not answer: [FATAL] Connection error"),
        ("root://no-such-host.invalid//eos/x", "no-such-host.invalid does not answer: [FATAL] Invalid address"),
        ("root://192.0.2.1//eos/x", "192.0.2.1 does not answer"),
        ("root://localhost//etc/passwd", "localhost"),
    ],
)
def test_what_is_wrong_is_named_within_15_s(server, uri, words):
    code = """
began = time.monotonic()
try:
    list_files(sys.argv[1])
except SpawnerError as error:
    print(json.dumps([error.message, error.exit_code, time.monotonic() - began]))
"""
    message, exit_code, seconds = server.run(code, uri)
    assert words in message
    assert (exit_code, seconds < 15) == (4, True)


def test_a_host_that_says_nothing_is_given_up_within_15_s(server):
    code = """
import socket
silent = socket.create_server(("127.0.0.1", 1999))
began = time.monotonic()
try:
    list_files("root://localhost:1999//eos/x")
except SpawnerError as error:
    print(json.dumps([error.message, time.monotonic() - began]))
"""
    message, seconds = server.run(code)
    assert "localhost:1999 does not answer" in message
    assert seconds < 15


def test_without_the_package_the_next_step_is_told(server):
    code = """
sys.modules["XRootD"] = None
try:
    list_files(URI)
except (SpawnerError, ValueError) as error:
    print(json.dumps(str(error)))
"""
    assert "XRootD" in server.run(code) or "xrootd" in server.run(code)


SLOWLY = """
print("ready", flush=True)
count, total = 0, 0
for records in read_records(divide(list_files(URI + "/part-*"), 1)[0], window_bytes=20_000, chunk_bytes=10_000):
    count, total = count + len(records), total + sum(map(sum, records))
    if count > 100 and not sys.stdin.closed:
        print("here", flush=True)
        sys.stdin.readline()
        sys.stdin.close()
print(json.dumps([count, total]))
"""


def children_of(process: subprocess.Popen) -> list[int]:
    """The processes that it has started: `ip netns exec` becomes Python itself."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    return [int(pid) for pid in {*found, *(pid for t in threads for pid in (t / "children").read_text().split())}]


def until(process: subprocess.Popen, line: str) -> None:
    while (found := process.stdout.readline()).strip() != line:
        assert found, process.stderr.read()


def test_reading_goes_on_when_its_helpers_were_killed(server):
    process = server.popen(SLOWLY)
    until(process, "here")
    killed = children_of(process)
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    out, err = process.communicate("\n", timeout=180)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1]) == EXPECTED


def test_reading_goes_on_when_the_server_was_away(server):
    process = server.popen(SLOWLY)
    until(process, "here")
    server.stop()
    server.start()
    out, err = process.communicate("\n", timeout=180)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1]) == EXPECTED


def test_no_helper_outlives_a_process_that_was_killed(server):
    process = server.popen(SLOWLY)
    until(process, "here")
    helpers = children_of(process)
    assert helpers
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in helpers):
        assert time.monotonic() < deadline


def test_damage_is_named(server):
    data = bytearray(b"".join(frame(b"x" * 1000) for _ in range(10)))
    data[5000] ^= 1
    (server.files / "damaged").write_bytes(data)
    code = """
try:
    list(read_records(divide(list_files("root://localhost//eos/damaged"), 1)[0]))
except SpawnerError as error:
    print(json.dumps(error.message))
"""
    assert server.run(code).startswith("root://localhost//eos/damaged is damaged: record 4 at byte 4064")


KRB5 = """
[libdefaults]
  default_realm = TEST.LOCAL
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  rdns = false
[realms]
  TEST.LOCAL = {{
    kdc = 127.0.0.1:8888
    database_name = {folder}/principal
    key_stash_file = {folder}/stash
    acl_file = {folder}/acl
    kdc_listen = 127.0.0.1:8888
    kdc_tcp_listen = 127.0.0.1:8888
  }}
"""


@pytest.fixture
def kerberos(server, tmp_path) -> Iterator[dict[str, str]]:
    """The server takes Kerberos alone; the variables of someone who has a ticket."""
    if not all(map(shutil.which, ("krb5kdc", "kdb5_util", "kadmin.local", "kinit"))):
        pytest.skip("needs Debian's krb5-kdc, krb5-admin-server and krb5-user")
    folder = server.folder / "krb5"
    folder.mkdir(exist_ok=True)
    (folder / "krb5.conf").write_text(KRB5.format(folder=folder))
    (folder / "acl").touch()
    variables = {"KRB5_CONFIG": str(folder / "krb5.conf"), "KRB5_KDC_PROFILE": str(folder / "krb5.conf"),
                 "KRB5CCNAME": f"FILE:{tmp_path}/ticket"}  # fmt: skip
    env = {**os.environ, **variables}

    def must(*command: object) -> None:
        done = subprocess.run(server.command(*command), env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    must("kdb5_util", "create", "-s", "-P", "of the test", "-r", "TEST.LOCAL")
    for principal, keytab in (("xrootd/localhost", "server.keytab"), ("alice", "alice.keytab")):
        must("kadmin.local", "-q", f"addprinc -randkey {principal}")
        must("kadmin.local", "-q", f"ktadd -k {folder}/{keytab} {principal}")
    subprocess.run(["chown", "nobody", folder / "server.keytab"], check=True)
    kdc = subprocess.Popen(
        server.command("krb5kdc", "-n"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    server.stop()
    os.environ.update(KRB5_CONFIG=variables["KRB5_CONFIG"])
    server.start(
        "xrootd.seclib libXrdSec.so\n"
        f"sec.protocol krb5 {folder}/server.keytab xrootd/localhost@TEST.LOCAL\nsec.protbind * only krb5\n"
    )
    try:
        deadline = time.monotonic() + 20
        ticket = ["kinit", "-kt", folder / "alice.keytab", "alice"]
        while subprocess.run(server.command(*ticket), env=env, capture_output=True).returncode:
            assert time.monotonic() < deadline
            assert kdc.poll() is None
        yield variables
    finally:
        del os.environ["KRB5_CONFIG"]
        kdc.kill()
        kdc.wait()
        server.stop()
        server.start()


TICKET = """
import tensorflow
try:
    print(json.dumps(len(list_files(URI + "/part-*"))))
except SpawnerError as error:
    print(json.dumps([error.message, error.hint]))
"""


def test_a_kerberos_ticket_opens_and_nothing_else_does(server, kerberos, tmp_path):
    pytest.importorskip("tensorflow")
    assert server.run(TICKET, **kerberos) == 3
    (tmp_path / "junk").write_bytes(b"junk")
    for cache in (tmp_path / "none", tmp_path / "junk"):
        message, hint = server.run(TICKET, **{**kerberos, "KRB5CCNAME": f"FILE:{cache}"})
        assert message == "root://localhost//eos/data/part-*: localhost takes none of the credentials that are here"
        assert "kinit" in hint
