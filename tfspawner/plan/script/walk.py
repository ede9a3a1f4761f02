"""Walks through a script's syntax tree in the order in which Python would run it, and records what it meets."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import replace

from .reading import MAX_DEPTH, Call, Context, Function, Import, Script, Setting, last_name, opposite

Block = list[ast.stmt]

_MODULES = (("tensorflow.compat.v2", "tensorflow"), ("tensorflow.python.keras", "tensorflow.keras"))
_TERMINAL = (ast.Return, ast.Raise, ast.Continue, ast.Break)


def read(tree: ast.Module) -> Script:
    """Reads the script. Raises RecursionError if it is nested too deeply."""
    script = Script(tree=tree)
    docstrings = {id(text) for text in _docstrings(tree)}
    words = []
    for node in ast.walk(tree):
        words += _words(node, docstrings)
        _note_names(script, node)
    script.words = "\n".join(words)
    reader = _Reader(script)
    reader.block(tree.body, Context())
    for function in [function for same_name in script.functions.values() for function in same_name]:
        if function not in reader.seen:
            reader.block(function.body, Context(reached=False))
    return script


def _docstrings(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def _words(node: ast.AST, docstrings: set[int]) -> list[str]:
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word) | ast.keyword(arg=str(word)):
            return [word]
        case ast.Constant(value=str(word)) if id(node) not in docstrings:
            return [word]
        case ast.alias(name=word):
            return [word]
        case ast.ImportFrom(module=str(word)):
            return [word]
        case ast.FunctionDef(name=word) | ast.ClassDef(name=word):
            return [word]
    return []


def _note_names(script: Script, node: ast.AST) -> None:
    """Records what a node says about names: imports, bindings and definitions."""
    match node:
        case ast.Import() | ast.ImportFrom():
            for name, whole in _imported(node):
                script.aliases[name] = whole
        case ast.Try():
            _forget_fallbacks(script, node)
        case ast.Assign():
            for target in node.targets:
                _bind(script, target, node.value)
        case ast.AnnAssign(value=ast.expr() as value) | ast.NamedExpr(value=value):
            _bind(script, node.target, value)
        case ast.AugAssign() | ast.For() | ast.AsyncFor() | ast.comprehension():
            _bind(script, node.target, None)
        case ast.withitem(optional_vars=ast.expr() as target):
            _bind(script, target, None)
        case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
            script.bindings.setdefault(name, []).append(None)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            script.functions.setdefault(node.name, []).append(node)
        case ast.ClassDef():
            script.classes[node.name] = node


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """(name in the script, full name) of each import; a relative import keeps its dots, so no rule knows it."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            whole = alias.name if alias.asname else alias.name.partition(".")[0]
            yield alias.asname or whole, _normal(whole)
        else:
            yield alias.asname or alias.name, _normal(f"{'.' * node.level}{node.module or ''}.{alias.name}")


def _normal(name: str) -> str:
    for prefix, module in _MODULES:
        if f"{name}.".startswith(f"{prefix}."):
            return module + name[len(prefix) :]
    return name


def _forget_fallbacks(script: Script, node: ast.Try) -> None:
    """`try: import a as x` / `except ImportError: import b as x`: x is a. Must run before the walk sees the handler."""
    for statement in [statement for handler in node.handlers for statement in handler.body]:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            first = {
                name
                for kept in node.body
                if isinstance(kept, ast.Import | ast.ImportFrom)
                for name, _ in _imported(kept)
            }
            statement.names = [alias for alias in statement.names if (alias.asname or alias.name) not in first]


def _bind(script: Script, target: ast.expr, value: ast.expr | None) -> None:
    if isinstance(target, ast.Name):
        script.bindings.setdefault(target.id, []).append(value)
    elif isinstance(target, ast.Starred):
        _bind(script, target.value, None)
    elif isinstance(target, ast.Tuple | ast.List):
        pairs = value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts) else None
        for position, part in enumerate(target.elts):
            _bind(script, part, pairs[position] if pairs else None)


