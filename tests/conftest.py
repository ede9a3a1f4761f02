"""Fixtures: tf-spawner as its users call it, on each backend, in a place where no other job is."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import faults
import pytest
import yaml
from forked import TF_SPAWNER, Forked, can_be_forked
from hypothesis import settings
from in_process import called
from xdist.scheduler import LoadFileScheduling

from tfspawner.backends.kubernetes.api import Api

KINDS = ("jobs", "pods", "services", "configmaps", "secrets", "networkpolicies")
DEADLINE_S = 240.0

Kubectl = Callable[..., str]

settings.register_profile("any-machine", deadline=None)  # a slow example is no failure
settings.load_profile("any-machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew")
    parser.addoption("--fuzz-seconds", type=float, default=0, help="how long each test of tests/fuzz goes on")
    parser.addoption("--seed", type=int, default=0, help="of tests/fuzz")
    parser.addoption("--faults", action="store_true", help="run the tests of the fault matrix alone, and print it")


def pytest_configure(config: pytest.Config) -> None:
    """What was started in the background ignores Ctrl-C, and so would all that the tests start: no terminal does that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> str:
    return f"fuzz: --seed {config.getoption('--seed')} --fuzz-seconds {config.getoption('--fuzz-seconds'):g}"


def is_alone(path: str) -> bool:
    """Whether a file's tests change the cluster's node or its API server, which no other test is to see."""
    return "/test_alone_" in path


class Lanes(LoadFileScheduling):
    """A file's tests in one process; those that are alone in one, too, where they do not wait for each other."""

    def _split_scope(self, nodeid: str) -> str:
        return "alone" if is_alone(nodeid) else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    return Lanes(config, log)


LONG = ("test_restart_training.py", "test_cluster_training.py")  # at the end, one lane alone would be busy with them


