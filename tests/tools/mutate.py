"""Changes one thing of a module at a time, and runs the unit tests: a change that no test notices is a survivor.

    python tests/tools/mutate.py plan sharding          targets of mutants.toml; all of them without a name
    python tests/tools/mutate.py plan --sample 40       so many mutants, drawn by --seed
    python tests/tools/mutate.py plan --only job_name   functions or classes; or --lines 50-80
    python tests/tools/mutate.py tfspawner/plan/plan.py --tests tests/unit/test_plan.py

The checkout is never changed: each lane works in a copy of it. A mutant meets only the tests that run its line, the
quickest first, until one fails. mutants.toml names each target's file and tests, and its equivalent mutants: those that
no test can tell from the code, or that make no difference worth a test, each with the reason.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parents[2]
TARGETS = Path(__file__).with_name("mutants.toml")
TIMEOUT_S, TIMES_AS_SLOW = 20.0, 10.0  # of a mutant's tests; beyond it the mutant never ends, and is killed
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
TYPES_AND_DECORATORS = {"annotation", "returns", "decorator_list", "bases"}
DROPPED = (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete)


# What can be changed


@dataclass(frozen=True)
class Mutant:
    """One change of a module."""

    place: str  # the function
    lines: range  # of the statement that is changed, or of its head
    old: str  # the lines, as one
    new: str
    change: tuple[int, int, bytes] = field(repr=False)  # the bytes from here to there become these

    @property
    def name(self) -> str:
        """As mutants.toml spells it."""
        return (
            f"{self.place}: {self.old} -> {self.new}"
            if self.new in ("pass", "return None")
            else f"{self.place}: {self.new}"
        )

    def text(self, module: bytes) -> bytes:
        start, end, spelled = self.change
        return module[:start] + spelled + module[end:]


def mutants_of(module: bytes) -> list[Mutant]:
    """Every mutant of a module, in the order of its text."""
    starts = [0]
    for line in module.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    mutants = []
    for node, new, place, lines in _changes(ast.parse(module), (), range(0)):
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        words = ast.unparse(new)
        is_simple = isinstance(node, ast.stmt) or (isinstance(new, ast.Constant) and not words.startswith("-"))
        spelled = (words if is_simple else f"({words})").encode()
        first, last = starts[node.lineno - 1], starts[node.end_lineno]
        before, after = module[first:last], module[first:start] + spelled + module[end:last]
        name = ".".join(place) or "module"
        mutants.append(Mutant(name, lines, _one_line(before), _one_line(after), (start, end, spelled)))
    return mutants


def _one_line(text: bytes) -> str:
    return " ".join(re.sub(r"  # .*", "", text.decode()).split())


def _changes(node: Any, place: tuple[str, ...], lines: range) -> Iterator[tuple[Any, ast.AST, tuple[str, ...], range]]:
    """(a node, what may stand there instead, its function, its statement's lines)."""
    if isinstance(node, ast.JoinedStr):  # a message; and Python 3.11 does not say where its parts stand
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.stmt):
        lines = _head(node)
    for new in _instead(node):
        yield node, new, place, lines
    for test in _conditions(node):
        yield test, ast.UnaryOp(ast.Not(), test), place, lines
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        place = (*place, node.name)
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in TYPES_AND_DECORATORS and not _is_text(child):
                yield from _changes(child, place, lines)


def _head(node: Any) -> range:
    """A statement's lines, without those of the statements inside."""
    inside = [part for name in ("body", "handlers", "cases") for part in getattr(node, name, [])]
    return range(node.lineno, max(node.lineno + 1, inside[0].lineno if inside else node.end_lineno + 1))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _conditions(node: ast.AST) -> list[ast.expr]:
    """Conditions that no other change negates."""
    found: list[ast.expr] = []
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        found = [node.test]
    elif isinstance(node, ast.comprehension):
        found = node.ifs
    return [test for test in found if not isinstance(test, ast.Compare | ast.UnaryOp | ast.Constant)]


def _instead(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    if isinstance(node, ast.Compare):
        for number, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                yield _with(node, ops=[*node.ops[:number], other(), *node.ops[number + 1 :]])
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        for number in range(len(node.values)):
            left = node.values[:number] + node.values[number + 1 :]
            yield left[0] if len(left) == 1 else _with(node, values=left)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield from (ast.Constant(node.value + 1), ast.Constant(node.value - 1))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
        yield _with(node, func=ast.Name(CALLS[node.func.id]))
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC and not _joins_text(node):
        yield _with(node, op=ARITHMETIC[type(node.op)]())
    yield from _dropped(node)


def _joins_text(node: ast.BinOp | ast.AugAssign) -> bool:
    sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", 0), str | bytes) for side in sides)


def _dropped(node: ast.AST) -> Iterator[ast.AST]:
    """What is left of a statement that does nothing, or returns nothing."""
    if isinstance(node, ast.Return) and node.value is None:
        yield ast.Pass()
    elif isinstance(node, ast.Return):
        if ast.unparse(node) != "return None":
            yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Assign):  # without one that makes a name all would fail
        if not any(isinstance(target, ast.Name | ast.Tuple) for target in node.targets):
            yield ast.Pass()
    elif isinstance(node, DROPPED) and not _is_text(node):
        yield ast.Pass()


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


