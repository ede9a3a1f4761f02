"""Encoded records come back bit for bit, by numpy and by TensorFlow alike, and what is lost is told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import record, write_published

from tfspawner.data.encoding import Encoder, Encoding, Loss, decode, encodings_in, longest_run, narrow, widen
from tfspawner.data.example import read_example, write_example
from tfspawner.data.records import frame
from tfspawner.errors import ConfigurationError, DataError

FLOATS = st.sampled_from([0.0, -0.0, 1.0, float("nan"), float("inf"), float("-inf"), 1e-45]) | st.floats(width=32)
ROW = st.lists(FLOATS, min_size=2, max_size=2)


@st.composite
def rows(draw) -> np.ndarray:
    """Rows with runs at the start, in the middle, at the end, everywhere or nowhere."""
    runs = draw(st.lists(st.tuples(ROW, st.integers(1, 6)), min_size=1, max_size=6))
    return np.array([row for row, count in runs for _ in range(count)], np.float32)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and (one.view(np.uint32) == other.view(np.uint32)).all()


def encoded(values: np.ndarray, stored: str = "float32", **options) -> dict[str, np.ndarray]:
    encoding = Encoding(name="x", rows=len(values), width=values.shape[1], stored=stored)
    return Encoder([encoding], **options).encode({"x": values.ravel(), "y": np.arange(3)}, "here")


@given(rows())
def test_lossless_records_come_back_bit_for_bit(values):
    found = decode(read_example(write_example(encoded(values))), "here")
    assert same(found["x"], values.ravel())
    assert found["y"].tolist() == [0, 1, 2]


@given(rows())
def test_the_longest_run_is_found(values):
    index, count = longest_run(values)
    whole = [row.tobytes() for row in values]
    assert whole[index : index + count] == [whole[index]] * count
    longest = max(
        n for n in range(1, len(whole) + 1) for i in range(len(whole) - n + 1) if len(set(whole[i : i + n])) == 1
    )
    assert count == longest


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@given(values=rows())
def test_tensorflow_restores_what_numpy_restores(stored, values):
    tf = pytest.importorskip("tensorflow")
    from tfspawner.data.encoding import expand, stored_features

    features = {"x": tf.io.FixedLenFeature(list(values.shape), tf.float32), "y": tf.io.FixedLenFeature([3], tf.int64)}
    other = np.roll(values, 1, axis=0)
    records = [encoded(v, stored, overflow=True) for v in (values, other, values)]
    encodings = encodings_in(records[0], "here")
    parsed = tf.io.parse_example([write_example(r) for r in records], stored_features(features, encodings))
    found = expand(parsed, features, encodings)
    for number, one in enumerate(records):
        expected = decode(one, "here")["x"]
        seen = found["x"][number].numpy().ravel()
        if stored == "float32":
            assert same(seen, expected)
        else:  # processors differ in the bits of what is no number
            np.testing.assert_array_equal(seen, expected)
            assert (np.signbit(seen) == np.signbit(expected))[~np.isnan(expected)].all()


@given(st.lists(st.floats(width=32), min_size=1))
def test_bfloat16_is_rounded_as_tensorflow_rounds(values):
    tf = pytest.importorskip("tensorflow")
    exact = np.array(values, np.float32)
    expected = tf.cast(tf.cast(exact, tf.bfloat16), tf.float32).numpy()
    np.testing.assert_array_equal(widen(narrow(exact, "bfloat16"), "bfloat16"), expected)


def test_the_published_padding_is_stored_once():
    event = record(0)
    small = Encoder([Encoding(name="GRU_input", rows=801, width=19, stored="float16")]).encode(event, "here")
    run = small["tf-spawner/run/GRU_input"]
    assert run[1] > 300
    assert len(write_example(small)) == pytest.approx((802 - run[1]) * 38 + 250, abs=60)


def test_the_loss_is_the_largest():
    loss = Loss()
    loss.measure(np.float32([1, 1000, np.nan, np.inf, 0]), np.float32([1.5, 1001, np.nan, np.inf, 0]))
    assert (loss.absolute, loss.relative, loss.infinite) == (1, 0.5, 0)


def test_a_value_that_becomes_infinite_is_an_error_unless_asked_for():
    values = np.float32([[1, 2], [70000, 3]])
    with pytest.raises(DataError, match="here: x has 70000, which becomes infinite in float16"):
        encoded(values, "float16")
    assert decode(encoded(values, "float16", overflow=True), "here")["x"].tolist() == [1, 2, np.inf, 3]
    assert decode(encoded(values, "bfloat16"), "here")["x"].tolist() == [1, 2, 70144, 3]


@pytest.mark.parametrize(
    ("features", "words"),
    [({}, "there is no feature x; there are none"), ({"x": np.float32([1, 2, 3])}, r"x is float32\[3\]; to be encoded as 2x2 it must be"), ({"x": np.arange(4)}, r"x is int64\[4\]; to be")],
)  # fmt: skip
def test_what_does_not_fit_the_encoding_is_told(features, words):
    with pytest.raises(DataError, match=f"record 3: {words}"):
        Encoder([Encoding(name="x", rows=2, width=2)]).encode(features, "record 3")


@pytest.mark.parametrize(
    "name", ["tf-spawner/2/run/float16/2x2/x", "tf-spawner/1/zip/x", "tf-spawner/1/run/int3/2x2/x"]
)
def test_an_encoding_that_is_not_known_is_an_error(name):
    with pytest.raises(DataError, match="which is not known here"):
        encodings_in([name, "y"], "here")


@pytest.mark.parametrize("run", [[0, 5], [-1, 1], [2, 1], [0], [0, 0], [1, 2]])
def test_a_run_that_does_not_fit_is_an_error(run):
    broken = encoded(np.float32([[1, 2], [3, 4]])) | {"tf-spawner/run/x": np.array(run)}
    with pytest.raises(DataError, match="x is not as its encoding says"):
        decode(broken, "here")


# ---- as a dataset ----

tf = pytest.importorskip("tensorflow")
from tfspawner.data import tfrecords  # noqa: E402

FEATURES = {
    "HLF_input": tf.io.FixedLenFeature([14], tf.float32),
    "GRU_input": tf.io.FixedLenFeature([801, 19], tf.float32),
    "encoded_label": tf.io.FixedLenFeature([3], tf.float32),
}


def write_encoded(source, folder, stored: str = "float32") -> None:
    folder.mkdir(parents=True)
    encoder = Encoder([Encoding(name="GRU_input", rows=801, width=19, stored=stored)])
    for path in source.iterdir():
        records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
        small = [frame(write_example(encoder.encode(read_example(r), "here"))) for r in records]
        (folder / path.name).write_bytes(b"".join(small))


@pytest.mark.parametrize("place", ["local", "s3"])
def test_the_same_features_read_the_plain_and_the_encoded_files(place, tmp_path, request):
    plain = write_published(tmp_path / "plain")
    uri = tmp_path / "small"
    if place == "s3":
        uri = request.getfixturevalue("s3").folder / "bucket/encoded"
    write_encoded(plain, uri)
    name = str(uri) if place == "local" else "s3://bucket/encoded"
    one = next(iter(tfrecords(str(plain / "part-r-00002"), FEATURES, 10)))
    other = next(iter(tfrecords(name + "/part-r-00002", FEATURES, 10)))
    for key in FEATURES:
        assert same(one[key].numpy(), other[key].numpy()), key
    assert sum(len(batch["GRU_input"]) for batch in tfrecords(name, FEATURES, 7, seed=1, shuffle_records=9)) == 40


def test_files_of_two_encodings_are_an_error_and_no_garbage(tmp_path):
    plain = write_published(tmp_path / "plain", files=2)
    for stored in ("float16", "bfloat16"):
        write_encoded(plain, tmp_path / stored, stored)
    both = [str(tmp_path / "float16"), str(tmp_path / "bfloat16")]
    with pytest.raises(tf.errors.InvalidArgumentError, match="float16/801x19/GRU_input"):
        list(tfrecords(both, FEATURES, 8))


def test_another_shape_than_the_encoded_is_told(tmp_path):
    write_encoded(write_published(tmp_path / "plain", files=1), tmp_path / "small")
    with pytest.raises(ConfigurationError, match="GRU_input is encoded as 801x19"):
        tfrecords(str(tmp_path / "small"), {"GRU_input": tf.io.FixedLenFeature([800, 19], tf.float32)}, 4)
    flat = next(
        iter(tfrecords(str(tmp_path / "small"), {"GRU_input": tf.io.FixedLenFeature([801 * 19], tf.float32)}, 4))
    )
    assert flat["GRU_input"].shape == (4, 801 * 19)


def test_a_run_that_does_not_fit_stops_tensorflow(tmp_path):
    event = Encoder([Encoding(name="GRU_input", rows=801, width=19)]).encode(record(1), "here")
    event["tf-spawner/run/GRU_input"] = event["tf-spawner/run/GRU_input"] + 1
    (tmp_path / "part").write_bytes(frame(write_example(event)) * 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="GRU_input is not as its encoding says"):
        list(tfrecords(str(tmp_path / "part"), FEATURES, 2))


@pytest.mark.parametrize(
    ("rows", "kept", "run", "fits"),
    [
        (3, 3, [0, 1], True),
        (3, 3, [2, 1], True),
        (3, 1, [0, 3], True),
        (3, 4, [0, 0], False),  # a run of no rows
        (3, 3, [-1, 1], False),
        (3, 3, [3, 1], False),
        (3, 2, [2, 2], False),
        (3, 0, [0, 4], False),
        (3, 2, [0, 1], False),
        (3, 3, [0, 3], False),
    ],
)
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_tensorflow_takes_the_runs_that_numpy_takes(stored, rows, kept, run, fits):
    from tfspawner.data.encoding import expand, stored_features

    encoding = Encoding(name="x", rows=rows, width=2, stored=stored)
    content = np.empty(1, object)
    content[0] = narrow(np.arange(2 * kept, dtype=np.float32), stored).tobytes()
    small = {encoding.values_key: content, encoding.run_key: np.array(run)}
    features = {"x": tf.io.FixedLenFeature([rows, 2], tf.float32)}
    parsed = tf.io.parse_example([write_example(small)], stored_features(features, {"x": encoding}))
    if fits:
        assert expand(parsed, features, {"x": encoding})["x"].numpy().ravel().tolist() == decode(small, "here")["x"].tolist()  # fmt: skip
        return
    with pytest.raises(DataError, match="x is not as its encoding says"):
        decode(small, "here")
    with pytest.raises(tf.errors.InvalidArgumentError, match="x is not as its encoding says"):
        expand(parsed, features, {"x": encoding})