class _Reader:
    """Walks the script as Python would run it, and enters each of its functions once for every context."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: set[Function] = set()
        self.done: set[tuple[int, Context]] = set()
        self.depth = 0

    def block(self, statements: Block, where: Context) -> None:
        for statement in statements:
            self.statement(statement, where)
            if isinstance(statement, ast.If) and _leaves(statement.body) and not statement.orelse:
                rest = self.under(statement.test, where, holds=False)
                is_check = isinstance(statement.body[-1], ast.Raise | ast.Expr)  # after it comes the normal case
                where = replace(rest, conditional=where.conditional) if is_check else rest

    def statement(self, node: ast.stmt, where: Context) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.expressions([*node.decorator_list, *node.args.defaults], where)
            case ast.ClassDef():
                self.expressions(node.decorator_list, where)
                self.block(node.body, where)
            case ast.If():
                self.expressions([node.test], where)
                self.block(node.body, self.under(node.test, where, holds=True))
                self.block(node.orelse, self.under(node.test, where, holds=False))
            case ast.With() | ast.AsyncWith():
                self.with_block(node, where)
            case ast.Try() | ast.TryStar():
                self.try_block(node, where)
            case ast.Import() | ast.ImportFrom():
                self.imports(node, where)
            case ast.Delete():
                self.deletion(node, where)
            case _:
                self.rest(node, where)

    def rest(self, node: ast.AST, where: Context) -> None:
        """Walks the expressions first, then the variables they set, then the blocks of a loop or a match."""
        self.expressions([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)], where)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self.setting(target, node.value, where)
        inner = replace(where, conditional=True) if isinstance(node, ast.match_case) else where
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self.statement(child, inner)
            elif isinstance(child, ast.match_case):
                self.rest(child, inner)

    def with_block(self, node: ast.With | ast.AsyncWith, where: Context) -> None:
        opened = [item.context_expr for item in node.items]
        self.expressions(opened, where)
        in_scope = any("scope" in ast.unparse(self.script.value(item) or item) for item in opened)
        self.block(node.body, replace(where, in_scope=where.in_scope or in_scope))

    def try_block(self, node: ast.Try | ast.TryStar, where: Context) -> None:
        self.block(node.body, replace(where, guarded=where.guarded or bool(node.handlers)))
        for handler in node.handlers:
            self.block(handler.body, replace(where, conditional=True, guarded=True))
        self.block(node.orelse, where)
        self.block(node.finalbody, where)

    def under(self, test: ast.expr, where: Context, *, holds: bool) -> Context:
        if ast.unparse(test) in ("__name__ == '__main__'", "'__main__' == __name__"):
            return where
        role = self.script.role_of(test)
        return replace(where, role=(role if holds else opposite(role)) or where.role, conditional=True)

    def imports(self, node: ast.Import | ast.ImportFrom, where: Context) -> None:
        for alias in node.names:
            module = f"{'.' * node.level}{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
            self.script.events.append(Import(node=node, name=_normal(module + alias.name), where=where))

    def deletion(self, node: ast.Delete, where: Context) -> None:
        for target in node.targets:
            self.setting(target, None, where)

    def setting(self, target: ast.expr, value: ast.expr | None, where: Context) -> None:
        if isinstance(target, ast.Subscript) and self.script.dotted(target.value) == "os.environ":
            name = self.script.text(target.slice)
            self.script.events.append(Setting(node=target, name=name, value=value, where=where))

    def expressions(self, nodes: Iterable[ast.AST], where: Context) -> None:
        for node in nodes:
            self.expression(node, where)

    def expression(self, node: ast.AST, where: Context) -> None:
        match node:
            case ast.Lambda():
                self.expression(node.body, replace(where, reached=False))
            case ast.IfExp():
                self.expression(node.test, where)
                self.expression(node.body, self.under(node.test, where, holds=True))
                self.expression(node.orelse, self.under(node.test, where, holds=False))
            case ast.Call():
                self.expressions(ast.iter_child_nodes(node), where)
                self.call(node, where)
            case _:
                self.expressions(ast.iter_child_nodes(node), where)

    def call(self, node: ast.Call, where: Context) -> None:
        name = self.script.dotted(node.func)
        self.script.events.append(Call(node=node, name=name, where=where))
        for key, value in self.settings_of(name, node):
            self.script.events.append(Setting(node=node, name=key, value=value, where=where))
        for function in self.called(last_name(node.func)):
            self.enter(function, where)
        is_run = name.rpartition(".")[2] in ("run", "Fire")  # these call their argument; other functions only may
        for argument in [arg.id for arg in node.args if isinstance(arg, ast.Name)]:
            for function in self.called(argument):
                self.enter(function, where if is_run else replace(where, conditional=True))

    def settings_of(self, name: str, node: ast.Call) -> Iterator[tuple[str, ast.expr | None]]:
        if name == "os.environ.update":
            yield from ((keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg)
            for mapping in [arg for arg in node.args if isinstance(arg, ast.Dict)]:
                yield from (
                    (self.script.text(key), value) for key, value in zip(mapping.keys, mapping.values, strict=True)
                )
        elif name == "os.putenv" and len(node.args) == 2:
            yield self.script.text(node.args[0]), node.args[1]
        elif name in ("os.environ.pop", "os.unsetenv") and node.args:
            yield self.script.text(node.args[0]), None

    def called(self, name: str) -> Iterator[Function]:
        """The script's function of this name, or the __init__ of its class of this name."""
        if name in self.script.classes:
            body = self.script.classes[name].body
            yield from (part for part in body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
        elif len(functions := self.script.functions.get(name, [])) == 1:
            yield functions[0]

    def enter(self, function: Function, where: Context) -> None:
        if (id(function), where) in self.done or self.depth == MAX_DEPTH:
            return
        self.done.add((id(function), where))
        self.seen.add(function)
        self.depth += 1
        self.block(function.body, where)
        self.depth -= 1


def _leaves(body: Block) -> bool:
    last = body[-1]
    leaves = (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Call)
        and last_name(last.value) in ("exit", "_exit", "quit")
    )
    return leaves or isinstance(last, _TERMINAL)
