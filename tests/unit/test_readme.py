"""The README says what the tool does now."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from readme_help import README, with_help


def test_the_reference_is_what_help_prints():
    text = README.read_text()
    assert with_help(text).split() == text.split(), "run: python tests/readme_help.py"
