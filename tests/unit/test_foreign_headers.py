"""What a browser's page, or something that poses as one, can put into a request to an agent: it is answered like any stranger's."""

from __future__ import annotations

import itertools
import re
import socket

import pytest
from agent_port import agent_port, proof

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
HOSTS = ("127.0.0.1", "localhost", "stranger.test", "[::1]", "stranger.test:80@127.0.0.1", "")
BROWSER = (
    "Origin: http://stranger.test\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\n",
    "Origin: null\r\nReferer: http://127.0.0.1/\r\nCookie: a=b\r\n",
    "Origin: http://127.0.0.1\r\nSec-Fetch-Site: same-origin\r\n",
    "Origin: http://stranger.test\r\nAccess-Control-Request-Method: PUT\r\n"
    "Access-Control-Request-Headers: x-tfspawner-proof\r\nAccess-Control-Request-Private-Network: true\r\n",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "X-HTTP-Method-Override: GET\r\nX-Forwarded-Host: 127.0.0.1\r\n",
)
SMUGGLED = "GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with agent_port(tmp_path_factory.mktemp("agent")) as found:
        yield found


def answer(port: int, text: str) -> str:
    """All that comes back until the agent hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(text.encode())
        received = b""
        try:
            while data := connection.recv(65536):
                received += data
        except ConnectionResetError:
            pass  # it hangs up without reading the body
    return re.sub(r"\r\nDate: [^\r]*", "", received.decode())


@pytest.mark.parametrize("method", METHODS)
def test_no_host_origin_or_upgrade_makes_an_agent_answer_a_page(port, method):
    replies = {
        answer(port, f"{method} /status HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n")
        for host, headers in itertools.product(HOSTS, BROWSER)
    }
    (reply,) = replies
    head = reply.partition("\r\n\r\n")[0].split("\r\n")
    assert head[0] == "HTTP/1.1 401 Unauthorized"
    assert {"X-Content-Type-Options: nosniff", "Cross-Origin-Resource-Policy: same-origin", "Connection: close"} <= set(
        head
    )
    assert not [
        line for line in head if line.lower().startswith(("access-control-", "set-cookie", "upgrade", "location"))
    ]


@pytest.mark.parametrize(
    "length",
    [
        f"Content-Length: {len(SMUGGLED)}", "Content-Length: 0", "Transfer-Encoding: chunked", "Content-Length: 4\r\nContent-Length: 0",
        "Content-Length: 0\r\nTransfer-Encoding: chunked", "Transfer-Encoding: identity", "Content-Length: +0",
    ],
)  # fmt: skip
def test_a_second_request_in_a_pages_body_is_not_answered(port, length):
    text = f"POST /status HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nConnection: keep-alive\r\n{length}\r\n\r\n"
    reply = answer(port, text + SMUGGLED + SMUGGLED)
    assert reply.count("HTTP/1.1 ") == 1
    assert reply.startswith("HTTP/1.1 401 ")


def test_answers_to_the_launcher_are_not_for_other_sites_either(port):
    reply = answer(port, f"GET /log?offset=0 HTTP/1.1\r\n{proof('GET', '/log?offset=0')}Connection: close\r\n\r\n")
    assert reply.startswith("HTTP/1.1 200 ")
    assert "\r\nCross-Origin-Resource-Policy: same-origin\r\n" in reply