# The tests, in a process of their own


class Watch:
    """Notes which lines of a file each test runs, and how long it takes."""

    def __init__(self, file: Path) -> None:
        self.file, self.lines, self.seconds = str(file), dict[str, set[int]](), dict[str, float]()
        self._now = self.lines.setdefault("", set())  # what runs while the module is imported
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def _trace(self, frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename == self.file:
            self._now.add(frame.f_lineno)
            return self._trace
        return None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._now, began = self.lines.setdefault(item.nodeid, set()), time.monotonic()
        sys.settrace(self._trace)
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.monotonic() - began


class Choice:
    """Runs some of the tests, the quickest first."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds = seconds

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self.seconds]
        if len(chosen) == len(self.seconds):  # else the mutant gives tests other names, and all of them run
            items[:] = sorted(chosen, key=lambda item: self.seconds[item.nodeid])


def fork(folder: Path, tests: Iterable[str], plugin: Any, then: Any = None) -> int:
    """Begins a process that runs the tests of a copy of the checkout, and ends with pytest's exit code."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        os.setsid()
        with open(folder / "output.log", "wb") as log, open(os.devnull) as nothing:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(log.fileno(), stream.fileno())
            os.dup2(nothing.fileno(), 0)
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(folder)
        sys.path.insert(0, str(folder))
        profile = {
            "phases": (Phase.explicit, Phase.reuse, Phase.generate),
            "deadline": None,
        }  # no search for the simplest
        settings.register_profile("mutants", **profile)  # type: ignore[arg-type]
        options = [
            "-x",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "--hypothesis-profile=mutants",
            "--hypothesis-seed=0",
        ]
        code = int(pytest.main([*tests, "-c", str(folder / "pyproject.toml"), *options], plugins=[plugin]))
        if then:
            then(plugin)
    finally:
        sys.stdout.flush()
        os._exit(code)


def end(pid: int) -> int:
    """Ends a process and those that it began; its exit code."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# The targets


@dataclass(frozen=True, kw_only=True)
class Target:
    name: str
    file: str
    tests: list[str]
    keyword: str = ""  # as of pytest -k
    only: list[str] = field(default_factory=list)
    lines: range | None = None
    equivalent: dict[str, str] = field(default_factory=dict)

    def mutants(self) -> list[Mutant]:
        return [mutant for mutant in mutants_of((ROOT / self.file).read_bytes()) if self._has(mutant)]

    def _has(self, mutant: Mutant) -> bool:
        if self.lines and mutant.lines[0] not in self.lines:
            return False
        return not self.only or any(f"{mutant.place}.".startswith(f"{name}.") for name in self.only)


@dataclass
class Result:
    target: Target
    mutants: int
    survivors: list[Mutant]
    equivalent: int
    endless: int
    seconds: float

    @property
    def killed(self) -> int:
        return self.mutants - len(self.survivors) - self.equivalent

    @property
    def share(self) -> float:
        return self.killed / max(1, self.mutants - self.equivalent)


class Trial:
    """A target's mutants, some side by side."""

    def __init__(self, target: Target, folder: Path, lanes: int) -> None:
        self.target, self.lanes, self.endless = target, [folder / f"lane-{n}" for n in range(lanes)], 0
        copy_checkout(self.lanes[0])
        self.module = (self.lanes[0] / target.file).read_bytes()
        self.lines, self.seconds = self._watch(self.lanes[0])
        for lane in self.lanes[1:]:
            shutil.copytree(self.lanes[0], lane, symlinks=True)
        for lane in self.lanes:  # a compiled file may look as new as the mutant's text
            file = lane / target.file
            for old in file.parent.glob(f"__pycache__/{file.stem}.*"):
                old.unlink()
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

    def _watch(self, lane: Path) -> tuple[dict[str, set[int]], dict[str, float]]:
        """Which test runs which lines, of the code as it is; all modules from elsewhere are imported here once."""
        watched, sys.dont_write_bytecode = lane / "watched.json", False
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

        def write(watch: Watch) -> None:
            modules = [name for name, module in list(sys.modules.items()) if is_from_elsewhere(module, lane)]
            lines = {test: sorted(lines) for test, lines in watch.lines.items()}
            watched.write_text(json.dumps({"lines": lines, "seconds": watch.seconds, "modules": modules}))

        pid = fork(lane, [*self.target.tests, "-k", self.target.keyword], Watch(lane / self.target.file), write)
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            sys.exit(
                f"{self.target.name}: the tests fail without any mutant:\n{(lane / 'output.log').read_text()[-4000:]}"
            )
        told = json.loads(watched.read_text())
        for name in told["modules"]:
            with suppress(Exception):
                importlib.import_module(name)
        return {test: set(lines) for test, lines in told["lines"].items()}, told["seconds"]

    def tests_of(self, mutant: Mutant) -> dict[str, float]:
        lines = set(mutant.lines)
        if lines & self.lines[""]:
            return self.seconds
        return {test: seconds for test, seconds in self.seconds.items() if lines & self.lines[test]}

    def run(self, mutants: list[Mutant]) -> list[Mutant]:
        """The survivors."""
        survivors, free, running = [], list(self.lanes), dict[int, tuple[Mutant, Path, int, float]]()
        for mutant in [*mutants, None]:
            while running and (not free or not mutant):
                self._await(running, free, survivors)
            if not mutant:
                break
            tests, lane = self.tests_of(mutant), free.pop()
            if not tests:
                survivors.append(mutant)
                free.append(lane)
                self._show(mutant, "  (no test runs it)")
                continue
            (lane / self.target.file).write_bytes(mutant.text(self.module))
            pid = fork(lane, sorted({test.split("::")[0] for test in tests}), Choice(tests))
            until = time.monotonic() + TIMEOUT_S + TIMES_AS_SLOW * sum(tests.values())
            running[os.pidfd_open(pid)] = (mutant, lane, pid, until)
        return sorted(survivors, key=mutants.index)

    def _show(self, mutant: Mutant, why: str = "") -> None:
        place = f"{self.target.file}:{mutant.lines[0]}"
        print(f"{place}  {mutant.place}{why}\n  - {mutant.old}\n  + {mutant.new}", flush=True)

    def _await(self, running: dict[int, Any], free: list[Path], survivors: list[Mutant]) -> None:
        """Returns once one of them has ended, or is ended for its time."""
        first = min(until for _, _, _, until in running.values())
        ended = select.select(list(running), [], [], max(0.0, first - time.monotonic()))[0]
        late = [fd for fd, (_, _, _, until) in running.items() if until <= time.monotonic()]
        for fd in {*ended, *late}:
            mutant, lane, pid, _ = running.pop(fd)
            os.close(fd)
            code = end(pid)
            self.endless += code == -signal.SIGKILL
            print("s" if code == 0 else ".", end="", file=sys.stderr, flush=True)
            if code == 0:
                survivors.append(mutant)
                self._show(mutant)
            free.append(lane)


def copy_checkout(folder: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def is_from_elsewhere(module: Any, lane: Path) -> bool:
    file = getattr(module, "__file__", None) or ""
    return file.startswith((sys.prefix, sys.base_prefix, *sys.path)) and not file.startswith((str(lane), str(ROOT)))


def try_target(target: Target, options: argparse.Namespace) -> Result:
    began, mutants = time.monotonic(), target.mutants()
    for name in target.equivalent:
        if not options.only and not options.lines and name not in {mutant.name for mutant in mutants}:
            print(f"{target.name}: no mutant is {name!r} any more: mend mutants.toml", file=sys.stderr)
    if options.sample and options.sample < len(mutants):
        drawn = set(random.Random(options.seed).sample(range(len(mutants)), options.sample))
        mutants = [mutant for number, mutant in enumerate(mutants) if number in drawn]
        print(f"{target.name}: {options.sample} mutants drawn with --seed {options.seed}")
    tried = [mutant for mutant in mutants if mutant.name not in target.equivalent]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trial = Trial(target, Path(folder).resolve(), options.lanes)
        survivors = trial.run(tried)
    print(file=sys.stderr)
    return Result(target, len(mutants), survivors, len(mutants) - len(tried), trial.endless, time.monotonic() - began)


def show(results: list[Result]) -> None:
    print(
        f"\n{'target':12} {'mutants':>8} {'equivalent':>11} {'killed':>7} {'endless':>8} {'survivors':>10} {'share':>7} {'s':>6}"
    )
    for r in results:
        print(f"{r.target.name:12} {r.mutants:8} {r.equivalent:11} {r.killed:7} {r.endless:8} {len(r.survivors):10} "
              f"{r.share:7.1%} {r.seconds:6.0f}")  # fmt: skip


def targets_of(options: argparse.Namespace) -> list[Target]:
    known = tomllib.loads(TARGETS.read_text())
    targets = []
    for name in options.target or known:
        values = dict(known.get(name, {"file": name, "tests": []}))
        if options.tests:
            values["tests"] = options.tests
        if options.only or options.lines:
            values["only"] = options.only
        targets.append(Target(name=name, lines=options.lines, **values))
    return targets


def lines_between(text: str) -> range:
    first, last = re.fullmatch(r"(\d+)-(\d+)", text).groups()  # type: ignore[union-attr]
    return range(int(first), int(last) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="*")
    parser.add_argument("--tests", nargs="+", default=[])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--lines", type=lines_between, metavar="FIRST-LAST")
    parser.add_argument("--sample", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=2, metavar="N")
    options = parser.parse_args()
    for name in ("KUBECONFIG", "TF_CONFIG"):
        os.environ.pop(name, None)
    show([try_target(target, options) for target in targets_of(options)])


if __name__ == "__main__":
    main()
