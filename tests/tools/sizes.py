"""`make lint`: no file of tfspawner/ over 500 lines, no function over 60 (its docstring aside), at most 12 names at the top, no `fmt: skip`;
the wheel has all packages.

Called in the checkout; prints what is too large and exits with 1.
"""

from __future__ import annotations

import ast
import configparser
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path("tfspawner")
FILE_LINES, FUNCTION_LINES, TOP_NAMES = 500, 60, 12
UNCOUNTED = ("__init__.py", "__main__.py", "py.typed", "__pycache__")  # nobody has to choose among these


def problems() -> Iterator[str]:
    """Each thing that is too large, with its size."""
    names = sorted(path.name for path in PACKAGE.iterdir() if path.name not in UNCOUNTED)
    if len(names) > TOP_NAMES:
        yield f"{PACKAGE}/ has {len(names)} names, and {TOP_NAMES} are the most: {', '.join(names)}"
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        if "fmt: skip" in text:
            yield f"{path} keeps the formatter out by 'fmt: skip'"
        if (lines := text.count("\n")) > FILE_LINES:
            yield f"{path} has {lines} lines, and {FILE_LINES} are the most"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node, clean=False)
                length = (node.end_lineno or 0) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
                if length > FUNCTION_LINES:
                    yield f"{path}:{node.lineno}: {node.name} has {length} lines, and {FUNCTION_LINES} are the most"
    yield from missing_packages()


def missing_packages() -> Iterator[str]:
    """Packages that setup.cfg does not name: they would be missing in the wheel alone."""
    config = configparser.ConfigParser()
    config.read("setup.cfg")
    named = set(config["options"]["packages"].replace(",", "\n").split())
    for path in sorted(PACKAGE.rglob("*.py")):
        if (package := ".".join(path.parent.parts)) not in named:
            named.add(package)
            yield f"setup.cfg's packages lack {package}"


if __name__ == "__main__":
    found = list(problems())
    print("\n".join(found), end="\n" if found else "")
    sys.exit(bool(found))
