"""The tool behind `make mutants`: what it changes, and that its targets are there."""

import functools
import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def mutate():
    spec = importlib.util.spec_from_file_location("mutate", ROOT / "tests/tools/mutate.py")
    sys.modules["mutate"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.mutants_of = functools.cache(module.mutants_of)  # some targets are of one file
    yield module
    del sys.modules["mutate"]


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("return a < b", {"return (a <= b)", "return (a >= b)", "return None"}),
        ("return a == b", {"return (a != b)", "return None"}),
        ("return 0 <= a <= 1", {"return (0 < a <= 1)", "return (0 > a <= 1)", "return (0 <= a < 1)", "return (0 <= a > 1)",
                                "return 1 <= a <= 1", "return (-1) <= a <= 1", "return 0 <= a <= 2", "return 0 <= a <= 0",
                                "return None"}),
        ("return a and b", {"return (a or b)", "return (a)", "return (b)", "return None"}),
        ("return not a", {"return (a)", "return None"}),
        ("return a + b", {"return (a - b)", "return None"}),
        ('return a + "ü"', {"return None"}),
        ("return min(a, b)", {"return (max(a, b))", "return None"}),
        ("if a: b()", {"if (not a): b()", "if a: pass"}),
        ("if a < 'ü' or b: b()", {"if (a <= 'ü') or b: b()", "if (a >= 'ü') or b: b()", "if (a < 'ü' and b): b()",
                                 "if (a < 'ü'): b()", "if (b): b()", "if (not (a < 'ü' or b)): b()",
                                 "if a < 'ü' or b: pass"}),
        ("a.x = b", {"pass"}),
        ("a += b", {"a -= b", "pass"}),
        ("c = b", set()),  # without it all would fail
        ("raise a", {"pass"}),
        ("return [x for x in a if x]", {"return [x for x in a if (not x)]", "return None"}),
        ('return f"{a + 1}"', {"return None"}),
        ("'''a < b'''", set()),
        ("c: int = None  # 1 < 2", set()),
    ],
)  # fmt: skip
def test_one_thing_is_changed_at_a_time(mutate, line, changed):
    module = f"def f(a, b):\n    {line}\n".encode()
    mutants = mutate.mutants_of(module)
    assert {mutant.new for mutant in mutants} == changed
    for mutant in mutants:
        assert (mutant.place, mutant.lines) == ("f", range(2, 3))
        text = mutant.text(module)
        compile(text, "mutant", "exec")
        assert text != module


@pytest.mark.parametrize("name", tomllib.loads((ROOT / "tests/tools/mutants.toml").read_text()))
def test_a_targets_files_are_there_and_its_equivalent_mutants_are_mutants(mutate, name):
    target = mutate.Target(name=name, **tomllib.loads(mutate.TARGETS.read_text())[name])
    assert all((ROOT / test).is_file() for test in target.tests)
    mutants = target.mutants()
    assert mutants
    assert not set(target.equivalent) - {mutant.name for mutant in mutants}
