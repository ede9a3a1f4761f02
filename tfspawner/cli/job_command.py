"""The commands that take a script and the options that describe a job."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import click

from tfspawner.base.terminal import echo

from .flags import PATH, JobOption
from .hints import PlacedCommand


class JobCommand(PlacedCommand):
    """A command with the options that describe a job: --help shows those that are needed often, --help-all all of them.

    What follows -- goes to the script; options may come before and after SCRIPT. The options are made when they
    are asked for: `tf-spawner --help` needs none.
    """

    def __init__(self, *args: Any, extra: Collection[str] = (), **attributes: Any) -> None:
        """`extra` names fields of JobSpec that are options of this command only."""
        self._own: list[click.Parameter] = []
        self._all: list[click.Parameter] = []
        self._extra = extra
        super().__init__(*args, **attributes)

    @property
    def params(self) -> list[click.Parameter]:
        if not self._all:
            from .job_flags import job_flags  # only now, see above

            arguments = [param for param in self._own if isinstance(param, click.Argument)]
            options = [param for param in self._own if not isinstance(param, click.Argument)]
            self._all = [*arguments, *job_flags(self._extra), *options]
        return self._all

    @params.setter
    def params(self, params: list[click.Parameter]) -> None:
        self._own, self._all = params, []

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            args, rest = args[:cut], args[cut + 1 :]
            ctx.meta["script_args"] = tuple(rest)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), HELP_ALL]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if not record:
                continue
            if not isinstance(param, JobOption):
                sections.setdefault("Options", []).append(record)
            elif ctx.meta.get("help_all"):
                sections.setdefault(param.section, []).append(record)
            elif param.often:
                sections.setdefault("Options", []).append((record[0], param.help or ""))
        for title, records in sorted(sections.items(), key=lambda section: section[0] == "Options"):
            with formatter.section(title):
                formatter.write_dl(records)


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["help_all"] = True
        echo(ctx.get_help())
        ctx.exit()


HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show all options and exit.",
)


def run_arguments(command: Callable[..., None]) -> Callable[..., None]:
    """The script and its arguments, for a JobCommand; `run`, `check` and `render` share them."""
    return click.argument("script", required=False, type=PATH)(script_arguments(command))


def script_arguments(command: Callable[..., None]) -> Callable[..., None]:
    """The script's arguments, for a JobCommand."""
    return click.argument("args", nargs=-1, type=click.UNPROCESSED)(command)
