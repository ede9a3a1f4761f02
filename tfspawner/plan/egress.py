"""Parses --egress: what a job's pods may connect to."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tfspawner.errors import ConfigurationError

NOTHING = "none"  # nothing but what every job needs: its own pods, and DNS
_FORMS = (
    re.compile(r"\[(?P<network>[0-9a-fA-F:.]+(?:/[0-9]{1,3})?)\](?::(?P<port>[0-9]{1,5}))?", re.ASCII),
    re.compile(r"(?P<network>[0-9.]+(?:/[0-9]{1,2})?)(?::(?P<port>[0-9]{1,5}))?", re.ASCII),
    re.compile(r"(?P<network>[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:/[0-9]{1,3})?)(?P<port>)", re.ASCII),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A range of addresses, and a port; None for all ports."""

    cidr: str
    port: int | None


def destinations(words: Iterable[str]) -> tuple[Destination, ...]:
    """The destinations that these words name; none for "none". Raises ConfigurationError with the wrong word."""
    words = tuple(words)
    if NOTHING in words:
        if set(words) != {NOTHING}:
            raise ConfigurationError(f"egress is {NOTHING!r} and more", hint="leave one of them out")
        return ()
    return tuple(map(_destination, words))


def _destination(word: str) -> Destination:
    match = next((matched for form in _FORMS if (matched := form.fullmatch(word))), None)
    try:
        network = ipaddress.ip_network(match["network"]) if match else None
    except ValueError as error:
        raise ConfigurationError(f"egress is {word!r}: {error}", hint="for example --egress 192.0.2.0/24:443") from None
    port = int(match["port"]) if match and match["port"] else None
    if network is None or (port is not None and not 1 <= port <= 65535):
        raise ConfigurationError(
            f"egress is {word!r}; it must be {NOTHING!r}, or addresses like "
            "192.0.2.7, 192.0.2.0/24:443 or [2001:db8::/32]:443",
            hint="a NetworkPolicy knows no names: getent hosts s3.example.org",
        )
    return Destination(cidr=str(network), port=port)
