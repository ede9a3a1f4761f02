"""What strangers can do: to an agent over the network, and with words, to the manifests."""

import json
import resource
import socket
from contextlib import suppress

import pytest
from agent_port import agent_port, proof

from tfspawner.backends.kubernetes.manifests import redacted, render, to_yaml
from tfspawner.errors import ConfigurationError
from tfspawner.plan.plan import Plan
from tfspawner.plan.secrecy import secret_names
from tfspawner.plan.spec import JobSpec
from tfspawner.replica.proofs import Key
from tfspawner.replica.protocol import NOT_KNOWN, PORT, PROOF_HEADER

CANARY = "canary-value"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND", "NONSENSE", "get", "__CLASS__")  # fmt: skip
PATHS = ("/", "/status", "/log?offset=0", "/files", "/code", "/stream", "/release", "/../../etc/passwd", "/%00", "*",
         "http://elsewhere/status", "//status", "/[", "/any")  # fmt: skip
STRANGERS = ("", "right", "wrong", f"{'0' * 16}.1.{'0' * 64}", Key("wrong").request("worker-0", "GET", "/status"),
             Key("right").request("worker-1", "GET", "/status"), Key("right").request("worker-0", "GET", "/elsewhere"),
             Key("right").request("worker-0", "LINK", "/"), f"{'0' * 16}.{'9' * 5000}.{'0' * 64}")  # fmt: skip


# ---- an agent's port ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Where an agent's HTTP server listens; its token is "right"."""
    with agent_port(tmp_path_factory.mktemp("agent")) as found:
        yield found


