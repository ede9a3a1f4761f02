"""Records in the published format, with what is awkward about it: one constant row, not zero, in the middle."""

from pathlib import Path

import numpy as np

from tfspawner.data.example import write_example
from tfspawner.data.records import frame

ROWS, WIDTH = 801, 19


def record(seed: int) -> dict[str, np.ndarray]:
    """One event: HLF_input 14, GRU_input 801 x 19, encoded_label 3."""
    random = np.random.default_rng(seed)
    particles = np.full((ROWS, WIDTH), 0.123, np.float32)
    count, at = random.integers(100, 500), random.integers(1, 100)
    real = random.normal(size=(count, WIDTH)).astype(np.float32)
    particles[:at], particles[ROWS - count + at :] = real[:at], real[at:]
    return {
        "HLF_input": random.normal(size=14).astype(np.float32),
        "GRU_input": particles.ravel(),
        "encoded_label": np.eye(3, dtype=np.float32)[seed % 3],
    }


def write_published(folder: Path, files: int = 4, each: int = 10) -> Path:
    """Files part-r-00000 and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        events = range(number * each, number * each + each)
        content = b"".join(frame(write_example(record(event))) for event in events)
        (folder / f"part-r-{number:05}").write_bytes(content)
    return folder
