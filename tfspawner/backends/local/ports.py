"""Ports of this machine that a replica's TensorFlow can have."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice

from tfspawner.errors import ClusterError, ConfigurationError

HOST = "127.0.0.1"
PORTS = range(20000, 32000)  # below Linux's ephemeral ports: no outgoing connection takes one between look and use


def free_ports(count: int, first: int | None) -> list[int]:
    """So many free ports of this machine, from `first` on if it is given. Raises ConfigurationError or ClusterError."""
    if first is not None:
        ports = list(range(first, first + count))
        taken = [port for port in ports if not is_free(port)]
        if taken:
            raise ConfigurationError(f"port {taken[0]} is taken on this machine", hint="give another --port, or none")
        return ports
    found: list[int] = []
    for port in islice(_port_order(), len(PORTS)):
        if len(found) == count:
            return found
        if is_free(port):
            found.append(port)
    raise ClusterError(f"{count} free ports are needed on this machine, and there are {len(found)}")


@cache
def _port_order() -> Iterator[int]:
    """This process's own order: a port comes again after all others, for TensorFlow opens it only some seconds later."""
    return cycle(random.sample(PORTS, len(PORTS)))


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of this machine now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
