"""Loads the published models of cerndb/SparkDLTrigger, and tries the HLF classifier on five published events.

    python published_models.py HLFclassifier.weight           BigDL's container of the HLF classifier's weights
    python published_models.py InclusiveClassifier.keras      the inclusive classifier, as Keras saved it
    python published_models.py HLFclassifier.weight --save hlf_published.keras

The five events are rows of the published data with their labels, scaled as these are (published.json). A
container is five big-endian int32 (3721, 1, an id, 0, how many weights), the weights as big-endian float32, an int32
16, and the MD5 of all up to the last weight. Of each layer it holds the weights (outputs x inputs), then the biases.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import models
import numpy as np

PUBLISHED = Path(__file__).with_name("published.json")
HEADER = struct.Struct(">5i")
MAGIC = 3721
LAYERS = ((14, 50), (50, 20), (20, 10), (10, 3))  # the HLF classifier's inputs and outputs
OTHERS = {10_653: "the particle-sequence classifier", 12_203: "the inclusive classifier"}


class NotAModel(Exception):
    """The file is not what it should be."""


def bigdl_weights(content: bytes) -> np.ndarray:
    """The float32 weights of a BigDL container. Raises NotAModel for other bytes and for damaged ones."""
    if len(content) < HEADER.size or HEADER.unpack_from(content)[:2] != (MAGIC, 1):
        raise NotAModel("this is no BigDL weight container")
    end = HEADER.size + 4 * HEADER.unpack_from(content)[4]
    if len(content) != end + 4 + 16:
        raise NotAModel(f"the container is {len(content)} bytes long, and its header says {end + 20}")
    if hashlib.md5(content[:end]).digest() != content[end + 4 :]:
        raise NotAModel("the container is damaged: its weights do not match their MD5")
    return np.frombuffer(content[HEADER.size : end], ">f4").astype(np.float32)


def hlf_classifier(weights: np.ndarray) -> Any:
    """The Keras model of the HLF classifier's 2,013 weights. Raises NotAModel for another number."""
    if len(weights) != models.PARAMETERS["hlf"]:
        other = OTHERS.get(len(weights), "another model")
        raise NotAModel(f"the container holds {len(weights):,} weights, those of {other}; the HLF classifier has 2,013")
    arrays, at = [], 0
    for inputs, outputs in LAYERS:
        kernel = weights[at : at + inputs * outputs].reshape(outputs, inputs).T
        at += inputs * outputs
        arrays += [kernel, weights[at : at + outputs]]
        at += outputs
    model = models.build("hlf")
    model.set_weights(arrays)
    return model


def load_published(path: Path) -> Any:
    """A published model as a Keras model. Raises NotAModel, OSError."""
    if path.suffix == ".keras":
        return models.load_model(path)
    return hlf_classifier(bigdl_weights(path.read_bytes()))


def classified(model: Any) -> list[dict[str, Any]]:
    """The published events with the model's probabilities of the three classes."""
    events = json.loads(PUBLISHED.read_text())["events"]
    probabilities = model.predict(np.array([event["HLF_input"] for event in events], np.float32), verbose=0)
    return [{**event, "probabilities": row} for event, row in zip(events, probabilities, strict=True)]


def show(model: Any) -> None:
    print(f"{model.name}: {model.count_params():,} parameters, inputs {[tuple(i.shape) for i in model.inputs]}")
    if len(model.inputs) > 1:
        return
    print(f"event  {'is':8}{'taken for':11}" + "".join(f"{name:>9}" for name in models.CLASSES))
    for event in classified(model):
        taken = models.CLASSES[int(event["probabilities"].argmax())]
        values = "".join(f"{value:9.5f}" for value in event["probabilities"])
        print(f"{event['id']:7}{models.CLASSES[event['label']]:8}{taken:11}{values}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="HLFclassifier.weight or a .keras file")
    parser.add_argument("--save", type=Path, help="a .keras file to write")
    args = parser.parse_args()
    try:
        model = load_published(args.model)
    except (NotAModel, OSError) as error:
        print(f"error: {args.model}: {error}", file=sys.stderr)
        sys.exit(2)
    show(model)
    if args.save:
        model.save(args.save)
        print(f"saved as {args.save}")


if __name__ == "__main__":
    main()
