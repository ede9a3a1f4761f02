"""Adds this command's flags for the job's place (--on and so on) to the commands that hints name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from tfspawner.errors import Hint, SpawnerError

PLACE_FLAGS = {"namespace": "-n", "context": "--context", "kubeconfig": "--kubeconfig"}


class PlacedCommand(click.Command):
    """A command with flags for the job's place, which are added to the commands in its errors' hints."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SpawnerError as error:
            for failure in (error, error.missing):
                if failure and failure.hint:
                    failure.hint = Hint(failure.hint).at(place_of(ctx.params))
            raise


def place_of(params: Mapping[str, Any]) -> list[str]:
    """The flags among a command's parsed parameters that say where its job is."""
    flags = [(flag, params.get(name)) for name, flag in PLACE_FLAGS.items()]
    return [word for flag, value in flags if value is not None for word in (flag, str(value))]


def placed(hint: Hint) -> Hint:
    """A hint without an error, with the flags of the running command added."""
    return hint.at(place_of(click.get_current_context().params))
