"""The published models load, and the HLF classifier knows the five published events."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import published_models

MODELS = Path(__file__).parents[3] / "shared/data/models"
needs_models = pytest.mark.skipif(not MODELS.is_dir(), reason=f"needs the published models in {MODELS}")


@needs_models
def test_the_published_hlf_classifier_knows_the_five_events_to_five_digits():
    model = published_models.load_published(MODELS / "HLFclassifier.weight")
    found = published_models.classified(model)
    assert [event["id"] for event in found] == list("ABCDE")
    for event in found:
        assert event["probabilities"].argmax() == event["label"]
        assert event["probabilities"] == pytest.approx(event["softmax"], abs=5e-6)


@needs_models
def test_the_command_prints_them_and_saves_a_keras_model(example, tmp_path):
    command = [
        sys.executable,
        example / "published_models.py",
        MODELS / "HLFclassifier.weight",
        "--save",
        tmp_path / "hlf.keras",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "B      tt      tt           0.00054  0.96312  0.03634" in done.stdout
    assert published_models.load_published(tmp_path / "hlf.keras").count_params() == 2_013


@needs_models
def test_the_published_inclusive_classifier_is_our_inclusive_model():
    import models

    published = published_models.load_published(MODELS / "InclusiveClassifier.keras")
    ours = models.build("inclusive")
    assert published.count_params() == ours.count_params() == 12_353
    ours.set_weights(published.get_weights())
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(3, 801, 19)).astype("float32"), rng.normal(size=(3, 14)).astype("float32")]
    assert np.allclose(ours.predict(inputs, verbose=0), published.predict(inputs, verbose=0), atol=1e-6)


def container(weights: np.ndarray) -> bytes:
    import hashlib

    content = struct.pack(">5i", 3721, 1, 7, 0, len(weights)) + weights.astype(">f4").tobytes()
    return content + struct.pack(">i", 16) + hashlib.md5(content).digest()


def test_a_container_gives_its_weights():
    weights = np.arange(2013, dtype=np.float32)
    assert np.array_equal(published_models.bigdl_weights(container(weights)), weights)
    first = published_models.hlf_classifier(weights).get_weights()
    assert first[0].shape == (14, 50)
    assert first[0][:, 0].tolist() == list(range(14)), "a container has outputs x inputs"
    assert first[1][0] == 700


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no BigDL"),
        (b"x" * 100, "no BigDL"),
        (container(np.ones(5))[:-1], "bytes long"),
        (container(np.ones(5)).replace(struct.pack(">f", 1), struct.pack(">f", 2), 1), "MD5"),
        (container(np.ones(10_653)), "particle-sequence"),
    ],
)
def test_what_is_no_such_container_is_told_in_a_line(tmp_path, example, content, told):
    (tmp_path / "a.weight").write_bytes(content)
    with pytest.raises(published_models.NotAModel, match=told):
        published_models.hlf_classifier(published_models.bigdl_weights(content))


def test_the_published_events_are_five_rows_of_fourteen():
    events = json.loads(published_models.PUBLISHED.read_text())["events"]
    assert [len(event["HLF_input"]) for event in events] == [14] * 5
