"""The errors that a user can meet, each with the exit code it ends a command with."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

LOGIN = re.compile(r"(?<=://)[^/\s]*@")  # user:password@ of a URI, or a token in that place
SIGNATURE = re.compile(
    r"(?<=[?&])(X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|sig|authz|token|access_token)="
    r"[^&\s#,'\")]*?(?=:?(?:[&\s#,'\")]|$))",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """A message whose URIs show neither who logs in with which password, nor what signs them."""
    return SIGNATURE.sub(r"\1=…", LOGIN.sub("", text))


def escaped(text: str) -> str:
    """A text with names in it, of any characters, as one line: line feeds and control characters as their escapes.

    Bytes of a name that are no UTF-8 stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in text)


class Command:
    """A command of tf-spawner that a hint names: its verb, its words, and the flags that say where its job is."""

    def __init__(self, verb: str, *words: str, place: Iterable[str] = ()) -> None:
        self.verb, self.words, self.place = verb, words, tuple(place)

    def __str__(self) -> str:
        return shlex.join(["tf-spawner", self.verb, *self.words, *self.place])

    def at(self, place: Iterable[str]) -> Command:
        """The command that looks for its job there, by flags such as ("-n", "physics")."""
        return Command(self.verb, *self.words, place=place)

    def for_job(self, job: str) -> Command:
        """The command with the job's name, if it needs one and has none."""
        return self if self.words or self.verb not in ("fetch", "delete") else Command(self.verb, job, place=self.place)


class Hint(str):
    """A hint, made of texts and commands: `Hint("make room, then: ", Command("fetch"))`. Hints are joined likewise.

    It is a text like any other; as long as it is no other text's part, its commands can still be completed.
    """

    parts: tuple[str | Command, ...]

    def __new__(cls, *parts: str | Command) -> Hint:
        flat: list[str | Command] = []
        for part in parts:
            flat += part.parts if isinstance(part, Hint) else [without_secrets(part) if isinstance(part, str) else part]
        hint = super().__new__(cls, "".join(map(str, flat)))
        hint.parts = tuple(flat)
        return hint

    def at(self, place: Iterable[str]) -> Hint:
        """The hint whose commands look for their job there: flags such as ("-n", "physics")."""
        words = tuple(place)
        return Hint(*(part.at(words) if isinstance(part, Command) else part for part in self.parts))

    def for_job(self, job: str) -> Hint:
        """The hint whose commands name the job, where they have to name one and do not."""
        return Hint(*(part.for_job(job) if isinstance(part, Command) else part for part in self.parts))


class SpawnerError(Exception):
    """Something went wrong that the user can act on: what, to what, with which value; the hint is the next step."""

    exit_code = 1
    outcome: Any = None  # the Outcome of a run that came as far as its record
    missing: ArtifactError | None = None  # what of that run is still there and could not come

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = without_secrets(message)
        self.hint: str | None = Hint(hint) if hint else hint
        super().__init__(self.message)


class ConfigurationError(SpawnerError):
    """The request cannot be carried out as it stands; nothing was created."""

    exit_code = 2


class ClusterError(SpawnerError):
    """Kubernetes, or this machine as a backend, refused or could not be reached."""

    exit_code = 3


class NotFoundError(ClusterError):
    """There is no such job, or object; `namespace` is where it was looked for."""

    namespace = ""


class AgentUnreachable(ClusterError):
    """A replica's agent did not answer."""


class AgentBusy(AgentUnreachable):
    """A replica's agent answers, and has no room for what was asked for just now."""


class BadAnswer(AgentUnreachable):
    """Something answered in an agent's place, or the agent is broken: its answer is none that an agent gives."""


class NotTheAgent(AgentUnreachable):
    """Something else answers where a replica's agent was; `what` says so of the replica."""

    what = "was lost: its agent is gone, and what answers in its place does not know the job's token"

    def __init__(self, replica: str) -> None:
        super().__init__(f"{replica} {self.what}", hint="see what the script ends and starts; no word of that was used")


class DataError(SpawnerError):
    """Training data are missing, unreadable or damaged; whatever their names hold, that is told in one line."""

    exit_code = 4

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(escaped(message), hint=escaped(hint) if hint else hint)


class ArtifactError(SpawnerError):
    """The job ran, but what it left could not be brought back whole."""

    exit_code = 5


class TimedOut(SpawnerError):
    """The job did not start or end in its time."""

    exit_code = 124


class JobFailed(SpawnerError):
    """The training itself failed; `lines` are the last of the failed replica, or where it stood; `about` says which."""

    exit_code = 125
    lines: list[str] = []
    about = ""


class Interrupted(SpawnerError):
    """The user pressed Ctrl-C."""

    exit_code = 130
