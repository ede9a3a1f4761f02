"""Writes the reference in README.md anew from `tf-spawner run --help-all` and the other commands' own."""

import os
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner

from tfspawner.cli.main import cli

README = Path(__file__).resolve().parent.parent / "README.md"
COMMANDS = (
    "", "run", "rerun", "check", "render", "list", "status", "top", "attach", "logs", "wait", "fetch", "tensorboard", "delete", "report", "compare", "init", "doctor", "rbac", "completion",
    "data", "data ls", "data head", "data check", "data stats", "data convert", "data cp",
)  # fmt: skip


def help_text() -> str:
    """The help of the tool and of its main commands, as 100 columns show it: two of them click leaves free."""
    texts = []
    for command in COMMANDS:
        flag = "--help-all" if command == "run" else "--help"
        with patch.dict(os.environ, {"PATH": "/usr/bin:/bin"}, clear=True):
            done = CliRunner().invoke(cli, [*command.split(), flag], prog_name="tf-spawner", terminal_width=98)
        assert done.exit_code == 0, done.output
        texts.append(done.stdout.strip())
    return "\n\n".join(texts)


def with_help(readme: str) -> str:
    """The README with its one ```text block under Reference replaced."""
    before, rest = readme.split("## Reference\n\n```text\n", 1)
    return before + "## Reference\n\n```text\n" + help_text() + "\n```" + rest.split("\n```", 1)[1]


if __name__ == "__main__":
    README.write_text(with_help(README.read_text()))
