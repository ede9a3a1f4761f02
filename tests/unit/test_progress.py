"""Keras's own output, as its versions print it, and what a terminal is shown of it."""

import pytest

from tfspawner.agent import Log, is_progress_bar, parse_progress
from tfspawner.view import LONGEST_LINE, Lines, harmless

KERAS_3 = "\x1b[1m  25/100\x1b[0m \x1b[32m━━━━━\x1b[0m\x1b[37m━━━━━━━━━━━━━━━\x1b[0m \x1b[1m3s\x1b[0m 5ms/step - accuracy: 0.5000 - loss: 6.9e-01"
TF_KERAS = "  25/100 [======>.......................] - ETA: 3s - loss: 0.3412 - accuracy: 0.9012"
TF_KERAS_DONE = "100/100 [==============================] - 1s 5ms/step - loss: 0.2 - accuracy: 1.0"
VERBOSE_2 = "22/22 - 1s - loss: 1.8739 - accuracy: 0.5518 - 938ms/epoch - 43ms/step"
UNKNOWN = "     25/Unknown - 1s 5ms/step - loss: nan"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Epoch 3/10", {"epoch": 3, "epochs": 10}),
        (KERAS_3, {"step": 25, "steps": 100, "metrics": {"accuracy": 0.5, "loss": 0.69}}),
        (TF_KERAS, {"step": 25, "steps": 100, "metrics": {"loss": 0.3412, "accuracy": 0.9012}}),
        (VERBOSE_2, {"step": 22, "steps": 22, "metrics": {"loss": 1.8739, "accuracy": 0.5518}}),
    ],
)
def test_a_line_of_keras_is_read(line, told):
    assert parse_progress(line) == told


def test_steps_may_be_unknown():
    told = parse_progress(UNKNOWN)
    assert (told["step"], told["steps"]) == (25, None)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "a/b",
        "1/2",
        "25/100 done",
        "2026/11/23 12:00",
        "Epoch 3/10 begins",
        "/data/1/2 - x",
        "3/4 of it",
        "1/5 - Downloading data",
        "12/31 - New Year",
    ],
)
def test_what_only_looks_like_it_is_a_line_of_the_log(line):
    assert parse_progress(line) is None
    assert not is_progress_bar(line)


def test_a_bar_on_its_way_is_told_from_one_that_is_done():
    assert is_progress_bar(TF_KERAS)
    assert is_progress_bar(KERAS_3)
    assert not is_progress_bar(TF_KERAS_DONE)
    assert not is_progress_bar(VERBOSE_2)


def test_a_bar_redrawn_a_thousand_times_is_one_line():
    drawn = "".join("\x08" * 80 + f"\r{step:4}/1000 [==>...] - loss: 0.5" for step in range(1001))
    lines = Lines()
    found = []
    for cut in range(0, len(drawn), 97):
        found += lines.feed("w", drawn[cut : cut + 97].encode())
    found += lines.feed("w", b"\nnext")
    assert found == ["1000/1000 [==>...] - loss: 0.5"]
    assert lines.flush("w") == ["next"]


def test_a_character_cut_in_two_comes_whole():
    lines = Lines()
    text = "größe ━\n".encode()
    assert [*lines.feed("w", text[:3]), *lines.feed("w", text[3:9]), *lines.feed("w", text[9:])] == ["größe ━"]


def test_a_line_without_end_takes_bounded_memory_and_is_shown_in_pieces():
    lines = Lines()
    shown = [line for _ in range(20) for line in lines.feed("w", b"x" * 50_000)]
    assert len(lines.rest["w"]) <= LONGEST_LINE
    assert sum(map(len, shown)) + len(lines.rest["w"]) == 1_000_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("bell\x07 \x9b2J", "bell 2J"),
        ("tab\tstays", "tab\tstays"),
        ("bad \udcff", "bad ?"),
    ],
)
def test_nothing_is_left_that_a_terminal_would_obey(text, shown):
    assert harmless(text) == shown


def test_the_agents_progress_keeps_the_last_metrics_over_an_epochs_end(tmp_path):
    log = Log(tmp_path / "log")
    log.write(f"Epoch 1/2\n{VERBOSE_2}\nEpoch 2/2\n".encode())
    assert log.progress["epoch"] == 2
    assert log.progress["metrics"]["loss"] == 1.8739
    assert "step" not in log.progress
