"""Proves knowledge of the job's token, which is never sent."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote


class Key:
    """The secret that a job's launcher and agents share: each proves to know it, and none sends it.

    A request names its sender and a number, and proves the key over these, its replica, method and path; an answer over
    the same request and its status. Who got hold of a replica's port can therefore neither answer a new request nor
    make one. Bodies are not proven: who can change bytes on their way changes those.
    """

    MOST_ASKED = 1 << 17  # replicas, of all jobs, before this process takes another name and counts anew
    # This process, and the number of its next request to each replica, by token and name.
    sending: tuple[str, dict[tuple[bytes, str], Iterator[int]]] = (os.urandom(8).hex(), {})
    signed = re.compile(r"([0-9a-f]{16})\.([0-9]{1,18})\.([0-9a-f]{64})")

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def request(self, replica: str, method: str, path: str) -> str:
        """The header of a new request."""
        if len(Key.sending[1]) >= Key.MOST_ASKED:
            Key.renew()
        sender, numbers = Key.sending  # together: another thread may renew them
        request_id = f"{sender}.{next(numbers.setdefault((self._token, replica), itertools.count(1)))}"
        return f"{request_id}.{self._prove('request', request_id, replica, method, plain(path))}"

    def verified(self, header: str, replica: str, method: str, path: str) -> tuple[str, int] | None:
        """The sender and the number of a request with this header; None if the header does not prove the key."""
        match = Key.signed.fullmatch(header)
        if not match:
            return None
        expected = self._prove("request", f"{match[1]}.{match[2]}", replica, method, plain(path))
        return (match[1], int(match[2])) if hmac.compare_digest(match[3], expected) else None

    def answer(self, request: str, replica: str, status: int) -> str:
        """The header of the answer to a request with this header."""
        return self._prove("answer", request, replica, str(status))

    def is_answer(self, header: str | None, request: str, replica: str, status: int) -> bool:
        """Whether an answer with this header comes from someone who knows the key."""
        expected = self.answer(request, replica, status)
        return hmac.compare_digest((header or "").encode("utf-8", "replace"), expected.encode())

    def _prove(self, *words: str) -> str:
        return hmac.new(self._token, "\n".join(words).encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    @classmethod
    def renew(cls) -> None:
        """Takes a new sender's name, as a forked process must."""
        cls.sending = os.urandom(8).hex(), {}


os.register_at_fork(after_in_child=Key.renew)


def plain(path: str) -> str:
    """A request's path in one spelling: a proxy on the way may write %2A for * or the like."""
    path, _, query = path.partition("?")
    return f"{unquote(path)}?{parse_qsl(query, keep_blank_values=True)}"


class Answered:
    """The requests that have been answered, so that none counts twice: each sender's last WINDOW numbers."""

    WINDOW, SENDERS = 256, 4096

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.last: OrderedDict[str, tuple[int, int]] = OrderedDict()  # sender -> highest number, bits of those below

    def is_new(self, sender: str, number: int) -> bool:
        """Whether the sender's request with that number is new; from now on it counts as answered."""
        with self.lock:
            highest, bits = self.last.pop(sender, (number, 0))
            if number > highest:
                highest, bits = number, bits << min(number - highest, self.WINDOW)
            back = highest - number
            is_new = back < self.WINDOW and not bits >> back & 1
            if is_new:
                bits |= 1 << back
            self.last[sender] = highest, bits & ((1 << self.WINDOW) - 1)
            if len(self.last) > self.SENDERS:
                self.last.popitem(last=False)
            return is_new
