"""Keras's own output, as its versions print it, and what a terminal is shown of it."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfspawner.base.terminal import harmless
from tfspawner.replica.keras_output import is_progress_bar, parse_progress
from tfspawner.replica.log import Log
from tfspawner.views.plain import LONGEST_LINE, Lines

KERAS_3 = "\x1b[1m  25/100\x1b[0m \x1b[32m━━━━━\x1b[0m\x1b[37m━━━━━━━━━━━━━━━\x1b[0m \x1b[1m3s\x1b[0m 5ms/step - accuracy: 0.5000 - loss: 6.9e-01"
TF_KERAS = "  25/100 [======>.......................] - ETA: 3s - loss: 0.3412 - accuracy: 0.9012"
TF_KERAS_DONE = "100/100 [==============================] - 1s 5ms/step - loss: 0.2 - accuracy: 1.0"
VERBOSE_2 = "22/22 - 1s - loss: 1.8739 - accuracy: 0.5518 - 938ms/epoch - 43ms/step"
VERBOSE_2_KERAS_3 = "22/22 - 1s - 43ms/step - accuracy: 0.5518 - val_loss: -6e-03"
UNKNOWN = "     25/Unknown - 1s 5ms/step - loss: 0.5"
UNKNOWN_KERAS_3 = "     25/Unknown \x1b[1m1s\x1b[0m 5ms/step - loss: 0.5"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Epoch 3/10", {"epoch": 3, "epochs": 10}),
        (KERAS_3, {"step": 25, "steps": 100, "metrics": {"accuracy": 0.5, "loss": 0.69}}),
        (TF_KERAS, {"step": 25, "steps": 100, "metrics": {"loss": 0.3412, "accuracy": 0.9012}}),
        ("\x08" * 80 + TF_KERAS, {"step": 25, "steps": 100, "metrics": {"loss": 0.3412, "accuracy": 0.9012}}),
        (VERBOSE_2_KERAS_3, {"step": 22, "steps": 22, "metrics": {"accuracy": 0.5518, "val_loss": -0.006}}),
        (VERBOSE_2, {"step": 22, "steps": 22, "metrics": {"loss": 1.8739, "accuracy": 0.5518}}),
    ],
)
def test_a_line_of_keras_is_read(line, told):
    assert parse_progress(line) == told


@pytest.mark.parametrize("line", [UNKNOWN, UNKNOWN_KERAS_3])
def test_steps_may_be_unknown(line):
    assert parse_progress(line) == {"step": 25, "steps": None, "metrics": {"loss": 0.5}}
    assert is_progress_bar(line)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_loss_that_diverged_is_a_metric_too(value):
    assert str(parse_progress(f"1/9 [>...] - ETA: 1s - loss: {value}")["metrics"]["loss"]) == value


@pytest.mark.parametrize(
    "line",
    ["", "a/b", "1/2", "25/100 done", "2026/11/23 12:00", "Epoch 3/10 begins", "/data/1/2 - x", "3/4 of it",
     "12/31 - New Year", "  1/5 - Downloading data", "3/4 - fold done, accuracy: 0.5", "11/23/26 - 1s", "1.5/2 [==>]",
     "Epoch 00003: val_loss improved from 1/2"],
)  # fmt: skip
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


@given(
    st.lists(st.sampled_from([b"25/100 [==>]", b"\r", b"\x08", b"  ", b"\n", b"x", "━".encode(), b"\x1b[1m"])),
    st.data(),
)
@example([b"x", b"\r", b"  ", b"\r", b"\n"], None)
def test_how_the_output_was_cut_does_not_change_its_lines(parts, data):
    output, at_once, bit_by_bit = b"".join(parts), Lines(), Lines()
    cuts = data.draw(st.lists(st.integers(0, len(output)))) if data else range(len(output))
    places = [0, *sorted(cuts), len(output)]
    pieces = [output[begin:end] for begin, end in itertools.pairwise(places)]
    shown = [line for piece in pieces for line in bit_by_bit.feed("w", piece)]
    assert shown + bit_by_bit.flush("w") == at_once.feed("w", output) + at_once.flush("w")


def test_each_replicas_lines_are_cut_apart_from_the_others():
    lines = Lines()
    assert lines.feed("a", b"one ") + lines.feed("b", b"two\n") + lines.feed("a", b"more\n") == ["two", "one more"]


def test_a_line_ended_as_on_windows_is_whole():
    assert Lines().feed("w", b"one\r\n\ntwo\r\n") == ["one", "", "two"]


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
        ("\x1b]0;title without end", ""),
        ("\x1bPq#0;2\x1b\\sixel", "sixel"),
        ("\x1b[?25lhidden cursor\x1b[?25h", "hidden cursor"),
        ("\x1b[38:5:1mcolour\x1b[m", "colour"),
        ("\x08\x08back", "back"),
        ("tab\tstays", "tab\tstays"),
        ("bad \udcff", "bad ?"),
    ],
)
def test_nothing_is_left_that_a_terminal_would_obey(text, shown):
    assert harmless(text) == shown


@given(st.text(st.characters(codec=None)) | st.lists(st.sampled_from("\x1b[]0;\x07\x9b\\2J\udcff")).map("".join))
def test_no_text_comes_through_that_a_terminal_would_obey_or_that_cannot_be_written(text):
    shown = harmless(text)
    shown.encode()
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown if c not in "\t\n")


def test_the_agent_takes_what_keras_tells_from_a_bar_cut_anywhere(tmp_path):
    log = Log(tmp_path / "log")
    for byte in f"Epoch 2/3\n{TF_KERAS}\r".encode():
        log.write(bytes([byte]))
    assert log.progress.pop("epoch_since") > 0
    assert log.progress == {"epoch": 2, "epochs": 3, **parse_progress(TF_KERAS)}


def test_the_agent_keeps_little_of_a_line_without_end(tmp_path):
    log = Log(tmp_path / "log")
    for _ in range(20):
        log.write(b"1/2 " * 25_000)
    assert len(log.rest) + len(log.tail) < 32_768
    assert log.size == 2_000_000


def test_the_agents_progress_keeps_the_last_metrics_over_an_epochs_end(tmp_path):
    log = Log(tmp_path / "log")
    log.write(f"Epoch 1/2\n{VERBOSE_2}\nEpoch 2/2\n".encode())
    assert log.progress["epoch"] == 2
    assert log.progress["metrics"]["loss"] == 1.8739
    assert "step" not in log.progress


def test_how_long_an_epoch_takes_is_known_from_the_second_on_and_not_over_a_gap(tmp_path):
    log = Log(tmp_path / "log")
    log.write(b"Epoch 1/9\n")
    assert "epoch_s" not in log.progress
    log.progress["epoch_since"] -= 5
    log.write(b"Epoch 2/9\n")
    assert 5 <= log.progress["epoch_s"] < 30
    log.progress["epoch_since"] -= 500
    log.write(b"Epoch 7/9\n")
    assert log.progress["epoch_s"] < 30
