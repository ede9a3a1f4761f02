"""The training and test sets: the published layout and its invariants, by both engines, however the files are cut."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import ingest
import numpy as np
import prepare
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from physics import CLASSES, HIGH_LEVEL, LOW_LEVEL, ROWS, WIDTH
from scaling import Ranges, below, by_distance, chance, part_of, standardised
from selected import SCHEMA, lists, padded, read_selected
from sklearn.preprocessing import StandardScaler

from tfspawner.data.decoding import read_record
from tfspawner.data.example import schema_of
from tfspawner.data.filesystems import list_files
from tfspawner.data.records import Cutter
from tfspawner.errors import ConfigurationError, DataError

EXAMPLE = Path(prepare.__file__).parent
PARTS = ["--part-events", "100", "--jobs", "1"]
Record = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped sample's selected events, a file of each class; made once."""
    folder = tmp_path_factory.mktemp("events")
    sys.argv = ["ingest.py", str(EXAMPLE / "sample"), "--output", str(folder), "--jobs", "1"]
    ingest.main()
    return folder


@pytest.fixture(scope="module")
def prepared(selection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sets of the selected events, made once, with everything that can be written."""
    folder = tmp_path_factory.mktemp("prepared") / "sets"
    run(selection, folder, "--parquet")
    return folder


def run(source: Path, output: Path, *words: str | Path) -> dict:
    return prepare.run(prepare.parser().parse_args([str(source), "--output", str(output), *PARTS, *map(str, words)]))


def raw_records(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.iterdir()):
        cutter = Cutter(str(path))
        yield from cutter.feed(path.read_bytes())
        cutter.finish()


def records(folder: Path) -> list[Record]:
    return [read_record(data, str(folder)) for data in raw_records(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.tfrecord")}


def labels_in(folder: Path) -> list[int]:
    return [int(record["encoded_label"].argmax()) for record in records(folder)]


def test_records_have_the_published_layout(prepared: Path):
    for split in ("train", "test"):
        for path in (prepared / "hlf" / split).iterdir():
            assert path.stat().st_size % 128 == 0
        for data in raw_records(prepared / "hlf" / split):
            assert len(data) + 16 == 128
            assert schema_of(data) == {"HLF_input": "float32[14]", "encoded_label": "float32[3]"}
        for data in raw_records(prepared / "inclusive" / split):
            assert len(data) + 16 == 61_033
        assert schema_of(data) == {
            "GRU_input": f"float32[{ROWS * WIDTH}]", "HLF_input": "float32[14]", "encoded_label": "float32[3]",
        }  # fmt: skip


def test_tensorflow_reads_them(prepared: Path):
    import tensorflow as tf

    spec = {name: tf.io.FixedLenFeature([size], tf.float32) for name, size in [("HLF_input", 14), ("encoded_label", 3)]}
    files = sorted(map(str, (prepared / "hlf/train").iterdir()))
    batch = next(iter(tf.data.TFRecordDataset(files).batch(1000).map(lambda data: tf.io.parse_example(data, spec))))
    ours = records(prepared / "hlf/train")
    assert batch["HLF_input"].numpy().tolist() == [record["HLF_input"].tolist() for record in ours]


def test_every_form_has_the_same_events_in_the_same_order(prepared: Path):
    for split in ("train", "test"):
        hlf, inclusive, small = (records(prepared / form / split) for form in ("hlf", "inclusive", "small"))
        for one, whole, coded in zip(hlf, inclusive, small, strict=True):
            for name in ("HLF_input", "encoded_label"):
                assert one[name].tobytes() == whole[name].tobytes() == coded[name].tobytes()
            assert (whole["GRU_input"].astype("f2") == coded["GRU_input"].astype("f2")).all()


def test_small_records_are_small(prepared: Path):
    size = {form: sum(map(len, contents(prepared / form).values())) for form in ("inclusive", "small")}
    assert size["small"] < size["inclusive"] / 4


def test_the_lepton_is_last_and_the_columns_of_its_kind_are_as_published(prepared: Path):
    electron, muon = LOW_LEVEL.index("isEle"), LOW_LEVEL.index("isMu")
    for record in records(prepared / "inclusive/train"):
        rows = record["GRU_input"].reshape(ROWS, WIDTH)
        own, other = (electron, muon) if rows[-1, electron] else (muon, electron)
        assert rows[-1, own] == pytest.approx(np.sqrt(800), rel=1e-6)
        assert rows[:-1, own] == pytest.approx(-1 / np.sqrt(800), rel=1e-6)
        assert not rows[:, other].any()
        assert rows.mean(axis=0) == pytest.approx(0, abs=1e-5)


def test_padding_is_one_row_that_is_not_zero_between_the_particles(prepared: Path):
    for record in records(prepared / "small/test"):
        rows = record["GRU_input"].reshape(ROWS, WIDTH)
        values, counts = np.unique(rows, axis=0, return_counts=True)
        padding = np.flatnonzero((rows == values[counts.argmax()]).all(axis=1))
        assert counts.max() > 40
        assert len(padding) == np.ptp(padding) + 1  # together
        assert 0 < padding[0] < padding[-1] < ROWS - 1
        assert rows[padding[0]].any()


def test_features_are_scaled_by_the_ranges_of_all_selected_events(prepared: Path, selection: Path):
    told = json.loads((prepared / "prepared.json").read_text())
    features = np.concatenate([b.features for f in list_files(str(selection)) for b in read_selected(f)])
    low, high = features.min(axis=0), features.max(axis=0)
    assert [told["ranges"][name] for name in HIGH_LEVEL] == np.column_stack([low, high]).tolist()
    scaled = {row.tobytes() for row in ((features - low) / (high - low)).astype(np.float32)}
    for split in ("train", "test"):
        assert all(record["HLF_input"].tobytes() in scaled for record in records(prepared / "hlf" / split))


def test_fit_train_takes_the_ranges_of_what_is_trained_on(selection: Path, tmp_path: Path):
    run(selection, tmp_path / "sets", "--fit", "train", "--forms", "hlf")
    train, test = ([r["HLF_input"] for r in records(tmp_path / "sets/hlf" / split)] for split in ("train", "test"))
    assert np.min(train, axis=0).tolist() == [0] * 14
    assert np.max(train, axis=0).tolist() == [1] * 14
    assert np.max(test) > 1 or np.min(test) < 0


def test_classes_are_as_many_as_the_rarest_and_split_by_four_to_one(prepared: Path, selection: Path):
    told = json.loads((prepared / "prepared.json").read_text())["counts"]
    assert told["read"] == {n: uproot.open(EXAMPLE / f"sample/{n}.root")["Delphes"].num_entries for n in CLASSES}
    assert told["selected"] == {n: pq.read_metadata(selection / f"{n}.parquet").num_rows for n in CLASSES}
    rarest = min(CLASSES, key=told["selected"].get)
    assert told["undersampled"][rarest] == told["selected"][rarest]  # kept whole
    for name in CLASSES:
        assert told["undersampled"][name] == told["train"][name] + told["test"][name]
        assert told["undersampled"][name] == pytest.approx(told["undersampled"][rarest], abs=25)  # chance: 3 sigma
    train, test = (sum(told[split].values()) for split in ("train", "test"))
    assert train / (train + test) == pytest.approx(0.8, abs=0.09)
    for split in ("train", "test"):
        counts = np.bincount(labels_in(prepared / "hlf" / split)).tolist()
        assert counts == list(told[split].values())


def test_train_is_mixed_and_test_is_in_blocks_of_the_classes(prepared: Path):
    train, test = labels_in(prepared / "hlf/train"), labels_in(prepared / "hlf/test")
    assert test == sorted(test)
    assert np.count_nonzero(np.diff(train)) > len(train) / 2


def test_the_sets_are_disjoint(prepared: Path):
    train, test = (list(raw_records(prepared / "hlf" / split)) for split in ("train", "test"))
    assert len({*train, *test}) == len(train) + len(test)


def test_seeds_change_what_is_chosen(selection: Path, prepared: Path, tmp_path: Path):
    run(selection, tmp_path / "same", "--seed", 42)
    run(selection, tmp_path / "other", "--seed", 43)
    assert contents(tmp_path / "same") == contents(prepared)
    assert not set(contents(tmp_path / "other").values()) & set(contents(prepared).values())


def test_spark_writes_the_same_bytes(selection: Path, prepared: Path, tmp_path: Path):
    told = run(selection, tmp_path / "spark", "--engine", "spark", "--master", "local[2]")
    assert contents(tmp_path / "spark") == contents(prepared)
    ours = json.loads((prepared / "prepared.json").read_text())
    assert told["counts"] == ours["counts"]
    assert told["ranges"] == ours["ranges"]


def test_processes_and_the_cut_into_files_change_nothing(selection: Path, prepared: Path, tmp_path: Path):
    for path in selection.iterdir():
        table = pq.read_table(path)
        for number, first in enumerate(range(0, len(table), 25)):
            piece = tmp_path / "pieces" / f"{99 - number}-{path.name}"
            piece.parent.mkdir(exist_ok=True)
            pq.write_table(table.slice(first, 25), piece)
    run(tmp_path / "pieces", tmp_path / "sets", "--jobs", 2)
    assert contents(tmp_path / "sets") == contents(prepared)


def as_published(path: Path, folder: Path, *, sparse: bool) -> None:
    """The same events in CERN's schema: Spark's vectors, 801 rows, and the label as a folder's name."""
    (batch,) = read_selected(list_files(str(path))[0], at_once=1 << 20)
    count = len(batch.labels)
    if sparse:
        where = [np.flatnonzero(row) for row in batch.features]
        vectors = [
            {"type": 0, "size": 14, "indices": at.tolist(), "values": row[at].tolist()}
            for row, at in zip(batch.features, where, strict=True)
        ]
    else:
        vectors = [{"type": 1, "size": None, "indices": None, "values": row.tolist()} for row in batch.features]
    kind = pa.struct([
        ("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64())),
    ])  # fmt: skip
    rows = padded(batch.counts, batch.particles).reshape(-1, WIDTH)
    particles = lists(lists(rows.ravel(), np.full(len(rows), WIDTH)), np.full(count, ROWS))
    target = folder / f"label={batch.labels[0]}"
    target.mkdir(parents=True)
    pq.write_table(pa.table({"hfeatures": pa.array(vectors, kind), "lfeatures": particles}), target / "part-0.parquet")


@pytest.mark.parametrize("sparse", [True, False])
def test_published_selected_events_give_the_same_sets(selection: Path, prepared: Path, tmp_path: Path, sparse: bool):
    for path in selection.iterdir():
        as_published(path, tmp_path / "published", sparse=sparse)
    run(tmp_path / "published", tmp_path / "sets")
    assert contents(tmp_path / "sets") == contents(prepared)


def test_parquet_has_the_published_columns_as_doubles(prepared: Path):
    for form, sizes in [("hlf", {"HLF_input": 14}), ("inclusive", {"HLF_input": 14, "GRU_input": ROWS * WIDTH})]:
        for split in ("train", "test"):
            table = pq.read_table(prepared / form / f"{split}.parquet")
            names = [*sizes, "encoded_label"]
            assert table.column_names == names
            assert {str(kind) for kind in table.schema.types} == {"list<element: double>"}
            ours = records(prepared / form / split)
            for name in names:
                assert np.array(table[name].to_pylist(), "f4").tobytes() == b"".join(r[name].tobytes() for r in ours)


def test_rows_are_sorted_like_pythons_sort_and_scaled_like_scikit_learns_scaler(selection: Path):
    batch = next(read_selected(list_files(str(selection / "qcd.parquet"))[0], at_once=20))
    events = padded(batch.counts, batch.particles)
    ours = by_distance(events)
    for event, sorted_rows, scaled in zip(events, ours, standardised(ours), strict=True):
        expected = sorted(event.tolist(), key=lambda row: distance(row, event[0]), reverse=True)
        assert sorted_rows.tolist() == expected
        assert scaled == pytest.approx(StandardScaler().fit_transform(sorted_rows), rel=1e-9, abs=1e-12)


def distance(row: list[float], lepton: np.ndarray) -> float:
    turn = (row[6] - lepton[6] + np.pi) % (2 * np.pi) - np.pi
    return float(np.sqrt((row[5] - lepton[5]) ** 2 + turn**2))


def test_standardising_does_not_hang_on_the_events_around(selection: Path):
    batch = next(read_selected(list_files(str(selection / "ttbar.parquet"))[0], at_once=9))
    events = padded(batch.counts, batch.particles)
    together = standardised(by_distance(events))
    assert all((standardised(by_distance(events[i : i + 1]))[0] == together[i]).all() for i in range(9))


def test_a_feature_of_one_value_becomes_one_half():
    ranges = Ranges(np.array([1.0, 0.0]), np.array([1.0, 4.0]))
    assert ranges.scaled(np.array([[1.0, 1.0]])).tolist() == [[0.5, 0.25]]


def test_chance_is_even_and_hangs_on_each_event_alone():
    features = np.random.default_rng(1).normal(size=(20_000, 14))
    bits = chance(features, 42, "split")
    assert (bits[::-1][:5] == chance(features[::-1][:5], 42, "split")).all()
    assert below(bits, 0.8).mean() == pytest.approx(0.8, abs=0.01)
    assert np.bincount(part_of(bits, 7)) == pytest.approx(20_000 / 7, rel=0.08)
    assert (np.diff(part_of(np.sort(bits), 7)) >= 0).all()
    both = below(bits, 0.5) & below(chance(features, 42, "undersample"), 0.5)
    assert both.mean() == pytest.approx(0.25, abs=0.01)


def test_nothing_is_there_after_an_error_and_a_folder_is_kept_or_replaced(selection: Path, tmp_path: Path):
    output = tmp_path / "sets"
    run(selection, output, "--forms", "hlf")
    before = contents(output)
    with pytest.raises(ConfigurationError, match="is not empty"):
        run(selection, output)
    with pytest.raises(DataError, match="no events of the class ttbar"):
        run(selection / "qcd.parquet", output, "--overwrite")
    assert contents(output) == before
    run(selection, output, "--seed", 1, "--forms", "hlf", "--overwrite")
    assert contents(output) != before
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


def some(lepton: float = 1.0, width: int = WIDTH, rows: int = 3, label: int = 0, features: int = 14) -> pa.Table:
    values = np.full(rows * width, lepton)
    particles = lists(lists(values, np.full(rows, width)), np.array([rows]))
    high = lists(np.full(features, lepton), np.array([features]))
    return pa.table([high, particles, pa.array([label])], schema=SCHEMA)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (some(width=18), "lfeatures are not 1 to 801 rows of 19 numbers"),
        (some(rows=802), "lfeatures are not 1 to 801 rows of 19 numbers"),
        (some(features=13), "hfeatures are not 14 numbers each"),
        (some(label=3), "other labels than 0, 1 and 2"),
        (some(lepton=np.nan), "hfeatures has values that are not finite"),
        (some().drop_columns("lfeatures"), "has no column lfeatures; it has hfeatures, label"),
        (some().drop_columns("label"), "has no column label"),
    ],
)
def test_bad_files_are_one_line(selection: Path, tmp_path: Path, table: pa.Table, message: str):
    pq.write_table(table, tmp_path / "bad.parquet")
    words = [str(selection), str(tmp_path / "bad.parquet"), "--output", str(tmp_path / "sets"), *PARTS]
    with pytest.raises(DataError, match=message) as caught:
        prepare.run(prepare.parser().parse_args(words))
    assert "bad.parquet" in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["bad.parquet"]


