"""What an encoded record holds, value by value, and where its bounds are; without TensorFlow."""

import numpy as np
import pytest

from tfspawner.data.decoding import read_record
from tfspawner.data.encoding import (
    MOST_RESTORED_BYTES,
    Encoder,
    Encoding,
    Loss,
    decode,
    encodings_in,
    encodings_of,
    longest_run,
    narrow,
    runs_in,
    widen,
)
from tfspawner.data.example import write_example
from tfspawner.errors import DataError

MIB = 1 << 20


def floats(*bits: int) -> np.ndarray:
    return np.array(bits, np.uint32).view(np.float32)


def stored_record(rows: int, width: int, content: bytes, run: list[int], stored: str = "float32") -> dict:
    """A record as a file may hold it: what its name says, and what it has."""
    encoding = Encoding(name="x", rows=rows, width=width, stored=stored)
    values = np.empty(1, object)
    values[0] = content
    return {encoding.values_key: values, encoding.run_key: np.array(run, np.int64)}


# The bits of float32 numbers and of what is stored. A tie lies half-way between two stored numbers: the even one is taken.
BFLOAT16 = [
    (0x3F800000, 0x3F80),  # 1.0
    (0x3F807FFF, 0x3F80),  # just below a tie
    (0x3F808000, 0x3F80),  # a tie, down to the even one
    (0x3F808001, 0x3F81),  # just above
    (0x3F818000, 0x3F82),  # a tie, up to the even one
    (0xBF808000, 0xBF80),  # the same below zero
    (0xBF818000, 0xBF82),
    (0x00008000, 0x0000),  # the smallest tie
    (0x00018000, 0x0002),
    (0x7F7F8000, 0x7F80),  # a tie that becomes infinite
    (0x7F7F7FFF, 0x7F7F),
    (0x7F800000, 0x7F80),  # infinite
    (0xFF800000, 0xFF80),
    (0x7F800001, 0x7FC0),  # no number, and it stays none
    (0xFFC12345, 0xFFC1),
    (0x80000000, 0x8000),  # -0.0
]
FLOAT16 = [
    (0x3F800000, 0x3C00),  # 1.0
    (0x3F800FFF, 0x3C00),
    (0x3F801000, 0x3C00),  # a tie, down
    (0x3F801001, 0x3C01),
    (0x3F803000, 0x3C02),  # a tie, up
    (0xBF801000, 0xBC00),
    (0xBF803000, 0xBC02),
    (0x33000000, 0x0000),  # half of the smallest: a tie, down to zero
    (0x33C00000, 0x0002),  # one and a half of it: a tie, up
    (0x477FEFFF, 0x7BFF),  # the largest, from just below the tie
    (0x477FF000, 0x7C00),  # the tie itself becomes infinite
    (0x80000000, 0x8000),
]


@pytest.mark.parametrize(
    ("stored", "number", "expected"),
    [*(("bfloat16", *pair) for pair in BFLOAT16), *(("float16", *pair) for pair in FLOAT16)],
    ids=lambda value: value if isinstance(value, str) else f"{value:x}",
)
def test_a_number_is_rounded_to_the_nearest_and_ties_go_to_the_even_one(stored, number, expected):
    found = narrow(floats(number), stored)
    assert (found.dtype.str, found.view(np.uint16).tolist()) == ("<u2" if stored == "bfloat16" else "<f2", [expected])


def test_every_tie_of_bfloat16_goes_to_the_even_one():
    kept = np.arange(0, 0x7F80, dtype=np.uint32)
    found = narrow(((kept << 16) | 0x8000).view(np.float32), "bfloat16")
    assert (found == kept + kept % 2).all()


