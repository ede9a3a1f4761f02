"""The commands that hints name are told with the flags that say where the job is: those that this command was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from tfspawner.errors import Hint, SpawnerError

PLACE_FLAGS = {"namespace": "-n", "context": "--context", "kubeconfig": "--kubeconfig"}


class PlacedCommand(click.Command):
    """A command that is told where jobs are; so are the commands that the hints of its errors name."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SpawnerError as error:
            for told in (error, error.missing):
                if told and told.hint:
                    told.hint = Hint(told.hint).at(place_of(ctx.params))
            raise


def place_of(params: Mapping[str, Any]) -> list[str]:
    """The flags among a command's parsed parameters that say where its job is."""
    given = [(flag, params.get(name)) for name, flag in PLACE_FLAGS.items()]
    return [word for flag, value in given if value is not None for word in (flag, str(value))]


def placed(hint: Hint) -> Hint:
    """A hint that is told where nothing failed, with the place of the command that runs now."""
    return hint.at(place_of(click.get_current_context().params))
