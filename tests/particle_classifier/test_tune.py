"""The search of hyper-parameters: the numbers of Keras's own training, epochs that count, points that stay."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import clouds
import fits
import hlf
import keras
import models
import numpy as np
import points
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import searches
import tune
from points import PARAMETERS, Record, point_of
from searches import SPACE, Guided, Listed

from tfspawner.errors import ConfigurationError, DataError

SETTINGS = {"events": 10, "folds": 5, "seed": 1, "data_crc32": "0"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(clouds.write_hlf(tmp_path_factory.mktemp("data") / "hlf"))


@pytest.fixture(scope="module")
def sample(data):
    return fits.folded(*hlf.read(data, "train"), 3, seed=5)


# ---- reading ----


def test_events_are_read_in_the_files_order_in_one_layout_and_in_another(tmp_path):
    features, labels = clouds.write_part(tmp_path / "train", 40, seed=9)
    read = hlf.read(str(tmp_path), "train")
    np.testing.assert_array_equal(read[0], features)
    np.testing.assert_array_equal(read[1], labels)
    other = {"encoded_label": np.eye(3, dtype=np.float32)[1], "HLF_input": features[0]}
    with open(tmp_path / "train/part-r-00001.tfrecord", "ab") as file:
        file.write(clouds.frame(clouds.write_example(other)))
    read = hlf.read(str(tmp_path), "train")
    assert read[1].tolist() == [*labels, 1]
    np.testing.assert_array_equal(read[0], [*features, features[0]])


def test_a_label_is_not_sought_among_the_features(tmp_path):
    """The features hold the very bytes of a one-hot label, and all records have the same class."""
    features = np.tile(np.float32([0, 1, 0]), 5)[:14]
    rows = [features, features * np.float32(0.5)]
    content = [clouds.write_example({"HLF_input": row, "encoded_label": np.float32([0, 1, 0])}) for row in rows]
    (tmp_path / "test").mkdir()
    (tmp_path / "test/part-r-00000").write_bytes(b"".join(map(clouds.frame, content)))
    read = hlf.read(str(tmp_path), "test")
    np.testing.assert_array_equal(read[0], rows)
    assert read[1].tolist() == [1, 1]


def test_parquet_is_read_where_there_is_no_tfrecord_and_only_there(tmp_path):
    features, labels = clouds.write_part(tmp_path / "train", 30, seed=9)
    columns = {"HLF_input": list(features.astype(float)), "encoded_label": list(np.eye(3)[labels])}
    for part in ("train.parquet", "test.parquet"):
        (tmp_path / part).mkdir()
        pq.write_table(pa.table(columns), tmp_path / part / "part-00000.parquet")
    for part in ("train", "test"):
        read = hlf.read(str(tmp_path), part)
        np.testing.assert_array_equal(read[0], features)
        np.testing.assert_array_equal(read[1], labels)


def test_records_without_the_features_are_told_with_their_file(tmp_path):
    (tmp_path / "test").mkdir()
    content = clouds.write_example({"HLF_input": np.zeros(13, np.float32)})
    (tmp_path / "test/part-r-00000").write_bytes(clouds.frame(content))
    with pytest.raises(DataError, match="part-r-00000: the feature HLF_input has 13 values of float32; it must be 14"):
        hlf.read(str(tmp_path), "test")


# ---- training ----


def test_folds_hold_each_event_out_once_and_have_the_classes_in_equal_shares(sample):
    assert sorted(sample.held.ravel()) == list(range(900))
    for trained, held in zip(sample.trained, sample.held, strict=True):
        assert sorted([*trained, *held]) == list(range(900))
        assert np.bincount(sample.labels[held]).tolist() == [100, 100, 100]


def test_an_epoch_has_each_row_once_in_an_order_of_its_own(sample):
    first, weights = fits.orders(sample.trained, 64, seed=1, epoch=1)
    second, _ = fits.orders(sample.trained, 64, seed=1, epoch=2)
    assert first.shape == weights.shape == (10, 3, 64)
    for fold in range(3):
        assert sorted(first[:, fold][weights[:, fold] > 0]) == sorted(sample.trained[fold])
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, fits.orders(sample.trained, 64, seed=1, epoch=1)[0])


def test_stacked_folds_are_trained_as_keras_trains_each(sample):
    """Two epochs with a last batch that is not full: the weights that Keras's own steps give, and its scores."""
    fit = fits.Fit(batch=64, hidden=(16, 8, 4), epochs=(2,))
    stack = fits.Stack(fit.hidden, 3, sample)
    sums = [stack.train(epoch, fit.batch) for epoch in (1, 2)]
    for fold in range(3):
        model = fits.seeded(fit.hidden, sample.seed + fold)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        for epoch in (1, 2):
            rows, weights = fits.orders(sample.trained, fit.batch, sample.seed, epoch)
            for batch, weight in zip(rows[:, fold], weights[:, fold], strict=True):
                here = batch[weight > 0]
                model.train_on_batch(sample.features[here], sample.labels[here])
        for mine, keras_own in zip(stack.weights, model.get_weights(), strict=True):
            np.testing.assert_allclose(mine.numpy()[fold], keras_own, atol=2e-5)
        held = sample.held[fold]
        loss, accuracy = model.evaluate(sample.features[held], sample.labels[held], verbose=0)
        losses, accuracies = stack.measure(sample.features[sample.held], sample.labels[sample.held])
        assert losses[fold] == pytest.approx(loss, abs=1e-5)
        assert accuracies[fold] == pytest.approx(accuracy, abs=1.1 / len(held))
    assert (sums[1][0] < sums[0][0]).all()


