"""Starts a replica's agent, which lies beside this file in replica.zip. It is called agent.py there."""

from __future__ import annotations

import os
import sys
import traceback
from zipimport import zipimporter


class Importer(zipimporter):
    """Compiles each module once. Python's own does it twice: the first time only to find out the file's name."""

    def get_filename(self, fullname: str) -> str:
        """The path that a traceback shows."""
        ending = "/__init__.py" if self.is_package(fullname) else ".py"
        return f"{self.archive}/{self.prefix}{fullname.rpartition('.')[2]}{ending}"


if __name__ == "__main__":
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path_hooks.insert(0, Importer)
    sys.path[0] = os.path.join(here, "replica.zip")
    sys.excepthook = traceback.print_exception  # it shows the lines of a zip file's modules, too
    from replica.main import main  # type: ignore[import-not-found]

    sys.exit(main(here))
