"""Records decoded by tfrecord-lite and by hand, against TensorFlow's own parser."""

import random
import subprocess
import sys
import tracemalloc
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfspawner.data import decoding
from tfspawner.data.decoding import decode_example
from tfspawner.data.example import read_example, write_example
from tfspawner.data.filesystems import list_files
from tfspawner.data.records import frame
from tfspawner.data.statistics import Summary, summarize

KINDS_OF = {"O": "bytes", "f": "float32", "i": "int64"}


def varint(number: int) -> bytes:
    out = bytearray()
    number &= (1 << 64) - 1
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def single(number: int, wire: int, content: bytes) -> bytes:
    return varint(number << 3 | wire) + content


integers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 300))
floats = st.floats(width=32, allow_nan=False).map(lambda value: np.float32(value).tobytes())
unknown = st.one_of(  # fields that no Example has, and those of an Example with another wire type
    st.builds(field, st.integers(4, 3000), st.binary(max_size=5)),
    st.builds(single, st.integers(4, 3000), st.just(0), integers.map(varint)),
    st.builds(single, st.integers(1, 3000), st.just(1), st.binary(min_size=8, max_size=8)),
)
texts = st.binary(max_size=6).map(lambda text: field(1, text))
reals = st.one_of(
    floats.map(lambda value: single(1, 5, value)),
    st.lists(floats, max_size=5).map(lambda values: field(1, b"".join(values))),
)
wholes = st.one_of(
    integers.map(lambda value: single(1, 0, varint(value))),
    st.lists(integers, max_size=5).map(lambda values: field(1, b"".join(map(varint, values)))),
)


def joined(parts):
    return st.lists(parts, max_size=4).map(b"".join)


one_list = st.one_of(
    *(joined(st.one_of(parts, parts, parts, unknown)).map(lambda data, kind=kind: field(kind, data))
      for kind, parts in ((1, texts), (2, reals), (3, wholes)))
)  # fmt: skip
names = st.sampled_from([b"a", b"b", b"", b"a\0b", "ü".encode(), b"long name" * 20]).map(lambda name: field(1, name))
feature = st.lists(one_list, max_size=3).map(b"".join).map(lambda lists: field(2, lists))
entries = st.one_of(
    st.tuples(names, feature).map(b"".join),
    st.lists(st.one_of(names, feature), max_size=4).map(b"".join),  # protobuf's parsers differ where one has more
).map(lambda entry: field(1, entry))
examples = st.lists(st.lists(st.one_of(entries, entries, entries, unknown), max_size=4).map(b"".join), max_size=2).map(
    lambda all_features: b"".join(field(1, features) for features in all_features)
)


def words(features) -> dict[str, tuple[str, list]]:
    return {name: (KINDS_OF[values.dtype.kind], values.tolist()) for name, values in features.items()}


def by_tensorflow(data: bytes) -> dict[str, tuple[str, list]]:
    tf = pytest.importorskip("tensorflow")
    found = {}
    for name, feature in tf.train.Example.FromString(data).features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        found[name] = (
            {"bytes_list": "bytes", "float_list": "float32", "int64_list": "int64", None: "bytes"}[kind],
            values,
        )
    return found


@given(examples)
def test_any_form_of_an_example_is_read_as_tensorflow_reads_it(data):
    expected = by_tensorflow(data)
    assert words(decode_example(data)) == expected
    assert words(read_example(data)) == expected


arrays = st.one_of(
    st.lists(integers, max_size=30).map(lambda values: np.array(values, np.int64)),
    st.lists(st.floats(width=32, allow_nan=False), max_size=30).map(np.float32),
    st.lists(st.binary(max_size=200), max_size=10).map(lambda values: np.array([*values, None], object)[:-1]),
)


@given(st.dictionaries(st.text(max_size=8), arrays, max_size=5))
def test_what_tensorflow_and_this_package_write_is_read_back(features):
    tf = pytest.importorskip("tensorflow")
    data = write_example(features)
    again = tf.train.Example.FromString(data).SerializeToString()
    for written in (data, again):
        assert (
            words(decode_example(written)) == words(read_example(written)) == words(features) == by_tensorflow(written)
        )


USUAL = {"x": np.float32([1, 2]), "n": np.array([3, -1, 300]), "t": np.array([b"text", None], object)[:1]}


