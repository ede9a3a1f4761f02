"""The flags made from JobSpec's and Sweep's fields. Not in flags.py, because `tf-spawner --help` needs none of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import click

from tfspawner.plan.grid import SWEEP_OPTIONS
from tfspawner.plan.options import Kind, Option, Section, Trait
from tfspawner.plan.spec import OPTIONS

from .flags import DURATION, PATH, JobOption

FILE = Option(
    kind=Kind.PATH,
    words=("-f", "--file"),
    section=Section.SCRIPT,
    place=6,
    traits=frozenset({Trait.OFTEN}),
    name="job_file",
    is_optional=True,
    help="A YAML file with any of these options; flags win.",
)


def job_flags(extra: Collection[str] = ()) -> list[JobOption]:
    """The flags that describe a job or a sweep, in the order of --help-all, with those of the `extra` fields."""
    options = [one for one in (*OPTIONS.values(), *SWEEP_OPTIONS.values(), FILE) if one.section]
    return [
        _flag(option)
        for section in Section
        for option in sorted(options, key=lambda option: option.place)
        if option.section is section and (section is not Section.OTHER or option.name in extra)
    ]


def _flag(option: Option) -> JobOption:
    return JobOption(
        [*option.words, option.parameter],
        section=str(option.section),
        often=Trait.OFTEN in option.traits,
        help=option.full_help,
        metavar=option.metavar,
        envvar=option.variable,
        show_envvar=bool(option.variable),
        **_click_type(option),
    )


def _click_type(option: Option) -> dict[str, Any]:
    """How click reads its value. Without the flag the value is None, whatever the field's default."""
    if option.kind is Kind.SWITCH:
        return {"default": None, **({"flag_value": False} if option.default else {"is_flag": True})}
    types: dict[Kind, Any] = {
        Kind.PATH: PATH,
        Kind.PATHS: PATH,
        Kind.NUMBER: int,
        Kind.SECONDS: DURATION,
        Kind.WHOLE_SECONDS: DURATION,
    }
    kind = click.Choice(option.choices) if option.choices else types.get(option.kind)
    return {"type": kind, "multiple": option.kind in (Kind.PATHS, Kind.TEXTS, Kind.PAIRS, Kind.GRID)}