def turns_of(items: list[pytest.Item]) -> Callable[[pytest.Item], tuple[int, int, str]]:
    """First those that are alone, beside what needs no cluster; then the files of each folder in turn.

    So what waits for the cluster runs beside what takes processors.
    """
    files: dict[Path, dict[Path, int]] = {}
    for item in items:
        numbers = files.setdefault(item.path.parent, {})
        numbers.setdefault(item.path, len(numbers))

    def turn_of(item: pytest.Item) -> tuple[int, int, str]:
        path = str(item.path)
        part = 0 if is_alone(path) else 1 if item.path.parent.name == "particle_classifier" else 2
        return part, -1 if item.path.name in LONG else files[item.path.parent][item.path], path

    return turn_of


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=turns_of(items))
    if config.getoption("--faults"):
        tests = [test for _, _, tests in faults.FAULTS for test in tests]
        items[:] = [item for item in items if any(faults.covers(test, item.nodeid) for test in tests)]


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """The cluster, with others or alone, among the processes that run tests of this checkout side by side.

    Who waits to be alone lets nobody in who comes later.
    """
    with open(folder / "next", "w") as door, open(folder / "cluster", "w") as cluster:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(cluster, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Takes turns on the cluster, before the test's own time begins."""
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if "cluster_place" not in getattr(item, "fixturenames", ()) and params.get("backend") != "kubernetes":
        return (yield)
    with turn(item.config.cache.mkdir("turns"), alone=is_alone(item.nodeid)):
        return (yield)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The fault matrix, with what came of each row's tests."""
    if not config.getoption("--faults"):
        return
    ended = {
        kind: [report.nodeid for report in terminalreporter.stats.get(kind, [])]
        for kind in ("passed", "failed", "error", "skipped")
    }
    terminalreporter.section("fault matrix")
    words = []
    for fault, then, tests in faults.FAULTS:
        counts = faults.count(tests, ended)
        words.append(faults.verdict(counts))
        passed, skipped = (sum(test[kind] for test in counts) for kind in ("passed", "skipped"))
        terminalreporter.write_line(f"{words[-1]:7}  {passed:3} passed, {skipped} skipped  {fault}: {then}")
    terminalreporter.write_line(f"{words.count('pass')} of {len(words)} rows pass")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a call of tf-spawner ended."""

    code: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def err(self) -> str:
        return self.stderr.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Running:
    """A call of tf-spawner that goes on in the background; what it prints can be waited for."""

    def __init__(
        self, command: list[str], env: dict[str, str], cwd: Path, first: str = "", *, forks: bool = True
    ) -> None:
        """first: Python code that runs before tf-spawner."""
        self.began = time.monotonic()
        self.changed = threading.Condition()
        self.process: Forked | subprocess.Popen[bytes]
        if forks and command[:3] == [sys.executable, "-m", "tfspawner"] and can_be_forked(env):
            self.process = Forked(command[3:], env, cwd, first + TF_SPAWNER)
        else:
            assert not first
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            self.process = subprocess.Popen(command, env=env, cwd=cwd, **pipes)
        self.streams = {"stdout": bytearray(), "stderr": bytearray()}
        self.threads = [threading.Thread(target=self._read, args=(name,), daemon=True) for name in self.streams]
        for thread in self.threads:
            thread.start()

    def _read(self, name: str) -> None:
        with getattr(self.process, name) as stream:
            while data := stream.read1(65536):
                with self.changed:
                    self.streams[name] += data
                    self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def prints(self, *texts: str, stream: str = "stdout", timeout_s: float = 120) -> None:
        """Returns once all the texts stand in what it printed."""

        def are_there() -> bool:
            return all(text.encode() in self.streams[stream] for text in texts)

        with self.changed:
            self.changed.wait_for(lambda: are_there() or self.process.poll() is not None, timeout_s)
            printed = {name: bytes(text[-3000:]) for name, text in self.streams.items()}
            assert are_there(), f"not printed in {timeout_s:g} s: {texts}; {self.process.poll()=}, {printed=}"

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def done(self, timeout_s: float = DEADLINE_S) -> Done:
        code = self.process.wait(timeout_s)
        seconds = time.monotonic() - self.began
        for thread in self.threads:
            thread.join()
        stdout, stderr = bytes(self.streams["stdout"]), bytes(self.streams["stderr"])
        return Done(code=code, stdout=stdout, stderr=stderr, seconds=seconds)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.done()


@dataclass(kw_only=True)
class Place:
    """Where a test's jobs run: a backend, with a folder for the scripts, the records and the state."""

    on: str
    folder: Path
    env: dict[str, str]
    namespace: str = ""
    kubectl: Kubectl | None = None
    background: list[Running] = field(default_factory=list)
    tf_spawner: tuple[str, ...] = (sys.executable, "-m", "tfspawner")
    forks: bool = True  # False: each call begins as a user's does, and reads its modules itself

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def target(self) -> list[str]:
        return ["--on", self.on]

    @property
    def gate(self) -> str:
        """A script that begins with GATE and has this path as $GATE goes on when the gate is opened."""
        return str(self.folder / "gate") if self.on == "local" else "/tmp/gate"

    def script(self, text: str, name: str = "train.py") -> Path:
        path = self.folder / "code" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def tf(self, *words: str | Path, timeout_s: float = DEADLINE_S, first: str = "") -> Done:
        """Calls tf-spawner, and returns when it has ended."""
        return self.start(*words, first=first).done(timeout_s)

    def start(self, *words: str | Path, first: str = "") -> Running:
        command = [*self.tf_spawner, *map(str, words)]
        self.background.append(Running(command, self.env, self.folder, first, forks=self.forks))
        return self.background[-1]

    def run(self, *words: str | Path, timeout_s: float = DEADLINE_S, first: str = "") -> Done:
        return self.tf("run", *self.target, "--out", self.runs, *words, timeout_s=timeout_s, first=first)

    def start_run(self, *words: str | Path) -> Running:
        return self.start("run", *self.target, "--out", self.runs, *words)

    def of(self, verb: str, *words: str | Path, timeout_s: float = DEADLINE_S) -> Done:
        """Calls a verb for jobs that are there."""
        return self.tf(verb, *self.target, *words, timeout_s=timeout_s)

    def jobs(self) -> list[str]:
        return [entry["job"] for entry in self.of("list", "--output", "json").json]

    def open_gate(self, job: str, replica: str = "") -> None:
        """Lets the job's scripts go on, or one replica's; on this machine all have the same gate."""
        if self.on == "local":
            Path(self.gate).touch()
            return
        assert self.kubectl
        for pod in self.pods(job):
            if f"{job}-{replica}" in pod:
                self.kubectl("-n", self.namespace, "exec", pod, "--", "touch", self.gate)

    def pods(self, job: str) -> list[str]:
        assert self.kubectl
        found = self.kubectl("-n", self.namespace, "get", "pods", "-l", f"tf-spawner/job={job}", "-o", "name")
        return [name.removeprefix("pod/") for name in found.split()]

    def leftovers(self) -> list[str]:
        """What jobs have left on the backend: objects; folders and processes."""
        if self.on == "local":
            return self._local_leftovers()
        assert self.kubectl
        found = self.kubectl("-n", self.namespace, "get", ",".join(KINDS), "-o", "name").split()
        return [name for name in found if name != "configmap/kube-root-ca.crt"]

    def _local_leftovers(self) -> list[str]:
        jobs = Path(self.env["XDG_STATE_HOME"]) / "tf-spawner" / "jobs"
        found = [str(path) for path in jobs.iterdir()] if jobs.exists() else []
        mark = f"XDG_STATE_HOME={self.env['XDG_STATE_HOME']}".encode()  # the agents and scripts inherit it
        ours = {str(running.process.pid) for running in self.background}
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in environment.read_bytes().split(b"\0") and environment.parent.name not in ours:
                    found.append(f"process {environment.parent.name}")
            except OSError:
                continue  # it has ended, or is another user's
        return found


# Scripts under test begin with this to go on only when place.open_gate() is called.
GATE = "import os, time\nprint('at the gate', flush=True)\nwhile not os.path.exists(os.environ['GATE']): time.sleep(0.02)\n"


@pytest.fixture(scope="session")
def gate_code() -> str:
    return GATE


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """kubectl as the cluster's admin: kubectl("get", "pods"); its standard output."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("needs a Kubernetes: KUBECONFIG is not set")
    if not os.environ.get("TFSPAWNER_IMAGE"):
        pytest.skip("needs TFSPAWNER_IMAGE, an image with Python that the cluster's nodes have")

    def call(*words: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(["kubectl", *words], input=stdin, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    return call


@dataclass
class ApiServer:
    """The cluster's API server, which the program that TESTCLUSTER names stops and starts."""

    program: str
    kubectl: Kubectl
    wait_until: Callable[..., None]

    def stop(self) -> None:
        self._do("stop", "kube-apiserver")

    def start(self) -> None:
        self._do("start", "kube-apiserver")
        self.wait_until(lambda: "ok" in self.kubectl("get", "--raw", "/readyz", check=False), "the API server")

    def run_a_job_again(self) -> None:
        """The other components start anew as well: by themselves they would begin none for up to 100 s."""
        for component in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"):
            self._do("stop", component)
            self._do("start", component)
        job = ["-n", "default", "job", f"tf-spawner-test-{secrets.token_hex(4)}"]
        self.kubectl("create", *job, f"--image={os.environ['TFSPAWNER_IMAGE']}", "--", "true")
        self.kubectl("wait", *job, "--for=condition=complete", "--timeout=400s")
        self.kubectl("delete", *job, "--wait=false")

    def _do(self, what: str, component: str) -> None:
        subprocess.run([self.program, what, component], check=True, capture_output=True)


@pytest.fixture
def api_server(cluster_place: Place, wait_until: Callable[..., None]) -> Iterator[ApiServer]:
    """For a test in a file of those that are alone; it ends once the cluster runs jobs again."""
    if "TESTCLUSTER" not in os.environ:
        pytest.skip("needs TESTCLUSTER, which can stop its API server")
    assert cluster_place.kubectl
    server = ApiServer(os.environ["TESTCLUSTER"], cluster_place.kubectl, wait_until)
    yield server
    server.start()  # where the test failed while it was away
    server.run_a_job_again()


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """wait_until(condition, "what is waited for"): looks again and again, and fails after 120 s.

    A look that takes long is followed by a pause that is longer: it leaves the processor to what is waited for.
    """

    def wait(condition: Callable[[], object], what: str, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        began = time.monotonic()
        while not condition():
            now = time.monotonic()
            assert now < deadline, f"waited {timeout_s:g} s in vain for: {what}"
            time.sleep(max(0.05, 2 * (now - began)))
            began = time.monotonic()

    return wait


@contextmanager
def place_on(on: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    folder.mkdir(exist_ok=True)
    env = {key: value for key, value in os.environ.items() if key not in ("KUBECONFIG", "TF_CONFIG")}
    env.update(XDG_STATE_HOME=str(folder / "state"), KUBECONFIG=str(folder / "kubeconfig"), PYTHONUNBUFFERED="1")
    if on == "local":
        place = Place(on=on, folder=folder, env=env)
        try:
            yield place
        finally:
            for running in place.background:
                running.end()
            if any(place.leftovers()):
                place.of("delete", "--all", "-y")
        return
    admin: Kubectl = request.getfixturevalue("kubectl")
    namespace = f"tf-spawner-test-{secrets.token_hex(4)}"
    place = Place(on=on, folder=folder, env=env, namespace=namespace, kubectl=admin)
    try:
        make_namespace(place, folder / "kubeconfig")
        yield place
    finally:
        for running in place.background:
            running.end()
        admin("delete", "namespace", namespace, "--wait=false", "--ignore-not-found")


def make_namespace(place: Place, kubeconfig: Path) -> None:
    """A restricted namespace, and a kubeconfig for a user who has there the Role that `tf-spawner rbac` prints."""
    assert place.kubectl
    namespace = place.namespace
    printed = called("rbac", "-n", namespace, "--user", "somebody").stdout
    role, binding = yaml.safe_load_all(printed)
    own_binding = {**binding, "metadata": {"name": "user", "namespace": namespace},
                   "subjects": [{"kind": "ServiceAccount", "name": "user", "namespace": namespace}]}  # fmt: skip
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "tf-spawner/test": "yes"}
    api = Api.from_kubeconfig(None, None, None)
    inside, rbac = f"/api/v1/namespaces/{namespace}", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    namespaced = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
    api.request("POST", "/api/v1/namespaces", namespaced)
    user = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "user"}}
    api.request("POST", f"{inside}/serviceaccounts", user)
    api.request("POST", f"{rbac}/roles", role)
    for one in (binding, own_binding):
        api.request("POST", f"{rbac}/rolebindings", one)
    token = api.request("POST", f"{inside}/serviceaccounts/user/token", asked)["status"]["token"]
    cluster = cluster_known_to(place.kubectl)
    kubeconfig.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user", "namespace": namespace}}],
    }))  # fmt: skip