def test_scores_on_the_way_are_those_of_trainings_that_end_there(sample):
    shared = fits.scores(fits.Fit(batch=100, hidden=(12, 6, 4), epochs=(1, 3, 6)), sample)
    for score in shared:
        alone = fits.scores(fits.Fit(batch=100, hidden=(12, 6, 4), epochs=(score.epochs,)), sample)
        assert alone[0].accuracies == score.accuracies
        assert alone[0].losses == score.losses
    assert len({tuple(score.losses) for score in shared}) == 3  # the epochs are really applied


def test_the_classifier_is_the_one_of_models_py():
    mine, theirs = fits.seeded((50, 20, 10), 1), models.build("hlf")
    shapes = [tuple(weights.shape) for weights in mine.get_weights()]
    assert shapes == [tuple(weights.shape) for weights in theirs.get_weights()]
    assert [layer.get_config().get("activation") for layer in mine.layers] == [
        layer.get_config().get("activation") for layer in theirs.layers
    ]
    assert mine.count_params() == 2013
    assert models.kind_of(mine.name) == ("hlf", False)


# ---- points on record ----


def line(*point: int, accuracy: float = 0.5, loss: float = 1.0) -> dict:
    return {
        **dict(zip(PARAMETERS, point, strict=True)),
        "accuracy": accuracy,
        "loss": loss,
        "spread": 0.0,
        "seconds": 1.0,
    }


def test_a_torn_last_line_is_left_out_and_written_over(tmp_path):
    record = Record(tmp_path, SETTINGS)
    record.add(line(64, 10, 50, 20, 10))
    with open(record.path, "a") as file:
        file.write('{"batch": 64, "epo')
    again = Record(tmp_path, SETTINGS)
    assert list(again.done) == [(64, 10, 50, 20, 10)]
    again.add(line(64, 30, 50, 20, 10))
    assert [point_of(some) for some in points.read_lines(record.path)] == [(64, 10, 50, 20, 10), (64, 30, 50, 20, 10)]


def test_points_of_other_settings_are_refused(tmp_path):
    Record(tmp_path, SETTINGS)
    with pytest.raises(ConfigurationError, match="another search: folds 5, not 10"):
        Record(tmp_path, {**SETTINGS, "folds": 10})


def test_the_best_point_is_the_most_accurate_and_of_equal_ones_that_with_the_smaller_loss(tmp_path):
    record = Record(tmp_path, SETTINGS)
    record.add(line(64, 10, 50, 20, 10, accuracy=0.8))
    record.add(line(64, 30, 50, 20, 10, accuracy=0.9, loss=0.4))
    record.add(line(64, 50, 50, 20, 10, accuracy=0.9, loss=0.3))
    assert [point_of(some)[1] for some in record.ranked()] == [50, 30, 10]


# ---- searches ----


def test_the_grid_is_of_243_points_in_81_fits():
    every = searches.all_points()
    assert len(set(every)) == 243
    assert len(searches.fits_of(every)) == 81
    assert all(fit.epochs == SPACE["epochs"] for fit in searches.fits_of(every))


def test_workers_share_the_fits_and_leave_out_what_is_done():
    every = searches.all_points()
    done = {point: {} for point in every[:10]}
    shares = [Listed(every, done, worker, 4) for worker in range(4)]
    found = [(f.batch, e, *f.hidden) for share in shares for f in iter(share.next, None) for e in f.epochs]
    assert sorted(found) == sorted(set(every) - set(done))


def test_fewer_random_points_are_the_first_of_more():
    assert searches.random_points(20, seed=3) == searches.random_points(60, seed=3)[:20]
    assert searches.random_points(20, seed=3) != searches.random_points(20, seed=4)


@pytest.mark.parametrize("seed", range(3))
def test_a_guided_search_finds_the_best_of_243_points_in_40_fits_and_does_none_twice(seed):
    """Accuracy falls with the distance from one point; two fits are under way at any time."""

    def accuracy(point):
        away = [abs(SPACE[n].index(v) - w) for n, v, w in zip(PARAMETERS, point, (2, 1, 0, 2, 1), strict=True)]
        return 1 - sum(away) / 10

    search, asked, under_way, best = Guided(40, seed, {}), [], [], 0.0
    while (fit := search.next()) or under_way:
        if fit:
            under_way.append(fit)
            asked.append((fit.batch, fit.epochs[-1], *fit.hidden))
        if len(under_way) == 2 or not fit:
            fit = under_way.pop(0)
            lines = [
                line(*point, accuracy=accuracy(point)) for point in ((fit.batch, e, *fit.hidden) for e in fit.epochs)
            ]
            best = max(best, *(some["accuracy"] for some in lines))
            search.tell(fit, lines)
    assert best == 1.0
    assert len(asked) == len(set(asked)) == 40


