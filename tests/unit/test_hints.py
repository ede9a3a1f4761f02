"""Hints are values: texts and commands, which are completed as long as the hint is told to nobody."""

import ast
import copy
import json
import pickle
import re
from pathlib import Path

import pytest

import tfspawner
from tfspawner.errors import ArtifactError, Command, DataError, Hint, SpawnerError
from tfspawner.follow.homecoming import still_there

COMMAND = re.compile(r"tf-spawner (attach|delete|fetch|list|logs|status|tensorboard|top|wait)\b")
TRAVELS = {"routes.py"}  # a message of the agent, which knows no place


def test_a_hint_is_a_text_like_any_other():
    hint = Hint("make room, then: ", Command("fetch", "j"))
    assert isinstance(hint, str)
    assert hint == "make room, then: tf-spawner fetch j"
    assert json.loads(json.dumps({"hint": hint})) == {"hint": hint}
    assert (
        pickle.loads(pickle.dumps(hint)).at(["-n", "x"]) == copy.deepcopy(hint).at(["-n", "x"]) == hint.at(["-n", "x"])
    )


def test_hints_are_joined_and_stay_to_be_completed():
    joined = Hint(Hint("then: ", Command("fetch")), "; ", Hint(Command("delete", "-t", "nightly")), "; nothing else")
    assert joined.for_job("j").at(["-n", "x"]) == (
        "then: tf-spawner fetch j -n x; tf-spawner delete -t nightly -n x; nothing else"
    )


@pytest.mark.parametrize(
    ("command", "shown"),
    [(Command("fetch"), "tf-spawner fetch j"), (Command("delete"), "tf-spawner delete j"), (Command("list"), "tf-spawner list"),
     (Command("fetch", "other"), "tf-spawner fetch other"), (Command("delete", "-t", "x"), "tf-spawner delete -t x")],
)  # fmt: skip
def test_the_job_is_named_where_a_command_needs_one_and_has_none(command, shown):
    assert Hint(command).for_job("j") == shown
    assert Hint(command).at(["-n", "x"]).for_job("j") == Hint(command).for_job("j").at(["-n", "x"]) == f"{shown} -n x"


def test_the_last_place_is_the_one_that_is_told():
    assert Hint(Command("fetch", "j")).at(["-n", "x"]).at(["-n", "y z"]) == "tf-spawner fetch j -n 'y z'"


@pytest.mark.parametrize("kind", [SpawnerError, DataError])
def test_an_error_keeps_its_hints_commands_and_none_of_its_secrets(kind):
    hint = kind("no", hint=Hint("see https://anna:secret@host/x, then: ", Command("fetch"))).hint
    assert hint == "see https://host/x, then: tf-spawner fetch"
    assert Hint(hint).for_job("j").at(["-n", "x"]) == "see https://host/x, then: tf-spawner fetch j -n x"
    assert kind("no", hint="see https://anna:secret@host/x").hint == "see https://host/x"
    assert kind("no").hint is None


def test_that_a_job_is_still_there_is_told_once_and_each_command_names_it_and_its_place():
    error = ArtifactError("no room", hint=Hint("make room, then: ", Command("fetch")))
    hint = still_there(still_there(error, "j"), "j").hint
    assert hint == (
        "make room, then: tf-spawner fetch j; job j is still there: tf-spawner fetch j, or tf-spawner delete j"
    )
    assert Hint(hint).at(["-n", "x"]).count(" j -n x") == 3


def commands_in_texts(source: str) -> list[int]:
    """The lines of texts, but of docstrings, that spell a command for jobs."""
    tree = ast.parse(source)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docstrings = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [text.lineno for text in texts if id(text) not in docstrings and COMMAND.search(text.value)]


def test_a_command_in_a_text_is_a_value_that_can_be_completed():
    source = 'def f():\n    """tf-spawner list"""\n    raise E(hint=f"x: tf-spawner fetch {job}")'
    assert commands_in_texts(source) == [3]
    found = {path.name: commands_in_texts(path.read_text()) for path in Path(tfspawner.__file__).parent.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines and name not in TRAVELS} == {}
