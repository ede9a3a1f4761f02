"""What a classifier is worth, measured and shown: against scikit-learn's measures, and by hand."""

import base64
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import clouds
import evaluate
import fits
import hlf
import metrics
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tfspawner.errors import ConfigurationError


def scored(count: int, seed: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    """(whether signal, scores with as many ties as few decimals make)."""
    random = np.random.default_rng(seed)
    is_signal = random.random(count) < 0.3
    return is_signal, (random.normal(size=count) + is_signal).round(decimals)


@pytest.mark.parametrize("decimals", [0, 1, 8])
@pytest.mark.parametrize("seed", range(5))
def test_auc_is_scikit_learns_with_and_without_ties(seed, decimals):
    is_signal, scores = scored(1000, seed, decimals)
    area, _ = metrics.auc(is_signal, scores)
    assert area == pytest.approx(sklearn_metrics.roc_auc_score(is_signal, scores), abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_the_roc_curve_is_scikit_learns(decimals):
    is_signal, scores = scored(1000, 1, decimals)
    false, true, _ = sklearn_metrics.roc_curve(is_signal, scores, drop_intermediate=False)
    mine = metrics.roc(is_signal, scores)
    np.testing.assert_allclose(mine[0], false)
    np.testing.assert_allclose(mine[1], true)


def test_the_error_of_an_auc_is_how_it_varies_from_sample_to_sample():
    found = [metrics.auc(*scored(400, seed, 8)) for seed in range(400)]
    areas, errors = np.array(found).T
    assert errors.mean() == pytest.approx(areas.std(), rel=0.1)


def test_a_thinned_curve_keeps_points_of_the_whole_one_and_its_area():
    is_signal, scores = scored(200_000, 3, 8)
    whole = metrics.roc(is_signal, scores)
    false, true = np.array(metrics.thinned(*whole))
    assert len(false) < 500
    assert set(zip(false, true, strict=True)) <= set(zip(whole[0].round(7), whole[1].round(7), strict=True))
    assert np.trapezoid(true, false) == pytest.approx(np.trapezoid(whole[1], whole[0]), abs=1e-4)


def test_measures_of_four_events_by_hand():
    labels = np.array([0, 0, 1, 2])
    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]])
    found = metrics.measured(labels, probabilities)
    assert found["accuracy"] == 0.75
    assert found["loss"] == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.5]).mean())
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found["auc"] == [1.0, 1.0, 1.0]
    half, *_, most = found["rejection"][0]
    assert half["rest"] == {"passed": 0, "of": 2, "rejection": None}
    assert most["tt̄"] == {"passed": 0, "of": 1, "rejection": None}


def test_a_matrix_is_divided_by_the_true_classes():
    shares = metrics.by_row(np.array([[8, 2, 0], [5, 5, 10], [0, 0, 0]]))
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [0.25, 0.25, 0.5], [0, 0, 0]])


def test_confusion_and_loss_are_scikit_learns():
    random = np.random.default_rng(5)
    labels, probabilities = random.integers(0, 3, 500), random.dirichlet([1, 1, 1], 500)
    found = metrics.measured(labels, probabilities)
    by_sklearn = sklearn_metrics.confusion_matrix(labels, probabilities.argmax(axis=1))
    assert found["confusion"] == by_sklearn.tolist()
    assert found["loss"] == pytest.approx(sklearn_metrics.log_loss(labels, probabilities))


def test_rejection_counts_the_background_at_the_tightest_cut_that_keeps_the_signal():
    labels = np.repeat([0, 1, 2], 100)
    tt = np.concatenate([np.arange(100), np.arange(100) + 50.5, np.arange(100) - 60])  # scores of QCD, tt, W+jets
    probabilities = np.stack([np.zeros(300), tt, np.zeros(300)], axis=1)
    at = {row["efficiency"]: row for row in metrics.rejection(labels, probabilities, signal=1)}
    assert at[0.9]["QCD"] == {"passed": 39, "of": 100, "rejection": 100 / 39}  # the cut is 60.5
    assert at[0.9]["W+jets"] == {"passed": 0, "of": 100, "rejection": None}
    assert at[0.9]["rest"] == {"passed": 39, "of": 200, "rejection": 200 / 39}


