"""Python runs this when it starts in a replica whose script speaks of s3://: TensorFlow gets it once it is imported.

Lies first on PYTHONPATH, and runs the sitecustomize that it hides there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from os.path import dirname, realpath
from typing import Any


class Hook:
    """Finds tensorflow as usual, and registers s3:// after its import."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        """Makes TensorFlow's import call `after` when it is done."""
        if name != "tensorflow":
            return None
        sys.meta_path.remove(Hook)
        spec = PathFinder.find_spec(name, path)
        if spec and spec.loader:
            spec.loader.exec_module = after(spec.loader.exec_module)  # type: ignore
        return spec


def after(exec_module: Callable[[Any], None]) -> Callable[[Any], None]:
    """An exec_module that registers s3:// once TensorFlow has been imported."""

    def both(module: Any) -> None:
        exec_module(module)
        try:
            from tfspawner_s3 import gfile  # type: ignore[import-not-found]

            gfile.register()
        except Exception as error:
            print(f"[tf-spawner] TensorFlow has no s3:// here: {error}", file=sys.stderr)

    return both


def run_hidden() -> None:
    """Runs the sitecustomize that this one hides, if there is one."""
    here = realpath(dirname(__file__))
    hidden = PathFinder.find_spec("sitecustomize", [folder for folder in sys.path if realpath(folder) != here])
    if hidden and hidden.loader:
        hidden.loader.exec_module(module_from_spec(hidden))


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, Hook)
    run_hidden()
