"""The README says what the tool does now."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from faults import FAULTS, count, covers, verdict, with_table
from readme_help import README, with_help


def test_the_reference_is_what_help_prints():
    text = README.read_text()
    assert with_help(text).split() == text.split(), "run: python tests/readme_help.py"


def test_the_table_of_faults_is_the_matrix_that_the_tests_run():
    text = README.read_text()
    assert with_table(text) == text, "run: python tests/faults.py"


def test_each_file_that_contributing_names_is_there():
    root = Path(__file__).resolve().parent.parent.parent
    rows = [line for line in (root / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| ")]
    places = [place for row in rows for place in re.findall(r"`([\w./]+/[\w.]*)`", row)]
    assert len(places) > 30
    for place in places:
        assert any((root / folder / place).exists() for folder in ("tfspawner", "tests", ".")), place


def test_each_test_of_the_fault_matrix_is_there():
    folder = Path(__file__).resolve().parent.parent
    for _, _, tests in FAULTS:
        for test in tests:
            file, name = test.split("::")
            assert f"def {name}(" if name else "def test_" in (folder / file).read_text(), test


@pytest.mark.parametrize(
    ("passed", "failed", "skipped", "word"),
    [
        (["a", "b[local]", "b[kubernetes]"], [], [], "pass"),
        (["a", "b[local]"], [], ["b[kubernetes]"], "part"),
        (["a"], [], [], "part"),
        ([], [], ["a", "b[local]"], "not run"),
        ([], [], [], "not run"),
        (["a", "b[local]"], ["b[kubernetes]"], [], "FAIL"),
    ],
)
def test_a_row_of_the_matrix_passes_where_its_every_test_does(passed, failed, skipped, word):
    nodes = {"passed": passed, "failed": failed, "skipped": skipped, "error": []}
    ended = {kind: [f"tests/unit/test_x.py::test_{name}" for name in names] for kind, names in nodes.items()}
    assert verdict(count(("unit/test_x.py::test_a", "unit/test_x.py::test_b"), ended)) == word


def test_a_row_of_the_matrix_covers_a_tests_every_parameter():
    assert covers("unit/test_x.py::test_y", "tests/unit/test_x.py::test_y[local]")
    assert not covers("unit/test_x.py::test_y", "tests/unit/test_x.py::test_yes")
    assert covers("unit/test_x.py::", "tests/unit/test_x.py::test_anything")
