"""Records of high-level features in the published layout whose classes overlap: no classifier is right about all."""

from pathlib import Path

import numpy as np

from tfspawner.data.example import write_example
from tfspawner.data.records import frame

FILES = 2


def events(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(features of (count, 14) between 0 and 1, labels), of three Gaussian clouds."""
    centres = np.random.default_rng(0).normal(size=(3, 14))
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % 3)
    features = centres[labels] + 1.5 * random.normal(size=(count, 14))
    return np.clip((features + 8) / 16, 0, 1).astype(np.float32), labels


def write_part(folder: Path, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Writes part-r-00000.tfrecord and so on; returns the events in the files' order."""
    features, labels = events(count, seed)
    folder.mkdir(parents=True)
    encoded = np.eye(3, dtype=np.float32)[labels]
    records = [
        frame(write_example({"HLF_input": some, "encoded_label": label}))
        for some, label in zip(features, encoded, strict=True)
    ]
    for number, rows in enumerate(np.array_split(np.arange(count), FILES)):
        content = b"".join(records[row] for row in rows)
        (folder / f"part-r-{number:05}.tfrecord").write_bytes(content)
    return features, labels


def write_hlf(folder: Path, train: int = 900, test: int = 300) -> Path:
    """A folder of train/ and test/, as prepare.py's hlf."""
    write_part(folder / "train", train, seed=1)
    write_part(folder / "test", test, seed=2)
    return folder
