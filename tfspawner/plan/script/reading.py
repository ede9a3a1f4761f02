"""What a script's syntax tree says: names, texts, and calls in order, each with its scope and role."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["chief", "others", "some"]
Function = ast.FunctionDef | ast.AsyncFunctionDef

UNKNOWN = "\0"  # stands for a part of a text that is only known when the script runs
MAX_DEPTH = 12  # of names bound to other names, and of functions that call functions

_MODEL = re.compile(
    r"(tensorflow\.|tf_)?keras\.(\w+\.)*"
    r"(Sequential|Model|load_model|clone_model|model_from_json|applications\.([a-z]\w*\.)?[A-Z]\w+)"
)
_CHIEF_NAME = re.compile(
    r"_*((is|am_i|i_am)_(chief|master|main|root)(_(worker|process|node|rank|task|replica))?|chief|rank_?(zero|0))", re.I
)
_INDEX_NAME = re.compile(
    r"_*((task|worker|replica|process|node|machine|host|my|hvd|global|world)_?(index|idx|rank|id)|rank|worker_number)"
    r"|TFSPAWNER_INDEX",
    re.I,
)
_REPLICA_WORD = re.compile(r"index|idx|rank|chief|master|role|task|worker|replica|host|is_main", re.I)
_ROLE_NAME = re.compile(r"_*(task_?type|my_role|role|job_name)|TFSPAWNER_ROLE", re.I)


@dataclass(frozen=True, slots=True)
class Context:
    """Where a statement is: under strategy.scope(), in a branch for one role, under any `if`, in a `try`."""

    in_scope: bool = False
    role: Role | None = None
    conditional: bool = False
    guarded: bool = False
    reached: bool = True

    @property
    def is_certain(self) -> bool:
        """Whether it is sure to run, and its exceptions are not caught."""
        return self.reached and not self.conditional and not self.guarded


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call; `name` is the full name with imports resolved, such as tensorflow.data.Dataset.range."""

    node: ast.Call
    name: str
    where: Context

    @property
    def method(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def keywords(self) -> set[str]:
        return {keyword.arg for keyword in self.node.keywords if keyword.arg}

    def argument(self, position: int, *names: str) -> ast.expr | None:
        """The argument at this position, or with one of these names."""
        for keyword in self.node.keywords:
            if keyword.arg in names:
                return keyword.value
        arguments = self.node.args[position : position + 1]
        return arguments[0] if arguments and not any(isinstance(arg, ast.Starred) for arg in self.node.args) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """The import of a module, or of a name in it; `name` is the full name."""

    node: ast.stmt
    name: str
    where: Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """An environment variable that the script sets; `value` is None if it removes it."""

    node: ast.AST
    name: str
    value: ast.expr | None
    where: Context


@dataclass(slots=True, kw_only=True)
class Script:
    """A script as read from its tree; `events` are in the order of execution."""

    tree: ast.Module
    aliases: dict[str, str] = field(default_factory=dict)
    bindings: dict[str, list[ast.expr | None]] = field(default_factory=dict)
    functions: dict[str, list[Function]] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    words: str = ""
    events: list[Call | Import | Setting] = field(default_factory=list)

    @property
    def calls(self) -> list[Call]:
        return [event for event in self.events if isinstance(event, Call)]

    @property
    def imports(self) -> list[Import]:
        return [event for event in self.events if isinstance(event, Import)]

    @property
    def settings(self) -> list[Setting]:
        return [event for event in self.events if isinstance(event, Setting)]

    def mentions(self, pattern: str) -> bool:
        """Whether a name or a text in the script contains the pattern; comments and docstrings do not count."""
        return bool(re.search(pattern, self.words, re.M))

    def value(self, node: ast.expr | None) -> ast.expr | None:
        """The value of a name that is bound exactly once; else the node itself."""
        for _ in range(MAX_DEPTH):
            values = self.bindings.get(node.id, []) if isinstance(node, ast.Name) else []
            if len(values) != 1 or values[0] is None:
                break
            node = values[0]
        return node

    def dotted(self, node: ast.AST | None, depth: int = MAX_DEPTH) -> str:
        """The full name: `tf.data.Dataset.range` is tensorflow.data.Dataset.range; a call inside becomes `()`."""
        if isinstance(node, ast.Attribute):
            return f"{self.dotted(node.value, depth)}.{node.attr}"
        if isinstance(node, ast.Call):
            return f"{self.dotted(node.func, depth)}()"
        if not isinstance(node, ast.Name) or not depth:
            return ""
        if node.id in self.aliases:
            return self.aliases[node.id]
        value = self.value(node)
        if isinstance(value, ast.Attribute) and (name := self.dotted(value, depth - 1)).partition(".")[0] in _ROOTS:
            return name
        return node.id

    def is_model(self, name: str) -> bool:
        """Whether a call of this name makes a Keras model: it is a class of Keras's, or a subclass in the script."""
        if name in self.classes:
            return any(self.is_model(self.dotted(base)) for base in self.classes[name].bases if name != _name(base))
        return bool(_MODEL.fullmatch(name))

    def text(self, node: ast.expr | None, depth: int = MAX_DEPTH) -> str:
        """A text or path as far as it is constant, with UNKNOWN for the rest, and $X for an environment variable."""
        node = self.value(node)
        if not depth:
            return UNKNOWN
        match node:
            case ast.Constant(value=str() | int() as value):
                return str(value)
            case ast.JoinedStr():
                return "".join(self.text(part, depth - 1) for part in node.values)
            case ast.FormattedValue():
                return self.text(node.value, depth - 1)
            case ast.BinOp(op=ast.Add()):
                return self.text(node.left, depth - 1) + self.text(node.right, depth - 1)
            case ast.BinOp(op=ast.Div()):
                return _joined([self.text(node.left, depth - 1), self.text(node.right, depth - 1)])
            case ast.BinOp(op=ast.Mod()):
                return re.sub(r"%[-+0-9.]*[a-z]", UNKNOWN, self.text(node.left, depth - 1))
            case ast.Subscript() if self.dotted(node.value) == "os.environ":
                return f"{UNKNOWN}${self.text(node.slice, depth - 1)}"
            case ast.Call():
                return self._text_of_call(node, depth - 1)
        return UNKNOWN

    def _text_of_call(self, node: ast.Call, depth: int) -> str:
        name = self.dotted(node.func)
        texts = [self.text(arg, depth) for arg in node.args]
        if name in ("os.environ.get", "os.getenv") and texts:
            return f"{UNKNOWN}${texts[0]}"
        if name in ("os.path.join", "pathlib.Path", "pathlib.PurePath", "tensorflow.io.gfile.join") and texts:
            return _joined(texts)
        if name in _SAME_PATH and texts:
            return texts[0]
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("absolute", "resolve", "as_posix"):
            return self.text(node.func.value, depth)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "format":
            return re.sub(r"\{[^{}]*\}", UNKNOWN, self.text(node.func.value, depth))
        return UNKNOWN

    def role_of(self, test: ast.expr, depth: int = MAX_DEPTH) -> Role | None:
        """Who passes the test: the chief, all others, or some unknown replicas; None if it does not test for a role."""
        if not depth:
            return None
        match test:
            case ast.UnaryOp(op=ast.Not()):
                return opposite(self.role_of(test.operand, depth - 1))
            case ast.BoolOp():
                roles = [self.role_of(value, depth - 1) for value in test.values]
                return _all_of(roles) if isinstance(test.op, ast.And) else _any_of(roles)
            case ast.Compare(ops=[op], comparators=[other]):
                return self._role_of_comparison(test.left, op, other)
        known = self.value(test)
        if known is not None and known is not test and (role := self.role_of(known, depth - 1)):
            return role
        if _CHIEF_NAME.fullmatch(last_name(test)):
            return "chief"
        if self._is_like(_INDEX_NAME, test):
            return "others"
        return "some" if _REPLICA_WORD.search(ast.unparse(test)) else None

    def _role_of_comparison(self, left: ast.expr, op: ast.cmpop, other: ast.expr) -> Role | None:
        index, kind = self._is_like(_INDEX_NAME, left), self._is_like(_ROLE_NAME, left)
        if not index and not kind:
            return "some" if _REPLICA_WORD.search(ast.unparse(left)) else None
        value = other.value if isinstance(other, ast.Constant) else "?"
        if kind and value is None:
            return "chief" if isinstance(op, ast.Is | ast.Eq) else "some"  # no task type: it is the only process
        if (index and value in (0, "0")) or (kind and value in ("chief", "master")):
            if isinstance(op, ast.Eq):
                return "chief"
            return "others" if isinstance(op, ast.NotEq | ast.Gt) else "some"
        return "some"

    def _is_like(self, pattern: re.Pattern[str], node: ast.expr, depth: int = MAX_DEPTH) -> bool:
        """Whether this is an index, or a role's name, judged by its own name or that of its value."""
        if pattern.fullmatch(last_name(node)) or ((pattern, last_name(node)) in _KEYS and "task" in ast.unparse(node)):
            return True
        value = self.value(node)
        return bool(depth and value is not None and value is not node and self._is_like(pattern, value, depth - 1))


_KEYS = ((_INDEX_NAME, "index"), (_ROLE_NAME, "type"))  # of TF_CONFIG["task"]
_ROOTS = ("tensorflow", "keras", "tf_keras", "os")
_SAME_PATH = ("str", "os.fspath", "os.path.abspath", "os.path.normpath", "os.path.expanduser", "os.path.realpath")


def _joined(texts: list[str]) -> str:
    """Like os.path.join."""
    path = ""
    for text in texts:
        path = text if text.startswith("/") or not path else f"{path.rstrip('/')}/{text}"
    return path


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def last_name(node: ast.expr) -> str:
    """A value's own name: the last part of a dotted name, a key, or what a call like int() or getenv() is given."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Constant(value=str(name)):
            return name
        case ast.Subscript():
            return last_name(node.slice)
        case ast.Call():
            called = last_name(node.func)
            return last_name(node.args[0]) if called in ("int", "get", "getenv", "str") and node.args else called
    return ""


def opposite(role: Role | None) -> Role | None:
    """Who fails a test, from who passes it."""
    return {"chief": "others", "others": "chief", "some": "some", None: None}[role]


def _all_of(roles: list[Role | None]) -> Role | None:
    for role in ("others", "chief", "some"):
        if role in roles:
            return role
    return None


def _any_of(roles: list[Role | None]) -> Role | None:
    if all(role == roles[0] for role in roles):
        return roles[0]
    return "some" if any(roles) else None