def test_a_guided_search_ends_when_nothing_is_left():
    done = {point: line(*point) for point in searches.all_points()[:-2]}
    search = Guided(243, 1, done)
    left = {(fit.batch, fit.epochs[-1], *fit.hidden) for fit in iter(search.next, None)}
    assert left == set(searches.all_points()[-2:])


# ---- the command ----


def called(data: str, output: Path, *arguments: str) -> None:
    tune.main(["--data", data, "--output", str(output), "--folds", "3", "--jobs", "1", *arguments])


def scores_of(output: Path) -> dict:
    """{point: (accuracy, loss)} of points.jsonl."""
    return {point_of(some): (some["accuracy"], some["loss"]) for some in points.read_lines(output / "points.jsonl")}


@pytest.fixture(scope="module")
def searched(data, tmp_path_factory):
    """A random search's folder."""
    output = tmp_path_factory.mktemp("tuned") / "one"
    called(data, output, "--search", "random", "--points", "4")
    return output


def test_a_search_leaves_a_table_a_picture_and_the_best_model(searched, data):
    best, *_ = json.loads((searched / "results.json").read_text())["points"]
    assert best["accuracy"] == max(accuracy for accuracy, _ in scores_of(searched).values())
    rows = list(csv.DictReader((searched / "results.csv").open()))
    assert [float(row["accuracy"]) for row in rows] == sorted((float(row["accuracy"]) for row in rows), reverse=True)
    assert len(rows) == 4
    assert (searched / "tuning.png").read_bytes().startswith(b"\x89PNG")
    history = json.loads((searched / "history.json").read_text())
    assert len(history["epochs"]) == best["epochs"]
    assert history["events"] == 900
    features, labels = hlf.read(data, "test")
    model = keras.models.load_model(searched / "model.keras")
    accuracy = (model.predict(features, verbose=0).argmax(axis=1) == labels).mean()
    assert accuracy == pytest.approx(history["epochs"][-1]["val_accuracy"], abs=1e-6)


def test_what_is_done_is_not_done_again(searched, data, tmp_path, capsys):
    for name in ("points.jsonl", "settings.json"):
        (tmp_path / name).write_bytes((searched / name).read_bytes())
    called(data, tmp_path, "--search", "random", "--points", "5")
    printed = capsys.readouterr().out
    assert printed.count("accuracy after") == 1
    assert "5 points" in printed
    assert scores_of(searched).items() <= scores_of(tmp_path).items()


def test_workers_points_are_merged_to_those_of_one_process(searched, data, tmp_path, capsys, monkeypatch):
    for index in (0, 1):
        cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": index}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
        place = tmp_path / "run/files" / f"worker-{index}"
        called(data, place, "--search", "random", "--points", "4")
        assert 0 < len(scores_of(place)) < 4
        assert not (place / "model.keras").exists()
    monkeypatch.delenv("TF_CONFIG")
    called(data, tmp_path / "merged", "--merge", str(tmp_path / "run"))
    assert "4 points of 2 workers" in capsys.readouterr().out
    assert scores_of(tmp_path / "merged") == scores_of(searched)
    assert (tmp_path / "merged/model.keras").exists()


@pytest.mark.parametrize("arguments", [("--jobs", "2"), ("--jobs", "2", "--engine", "spark")])
def test_two_processes_and_spark_give_the_same_scores(arguments, searched, data, tmp_path):
    root = Path(tune.__file__).parents[2]
    command = [sys.executable, tune.__file__, "--data", data, "--output", str(tmp_path), "--folds", "3"]
    done = subprocess.run(
        [*command, "--search", "random", "--points", "2", *arguments],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root), "TF_USE_LEGACY_KERAS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, alone = scores_of(tmp_path), scores_of(searched)
    assert len(found) == 2
    for point, scores in found.items():
        assert scores == pytest.approx(alone[point], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--folds", "1"], "--folds is 1; it must be 2 to 1000"),
        (["--sample", "0"], "--sample is 0.0; it must be over 0"),
        (["--sample", "0.001"], "leaves 0 of one class; 5 folds take more"),
        (["--points", "244"], "--points is 244; it must be 1 to 243"),
        (["--merge", "."], "--merge .: there is no points.jsonl"),
    ],
)
def test_what_cannot_be_done_is_told_and_leaves_no_points(arguments, told, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        tune.main(["--data", data, "--output", str(tmp_path / "out"), *arguments])
    assert ended.value.code in (2, 4)
    assert told in capsys.readouterr().err
    assert not list(tmp_path.rglob("points.jsonl"))
