"""The five classifiers of collision events, as Keras models: what kind of collision is it, QCD, tt̄ or W+jets?

    hlf          14 high-level features                                   2,013 parameters
    sequence     801 particles of 19 features by a GRU                   10,803 (10,653 in BigDL, whose GRU has one bias)
    inclusive    the particles by a GRU, and the 14 features             12,353
    lstm         the same by an LSTM                                     15,703
    transformer  the same by attention of all particles to all          173,378

The layers are those of the published notebooks. In the published data the padding of an event is a row that is not
zero, so that their Masking layer masks nothing. A model built with `masked=True` takes any number of particles
and zeros as padding: the same layers with the same parameters, whose Masking does what it is there for.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfspawner import checked_model

keras = tf.keras  # Keras 3, or tf-keras where TF_USE_LEGACY_KERAS=1

ROWS, WIDTH = 801, 19  # an event's particles, and the features of one
HLF = 14
CLASSES = ("QCD", "tt", "W+jets")
PARAMETERS = {"hlf": 2_013, "sequence": 10_803, "inclusive": 12_353, "lstm": 15_703, "transformer": 173_378}
MASKED = "_masked"


def build(name: str, *, masked: bool = False, gru: Any = None) -> Any:
    """A model that is not compiled yet; called NAME or NAME_masked.

    Args:
        name: one of PARAMETERS.
        masked: takes events of (any number, 19) particles, of which those that are all zero are padding.
        gru: what takes the place of keras.layers.GRU.

    Inputs, in this order where there are both: particles (batch, 801, 19), features (batch, 14).
    """
    if masked and not can_mask(name):
        raise ValueError(f"the model {name} cannot leave out padding")
    rows = None if masked else ROWS
    if name == "hlf":
        return _hlf()
    particles = keras.Input((rows, WIDTH), name="particles")
    if name == "sequence":
        summary = keras.layers.Dropout(0.2)(_recurrent(gru or keras.layers.GRU, particles))
        outputs = keras.layers.Dense(3, activation="softmax")(summary)
        return keras.Model(particles, outputs, name=called(name, masked))
    features = keras.Input((HLF,), name="features")
    if name == "transformer":
        summary = _attention(particles)
    else:
        layer = keras.layers.LSTM if name == "lstm" else gru or keras.layers.GRU
        summary = keras.layers.Dropout(0.2)(_recurrent(layer, particles))
    both = keras.layers.Concatenate()([summary, keras.layers.Dropout(0.2)(features)])
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Dense(25, activation="relu")(both))
    return keras.Model([particles, features], outputs, name=called(name, masked))


def _hlf() -> Any:
    features = keras.Input((HLF,), name="features")
    hidden = features
    for units in (50, 20, 10):
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
    return keras.Model(features, keras.layers.Dense(3, activation="softmax")(hidden), name="hlf")


def _recurrent(layer: Any, particles: Any) -> Any:
    return layer(50, activation="tanh")(keras.layers.Masking(0.0)(particles))


def _attention(particles: Any) -> Any:
    seen = keras.layers.MultiHeadAttention(num_heads=8, key_dim=WIDTH)(particles, particles)
    seen = keras.layers.Dropout(0.2)(keras.layers.LayerNormalization(epsilon=1e-6)(seen))
    seen = keras.layers.TimeDistributed(keras.layers.Dense(20, activation="relu"))(seen)
    return keras.layers.Dense(10, activation="relu")(keras.layers.Flatten()(seen))


def can_mask(name: str) -> bool:
    """Whether the model can do without padding; the Transformer's Dense layer wants all 801 rows."""
    return name in ("sequence", "inclusive", "lstm")


def called(name: str, masked: bool) -> str:
    return name + MASKED if masked else name


def kind_of(model_name: str) -> tuple[str, bool]:
    """(one of PARAMETERS, whether it is masked) of a model's name. Raises ValueError for another."""
    name = model_name.removesuffix(MASKED)
    if name not in PARAMETERS:
        raise ValueError(f"there is no model {model_name!r}; known are {', '.join(PARAMETERS)}")
    return name, name != model_name


def compiled(model: Any, learning_rate: float, **options: Any) -> Any:
    """The model, ready to be trained as published: Adam, categorical cross-entropy."""
    model.compile(
        keras.optimizers.Adam(learning_rate), "categorical_crossentropy", metrics=["accuracy"], **options
    )  # fmt: skip
    return model


def load_model(path: str | Path) -> Any:
    """A saved .keras file, by the Keras that wrote it: several workers train with tf-keras, one with Keras 3.

    A file that would run code of its own while it is loaded is refused: ArtifactError.
    """
    path = checked_model(path)
    with zipfile.ZipFile(path) as archive:
        version = json.loads(archive.read("metadata.json"))["keras_version"]
    if not version.startswith("2."):
        import keras as three

        return three.models.load_model(path, safe_mode=True)
    import tf_keras

    return tf_keras.models.load_model(path, safe_mode=True)