def test_every_tie_of_float16_goes_to_the_even_one():
    kept = np.arange(0, 0x7C00, dtype=np.uint16)
    below, above = (bits.view(np.float16).astype(np.float64) for bits in (kept[:-1], kept[1:]))
    found = narrow(((below + above) / 2).astype(np.float32), "float16")
    assert (found.view(np.uint16) == kept[:-1] + kept[:-1] % 2).all()


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32"])
def test_stored_numbers_come_back_as_they_are(stored):
    numbers = np.float32([0, -0.0, 1, -2, 0.5, np.inf, 65504 if stored != "bfloat16" else 65280])
    found = widen(narrow(numbers, stored), stored)
    assert found.dtype == np.float32
    assert found.tobytes() == numbers.tobytes()


A, B, C = [1.0, 2.0], [3.0, 4.0], [1.0, 4.0]


@pytest.mark.parametrize(
    ("rows", "run"),
    [
        ([A], (0, 1)),
        ([A, B, C], (0, 1)),  # each differs from the next in some value
        ([A, A], (0, 2)),
        ([B, A, A], (1, 2)),
        ([A, A, B], (0, 2)),
        ([A, A, B, B, B], (2, 3)),
        ([A, A, A, B, B], (0, 3)),
        ([A, A, B, B], (0, 2)),  # the first of two that are as long
        ([C, A, A, B, C, C, C, C, A], (4, 4)),
        ([A, B, A, B], (0, 1)),
        ([[0.0, 1.0], [-0.0, 1.0]], (0, 1)),  # bit for bit
    ],
)
def test_the_longest_run_is_where_it_is(rows, run):
    values = np.array(rows, np.float32)
    assert longest_run(values) == run
    encoding = Encoding(name="x", rows=len(rows), width=2)
    small = Encoder([encoding]).encode({"x": values.ravel()}, "here")
    assert small[encoding.run_key].tolist() == list(run)
    assert len(small[encoding.values_key][0]) == 8 * (len(rows) - run[1] + 1)
    assert decode(small, "here")["x"].tobytes() == values.tobytes()


def test_the_names_say_all_that_is_needed_to_read_them():
    encoding = Encoding(name="a/b 1x2", rows=801, width=19, stored="float16")
    assert encoding.values_key == "tf-spawner/1/run/float16/801x19/a/b 1x2"
    assert encoding.run_key == "tf-spawner/run/a/b 1x2"
    assert encoding.size_bytes == 4 * 801 * 19
    assert encodings_in([encoding.run_key, "y", encoding.values_key], "here") == {"a/b 1x2": encoding}


@pytest.mark.parametrize(
    "names",
    [
        ["tf-spawner/1/run/float32/2x2/x", "x"],
        ["x", "tf-spawner/1/run/float32/2x2/x"],
        ["tf-spawner/1/run/float32/2x2/x", "tf-spawner/1/run/float16/2x2/x"],
    ],
)
def test_a_feature_that_is_there_twice_is_an_error(names):
    with pytest.raises(DataError, match="here has the feature x twice"):
        encodings_in(names, "here")


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32"])
def test_a_feature_of_any_name_is_restored_from_each_kind_of_number(stored):
    encoding = Encoding(name="a\nb/", rows=4, width=2, stored=stored)
    values = np.float32([1, 2, 3, 4, 3, 4, -0.0, 0.5])
    small = Encoder([encoding]).encode({"a\nb/": values}, "here")
    assert len(small[encoding.values_key][0]) == 3 * 2 * (4 if stored == "float32" else 2)
    assert decode(small, "here")["a\nb/"].tobytes() == values.tobytes()


@pytest.mark.parametrize("stored", ["int3", "float64", "float\u0663\u0662", ""])
def test_a_kind_of_number_that_is_none_is_not_known(stored):
    with pytest.raises(DataError, match="which is not known here"):
        encodings_in([f"tf-spawner/1/run/{stored}/2x2/x"], "here")


@pytest.mark.parametrize("rows", ["0", "01", "-1", "", "12345678901"])
def test_a_number_of_rows_that_is_none_is_not_known(rows):
    with pytest.raises(DataError, match="which is not known here"):
        encodings_in([f"tf-spawner/1/run/float32/{rows}x2/x"], "here")