def connect(port: int, text: str | bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(text.encode("latin-1") if isinstance(text, str) else text)
    return connection


def answer(port: int, text: str | bytes) -> str:
    """All that comes back until the agent hangs up."""
    with connect(port, text) as connection:
        found = b""
        while data := connection.recv(65536):
            found += data
    return found.decode()


def without_date(text: str) -> str:
    return "\r\n".join(line for line in text.split("\r\n") if not line.startswith("Date: "))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_path_asks_for_the_token_and_tells_a_stranger_the_same(port, method):
    told = {
        without_date(answer(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n"))
        for path in PATHS
        for header in (
            "",
            "Authorization: Bearer right\r\n",
            *(f"{PROOF_HEADER}: {text}\r\n" for text in STRANGERS),
        )
    }
    (reply,) = told
    head, _, body = reply.partition("\r\n\r\n")
    assert head.split("\r\n")[0] == "HTTP/1.1 401 Unauthorized"
    assert body == ("" if method == "HEAD" else NOT_KNOWN)


@pytest.mark.parametrize("method", METHODS[1:])
def test_other_methods_find_nothing_even_with_the_token(port, method):
    for path in ("/status", "/any", "/error", "/header"):
        assert answer(port, f"{method} {path} HTTP/1.1\r\n{proof(method, path)}\r\n").startswith("HTTP/1.1 404 ")


@pytest.mark.parametrize(
    "request_text",
    ["GET /status HTTP/1.1\r\n\r\n", "GET /status HTTP/1.0\r\n\r\n", "GET /status\r\n\r\n", "GET\r\n\r\n", "a b c d\r\n\r\n",
     "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/x\r\n\r\n", "\x16\x03\x01\x02\x00\x01\r\n\r\n", "GET /" + 70_000 * "x",
     "GET / HTTP/1.1\r\n" + 200 * "a: b\r\n" + "\r\n", "GET / HTTP/1.1\r\na: " + 70_000 * "x", "GET / HTTP/1.1\r\nno header\r\n\r\n"],
    ids=lambda text: repr(text[:30]),
)  # fmt: skip
def test_nothing_tells_what_the_agent_is_made_of(port, request_text):
    reply = answer(port, request_text)
    head, _, body = reply.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 401 ")
    assert body == NOT_KNOWN
    for word in ("python", "basehttp", "traceback", "7117", "/usr", "version: "):
        assert word not in reply.lower()


@pytest.mark.parametrize("header", [f"Content-Length: {10**15}", "Transfer-Encoding: chunked", "Content-Length: -1"])
def test_a_strangers_body_is_not_asked_for_and_not_read(port, header):
    for method in ("POST /report", "PUT /code"):
        reply = answer(port, f"{method} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{header}\r\n\r\n")
        assert reply.startswith("HTTP/1.1 401 ")
        assert "Connection: close" in reply


def test_the_launchers_body_is_asked_for(port):
    with connect(port, f"POST /status HTTP/1.1\r\n{proof('POST', '/status')}Expect: 100-continue\r\n\r\n") as asking:
        assert asking.recv(65536).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")


def test_strangers_who_say_nothing_or_dribble_hinder_no_one_and_are_hung_up_on(port, monkeypatch):
    monkeypatch.setattr("tfspawner.replica.server.HEAD_S", 0.5)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    early = connect(port, f"GET /log?offset=0 HTTP/1.1\r\n{proof('GET', '/log?offset=0')}\r\n")
    assert early.recv(65536).startswith(b"HTTP/1.1 200 ")
    beginnings = (b"", b"GET", b"GET /status HTTP/1.1\r\nX-Slow: ")
    strangers = [connect(port, beginnings[number % 3]) for number in range(min(1100, soft // 2 - 100))]
    path = "/log?offset=0&wait=0.1"
    with connect(port, f"GET {path} HTTP/1.1\r\n{proof('GET', path)}\r\n") as late:
        assert late.recv(65536).startswith(b"HTTP/1.1 200 ")
    dribbling = strangers[2]
    dribbling.settimeout(0.05)
    with suppress(ConnectionError):
        while is_open(dribbling):
            dribbling.send(b"x")
    for stranger in strangers:
        stranger.settimeout(20)
        assert not is_open(stranger)
        stranger.close()
    early.sendall(f"GET /status HTTP/1.1\r\n{proof('GET', '/status')}\r\n".encode())
    assert early.recv(65536).startswith(b"HTTP/1.1 200 "), "who has shown the token may come again later"
    early.close()


def is_open(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1))
    except TimeoutError:
        return True
    except ConnectionError:
        return False


# ---- words that try to be more than a value -----------------------------------------------------

ATTEMPTS = (
    'x"\n    privileged: true', "x', privileged: true, y: '", "}}]\nhostNetwork: true", "- a\n- b", "---\nkind: Pod",
    "x: &a [*a]", "!!python/object/apply:os.system [id]", "{{ 7 * 7 }}", "{% include '/etc/passwd' %}", "{# x",
    "${TFSPAWNER_TOKEN}", "$(TFSPAWNER_HOST)", "\x00", "\ud800", "x # y", "\u2028", "../../x",
)  # fmt: skip
FIELDS = {
    "name": lambda text: {"name": text},
    "tag": lambda text: {"tag": text},
    "env name": lambda text: {"env": {text: "v"}},
    "env value": lambda text: {"env": {"KEY": text}},
    "args": lambda text: {"args": ("a", text)},
    "image": lambda text: {"image": text},
    "cpu": lambda text: {"cpu": text},
    "memory": lambda text: {"memory": text},
    "node selector's key": lambda text: {"node_selector": {text: "v"}},
    "node selector's value": lambda text: {"node_selector": {"k": text}},
    "toleration": lambda text: {"tolerations": (text,)},
    "toleration's value": lambda text: {"tolerations": (f"key={text}:NoSchedule",)},
    "queue": lambda text: {"queue": text},
    "service account": lambda text: {"service_account": text},
    "image pull secret": lambda text: {"image_pull_secrets": (text,)},
    "claim": lambda text: {"volumes": (f"{text}:/data",)},
    "folder of the host": lambda text: {"volumes": (f"/{text}:/data",)},
    "mount path": lambda text: {"volumes": (f"claim:/{text}",)},
    "namespace": lambda text: {"namespace": text},
    "collect": lambda text: {"collect": (text,)},
    "artifacts": lambda text: {"artifacts": f"s3://bucket/{text}"},
}


def shape(value: object, *hidden: str) -> object:
    """A manifest with every text replaced that is not one of ours: what is left cannot be a user's."""
    if isinstance(value, dict):
        return {("?" if any(text in key for text in hidden) else key): shape(v, *hidden) for key, v in value.items()}
    if isinstance(value, list):
        return [shape(item, *hidden) for item in value]
    if isinstance(value, str) and value.startswith('{"job":'):
        return shape(json.loads(value), *hidden)
    return "?" if isinstance(value, str) and any(text in value for text in hidden) else value


@pytest.mark.parametrize("field", FIELDS)
def test_a_value_is_refused_or_stands_alone_where_it_belongs(field, make_fixed_plan):
    benign = {"cpu": "1", "memory": "1Gi"}.get(field, "benign")
    expected = render(make_fixed_plan("j", **FIELDS[field](benign)))
    for text in ATTEMPTS:
        try:
            manifests = render(make_fixed_plan("j", **FIELDS[field](text)))
        except ConfigurationError:
            continue
        assert shape(manifests, text, benign) == shape(expected, text, benign), text
        to_yaml(redacted(manifests))


@pytest.mark.parametrize(
    "text",
    ["{% import '/etc/hostname' as x %}", "{% from '../train.py' import x %}", "{% extends '/etc/hostname' %}",
     "{% import '../train.py' as x %}", "{{ self.__init__.__globals__ }}", "{{ namespace.__init__.__globals__ }}",
     "{{ lipsum.__globals__['os'] }}", "{{ ''.__class__.__mro__ }}", "{{ '{0.__class__}'.format(job) }}",
     "{{ ('{0.__cla' ~ 'ss__.__mro__}').format(job) }}", "{{ labels.pop('tf-spawner/job') }}", "{% do 1 %}"],
)  # fmt: skip
def test_a_template_reaches_neither_python_nor_other_files(text, make_fixed_plan, tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/service.yaml").write_text(f"kind: Service\nmetadata: {{name: j}}\n# {text}")
    with pytest.raises(ConfigurationError, match=r"template service\.yaml"):
        render(make_fixed_plan("j", template_dir=tmp_path / "templates"))


@pytest.mark.parametrize("text", ["a: {{ values.KEY }}", "a: !{{ values.KEY }} b", "a: *{{ values.KEY }}", "{{ values[values.KEY] }}"])  # fmt: skip
def test_a_secret_template_that_fails_shows_no_value(text, make_fixed_plan, tmp_path):
    (tmp_path / "secret.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as error:
        render(make_fixed_plan("j", template_dir=tmp_path, env={"KEY": CANARY}))
    assert CANARY not in error.value.message


def test_a_secret_template_of_the_users_is_shown_without_values(make_fixed_plan, tmp_path):
    text = "kind: Secret\nmetadata: {name: j}\ndata: {A: {{ values.KEY | tojson }}, B: 5}\nstringData:\n"
    (tmp_path / "secret.yaml").write_text(text)
    shown = to_yaml(redacted(render(make_fixed_plan("j", template_dir=tmp_path, env={"KEY": CANARY}))))
    assert CANARY not in shown
    assert "redacted: 12 characters" in shown


@pytest.mark.parametrize("role", ["chief", "worker", "ps", "evaluator"])
def test_the_network_policy_selects_this_jobs_pods_and_no_others(role, make_fixed_plan):
    kinds: dict[str, list] = {}
    for manifest in render(make_fixed_plan("mine", chief=True, ps=1, evaluator=True, tag="t")):
        kinds.setdefault(manifest["kind"], []).append(manifest)
    (policy,) = kinds["NetworkPolicy"]
    (pods,) = [job["spec"]["template"]["metadata"]["labels"] for job in kinds["Job"]
               if job["metadata"]["name"] == f"mine-{role}"]  # fmt: skip
    others = render(make_fixed_plan("mine-too", tag="t"))[0]["spec"]["template"]["metadata"]["labels"]
    selector = policy["spec"]["podSelector"]["matchLabels"]
    assert selector.items() <= pods.items()
    assert not selector.items() <= others.items()
    among, from_all = policy["spec"]["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": selector}}]}, "all ports, and among these pods alone"
    assert from_all == {"ports": [{"port": PORT}]}
    assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_neither_values_nor_the_token_stand_in_a_specs_or_plans_repr(make_fixed_plan):
    plan = make_fixed_plan("j", env={"KEY": CANARY})
    assert isinstance(plan, Plan)
    for shown in (repr(plan), str(plan.spec), repr(plan.code)):
        assert CANARY not in shown
        assert "the-token" not in shown


@pytest.mark.parametrize("env", [{"A": CANARY, "B": 5}, [CANARY], CANARY, {"A B": CANARY}, {"A": CANARY + "\0"}, {"TF_CONFIG": CANARY}])  # fmt: skip
def test_a_wrong_env_is_refused_without_its_values(env, tmp_path):
    (tmp_path / "train.py").touch()
    with pytest.raises(ConfigurationError) as error:
        JobSpec(script=tmp_path / "train.py", env=env)
    assert CANARY not in error.value.message
    assert CANARY not in (error.value.hint or "")


def test_the_agents_learn_the_secrets_names_and_not_their_values(make_fixed_plan):
    config = json.loads(make_fixed_plan("j", env={"KEY": CANARY, "A": "b"}).files["job.json"])
    assert config["secret_names"] == ["A", "KEY"]
    assert CANARY not in json.dumps(config)


def test_what_errors_have_to_name_is_no_secret_unless_a_password_is_in_it(make_fixed_plan):
    plain = {"AWS_ENDPOINT_URL": "https://s3.example", "AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": CANARY}
    plan = make_fixed_plan("j", env={**plain, "S3_ENDPOINT": "https://me:word@s3.example"})
    assert json.loads(plan.files["job.json"])["secret_names"] == ["AWS_SECRET_ACCESS_KEY", "S3_ENDPOINT"]


@pytest.mark.parametrize(
    ("name", "value", "is_secret"),
    [
        ("DATA", "/eos/user/x", False), ("DATA", "s3://bucket/train", False), ("AWS_ACCESS_KEY_ID", "id", False),
        ("DATA", "small", True), ("API_KEY", "/base64/begins/so", True), ("AWS_SECRET_ACCESS_KEY", "/a+b/c", True),
        ("URL", "https://me:password@host/", True), ("URL", "https://host/x?signature=1", True),
    ],
)  # fmt: skip
def test_where_something_lies_is_no_secret_unless_its_name_says_so(name, value, is_secret):
    assert (name in secret_names({name: value})) is is_secret
