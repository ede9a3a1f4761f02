"""Writes the reference in README.md anew from `tf-spawner run --help-all` and the other commands' own."""

import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
COMMANDS = (
    "", "run", "rerun", "check", "render", "list", "status", "top", "attach", "logs", "wait", "fetch", "tensorboard", "delete", "report", "compare", "init", "doctor", "rbac", "completion",
    "data", "data ls", "data head", "data check", "data stats", "data convert", "data cp",
)  # fmt: skip


def help_text() -> str:
    """The help of the tool and of its main commands, as 100 columns show it."""
    texts = []
    for command in COMMANDS:
        flag = "--help-all" if command == "run" else "--help"
        argv = [sys.executable, "-m", "tfspawner", *command.split(), flag]
        environment = {"COLUMNS": "100", "PATH": "/usr/bin:/bin"}
        texts.append(subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    return "\n\n".join(texts)


def with_help(readme: str) -> str:
    """The README with its one ```text block under Reference replaced."""
    before, rest = readme.split("## Reference\n\n```text\n", 1)
    return before + "## Reference\n\n```text\n" + help_text() + "\n```" + rest.split("\n```", 1)[1]


if __name__ == "__main__":
    README.write_text(with_help(README.read_text()))
