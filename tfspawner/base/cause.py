"""Why a job has ended: a replica's own report, or what the backend saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A cause, made by Cause.of() from JSON; as_json() returns that JSON unchanged and in its order."""

    replica: str | None = None  # None if no replica caused it
    message: str = ""
    hint: str | None = None  # what to do next
    kind: str | None = None  # the agents' word for it: failed, lost, stalled, configuration, interrupted
    tail: tuple[str, ...] = ()  # the replica's last lines
    stands: tuple[str, ...] = ()  # where its script was when the gang stalled, innermost first
    never_ran: bool = False  # its script never began
    no_room: bool = False  # and the replica was never placed on a node
    never_whole: bool = False  # and some replicas were never seen
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Cause:
        """The cause with these fields; others are kept for as_json()."""
        return cls(
            replica=fields.get("replica"),
            message=fields.get("message") or "",
            hint=fields.get("hint"),
            kind=fields.get("kind"),
            tail=_lines(fields.get("tail")),
            stands=_lines(fields.get("stands")),
            never_ran=bool(fields.get("never_ran")),
            no_room=bool(fields.get("no_room")),
            never_whole=bool(fields.get("never_whole")),
            fields=dict(fields),
        )

    def but(self, **words: Any) -> Cause:
        """The same cause with other fields."""
        return Cause.of({**self.fields, **words})

    def as_json(self) -> dict[str, Any]:
        """The fields that the cause was made of."""
        return dict(self.fields)

    @property
    def text(self) -> str:
        """The replica and the message, as in "worker-1 was killed"."""
        return " ".join(filter(None, (self.replica, self.message)))


def _lines(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
