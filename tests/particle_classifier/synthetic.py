"""Small sets of events in the published layout, whose classes differ in their features and in their particles."""

from pathlib import Path

import numpy as np

from tfspawner.data.encoding import Encoder, Encoding
from tfspawner.data.example import write_example
from tfspawner.data.records import frame

ROWS, WIDTH = 801, 19
SMALL = [Encoding(name="GRU_input", rows=ROWS, width=WIDTH, stored="float16")]


def event(number: int, most: int = 90) -> dict[str, np.ndarray]:
    """Event `number`, of class number % 3: its particles around a run of padding that is not zero."""
    random, label = np.random.default_rng(number), number % 3
    features = random.normal(size=14) + np.eye(14)[label] * 2
    real = random.normal(size=(random.integers(20, most), WIDTH)) + np.eye(WIDTH)[label]
    at = random.integers(1, len(real))
    padding = np.repeat(random.normal(size=(1, WIDTH)), ROWS - len(real), 0)
    particles = np.concatenate([real[:at], padding, real[at:]])
    return {
        "HLF_input": features.astype(np.float32),
        "GRU_input": particles.astype(np.float32).ravel(),
        "encoded_label": np.eye(3, dtype=np.float32)[label],
    }


def particles_of(number: int) -> np.ndarray:
    """The event's particles without their padding."""
    rows = event(number)["GRU_input"].reshape(ROWS, WIDTH)
    same = (rows[1:] == rows[:-1]).all(1)
    return rows[~(np.append(same, False) | np.append(False, same))]


def write(folder: Path, *, train: int, test: int, kind: str = "inclusive", files: int = 3) -> Path:
    """train/ and test/ of the kind hlf, inclusive (as published) or small; the test's events come after train's."""
    for part, numbers in (("train", range(train)), ("test", range(train, train + test))):
        (folder / part).mkdir(parents=True)
        for n in range(files):
            content = b"".join(frame(write_example(record(number, kind))) for number in numbers[n::files])
            (folder / part / f"part-r-{n:05}.tfrecord").write_bytes(content)
    return folder


def record(number: int, kind: str) -> dict[str, np.ndarray]:
    found = event(number)
    if kind == "small":
        return Encoder(SMALL).encode(found, f"event {number}")
    if kind == "hlf":
        del found["GRU_input"]
    return found
