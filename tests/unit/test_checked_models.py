"""Models that came back: those that would run code while they are loaded are refused, without any Keras."""

import json
import re
import warnings
import zipfile
from pathlib import Path

import pytest

from tfspawner.errors import ArtifactError
from tfspawner.jobs.models import checked_model

ROOT = Path(__file__).parents[2]


def layer(name: str, module: str | None = "keras.layers", /, **config) -> dict:
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


def model(path: Path, *layers: dict, **more) -> Path:
    config = {**layer("Sequential", "keras", layers=[layer("InputLayer"), *layers]), **more}
    return archive(path, json.dumps(config).encode())


def archive(path: Path, config: bytes, names=("metadata.json", "config.json", "model.weights.h5")) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, config if name == "config.json" else b'{"keras_version": "3.15.1"}')
    return path


DENSE = layer("Dense", kernel_initializer=layer("GlorotUniform", "keras.initializers", seed=None), activation="relu")


INNER = ("keras.src.models", "tf_keras.src.engine")


def test_a_model_of_keras_s_own_layers_may_be_loaded(tmp_path):
    policy = layer("DTypePolicy", "keras", name="float32")
    inner = [{**layer("Functional", f"{of}.functional"), "registered_name": "Functional"} for of in INNER]
    adam = layer("Adam", "keras.optimizers", learning_rate=0.001)
    path = model(
        tmp_path / "m.keras", {**DENSE, "dtype": policy}, *inner, compile_config={"optimizer": adam, "loss": "mse"}
    )
    assert checked_model(path) == str(path)


@pytest.mark.parametrize(
    ("harmful", "words"),
    [
        (layer("Lambda", function={"class_name": "__lambda__", "config": {"code": "4wEA"}}), "its 'Lambda' runs code"),
        (layer("Activation", activation={"class_name": "__lambda__", "config": {}}), "its '__lambda__' runs code"),
        (layer("TFSMLayer", filepath="/tmp/other"), "its 'TFSMLayer' runs code"),
        (layer("TFOpLambda", function="io.write_file"), "its 'TFOpLambda' runs code"),
        (layer("TorchModuleWrapper", module="gASV"), "its 'TorchModuleWrapper' runs code"),
        (layer("Popen", "subprocess", args=["touch", "x"]), "its 'Popen' of 'subprocess' is not Keras's own"),
        (layer("system", "os"), "its 'system' of 'os' is not Keras's own"),
        (layer("Popen", "tf_keras.src.utils.data_utils.subprocess"), "is not Keras's own"),
        (layer("get_file", "keras.utils"), "its 'get_file' of 'keras.utils' is not Keras's own"),
        (layer("Dense", "keras.layers\nos"), "is not Keras's own"),
        (layer("Dense", "kerasx.layers"), "is not Keras's own"),
        (layer("Dense", None), "its 'Dense' is not Keras's own"),
        (layer("Dense", 5), "is not Keras's own"),
        ({**DENSE, "registered_name": "mine>Dense"}, "is not Keras's own"),
        (layer("Activation", activation=layer("function", "builtins")), "its 'function' of 'builtins' is not"),
        (layer("Activation", activation=layer("function", "keras.activations")), "its 'function' of 'keras.act"),
        ({"module": "os", "class_name": None}, "it describes an object as"),
        ({"module": "os"}, "it describes an object as"),
        (layer("x\x1b[2J", "os"), "its 'x\\x1b[2J' of 'os' is not Keras's own"),
        (layer("Sequential", "keras", layers=[[[{"x": layer("eval", "builtins")}]]]), "its 'eval' of 'builtins'"),
    ],
)
def test_a_model_that_brings_code_along_is_refused_with_what_would_run(tmp_path, harmful, words):
    for path in (model(tmp_path / "a.keras", DENSE, harmful), model(tmp_path / "b.keras", compile_config=[harmful])):
        with pytest.raises(ArtifactError, match=re.escape(words)) as error:
            checked_model(path)
        assert error.value.message.startswith(f"{path} is not loaded: ")
        assert error.value.message.isprintable()
        assert len(error.value.message) < 400


@pytest.mark.parametrize(
    "content",
    [b"\x89HDF\r\n\x1a\n" + bytes(2000), b"", b"\x80\x04cos\nsystem\n", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)],
)
def test_a_file_that_is_only_called_keras_is_refused(tmp_path, content):
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.keras is not loaded: "):
        checked_model(path)


def test_other_files_in_the_archive_and_what_is_no_configuration_are_refused(tmp_path):
    for config, names in (
        (b"{}", ("config.json", "metadata.json", "model.weights.h5", "assets/../../x")),
        (b"{}", ("config.json", "metadata.json")),
        (b"{}", ("config.json", "config.json", "metadata.json", "model.weights.h5")),
        (b"[" * 100_000, ("config.json", "metadata.json", "model.weights.h5")),
        (b"\xff", ("config.json", "metadata.json", "model.weights.h5")),
        (b"9" * 5000, ("config.json", "metadata.json", "model.weights.h5")),
        (b" " * (65 << 20), ("config.json", "metadata.json", "model.weights.h5")),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a name that is there twice
            path = archive(tmp_path / "m.keras", config, names)
        with pytest.raises(ArtifactError, match=r"m\.keras is not loaded: "):
            checked_model(path)
    with pytest.raises(ArtifactError, match="No such file"):
        checked_model(tmp_path / "none.keras")


def test_no_example_loads_a_model_that_was_not_looked_at():
    text = {path: path.read_text() for path in (*ROOT.glob("examples/*/*.py"), *ROOT.glob("examples/*/*.ipynb"))}
    text[ROOT / "README.md"] = (ROOT / "README.md").read_text()
    calls = [
        (content, line) for content in text.values() for line in re.findall(r".*keras\.models\.load_model\(.*", content)
    ]
    calls += [
        (content, line) for content in text.values() for line in re.findall(r".*three\.models\.load_model\(.*", content)
    ]
    assert len(calls) == 5
    assert [line for content, line in calls if "checked_model(" not in content or "safe_mode=True" not in line] == []
    assert not [path for path, content in text.items() if re.search(r"np\.load\(|torch\.load\(|joblib\.load", content)]
