"""Command-line flags that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


class Duration(click.ParamType):  # type: ignore[type-arg] # not generic before click 8.4
    """Seconds, or a number with s, m, h or d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from .options import duration

        try:
            return duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
PATH = click.Path(path_type=Path)


class JobOption(click.Option):
    """An option that describes a job: its section in --help-all, and whether --help shows it, too."""

    def __init__(self, *words: Any, section: str, often: bool = False, **attributes: Any) -> None:
        super().__init__(*words, **attributes)
        self.section, self.often = section, often


def target_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where to look for jobs."""
    where = click.Choice(["local", "kubernetes"])
    for option in (
        click.option("--kubeconfig", type=PATH, help="Kubeconfig file."),
        click.option("--context", help="Kube context.  [default: the current one]"),
        click.option("-n", "--namespace", help="Namespace.  [default: the context's]"),
        click.option("--on", type=where, help="Look only there.  [default: here, then the cluster]"),
    ):  # the last one is the first in --help
        command = option(command)
    return command


def output_option(command: Callable[..., None]) -> Callable[..., None]:
    """The option --output: text or json."""
    return click.option(
        "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result."
    )(command)
