"""Connections between agents; the other side has to keep up."""

from __future__ import annotations

import errno
import fcntl
import http.client
import math
import os
import select
import socket
import sys
import termios
import time
from contextlib import suppress
from typing import Any

from .protocol import CHUNK, split_address

KEEPS_UP_S, SLOWEST = 60.0, 1024  # who lets us wait so long, and sends or takes fewer bytes a second, is hung up on

IDLE_S = 120.0  # how long a connection may have no request: longer than the API server keeps one

RESOLVED: dict[str, str] = {}  # host name -> address: a look-up that is lost on its way costs 5 s


def resolve(host: str) -> str:
    """The host's address, looked up once. Raises socket.gaierror."""
    if host not in RESOLVED:
        try:
            addresses = socket.getaddrinfo(host, None, socket.AF_INET)  # alone: A and AAAA together race in conntrack
        except socket.gaierror:
            addresses = socket.getaddrinfo(host, None, socket.AF_INET6)
        RESOLVED[host] = str(addresses[0][4][0])
    return RESOLVED[host]


def look_up_again(address: str) -> None:
    """Forgets an address, so that it is looked up again: it may have changed."""
    RESOLVED.pop(split_address(address)[0], None)


def connect(host: str, timeout_s: float) -> Connection:
    """A connection to host:port, whose name is looked up now."""
    name, port = split_address(host)
    return Connection(resolve(name), port, timeout=timeout_s)


class Line(socket.socket):
    """A connection that raises TimeoutError if the other side does not keep up.

    A socket's own time-out starts anew with each byte. Here a window is of time that was spent in waiting for the other
    side, and of the bytes that came from it or arrived there meanwhile.
    """

    carried = 0  # bytes that came, and that were given to the kernel to be sent
    last_arrived = (-1, 0.0)  # how much had arrived, and since when no more has

    @classmethod
    def over(cls, plain: socket.socket) -> Line:
        """The same connection, as a line."""
        line = cls(plain.family, plain.type, plain.proto, fileno=plain.detach())
        line.begin(IDLE_S, math.inf)
        return line

    def begin(self, within_s: float, least: float = SLOWEST) -> None:
        """From here on, each within_s of waiting have to bring so many bytes a second; inf: all there is to come."""
        self.within_s, self.least, self.waited_s = within_s, least, 0.0
        self.arrived_before = self.carried
        if not within_s / 2 <= (self.gettimeout() or 0.0) <= within_s:  # it only decides how soon a wait is judged
            self.settimeout(within_s)

    def arrived(self) -> int:
        """Of what was carried, the bytes that are not on their way still: kernels hold megabytes for a slow reader."""
        try:
            on_their_way: bytes = fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # unknown
            return self.carried
        return self.carried - int.from_bytes(on_their_way, sys.byteorder)

    def is_dead(self) -> bool:
        """Whether nothing that was sent has arrived for KEEPS_UP_S; has to be called repeatedly."""
        arrived, now = self.arrived(), time.monotonic()
        if arrived == self.carried or arrived != self.last_arrived[0]:
            self.last_arrived = arrived, now
        return now - self.last_arrived[1] > KEEPS_UP_S

    def judge(self, began: float) -> None:
        """Counts a wait; at a window's end, raises if too few bytes have moved."""
        self.waited_s += time.monotonic() - began
        left_s = self.within_s - self.waited_s
        if left_s > 0.9 * self.within_s:
            return
        if left_s > 0:
            return self.settimeout(left_s)
        arrived = self.arrived()
        if arrived - self.arrived_before < self.least * self.waited_s:
            raise socket.timeout(f"timed out: {arrived - self.arrived_before} bytes in {self.waited_s:.0f} s")
        self.begin(self.within_s, self.least)
        self.arrived_before = arrived

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Reads into the buffer; hangs up if the other side is too slow."""
        while True:
            began = time.monotonic()
            try:
                size: int = super().recv_into(buffer, nbytes, flags)
            except socket.timeout:
                self.judge(began)
                continue
            self.carried += size
            self.judge(began)
            return size

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Sends everything; hangs up if the other side is too slow."""
        at = 0
        with memoryview(data) as whole:
            while at < len(whole):
                began = time.monotonic()
                with suppress(socket.timeout):
                    sent = self.send(whole[at:], flags)
                    at += sent
                    self.carried += sent
                self.judge(began)

    def wait(self) -> None:
        """Until something can be sent, or a window ends."""
        waiting, began = select.poll(), time.monotonic()
        waiting.register(self, select.POLLOUT)
        waiting.poll(math.ceil(1000 * max(0.0, self.within_s - self.waited_s)))
        self.judge(began)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Sends `count` of a file's bytes, or all; returns how many there were."""
        sent, left = 0, sys.maxsize if count is None else count
        while left:
            try:
                size = os.sendfile(self.fileno(), file.fileno(), offset + sent, min(left, 1 << 30))
            except BlockingIOError:
                self.wait()
                continue
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                data = os.pread(file.fileno(), min(left, CHUNK), offset + sent)  # such a file the kernel does not send
                self.sendall(data)
                size = len(data)
            else:
                self.carried += size
            if not size:
                break
            sent, left = sent + size, left - size
        return sent


class Connection(http.client.HTTPConnection):
    """By a line."""

    sock: Line

    def connect(self) -> None:
        """Connects through a Line, which judges the other side's pace."""
        super().connect()
        self.sock = Line.over(self.sock)


def reach(agent: str) -> str | None:
    """Why an agent's address cannot be reached; None if it can."""
    try:
        socket.create_connection(split_address(agent), timeout=3).close()
    except OSError as error:
        return f"{agent}: {error.strerror or error}"
    return None
