"""What the API server's pod proxy makes of paths and answers on their way between launcher and agent."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from strangers import asked, server_pod

from tfspawner.backends.client import AgentClient
from tfspawner.backends.kubernetes.api import Api
from tfspawner.errors import AgentUnreachable, NotTheAgent
from tfspawner.replica.proofs import Key
from tfspawner.replica.protocol import PROOF_HEADER

PATTERNS = (
    "*", "a b", "../../x", "%2e%2e/x", "%252e%252e%252fx", "a;b", "a&token=x", "a=b", "ä", "#x", "?x", "%00", "\n",
)  # fmt: skip
# As they come to the pod: an encoded path is decoded once, at the proxy, and cleaned; it leads out of no pod.
PATHS = {
    "/files/%252e%252e/x": "/files/%252e%252e/x",
    "/files/a%252f..%252fb": "/files/a%252f..%252fb",
    "/files/%2e%2e/%2e%2e/%2e%2e/%2e%2e/x": "/x",
    "/files/..%2f..%2f..%2f..%2fsecrets": "/secrets",
    "/status;x?a;b": "/status;x?a;b",
    "/%2fetc/passwd": "/etc/passwd",
    "//status": "/status",
}
PLACES = ("/other", "other", "http://10.244.0.1:9/x", "https://kubernetes.default/api", "//10.244.0.1:9/x")


class Echo:
    """A pod that says what it is asked, and an agent's client that takes it for a replica."""

    def __init__(self, place) -> None:
        server_pod(place, "echo")
        self.place = place
        self.api = Api.from_kubeconfig(place.folder / "kubeconfig", None, None)
        self.url = f"{self.api.host}/api/v1/namespaces/{self.api.namespace}/pods/echo:7117/proxy"
        self.client = AgentClient(
            replica="worker-0", url=self.url, token="t" * 32, pool=self.api.pool, headers=self.api.headers
        )

    def asked(self) -> list[str]:
        return [path for _, path, _ in asked(self.place, "echo")]


@pytest.fixture
def echo(cluster_place) -> Echo:
    return Echo(cluster_place)


def test_patterns_come_to_the_agent_as_they_were_given(echo):
    for named in PATTERNS:
        with pytest.raises(NotTheAgent):
            echo.client.manifest(named)
    told = asked(echo.place, "echo")
    assert all(
        Key("t" * 32).verified(headers[PROOF_HEADER], "worker-0", method, path) for method, path, headers in told
    )
    came = [urlsplit(path) for _, path, _ in told]
    assert [url.path for url in came] == ["/files"] * len(PATTERNS)
    assert [parse_qs(url.query, keep_blank_values=True) for url in came] == [{"named": [named]} for named in PATTERNS]


def test_an_encoded_path_is_decoded_once_at_most_and_stays_at_its_pod(echo):
    for path in PATHS:
        reply = echo.api.pool.request("GET", echo.url + path, headers=echo.api.headers(), redirect=False, retries=False)
        assert reply.status == 200, path
    assert dict(zip(PATHS, echo.asked(), strict=True)) == PATHS


def test_a_redirect_is_no_answer_and_is_followed_by_neither_launcher_nor_api_server(echo):
    for status in (301, 302, 303, 307, 308):
        for to in PLACES:
            with pytest.raises(AgentUnreachable, match=f"answered {status}"):
                echo.client._json("GET", f"/{status}?to={to}", timeout_s=10)
    assert len(echo.asked()) == 5 * len(PLACES)
    assert all("?to=" in path for path in echo.asked())
