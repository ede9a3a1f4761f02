"""Describes each option once, in the metadata of its dataclass field.

Flags, job.yaml's keys, --help, the words of a recorded spec and the checks of a value's type follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import Enum, StrEnum, auto
from typing import Any, TypeVar

OPTION = "option"  # the key of a field's metadata
Value = TypeVar("Value")


class Kind(Enum):
    """What a field's value is; values are checked in this order."""

    PATH = auto()
    PATHS = auto()
    TEXTS = auto()
    PAIRS = auto()  # a mapping of texts
    NUMBER = auto()  # a whole one
    WHOLE_SECONDS = auto()
    SECONDS = auto()
    TEXT = auto()
    SWITCH = auto()
    GRID = auto()  # a mapping of lists


class Section(StrEnum):
    """The sections of --help-all, in its order."""

    REPLICAS = "Replicas"
    SCRIPT = "Script"
    PLACE = "Place and name"
    BACK = "What comes back"
    FAULTS = "Time and faults"
    SWEEPS = "Sweeps"
    KUBERNETES = "Kubernetes"
    OTHER = "Options"  # of one command alone


class Trait(Enum):
    """What may be true of an option."""

    OFTEN = auto()  # --help shows it, too
    CLUSTER_ONLY = auto()  # it has no meaning on this machine
    FIXED = auto()  # a sweep that goes on must have the same; other options may change while it is stopped
    ONCE = auto()  # it belongs to one run, and rerun does not repeat it
    ANY_BYTES = auto()  # its texts may hold what is no UTF-8, as names of files do
    SECRET = auto()  # repr does not show its value


PATH, PATHS, TEXTS, PAIRS, NUMBER, WHOLE_SECONDS, SECONDS, TEXT, SWITCH, GRID = Kind
REPLICAS, SCRIPT, PLACE, BACK, FAULTS, SWEEPS, KUBERNETES, OTHER = Section
OFTEN, CLUSTER_ONLY, FIXED, ONCE, ANY_BYTES, SECRET = Trait


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A field as an option.

    Args:
        kind: what its value is.
        words: its flags, the long one last; none for what is no flag: the script and its arguments.
        help: a sentence for --help; {default} stands for the field's default.
        section, place: where it stands in --help-all; those of the same place in a section keep the fields' order (0).
        traits: what is true of it.
        metavar: its value's name in --help (click's).
        choices: all values that it may have (any).
        bounds: the least and the greatest number (any).
        variable: the environment variable that gives it where no flag does (none).
        name, default, is_optional: the field's, put in by options_of. An optional one may be None.
    """

    kind: Kind
    words: tuple[str, ...] = ()
    help: str = ""
    section: Section | None = None
    place: int = 0
    traits: frozenset[Trait] = frozenset()
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    bounds: tuple[int, int] | None = None
    variable: str | None = None
    name: str = ""
    default: Any = None
    is_optional: bool = False

    @property
    def key(self) -> str:
        """Its name in job.yaml: the long flag's, without the no- of a switch that turns something off."""
        word = self.words[-1] if self.words else self.name
        return word.removeprefix("--").removeprefix("no-")

    @property
    def flag(self) -> str:
        """Its flag; for a switch the one that turns it on, even if --help names the other."""
        return f"--{self.key}"

    @property
    def parameter(self) -> str:
        """Its name among click's parsed options, where pairs are still words."""
        return f"{self.name}_pairs" if self.kind is Kind.PAIRS else self.name

    @property
    def full_help(self) -> str:
        """Its help with the default filled in."""
        default = ", ".join(self.default) if isinstance(self.default, tuple) else self.default
        return self.help.format(default=default)


def described(
    kind: Kind, words: str = "", section: Section | None = None, *traits: Trait, **attributes: Any
) -> Mapping[str, Option]:
    """A dataclass field's metadata: `words` are its flags, `attributes` the rest of Option's fields."""
    return {
        OPTION: Option(kind=kind, words=tuple(words.split()), section=section, traits=frozenset(traits), **attributes)
    }


def option(
    default: Value, kind: Kind, words: str = "", section: Section | None = None, *traits: Trait, **attributes: Any
) -> Value:
    """A dataclass field with that default and this description."""
    start: Any = {"default_factory": dict} if isinstance(default, dict) else {"default": default}
    made: Any = field(
        **start, repr=SECRET not in traits, metadata=described(kind, words, section, *traits, **attributes)
    )
    return made  # type: ignore[no-any-return] # as with dataclasses.field, to a type checker it is the default


def options_of(record: type) -> dict[str, Option]:
    """The options of a dataclass by their fields' names, in the fields' order."""
    options = {}
    for one in (one for one in fields(record) if OPTION in one.metadata):
        default = None if one.default is MISSING else one.default
        options[one.name] = replace(
            one.metadata[OPTION], name=one.name, default=default, is_optional=one.default is None
        )
    return options