def test_all_that_is_not_encoded_stays_in_its_place():
    record = {"a": np.arange(2), "x": np.float32([1, 2]), "b": np.float32([3])}
    small = Encoder([Encoding(name="x", rows=2, width=1)]).encode(record, "here")
    assert list(small) == ["a", "tf-spawner/1/run/float32/2x1/x", "tf-spawner/run/x", "b"]
    assert [(name, values.tolist()) for name, values in decode(small, "here").items()] == [
        ("a", [0, 1]),
        ("x", [1, 2]),
        ("b", [3]),
    ]


def test_a_plain_record_is_given_back_as_another_one():
    record = {"a": np.arange(2)}
    found = decode(record, "here")
    assert found == record
    assert found is not record


@pytest.mark.parametrize(
    ("rows", "kept", "run"),
    [
        (3, 4, [0, 0]),  # a run of no rows
        (3, 4, [1, 0]),
        (3, 5, [0, -1]),
        (3, 3, [-1, 1]),
        (3, 3, [3, 1]),  # begins behind the last
        (3, 2, [2, 2]),
        (3, 0, [0, 4]),  # more than there are
        (3, 2, [0, 1]),  # fewer bytes than that
        (3, 2, [0, 3]),  # more bytes
        (3, 3, [0]),
        (3, 3, [0, 1, 1]),
    ],
)
def test_a_run_that_is_none_is_an_error(rows, kept, run):
    with pytest.raises(DataError, match="here: x is not as its encoding says: 3x2 of"):
        decode(stored_record(rows, 2, bytes(8 * kept), run), "here")


@pytest.mark.parametrize(("kept", "run"), [(3, [0, 1]), (3, [2, 1]), (2, [0, 2]), (2, [1, 2]), (1, [0, 3])])
def test_a_run_that_fits_is_none(kept, run):
    record = stored_record(3, 2, np.arange(2 * kept, dtype="<f4").tobytes(), run)
    (found,) = runs_in(record, "here").values()
    assert found == (Encoding(name="x", rows=3, width=2), *run)
    first, count = run
    whole = [*range(first), *[first] * count, *range(first + 1, kept)]
    assert decode(record, "here")["x"].tolist() == [number for row in whole for number in (2 * row, 2 * row + 1)]


def test_a_run_that_is_missing_or_of_another_kind_is_an_error():
    record = stored_record(1, 1, bytes(4), [0, 1])
    for change in ({"tf-spawner/run/x": np.float32([0, 1])}, {"tf-spawner/1/run/float32/1x1/x": np.float32([1])}):
        with pytest.raises(DataError, match="is not as its encoding says"):
            decode({**record, **change}, "here")
    del record["tf-spawner/run/x"]
    with pytest.raises(DataError, match="is not as its encoding says"):
        decode(record, "here")


@pytest.mark.parametrize("more", [0, 1])
def test_a_small_record_may_become_64_mib_and_not_a_byte_more(more):
    rows = MOST_RESTORED_BYTES // 4 + more
    record = stored_record(rows, 1, bytes(4), [0, rows])
    if not more:
        assert len(runs_in(record, "here")) == 1
        return
    with pytest.raises(DataError, match="x is said to be 16777217x1: 20 bytes would become 67,108,868, and may become"):
        runs_in(record, "here")


@pytest.mark.parametrize("more", [0, 1])
def test_a_large_record_may_become_16_times_its_size(more):
    kept = 5 * MIB // 4 - 4  # with the run's own 16 bytes, 5 MiB: 80 MiB may become of it
    rows = 20 * MIB + more
    record = stored_record(rows, 1, bytes(4 * kept), [0, rows - kept + 1])
    if not more:
        assert len(runs_in(record, "here")) == 1
        return
    with pytest.raises(DataError, match="5,242,880 bytes would become 83,886,084, and may become 83,886,080"):
        runs_in(record, "here")


def test_the_largest_of_the_features_that_are_too_much_is_named():
    record = {}
    for name, rows in (("small", 1), ("large", 1 << 25), ("other", 2)):
        record |= {f"tf-spawner/1/run/float32/{rows}x1/{name}": np.array([bytes(4)], object)}
    with pytest.raises(DataError, match="here: large is said to be 33554432x1"):
        runs_in(record, "here")


