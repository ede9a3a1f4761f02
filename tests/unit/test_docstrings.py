"""Every public module, class and function of tf-spawner says what it is for.

Properties may speak by their name. So may a method that a Protocol of ours explains, for that is where one reads it, and one
that a class of click's or io's defines. The docstring of a click command is its --help.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import tfspawner

PACKAGE = Path(tfspawner.__file__).parent
MODULES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Node = ast.Module | ast.ClassDef | Function


def bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base) for base in node.bases]


def explained() -> set[str]:
    """The methods that a Protocol explains."""
    classes = [node for tree in MODULES.values() for node in tree.body if isinstance(node, ast.ClassDef)]
    protocols = [node for node in classes if any(base.split("[")[0] == "Protocol" for base in bases(node))]
    return {
        method.name
        for node in protocols
        for method in node.body
        if isinstance(method, Function) and ast.get_docstring(method)
    }


def needing(body: list[ast.stmt], known: set[str], owner: str = "") -> Iterator[tuple[str, Node]]:
    """The public classes, functions and methods that need a docstring, by their dotted names."""
    for node in body:
        if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
            continue
        is_property = any("property" in ast.unparse(d) or sets_property(d) for d in node.decorator_list)
        if isinstance(node, ast.ClassDef) or not (owner and (is_property or node.name in known)):
            yield owner + node.name, node
        if isinstance(node, ast.ClassDef):
            is_foreign = any(base.startswith(("click.", "io.", "PlacedCommand")) for base in bases(node))
            yield from [] if is_foreign else needing(node.body, known, f"{owner}{node.name}.")


def sets_property(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Attribute) and decorator.attr in ("setter", "deleter")


def lacking(tree: ast.Module, known: set[str]) -> list[str]:
    nodes: list[tuple[str, Node]] = [("the module", tree), *needing(tree.body, known)]
    return [name for name, node in nodes if not ast.get_docstring(node)]


def test_what_is_public_has_a_docstring():
    known = explained()
    assert [f"{path}: {name}" for path, tree in MODULES.items() for name in lacking(tree, known)] == []


def test_what_lacks_one_is_named():
    source = '''
class A:
    """One."""
    def method(self): ...
    def explained(self): ...
    @property
    def size(self): ...
    def _private(self): ...
class Flag(click.Option):
    """One."""
    def convert(self): ...
def function(): ...
async def later(): ...
def _private(): ...
'''
    assert lacking(ast.parse(source), {"explained"}) == ["the module", "A.method", "function", "later"]


def test_a_method_is_explained_by_a_protocol_that_says_something():
    assert {"launch", "watch", "show"} <= explained()
