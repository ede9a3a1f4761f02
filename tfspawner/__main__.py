"""`python -m tfspawner` is `tf-spawner`."""

import sys


def main() -> None:
    """The console script. Ctrl-C ends it quietly, even while its modules are being read."""
    try:
        from tfspawner.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
