"""A script's output is anything: what reads progress, causes and stacks in it takes short time for each line, and never fails."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from mutating import damaged

from tfspawner.base.cause import Cause
from tfspawner.base.terminal import harmless
from tfspawner.base.words import left
from tfspawner.pages.charts import charts
from tfspawner.record.causes import cause_of, exception_in, explained
from tfspawner.record.learning import Learning
from tfspawner.record.slowest import pace, took
from tfspawner.replica.endings import MISSING_MODULE, UNHEALTHY, classify, place_in, stands_at
from tfspawner.replica.keras_output import LONGEST_PROGRESS, Pace, is_progress_bar, parse_progress
from tfspawner.replica.log import Log
from tfspawner.replica.trail import Trail
from tfspawner.views.plain import Lines
from tfspawner.views.words import describe_progress, describe_rate

RECORDED = Path(__file__).resolve().parent.parent / "outcomes" / "recorded"
KERAS = [
    "Epoch 3/10",
    "\x1b[1m  25/100\x1b[0m \x1b[32m━━━━━\x1b[0m\x1b[37m━━━━━━━━━━━━━━━\x1b[0m \x1b[1m3s\x1b[0m 5ms/step - accuracy: 0.5000 - loss: 6.9e-01",
    "\x08" * 80 + "  25/100 [======>.......................] - ETA: 3s - loss: 0.3412 - accuracy: 0.9012",
    "100/100 [==============================] - 1s 5ms/step - loss: 0.2 - accuracy: 1.0",
    "22/22 - 1s - loss: 1.8739 - accuracy: 0.5518 - 938ms/epoch - 43ms/step",
    "     25/Unknown - 1s 5ms/step - loss: 0.5",
    "     25/Unknown \x1b[1m1s\x1b[0m 5ms/step - loss: nan",
]
FAILURES = [line for path in sorted(RECORDED.glob("*.json")) for line in json.loads(path.read_text())["tail"]]
FAILURES += ['  File "/usr/lib/python3/threading.py", line 355 in wait', "ModuleNotFoundError: No module named 'x'",
             "unhealthy (stopped sending heartbeats): /job:worker/replica:0/task:1", "Current thread 0x1 (most recent call first):"]  # fmt: skip
REAL = [line.encode() for line in KERAS * 10 + FAILURES]
# What some pattern here may begin with, and then go on for long.
PREFIXES = [
    b"Epoch 1/", b"Epoch ", b"1/2 [==>] - ", b"1/2 [", b"1/2 - 1s - ", b"1/Unknown ", b" ", b"\t", b"a", b"1", b"9", b"-", b": ", b"a: ",
    b"a: 1.", b"a: 1e", b"loss: 1", b"\x1b", b"\x1b[", b"\x1b[0", b"\x1b[ ", b"\x1b]", b"\x1bP", b"\x1b]8;;", b"\x08", "━".encode(), b"[", b"=",
    b"\xff", "\u0663".encode(), "\u00b2/".encode(), b"{{function_node ", b" [Op:", b'File "', b'File "/', b'"/', b"mismatch ", b"failed to allocate ",
    b"ResourceExhaustedError", b"Collective instance ", b"Key: a", b"a.", b"A.", b"AError", b"NotFoundError: ", b"DataError: ", b"joining ",
    b"ModuleNotFoundError: No module named 'a", b"stopped sending heartbeats): /job:", b"1s ", b"1ms/step", b"/", b"\r", b"\x0b", b"tf-spawner run",
]  # fmt: skip
LINES, A_ROUND = 100_000, 500
PER_LINE_S, PER_BYTE_S = (
    400e-6,
    4e-6,
)  # many times what it takes; a pattern that is quadratic takes a hundred times more


def a_line(rng: Random) -> bytes:
    how = rng.random()
    if how < 0.5:
        return damaged(rng.choice(REAL), rng)
    if how < 0.8:
        return b"".join(rng.choice(PREFIXES) for _ in range(rng.randrange(12)))
    if how < 0.993:
        digits = "9" * rng.choice((9, 12, 13, 400, 4000))
        if rng.random() < 0.3:
            return rng.choice(KERAS).replace(rng.choice(("25", "3", "100", "1", "5")), digits).encode()
        return rng.choice(KERAS).replace(rng.choice(("25", "3", "100", "0", "1")), rng.choice(PREFIXES).decode(errors="replace") * rng.randrange(9)).encode()  # fmt: skip
    size = rng.choice((100, 1000, 4000, 4095, 4096, 4097, 20_000, 70_000))
    front, over = rng.choice((b"", *PREFIXES)), rng.choice(PREFIXES)
    return (front + over * (size // len(over)))[:size] + rng.choice((b"", b"x", b"\n", *PREFIXES))


def is_fit(told: dict) -> bool:
    counted = [told[key] for key in ("epoch", "epochs", "step", "steps") if told.get(key) is not None]
    return all(type(n) is int and 0 <= n < 10**12 for n in counted) and all(
        isinstance(value, float) for value in told.get("metrics", {}).values()
    )


def read(line: bytes) -> None:
    """All that the agent and the launcher do with one line."""
    text = line.decode(errors="replace")
    told = parse_progress(text)
    if told:
        assert len(text) <= LONGEST_PROGRESS
        assert is_fit(told), text
        json.dumps(told)
        progress = {**told, "rate": 0.0001, "epoch_s": 3.0, "epoch_since": time.time()}
        describe_progress(progress), describe_rate(progress), left(progress), left({**told, "rate": 1e9})
        took(text, told.get("step", 0))
    is_progress_bar(text)
    harmless(text)
    exception_in([text])
    place_in([text])


def seconds(work, *args) -> float:
    began = time.thread_time()
    work(*args)
    return time.thread_time() - began


def test_no_line_costs_more_than_its_length_or_breaks_what_reads_it(fuzz):
    for rng in fuzz.rounds(LINES // A_ROUND):
        for line in [a_line(rng) for _ in range(A_ROUND)]:
            limit_s = PER_LINE_S + PER_BYTE_S * len(line)
            if seconds(read, line) > limit_s:  # once may be chance
                assert min(seconds(read, line) for _ in range(3)) < limit_s, (len(line), line[:60], line[-60:])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(KERAS).map(str.encode)
        | st.sampled_from(PREFIXES)
        | st.text(max_size=20).map(str.encode)
        | st.binary(max_size=9),
        max_size=9,
    )
)
def test_no_text_breaks_what_reads_it(parts):
    read(b"".join(parts))


def test_a_whole_log_of_such_lines_is_read_by_agent_and_launcher(fuzz, tmp_path):
    for rng in fuzz.rounds(10):
        output = b"".join(a_line(rng) + rng.choice((b"\n", b"\n", b"\r", b"\r\n", b"")) for _ in range(1000))
        limit_s = 0.3 + PER_BYTE_S * len(output)
        assert min(seconds(read_log, output, tmp_path / "log", Random(rng.random())) for _ in range(2)) < limit_s


def read_log(output: bytes, path: Path, rng: Random) -> None:
    log, lines, learning = Log(path), Lines(), Learning()
    at = 0
    while at < len(output):
        size = rng.choice((1, 80, 4096, 65_536))
        log.write(output[at : at + size])
        for line in lines.feed("worker-0", output[at : at + size]):
            learning.read(line)
        at += size
    assert path.read_bytes() == output
    assert log.unread == ""
    json.dumps(log.progress)
    Trail().take("worker-0", log.progress, 1.0)
    charts({"worker-0": learning.curves})
    pace(learning.took)
    tail = log.last_lines()
    (
        classify(1, log.tail),
        stands_at(log.tail),
        MISSING_MODULE.search(log.tail),
        UNHEALTHY.search(log.tail),
    )
    cause_of(tail), explained(Cause.of({"message": "ended with exit code 1", "tail": tail}))
    log.file.close()


def test_a_rate_is_a_number_whatever_steps_are_told(fuzz):
    steps = (0, 1, 2, 999, 10**12 - 1)
    for rng in fuzz.rounds(200):
        found, now = Pace(), 0.0
        for _ in range(30):
            now += rng.choice((0.0, 1e-9, 0.05, 3.0, 1e6))
            if rng.random() < 0.1:
                found.begin(now)
            rate = found.step(now, rng.choice(steps), rng.choice((None, *steps)))
            assert rate is None or (rate > 0 and math.isfinite(rate))
