"""Every event comes once, to one worker, with exactly its particles."""

import gzip
import json

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import batches  # noqa: E402
import synthetic  # noqa: E402

from tfspawner.errors import DataError  # noqa: E402

TRAIN, TEST = 200, 23


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """{kind: folder} of the same events."""
    folder = tmp_path_factory.mktemp("data")
    return {k: synthetic.write(folder / k, train=TRAIN, test=TEST, kind=k) for k in ("hlf", "inclusive", "small")}


NUMBER = {synthetic.event(n)["HLF_input"].tobytes(): n for n in range(TRAIN + TEST)}


def number(features) -> int:
    """Which event has these features."""
    return NUMBER[np.asarray(features).tobytes()]


def one_pass(dataset, batch_size, events=TRAIN):
    """The numbers of a pass's events, batch by batch."""
    return [[number(f) for f in inputs[1].numpy()] for inputs, _ in dataset.take(events // batch_size)]


@pytest.mark.parametrize("kind", ["inclusive", "small"])
def test_a_masked_model_gets_the_particles_in_order_without_padding(data, kind):
    seen = []
    for (particles, features), labels in batches.labelled(str(data[kind]), "inclusive_masked", 10):
        assert particles.shape[1] % batches.LENGTHS == 0
        for rows, feature, label in zip(particles.numpy(), features.numpy(), labels.numpy(), strict=True):
            seen.append(number(feature))
            real = synthetic.particles_of(seen[-1])
            assert np.allclose(rows[: len(real)], real, atol=0 if kind == "inclusive" else 0.01)
            assert not rows[len(real) :].any()
            assert label.argmax() == seen[-1] % 3
    assert sorted(seen) == list(range(TRAIN, TRAIN + TEST))


def test_the_faithful_model_gets_all_801_rows_as_they_are(data):
    for (particles, features), _ in batches.labelled(str(data["inclusive"]), "inclusive", 10):
        for rows, feature in zip(particles.numpy(), features.numpy(), strict=True):
            assert np.array_equal(rows.ravel(), synthetic.event(number(feature))["GRU_input"])


def test_particles_alone_or_features_alone_are_what_some_models_take(data):
    particles, _ = next(iter(batches.labelled(str(data["small"]), "sequence", 4)))
    features, labels = next(iter(batches.labelled(str(data["hlf"]), "hlf", 4)))
    assert (particles.shape, features.shape, labels.shape) == ((4, 801, 19), (4, 14), (4, 3))


def test_each_pass_holds_every_event_once_in_another_order(data):
    dataset = batches.training(str(data["small"]), "inclusive_masked", 10, seed=1).take(2 * TRAIN // 10)
    found = [number(f) for inputs, _ in dataset for f in inputs[1].numpy()]
    first, second = found[:TRAIN], found[TRAIN:]
    assert sorted(first) == sorted(second) == list(range(TRAIN))
    assert first != second


def test_the_order_follows_from_seed_and_pass(data):
    def numbers(**options):
        return one_pass(batches.training(str(data["small"]), "inclusive", 20, **options), 20)

    assert numbers(seed=1) == numbers(seed=1)
    assert numbers(seed=1) != numbers(seed=2)
    assert numbers(seed=1) != numbers(seed=1, first_pass=1)


def test_two_workers_share_the_events(data, monkeypatch):
    seen = []
    for index in (0, 1):
        config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": index}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        share = batches.labelled(str(data["small"]), "inclusive_masked", 7, part="train", share=True)
        seen.append([number(f) for inputs, _ in share for f in inputs[1].numpy()])
        everything = batches.labelled(str(data["hlf"]), "hlf", 7)
        assert sum(len(labels) for _, labels in everything) == TEST, "not all for whom did not ask for a share"
    assert sorted(seen[0] + seen[1]) == list(range(TRAIN))
    assert abs(len(seen[0]) - len(seen[1])) < 20


def test_events_of_like_numbers_of_particles_share_a_batch(data):
    found = one_pass(batches.training(str(data["small"]), "inclusive_masked", 25, seed=1), 25)
    spreads = [np.ptp([len(synthetic.particles_of(n)) for n in batch]) for batch in found]
    assert max(spreads) < 20, "of 20 to 90 particles"


def test_events_without_padding_and_with_nothing_else_keep_what_they_are():
    full = np.random.default_rng(0).normal(size=(801, 19)).astype("float32")
    empty = np.ones((801, 19), "float32")
    rows = batches.real_rows(tf.stack([full, empty]))
    assert rows.row_lengths().numpy().tolist() == [801, 0]
    assert batches.padded(rows).shape == (2, 801, 19)
    assert batches.padded(rows[1:]).shape == (1, 1, 19)


@pytest.mark.parametrize("kind", ["hlf", "inclusive", "small"])
def test_events_are_counted(data, kind):
    assert batches.count(str(data[kind]), "train") == (TRAIN, True)
    assert batches.count(str(data[kind]), "test") == (TEST, True)


def test_packed_events_are_counted_too(data, tmp_path):
    (tmp_path / "train").mkdir()
    for path in (data["hlf"] / "train").iterdir():
        (tmp_path / "train" / path.name).write_bytes(gzip.compress(path.read_bytes()))
    assert batches.count(str(tmp_path), "train") == (TRAIN, True)


def test_where_there_are_no_data_they_are_named(tmp_path):
    with pytest.raises(DataError, match="train"):
        batches.count(str(tmp_path), "train")
