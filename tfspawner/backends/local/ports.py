"""Finds free ports on this machine for the replicas' TensorFlow."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice

from tfspawner.errors import ClusterError, ConfigurationError

HOST = "127.0.0.1"
PORTS = range(20000, 32000)  # below Linux's ephemeral ports, so that no outgoing connection takes one meanwhile


def free_ports(count: int, first: int | None) -> list[int]:
    """`count` free ports of this machine, from `first` on if given. Raises ConfigurationError or ClusterError."""
    if first is not None:
        ports = list(range(first, first + count))
        taken = [port for port in ports if not is_free(port)]
        if taken:
            raise ConfigurationError(f"port {taken[0]} is taken on this machine", hint="give another --port, or none")
        return ports
    free: list[int] = []
    for port in islice(_port_order(), len(PORTS)):
        if len(free) == count:
            return free
        if is_free(port):
            free.append(port)
    raise ClusterError(f"{count} free ports are needed on this machine, and there are {len(free)}")


@cache
def _port_order() -> Iterator[int]:
    """All ports in random order, over and over: TensorFlow opens its port seconds later, so none is reused soon."""
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
