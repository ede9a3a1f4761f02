"""How real scripts failed, recorded by tests/outcomes/record.py, and what the diagnosis says of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tfspawner.base.cause import Cause
from tfspawner.record.causes import cause_of, exception_in, explained

RECORDED = sorted((Path(__file__).resolve().parent.parent / "outcomes" / "recorded").glob("*.json"))
UNKNOWN = ("assertion", "exit-code", "raises", "segfault")  # the message and the script's own words say all
CLASSES = {"file-missing": "data-missing", "memory": "allocation"}


def expected_class(name: str) -> str | None:
    return None if name in UNKNOWN else CLASSES.get(name, name)


def explained_json(path: Path) -> dict[str, object]:
    return explained(Cause.of(json.loads(path.read_text()))).as_json()


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_failure_is_told_apart_and_has_a_next_step(path):
    told = explained_json(path)
    assert told.get("class") == expected_class(path.stem)
    if path.stem not in (*UNKNOWN, "shapes"):
        assert told["hint"]


def test_the_diagnosis_is_right_for_all_recorded_failures(capsys):
    right = [path for path in RECORDED if explained_json(path).get("class") == expected_class(path.stem)]
    with capsys.disabled():
        print(f"\ndiagnosis: {len(right)} of {len(RECORDED)} recorded failures are right")
    assert len(RECORDED) >= 24
    assert right == RECORDED


def test_the_message_names_the_exception_without_tensorflows_bookkeeping():
    path = next(path for path in RECORDED if path.stem == "data-corrupt")
    assert explained_json(path)["message"] == "ended with exit code 1: DataLossError: corrupted record at 49796"


def test_an_exception_without_words_is_named_too():
    assert exception_in(["Traceback (most recent call last):", "MemoryError"]) == "MemoryError"
    assert exception_in(["epoch 1/3", "Error while reading: 3"]) is None


def test_what_a_replica_was_killed_by_is_no_matter_of_its_last_lines():
    killed = {"message": "was killed by SIGKILL", "tail": ["ValueError: long ago, and caught"]}
    assert explained(Cause.of(killed)).as_json() == killed


def test_the_agents_own_hint_is_kept():
    failure = {"message": "ended with exit code 1", "hint": "the image has no uproot: name another: -i",
               "tail": ["ModuleNotFoundError: No module named 'uproot'"]}  # fmt: skip
    assert explained(Cause.of(failure)).hint == failure["hint"]


def test_log_lines_that_only_look_like_it_have_no_class():
    assert cause_of(["loss: 0.1", "saved 13 files", "no such luck"]) is None
