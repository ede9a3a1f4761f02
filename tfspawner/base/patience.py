"""HTTP connections that bound the time for a whole response head; a socket's time-out bounds only each read."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.poolmanager import pool_classes_by_scheme

HEAD_S = 10.0  # for the whole head, on top of the time-out for its first byte


def patient(pool: urllib3.PoolManager) -> urllib3.PoolManager:
    """Makes the pool's connections give up when a response's head takes too long; returns the pool."""
    if pool.pool_classes_by_scheme is pool_classes_by_scheme:  # a SOCKS proxy has classes of its own
        pool.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return pool


def _head_in_time(connection: HTTPConnection, read: Callable[[], Any]) -> Any:
    """Returns what read returns; cuts the connection and raises TimeoutError if that takes too long."""
    sock, wait_s = connection.sock, connection.timeout

    is_late = threading.Event()

    def cut() -> None:
        is_late.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    if sock is None or not isinstance(wait_s, int | float):
        return read()
    timer = threading.Timer(wait_s + HEAD_S, cut)
    timer.daemon = True
    timer.start()
    try:
        reply = read()
    finally:
        timer.cancel()
    if is_late.is_set():  # http.client takes a head that was cut off for a whole one
        raise TimeoutError(f"it did not begin to answer within {wait_s + HEAD_S:g} s")
    return reply


class _HTTP(HTTPConnection):
    def getresponse(self) -> Any:
        return _head_in_time(self, super().getresponse)


class _HTTPS(HTTPSConnection):
    def getresponse(self) -> Any:
        return _head_in_time(self, super().getresponse)


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPS
