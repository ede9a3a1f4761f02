"""`tf-spawner --help` against importing click: nothing heavy is loaded before it is needed."""

import sys

from common import TF_SPAWNER, compare, seconds_of

ROUNDS = 30


def main() -> None:
    ours, theirs = [], []
    seconds_of(TF_SPAWNER, "--help")  # byte code is compiled once
    for _ in range(ROUNDS):
        ours.append(seconds_of(TF_SPAWNER, "--help"))
        theirs.append(seconds_of(sys.executable, "-c", "import click"))
    rows = {"tf-spawner --help": ours, 'python -c "import click"': theirs}
    sys.exit(not compare("help", rows, at_most=3.0))


if __name__ == "__main__":
    main()
