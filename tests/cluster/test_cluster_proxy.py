"""What the API server's pod proxy makes of paths and answers on their way between launcher and agent."""

from __future__ import annotations

import pytest
import urllib3
from strangers import asked, server_pod

from tfspawner.backends.kubernetes_api import Api
from tfspawner.client import AgentClient
from tfspawner.errors import AgentUnreachable

TOKEN = "t" * 32


@pytest.fixture
def proxied(cluster_place):
    """A function from a path to what the pod behind the proxy was asked by it: the answer's status, and the path there."""
    server_pod(cluster_place, "echo")
    api = Api.from_kubeconfig(cluster_place.folder / "kubeconfig", None, None)
    base = f"{api.host}/api/v1/namespaces/{api.namespace}/pods/echo:7117/proxy"

    class Proxied:
        client = AgentClient(replica="worker-0", url=base, token=TOKEN, pool=api.pool, headers=api.headers)

        def send(self, path: str) -> urllib3.BaseHTTPResponse:
            return api.pool.request("GET", base + path, headers=api.headers(), redirect=False, retries=False)

        def asked(self) -> list[str]:
            return [path for _, path, _ in asked(cluster_place, "echo")]

        def headers(self) -> list[dict[str, str]]:
            return [headers for _, _, headers in asked(cluster_place, "echo")]

    return Proxied()


@pytest.mark.parametrize(
    "named",
    ["*", "a b", "../../x", "%2e%2e/x", "%252e%252e%252fx", "a;b", "a&token=x", "a=b", "ä", "#x", "?x", "%00", "\n"],
)
def test_a_pattern_comes_to_the_agent_as_it_was_given(proxied, named):
    from urllib.parse import parse_qs, urlsplit

    with pytest.raises(AgentUnreachable, match="no list of files"):
        proxied.client.manifest(named)
    (path,) = proxied.asked()
    assert urlsplit(path).path == "/files"
    assert parse_qs(urlsplit(path).query, keep_blank_values=True) == {"named": [named]}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "to", ["/other", "http://10.244.0.1:9/x", "https://kubernetes.default/api", "//10.244.0.1:9/x"]
)
def test_a_redirect_is_no_answer_and_is_not_followed(proxied, status, to):
    """Not by the launcher, nor by the API server, which would take the token along."""
    with pytest.raises(AgentUnreachable, match=r"answered (30|50)"):
        proxied.client._json("GET", f"/{status}?to={to}", timeout_s=10)
    assert len(proxied.asked()) == 1
