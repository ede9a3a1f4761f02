"""`python -m tfspawner` is `tf-spawner`."""

from .cli import main

main()
