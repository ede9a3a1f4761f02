"""The commands that hints name, with the place of the job that they are about."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise

PLACE_FLAGS = ("-n", "--namespace", "--context", "--kubeconfig")
_COMMAND = re.compile(
    r"tf-spawner (?:attach|delete|fetch|list|logs|status|tensorboard|top|wait)(?: -f)?(?: [a-z0-9-]+(?![\w.:]))?"
)


def place_words(argv: list[str]) -> str:
    """The words of a command line that say where its job is, for the commands that are told as the next step."""
    words = argv[: argv.index("--")] if "--" in argv else argv
    return "".join(
        f" {word} {shlex.quote(value)}" if word in PLACE_FLAGS else f" {word}"
        for word, value in pairwise([*words, ""])
        if word in PLACE_FLAGS or word.startswith(tuple(f"{flag}=" for flag in PLACE_FLAGS))
    )


def placed(text: str, words: str) -> str:
    """The text with the words behind each command in it that looks for a job."""
    return _COMMAND.sub(lambda found: found[0] + words, text)
