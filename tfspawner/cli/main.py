"""The command line: parses words into a JobSpec, calls one function, prints."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from itertools import chain
from typing import NoReturn

import click

from tfspawner import __version__
from tfspawner.base.terminal import echo, open_streams, show_error, silence, take_warnings
from tfspawner.errors import ConfigurationError, Interrupted, SpawnerError

from .bringing_home import compare, delete, fetch, report
from .data import data
from .printing import fail
from .running import check, render, rerun, run
from .setup import completion, doctor, init, rbac
from .watching import attach, list_jobs, logs, status, tensorboard, top, wait

UNWRITABLE = (errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)  # of stdout, where no file is named


def main(argv: list[str] | None = None) -> NoReturn:
    """The console script."""
    open_streams()
    take_warnings()
    code = call(argv)
    try:
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        if not code and not isinstance(error, BrokenPipeError):  # which nobody reads any more
            code = fail(_of_system(error) or SpawnerError(str(error)))
    sys.exit(code)


def call(argv: list[str] | None) -> int:
    """Runs a command line. The one place where errors become messages and exit codes."""
    try:
        ended: int | None = cli.main(args=argv, prog_name="tf-spawner", standalone_mode=False)
        code = ended or 0  # a command that ends by click's Exit gives its code
    except SpawnerError as error:
        code = fail(error)
    except click.ClickException as error:
        show_error(error)
        if isinstance(error, click.NoSuchOption) and error.ctx and error.ctx.info_name == "run":
            echo(
                "hint: options of the training script stand behind --: tf-spawner run train.py -- --epochs 10", err=True
            )
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        echo("interrupted", err=True)
        code = Interrupted.exit_code
    except BrokenPipeError:
        code = 141
    except Exception as error:
        translated = _of_system(error)
        if translated:
            return fail(translated)
        echo(traceback.format_exc(), err=True, nl=False)  # a bug of ours: its message may hold another's words
        code = 1
    return code


def _of_system(error: Exception) -> SpawnerError | None:
    """The message for a system error that any command can meet; None for others."""
    if isinstance(error, FileNotFoundError):
        try:
            os.getcwd()
        except FileNotFoundError:
            return ConfigurationError("the working folder does not exist any more", hint="cd to one that does")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG and error.filename is not None:
        from tfspawner.base.userfile import named, wrong_path

        name = os.fsdecode(error.filename)
        return ConfigurationError(
            f"{named(name)} is no path: {wrong_path(name) or error.strerror}", hint="give a shorter name"
        )
    if isinstance(error, OSError) and error.filename is None and error.errno in UNWRITABLE:
        return SpawnerError(f"output cannot be written: {error.strerror}")
    return None


COMMANDS: dict[str, tuple[click.Command, ...]] = {
    "Run": (run, rerun, check, render),
    "Watch": (top, attach, status, logs, tensorboard, list_jobs, wait),
    "Bring home": (fetch, report, compare, delete),
    "Set up": (init, doctor, data, rbac, completion),
}


class SectionedGroup(click.Group):
    """Lists its commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, self.commands))
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(str(one.name).ljust(widest), one.get_short_help_str(limit=200)) for one in commands]
                )


@click.group(cls=SectionedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="tf-spawner")
def cli() -> None:
    """Takes a TensorFlow script to N workers, and brings logs and model back.

    \b
    tf-spawner run train.py -w 4                   4 workers on this machine
    tf-spawner run train.py -w 4 --on kubernetes   the same in a cluster
    """


for command in chain(*COMMANDS.values()):
    cli.add_command(command)