def test_a_bad_file_is_the_same_line_on_spark(selection: Path, tmp_path: Path):
    pq.write_table(some(width=18), tmp_path / "bad.parquet")
    words = [str(selection), str(tmp_path / "bad.parquet"), "--output", str(tmp_path / "sets")]
    with pytest.raises(DataError, match="lfeatures are not 1 to 801 rows of 19 numbers") as caught:
        prepare.run(prepare.parser().parse_args([*words, "--engine", "spark", "--master", "local[2]"]))
    assert "\n" not in caught.value.message


def test_cut_off_and_missing_files_are_told(selection: Path, tmp_path: Path):
    data = (selection / "qcd.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.parquet is damaged or cut off"):
        run(tmp_path / "cut.parquet", tmp_path / "sets")
    with pytest.raises(DataError, match=r"there is no \.parquet file"):
        run(tmp_path / "none", tmp_path / "sets")
    with pytest.raises(ConfigurationError, match="takes at least 1 event"):
        run(selection, tmp_path / "sets", "--part-events", 0)


def test_too_few_events_for_both_sets_are_told(selection: Path, tmp_path: Path):
    for name in CLASSES:
        pq.write_table(pq.read_table(selection / f"{name}.parquet").slice(0, 1), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="set would lack a class: the rarest has 1 events"):
        run(tmp_path, tmp_path / "sets")
