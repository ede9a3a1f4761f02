"""Closed sets of words: they print, compare and serialize as the words, and are those that the agents know."""

from __future__ import annotations

import json

import pytest

from tfspawner.base.states import Phase, PodState, Result, State
from tfspawner.replica.protocol import PHASES, RESULTS, STATES


@pytest.mark.parametrize("word", [*Result, *PodState])
def test_a_word_of_a_set_is_its_word_everywhere(word):
    plain = str.__str__(word.value)
    assert (f"{word}", str(word), "".join([word]), json.dumps({word: word})) == (
        plain,
        plain,
        plain,
        json.dumps({plain: plain}),
    )
    assert {plain: 1}[word] == 1
    assert word == plain


def test_results_states_and_phases_are_those_that_agents_tell():
    assert set(RESULTS) == {None, *Result}
    assert set(STATES) <= set(State)
    assert set(PHASES) <= set(Phase)
