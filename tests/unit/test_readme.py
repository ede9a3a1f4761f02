"""The README says what the tool does now."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from faults import FAULTS, covers, with_table
from readme_help import README, with_help


def test_the_reference_is_what_help_prints():
    text = README.read_text()
    assert with_help(text).split() == text.split(), "run: python tests/readme_help.py"


def test_the_table_of_faults_is_the_matrix_that_the_tests_run():
    text = README.read_text()
    assert with_table(text) == text, "run: python tests/faults.py"


def test_each_test_of_the_fault_matrix_is_there():
    folder = Path(__file__).resolve().parent.parent
    for _, _, tests in FAULTS:
        for test in tests:
            file, name = test.split("::")
            assert f"def {name or 'test_'}" in (folder / file).read_text(), test


def test_a_row_of_the_matrix_covers_a_tests_every_parameter():
    assert covers("unit/test_x.py::test_y", "tests/unit/test_x.py::test_y[local]")
    assert not covers("unit/test_x.py::test_y", "tests/unit/test_x.py::test_yes")
    assert covers("unit/test_x.py::", "tests/unit/test_x.py::test_anything")