@cache
def cluster_known_to(kubectl: Kubectl) -> dict[str, str]:
    """The API server's address and CA, of the kubeconfig that kubectl uses."""
    config = yaml.safe_load(kubectl("config", "view", "--minify", "--raw", "--flatten"))
    cluster: dict[str, str] = config["clusters"][0]["cluster"]
    return cluster


def ca_of(kubeconfig: Path) -> tuple[str, bytes, str]:
    """The API server's address, its CA and the user's token, of a kubeconfig that make_namespace wrote."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    return cluster["server"], base64.b64decode(cluster["certificate-authority-data"]), user["token"]


@pytest.fixture(scope="module", params=["local", "kubernetes"])
def backend(request: pytest.FixtureRequest) -> str:
    """Both backends in turn: every test that uses it says the same of both."""
    if request.param == "kubernetes":
        request.getfixturevalue("kubectl")
    return str(request.param)


@pytest.fixture
def place(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place of the test's own on that backend."""
    with place_on(backend, tmp_path / "place", request) as made:
        yield made


@pytest.fixture(scope="module")
def shared_place(
    backend: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Place]:
    """A place that a module's tests share, for one job that they all look at."""
    with place_on(backend, tmp_path_factory.mktemp("shared") / "place", request) as made:
        yield made


@pytest.fixture
def local_place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place of the test's own on this machine, for what is the same on every backend."""
    with place_on("local", tmp_path / "place", request) as made:
        yield made


@pytest.fixture
def cluster_place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place of the test's own on Kubernetes."""
    with place_on("kubernetes", tmp_path / "place", request) as made:
        yield made


@pytest.fixture
def tf_spawner(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Calls the command line in a folder, with state and kubeconfig of its own."""
    (tmp_path / "train.py").write_text("print('trained')\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KUBE", "TFSPAWNER"))}
    env.update(XDG_STATE_HOME=str(tmp_path / "state"), KUBECONFIG=str(tmp_path / "none"))

    def call(*args: str, **more_env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tfspawner", *args],
            cwd=tmp_path,
            env={**env, **more_env},
            capture_output=True,
            text=True,
        )

    return call


@pytest.fixture
def tf_spawner_sh(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Calls the command line by a shell, which redirects."""
    (tmp_path / "train.py").write_text("print('trained')\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KUBE", "TFSPAWNER"))}
    env.update(XDG_STATE_HOME=str(tmp_path / "state"), KUBECONFIG=str(tmp_path / "none"))

    def call(words: str, redirection: str, before: str = "") -> subprocess.CompletedProcess[str]:
        command = f"{before} exec {shlex.quote(sys.executable)} -m tfspawner {words} {redirection}"
        return subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    return call
