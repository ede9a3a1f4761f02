"""Trees by Spark: trained, saved, loaded again with equal predictions, and measured as all models are."""

import json
from pathlib import Path

import clouds
import evaluate
import hlf
import metrics
import numpy as np
import pytest
import spark
import trees
from physics import HIGH_LEVEL

from tfspawner.errors import ConfigurationError

RANGES = {name: [-10.0 * k, 100.0 + k] for k, name in enumerate(HIGH_LEVEL)}


@pytest.fixture(scope="module")
def session():
    """One Spark for all tests here."""
    made = spark.session(2)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return clouds.write_hlf(tmp_path_factory.mktemp("data") / "hlf", train=600, test=300)


@pytest.fixture(scope="module", params=trees.TREES)
def trained(request, session, data, tmp_path_factory):
    """(method, folder) of each method's model; XGBoost's is of features in their own units."""
    output = tmp_path_factory.mktemp("trees") / request.param
    prepared = output.parent / "prepared.json"
    prepared.write_text(json.dumps({"ranges": RANGES}))
    raw = ["--raw", str(prepared)] if request.param == "xgboost" else []
    trees.main(["--data", str(data), "--method", request.param, "--output", str(output), "--trees", "8", *raw])
    return request.param, output


def measures(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_classes_are_told_apart_better_than_by_chance(trained):
    _, folder = trained
    found = measures(folder)
    assert found["events"] == 300
    assert found["trained_events"] == 600
    assert found["accuracy"] > 0.6
    assert min(found["auc"]) > 0.75
    assert sum(found["importances"].values()) == pytest.approx(1, abs=1e-4)
    assert set(found["importances"]) == set(HIGH_LEVEL)


def test_a_loaded_model_gives_the_same_measures(trained, data, tmp_path):
    _, folder = trained
    trees.main(["--data", str(data), "--load", str(folder), "--output", str(tmp_path)])
    first, again = measures(folder), measures(tmp_path)
    assert {key: again[key] for key in first if key != "evaluation_s"} == {
        key: value for key, value in first.items() if key != "evaluation_s"
    }


def test_the_measures_go_into_evaluates_page(trained, tmp_path):
    method, folder = trained
    result = evaluate.evaluated(method, folder, "no data are needed")
    evaluate.write_all([result], tmp_path)
    assert f"{result['auc'][0]:.4f}" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "curves.png").exists()


def test_the_frame_has_all_events_and_undoes_the_scaling(session, data):
    features, labels = hlf.read(str(data), "test")
    ranges = list(RANGES.values())
    for used, wanted in ((None, features), (ranges, trees.unscaled(features, ranges))):
        rows = trees.events(session, str(data), "test", used).collect()
        found = {(*row.features.toArray(), row.label) for row in rows}
        assert found == {(*some, label) for some, label in zip(wanted.astype(float), labels, strict=True)}
    low, high = np.array(ranges).T
    np.testing.assert_allclose(trees.unscaled(np.stack([np.zeros(14), np.ones(14)]), ranges), [low, high])


def test_one_vs_rest_margins_become_probabilities():
    found = trees.shares(np.array([[0.0, 0.0, 0.0], [40.0, -40.0, -40.0]]))
    np.testing.assert_allclose(found, [[1 / 3] * 3, [1, 0, 0]], atol=1e-12)
    assert metrics.loss(np.array([0, 0]), found) == pytest.approx(np.log(3) / 2, abs=1e-6)


def test_a_folder_without_a_model_is_told(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        trees.main(["--data", str(data), "--load", str(tmp_path)])
    assert ended.value.code == ConfigurationError.exit_code
    assert f"--load {tmp_path}: there is no trees.json" in capsys.readouterr().err
