"""Whatever a stranger sends to an agent's port, he gets 401 in the agent's own words, or nothing."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest
from agent_port import agent_port
from mutating import damaged

from tfspawner.replica.protocol import NOT_KNOWN

REQUESTS = (
    b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /release HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", b"GET /\r\n\r\n",
    b"PUT /code HTTP/1.0\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n2\r\nxx\r\n0\r\n\r\n",
    b"GET /log?offset=0&wait=1 HTTP/1.1\r\nX-Tfspawner-Proof: wrong\r\nA: " + b"b" * 3000 + b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n",
)  # fmt: skip


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with agent_port(tmp_path_factory.mktemp("agent")) as found:
        yield found


def answer(port: int, request: bytes) -> bytes:
    """What comes back until the agent hangs up; none where it broke off with bytes unread."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection, suppress(ConnectionError):
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            found += data
    return found


def test_what_is_no_http_gets_401_in_the_agents_words_and_nothing_of_pythons(fuzz, port):
    for rng in fuzz.rounds(150):
        request = damaged(rng.choice(REQUESTS), rng)
        reply = answer(port, request)
        head, _, body = reply.partition(b"\r\n\r\n")
        assert not reply or head.startswith((b"HTTP/1.1 401 ", b"HTTP/1.0 401 ")), request
        assert body in (b"", NOT_KNOWN.encode()), request