@pytest.mark.parametrize(
    ("labels", "probabilities", "told"),
    [
        ([0, 1, 1], np.ones((3, 3)), "no events of W"),
        ([0, 1, 2], np.full((3, 3), np.nan), "3 events have no finite probabilities"),
        ([0, 1, 2], np.ones((3, 2)), r"probabilities of shape \(3, 2\)"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels, probabilities, told):
    with pytest.raises(ValueError, match=told):
        metrics.measured(np.array(labels), probabilities)


# ---- from trained models to the page ----


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return clouds.write_hlf(tmp_path_factory.mktemp("data") / "hlf")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A folder as tf-spawner leaves it of two workers, who have the same model."""
    folder = tmp_path_factory.mktemp("runs") / "hlf-x2"
    train, test = (hlf.read(str(data), part) for part in ("train", "test"))
    for worker in ("worker-0", "worker-1"):
        place = folder / "files" / worker
        place.mkdir(parents=True)
        fits.trained(fits.Fit(batch=64, hidden=(50, 20, 10), epochs=(3,)), *train, test, 7, place)
    return folder


@pytest.fixture(scope="module")
def page(run, data, tmp_path_factory):
    """The folder that evaluate.py wrote of that run, and of a trained-before model with metrics.json."""
    output = tmp_path_factory.mktemp("page") / "results"
    other = output.parent / "forest"
    other.mkdir()
    labels = np.arange(300) % 3
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], 300)
    about = {"model": "forest", "workers": 2, "time_s": 3.0, "events_per_s": 300.0, "trained_events": 900}
    (other / "metrics.json").write_text(json.dumps({**about, **metrics.measured(labels, probabilities)}))
    done = called(data, output, run, other)
    assert done.returncode == 0, done.stderr
    return output


def called(data, output, *models) -> subprocess.CompletedProcess:
    root = Path(evaluate.__file__).parents[2]
    command = [sys.executable, evaluate.__file__, *map(str, models), "--data", str(data), "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)})


def test_a_run_is_measured_as_its_own_history_says(page, run):
    ours, _ = json.loads((page / "results.json").read_text())["results"]
    last = json.loads((run / "files/worker-0/history.json").read_text())["epochs"][-1]
    assert ours["name"] == "hlf-x2"
    assert ours["parameters"] == 2013
    assert ours["accuracy"] == pytest.approx(last["val_accuracy"], abs=1e-6)
    assert ours["loss"] == pytest.approx(last["val_loss"], abs=1e-5)
    assert ours["workers_differ_by"] == 0


def test_the_page_needs_nothing_else_and_is_for_light_and_dark(page):
    found = Tags()
    found.feed((page / "report.html").read_text())
    sources = [
        value for attributes in found.seen for key, value in attributes.items() if key in ("src", "srcset", "href")
    ]
    assert len(sources) == 6
    for source in sources:
        kind, content = source.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content).startswith(b"\x89PNG")
    assert "prefers-color-scheme: dark" in (page / "report.html").read_text()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(dict(attrs))


def test_the_page_shows_ours_beside_the_published_figures_of_the_same_models(page):
    text = re.sub(r"<[^>]+>", " ", (page / "report.html").read_text())
    ours, forest = json.loads((page / "results.json").read_text())["results"]
    assert f"{ours['auc'][1]:.4f}" in text
    assert f"{forest['auc'][2]:.4f}" in text
    assert "0.9874" in text  # the published HLF classifier, QCD
    assert "0.9824" in text  # the published forest, ttbar
    assert "Transformer" not in text


def test_published_aucs_are_of_three_classes_and_have_a_source():
    known = evaluate.published()["results"]
    assert {entry["model"] for entry in known} == set(evaluate.FAMILIES)
    for entry in known:
        assert len(entry["auc"]) == 3
        assert entry["source"]
        assert entry["hardware"]


@pytest.mark.parametrize(
    ("model", "told"), [("nothing-there", "no model.keras and no metrics.json"), ("{run}", "holds no test events")]
)
def test_what_is_not_there_is_told_with_exit_code_2(model, told, run, tmp_path, monkeypatch, capsys):
    """In this process: one of its own would first import TensorFlow."""
    words = [model.format(run=run), "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    with pytest.raises(SystemExit) as ended:
        evaluate.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_two_models_of_one_name_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="two models are called hlf: name them, as in hlf-2="):
        evaluate.named([str(tmp_path / "a/hlf"), str(tmp_path / "b/hlf")])


@pytest.mark.parametrize(
    ("seconds", "told"), [(None, "-"), (4.21, "4.2 s"), (317, "5 min 17 s"), (7343, "2 h 2 min"), (119.9, "2 min 0 s")]
)
def test_a_duration_is_told_as_people_say_it(seconds, told):
    assert evaluate.duration(seconds) == told