def test_the_usual_form_is_left_to_tfrecord_lite(monkeypatch):
    asked = []
    real = decoding.tfrecord_lite.decode_example
    monkeypatch.setattr(decoding.tfrecord_lite, "decode_example", lambda data: asked.append(data) or real(data))
    assert words(decode_example(write_example(USUAL))) == words(USUAL)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "features",
    [
        {"x": np.zeros(decoding.MOST_BYTES // 4, np.float32)},
        {"t": np.array([b""] * (decoding.MOST_TEXTS + 1), object)},
        {"a\0b": np.float32([1])},
    ],
    ids=["a large record", "many texts", "a zero byte in a name"],
)
def test_what_tfrecord_lite_has_no_bound_for_or_gets_wrong_is_kept_from_it(monkeypatch, features):
    monkeypatch.setattr(decoding.tfrecord_lite, "decode_example", lambda data: pytest.fail("it was asked"))
    assert words(decode_example(write_example(features))) == words(features)


def test_a_list_of_a_million_texts_takes_time_that_grows_with_its_length_alone():
    data = write_example({"t": np.array([b""] * 1_000_000 + [None], object)[:-1]})
    assert len(decode_example(data)["t"]) == 1_000_000


MUTATED = """
import random, sys
from tfspawner.data import decoding
from tfspawner.data.example import read_example
rng = random.Random(int(sys.argv[1]))
good = [bytes.fromhex(line) for line in sys.stdin.read().split()]
asked = 0
real = decoding.tfrecord_lite.decode_example
def counted(data):
    global asked
    asked += 1
    return real(data)
decoding.tfrecord_lite.decode_example = counted
def outcome(read, data):
    try:
        return {name: (str(v.dtype), v.tobytes() if v.dtype != object else v.tolist()) for name, v in read(data).items()}
    except ValueError as error:
        return str(error)
for _ in range(int(sys.argv[2])):
    data = bytearray(rng.choice(good))
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(data))
        how = rng.randrange(5)
        if how == 0: data[at] = rng.randrange(256)
        elif how == 1: data[at] ^= 1 << rng.randrange(8)
        elif how == 2: data[at:at] = bytes([rng.choice((0, 1, 8, 10, 18, 26, 127, 128, 255))])
        elif how == 3: del data[at:at + rng.randint(1, 4)]
        else: data[at:at] = data[at:at + rng.randint(1, 30)]
        if not data: data = bytearray(b"x")
    data = bytes(data)
    one, other = outcome(decoding.decode_example, data), outcome(read_example, data)
    assert one == other, (data, one, other)
print(asked)
"""


def test_mutated_records_end_in_values_or_an_error_and_alike_for_both_decoders(mutations):
    """In a process of its own, where a crash is seen."""
    good = [
        write_example(features) for features in (USUAL, {"only": np.arange(40) * 1000}, {"x": np.zeros(30, np.float32)})
    ]
    done = subprocess.run(
        [sys.executable, "-c", MUTATED, str(random.randrange(1 << 30)), str(mutations)],
        input="\n".join(data.hex() for data in good), capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > mutations // 20  # tfrecord-lite was given some of them


@pytest.fixture
def mutations() -> int:
    return 5000


WITHOUT = "import sys; sys.modules['tfrecord_lite'] = None\n"


def run(code: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code, *words], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )


def test_without_tfrecord_lite_a_command_says_what_is_missing(tmp_path):
    done = run("from tfspawner.__main__ import main; main()", "data", "ls", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: tfrecord_lite is missing here\nhint: pip install 'tf-spawner[data]'")


def test_the_package_its_help_and_its_datasets_need_no_tfrecord_lite():
    code = (
        "import tfspawner, tfspawner.data.dataset, tfspawner.data.columnar; from tfspawner.__main__ import main; main()"
    )
    assert run(code, "data", "--help").returncode == 0


# ---- statistics, which are taken of many records at once


values_of_a_feature = st.one_of(
    st.sampled_from([[1, 0, 0], [0, 1, 0], [0, 0, 2], [1, 1, 0]]).map(lambda row: np.array(row, np.float32)),
    st.lists(st.floats(width=32), max_size=4).map(np.float32),
    st.lists(integers, max_size=3).map(lambda values: np.array(values, np.int64)),
    st.integers(0, 30).map(lambda label: np.array([label])),
    st.just(np.empty(0, object)),
)


@given(st.lists(values_of_a_feature, min_size=1, max_size=30), st.integers(1, 30))
def test_statistics_do_not_depend_on_how_many_records_are_taken_at_once(lists, at_once):
    one_by_one, together = Summary(), Summary()
    for values in lists:
        one_by_one.take(values, np.array([len(values)]))
    for start in range(0, len(lists), at_once):
        for _, group in groupby(lists[start : start + at_once], lambda values: values.dtype):
            some = list(group)
            together.take(np.concatenate(some), np.array([len(values) for values in some]))
    one, other = one_by_one.words(), together.words()
    for name in ("mean", "deviation"):
        few, many = one.pop(name), other.pop(name)
        assert few == many or many == pytest.approx(few, rel=1e-6, abs=1e-6 * abs(one["maximum"]))
    assert one == other


def test_tiny_records_that_become_large_ones_are_not_held_together(tmp_path):
    """Each of these restores to 4 MB, and many fit into the bytes that are read at once."""
    run_of_zeros = {"tf-spawner/1/run/float32/1000000x1/x": np.array([bytes(4), None], object)[:1],
                    "tf-spawner/run/x": np.array([0, 1_000_000])}  # fmt: skip
    (tmp_path / "part").write_bytes(frame(write_example(run_of_zeros)) * 60)
    tracemalloc.start()
    try:
        (summary,) = summarize(list_files(str(tmp_path / "part")), {}, lambda _: None).values()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (summary.records, summary.count) == (60, 60_000_000)
    assert most < 100 << 20
