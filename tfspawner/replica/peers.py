"""Requests to another agent over HTTP."""

from __future__ import annotations

import http.client
import json
import math
from typing import Any

from .checks import read_json
from .connections import Connection, connect, look_up_again
from .proofs import Key
from .protocol import PROOF_HEADER
from .reports import LONGEST_WANTED, MARKS_OF_ANSWER


class Peer:
    """Another agent, as this one asks it."""

    def __init__(self, key: Key, replica: str, host: str) -> None:
        self.key, self.replica, self.host = key, replica, host

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        timeout_s: float = 15.0,
        connection: Connection | None = None,
        whole: bool = False,
    ) -> http.client.HTTPResponse:
        """Makes one request, over an existing connection or a new one; the caller reads the reply.

        All of it has to come within timeout_s where it is asked for whole; else its head, and the rest no slower than
        SLOWEST. Raises OSError on anything but 200, and where something else answers.
        """
        connection = connection or connect(self.host, timeout_s)
        data = None if body is None else json.dumps(body).encode()
        request = self.key.request(self.replica, method, path)
        is_right = False
        try:
            if connection.sock is None:
                connection.connect()
            line = connection.sock
            line.begin(timeout_s, math.inf)
            connection.request(method, path, data, {PROOF_HEADER: request})
            response = connection.getresponse()
            is_right = self.key.is_answer(response.headers.get(PROOF_HEADER), request, self.replica, response.status)
            if response.status != 200:
                text = response.read(500).decode(errors="replace").strip()
                raise OSError(f"{method} {path} at {self.host}: {response.status} {text}")
        finally:
            if not is_right:
                look_up_again(self.host)
        if not is_right:
            raise OSError(
                f"what answers at {self.host} is not {self.replica}'s agent: it does not know the job's token"
            )
        if not whole:
            line.begin(timeout_s)
        return response

    def ask_json(self, method: str, path: str, body: Any = None, timeout_s: float = 15.0) -> Any:
        """A peer's answer as a JSON value. Raises OSError if it is not one."""
        try:
            with self.ask(method, path, body, timeout_s, whole=True) as response:
                return read_json(response.read(LONGEST_WANTED), MARKS_OF_ANSWER)
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"{method} {path} at {self.host}: {error!r}") from None
