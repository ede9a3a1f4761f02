"""The models have the published numbers of parameters, and masking and the fast GRU change no result."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import models  # noqa: E402
from fast_gru import FastGRU  # noqa: E402

BY_TF_KERAS = """
import json, sys
import models, numpy as np
counts = {name: models.build(name).count_params() for name in models.PARAMETERS}
model = models.build("inclusive", masked=True)
model.save(sys.argv[1])
inputs = [np.load(sys.argv[2]), np.ones((2, 14), "float32")]
print(json.dumps([models.keras.__name__, counts, model.predict(inputs, verbose=0).tolist()]))
"""


@pytest.mark.parametrize("name", models.PARAMETERS)
def test_each_model_has_its_number_of_parameters(name):
    model = models.build(name)
    assert model.name == name
    assert model.count_params() == models.PARAMETERS[name]
    assert {tuple(i.shape) for i in model.inputs} <= {(None, 801, 19), (None, 14)}
    assert model.output_shape == (None, 3)


@pytest.mark.parametrize("name", ["sequence", "inclusive", "lstm"])
def test_a_masked_model_has_as_many_parameters_and_takes_any_number_of_particles(name):
    model = models.build(name, masked=True)
    assert (model.name, model.count_params()) == (f"{name}_masked", models.PARAMETERS[name])
    particles, features = np.ones((2, 30, 19), "float32"), np.ones((2, 14), "float32")
    longer = np.pad(particles, ((0, 0), (0, 771), (0, 0)))
    inputs, longer = (p if name == "sequence" else [p, features] for p in (particles, longer))
    assert np.allclose(model(inputs), model(longer), atol=1e-6), "padding of zeros changed the result"


@pytest.mark.parametrize("name", ["hlf", "transformer"])
def test_models_that_cannot_leave_out_padding_say_so(name):
    with pytest.raises(ValueError, match=name):
        models.build(name, masked=True)


def test_tf_keras_builds_the_same_and_either_keras_loads_what_the_other_saved(tmp_path, example):
    particles = np.random.default_rng(0).normal(size=(2, 40, 19)).astype("float32")
    np.save(tmp_path / "particles.npy", particles)
    command = [sys.executable, "-c", BY_TF_KERAS, tmp_path / "model.keras", tmp_path / "particles.npy"]
    environment = {
        **os.environ,
        "TF_USE_LEGACY_KERAS": "1",
        "PYTHONPATH": f"{example}:{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    keras, counts, predicted = json.loads(done.stdout.splitlines()[-1])
    assert keras.startswith("tf_keras")
    assert counts == models.PARAMETERS
    loaded = models.load_model(tmp_path / "model.keras")
    assert loaded.count_params() == 12_353
    assert np.allclose(loaded.predict([particles, np.ones((2, 14), "float32")], verbose=0), predicted, atol=1e-6)


def test_a_model_saved_here_loads_here(tmp_path):
    model = models.build("hlf")
    model.save(tmp_path / "model.keras")
    rows = np.random.default_rng(0).normal(size=(5, 14)).astype("float32")
    assert np.array_equal(models.load_model(tmp_path / "model.keras")(rows), model(rows))


@pytest.mark.parametrize("batch", [5, 256])  # 256 are shared among threads
def test_the_fast_gru_gives_keras_results_and_gradients(batch):
    rng = np.random.default_rng(1)
    particles = rng.normal(size=(batch, 40, 19)).astype("float32")
    for number, length in enumerate(rng.integers(1, 40, batch)):
        particles[number, length:] = 0
    particles[0], particles[1] = 0, 1  # no particle at all; no padding
    inputs = [particles, rng.normal(size=(batch, 14)).astype("float32")]
    labels = np.eye(3, dtype="float32")[rng.integers(0, 3, batch)]
    plain, fast = models.build("inclusive", masked=True), models.build("inclusive", masked=True, gru=FastGRU)
    plain.set_weights([w + rng.normal(size=w.shape) * 0.2 for w in plain.get_weights()])
    fast.set_weights(plain.get_weights())
    (loss, wanted), (fast_loss, found) = gradients(plain, inputs, labels), gradients(fast, inputs, labels)
    assert float(loss) == pytest.approx(float(fast_loss), rel=1e-5)
    for one, other in zip(wanted, found, strict=True):
        assert np.allclose(one, other, rtol=1e-3, atol=1e-5)


def gradients(model, inputs, labels):
    @tf.function
    def of_loss():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(models.keras.losses.categorical_crossentropy(labels, model(inputs, training=False)))
        return loss, tape.gradient(loss, model.trainable_variables)

    return of_loss()
