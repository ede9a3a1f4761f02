"""Why a job has ended: a replica's own report, or what the backend saw of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A cause, read once from JSON or made by Cause.of(); as_json() gives the JSON back as it was, in its order."""

    replica: str | None = None  # None: no replica's doing
    message: str = ""
    hint: str | None = None  # the next step
    kind: str | None = None  # the agents' word for it: failed, lost, stalled, configuration, interrupted
    tail: tuple[str, ...] = ()  # the replica's last lines
    stands: tuple[str, ...] = ()  # where its script stood when the gang was stalled, innermost first
    never_ran: bool = False  # no script has begun there
    no_room: bool = False  # and the replica had no place to run
    never_whole: bool = False  # and some replicas were never seen
    told: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Cause:
        """The cause with these words. What else was told of it is kept for as_json()."""
        return cls(
            replica=told.get("replica"),
            message=told.get("message") or "",
            hint=told.get("hint"),
            kind=told.get("kind"),
            tail=_lines(told.get("tail")),
            stands=_lines(told.get("stands")),
            never_ran=bool(told.get("never_ran")),
            no_room=bool(told.get("no_room")),
            never_whole=bool(told.get("never_whole")),
            told=dict(told),
        )

    def but(self, **words: Any) -> Cause:
        """The same cause with other words."""
        return Cause.of({**self.told, **words})

    def as_json(self) -> dict[str, Any]:
        """The words that the cause was made of."""
        return dict(self.told)

    @property
    def text(self) -> str:
        """The replica and the message, as in "worker-1 was killed"."""
        return " ".join(filter(None, (self.replica, self.message)))


def _lines(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