def test_what_could_not_be_restored_is_not_encoded():
    record = {f"tf-spawner/1/run/float32/{1 << 25}x1/y": np.array([bytes(4)], object), "x": np.float32([1])}
    with pytest.raises(DataError, match="y is said to be"):
        Encoder([Encoding(name="x", rows=1, width=1)]).encode(record, "here")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([1, 1000, np.nan, np.inf, 0], [1.5, 1001, np.nan, np.inf, 0], (1, 0.5, 0)),
        ([-4], [-3], (1, 0.25, 0)),
        ([0], [0.5], (0.5, 0, 0)),  # of nothing there is no part
        ([70000, -80000, 2], [np.inf, -np.inf, 2], (0, 0, 2)),
        ([np.nan, np.inf], [1, 1], (0, 0, 0)),
        ([], [], (0, 0, 0)),
    ],
)
def test_what_is_lost_is_measured(before, after, expected):
    loss = Loss()
    loss.measure(np.float32(before), np.float32(after))
    assert (loss.absolute, loss.relative, loss.infinite) == expected


def test_losses_add_up_to_the_largest_and_to_all_that_became_infinite():
    loss = Loss(absolute=1, relative=0.5, infinite=2)
    loss.add(Loss(absolute=3, relative=0.25, infinite=3))
    assert (loss.absolute, loss.relative, loss.infinite) == (3, 0.5, 5)
    loss.measure(np.float32([4, 70000]), np.float32([5, np.inf]))
    assert (loss.absolute, loss.relative, loss.infinite) == (3, 0.5, 6)
    loss.add(Loss(absolute=1, relative=0.75))
    assert (loss.absolute, loss.relative, loss.infinite) == (3, 0.75, 6)


def test_a_value_that_was_infinite_is_no_loss_and_each_that_becomes_so_is_an_error():
    encoder = Encoder([Encoding(name="x", rows=3, width=1, stored="float16")])
    encoder.encode({"x": np.float32([np.inf, 1.0004, 1])}, "first")
    assert (encoder.loss.infinite, encoder.loss.absolute) == (0, pytest.approx(0.0004, rel=0.01))
    for _ in range(2):
        with pytest.raises(DataError, match="second: x has -70000, which becomes infinite in float16"):
            encoder.encode({"x": np.float32([1, -70000, 80000])}, "second")


def test_values_may_become_infinite_where_that_is_asked_for():
    encoder = Encoder([Encoding(name="x", rows=2, width=1, stored="float16")], overflow=True)
    small = encoder.encode({"x": np.float32([70000, -1])}, "here")
    assert decode(small, "here")["x"].tolist() == [np.inf, -1]
    assert encoder.loss.infinite == 1


def test_the_encodings_of_a_file_are_those_of_its_first_record():
    small = Encoder([Encoding(name="x", rows=2, width=1)]).encode({"x": np.float32([1, 2])}, "here")
    assert encodings_of(write_example(small), "file") == {"x": Encoding(name="x", rows=2, width=1)}
    assert encodings_of(write_example({"x": np.float32([1])}), "file") == {}
    assert encodings_of(b"tf-spawner/ no example", "file") == {}
    assert read_record(write_example(small), "here")["x"].tolist() == [1, 2]
    with pytest.raises(DataError, match="here: "):
        read_record(b"\xff", "here")


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({}, "there is no feature x; there are none"),
        ({"x": np.float32([1, 2, 3])}, r"x is float32\[3\]; to be encoded as 2x2 it must be float32\[4\]"),
        ({"x": np.arange(4)}, r"x is int64\[4\]; to be"),
        ({"x": np.float32([1, 2, 3, 4, 5])}, r"x is float32\[5\]; to be"),
    ],
)
def test_what_does_not_fit_the_encoding_is_told(features, words):
    with pytest.raises(DataError, match=f"record 3: {words}"):
        Encoder([Encoding(name="x", rows=2, width=2)]).encode(features, "record 3")
