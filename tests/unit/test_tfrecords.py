"""Records cut out of files: every one once, however the bytes come, and every damage found."""

import gzip
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfspawner.data.files import File
from tfspawner.data.reading import is_gzipped, read_records
from tfspawner.data.records import boundaries, frame
from tfspawner.data.sharding import Part, divide
from tfspawner.errors import DataError

RECORDS = st.lists(st.binary(max_size=200) | st.integers(0, 3000).map(bytes), max_size=30)


def write(path, records) -> File:
    data = b"".join(map(frame, records))
    path.write_bytes(data)
    return File(str(path), len(data))


def read(parts, **options) -> list[bytes]:
    return [record for records in read_records(parts, **options) for record in records]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


@given(st.lists(RECORDS, min_size=1, max_size=5), st.integers(1, 7), st.integers(1, 5000))
@settings(max_examples=150)
def test_the_workers_together_read_each_record_once(folder, shards, workers, chunk):
    files = [write(folder / f"part-{number}", records) for number, records in enumerate(shards)]
    files = [file for file in files if file.size]
    shares = divide(files, workers)
    chunk = max(chunk, sum(file.size for file in files) // 150)  # each is read by a thread's turn of its own
    found = [record for share in shares for record in read(share, chunk_bytes=chunk, window_bytes=3 * chunk)]
    assert found == [record for records in shards for record in records]


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("chunk", [1, 7, 100_000])
def test_gzipped_files_are_read_whole(folder, members, chunk):
    records = [b"%d" % number * number for number in range(60)]
    step = len(records) // members
    data = b"".join(gzip.compress(b"".join(map(frame, records[at : at + step]))) for at in range(0, len(records), step))
    (folder / "zipped").write_bytes(data)
    file = File(str(folder / "zipped"), len(data))
    assert is_gzipped(file)
    [share] = divide([file], 1, splittable=False)
    assert read(share, gzipped=True, chunk_bytes=chunk, window_bytes=4 * chunk) == records


def test_a_record_whose_length_looks_like_gzip_is_none(folder):
    assert not is_gzipped(write(folder / "looks-like", [bytes(0x8B1F)]))


TEN = [bytes([number]) * 100 for number in range(10)]
SIZE = 116


@pytest.mark.parametrize(
    ("at", "words"),
    [(3 * SIZE + 50, "record 3 at byte 348: its data does not match"), (5 * SIZE + 2, "record 5 at byte 580: its length does not"),
     (9 * SIZE + 113, "record 9 at byte 1044: its data")],
)  # fmt: skip
def test_a_damaged_record_is_named_with_its_shard(folder, at, words):
    file = write(folder / "damaged", TEN)
    data = bytearray((folder / "damaged").read_bytes())
    data[at] ^= 1
    (folder / "damaged").write_bytes(data)
    with pytest.raises(DataError) as error:
        read([Part(file, 0, file.size)], chunk_bytes=300, window_bytes=900)
    assert words in error.value.message
    assert file.uri in error.value.message


@pytest.mark.parametrize("kept", [7 * SIZE + 5, 7 * SIZE + 12, 7 * SIZE + 60, 8 * SIZE - 1])
def test_a_file_cut_anywhere_is_found(folder, kept):
    file = write(folder / "cut", TEN)
    data = (folder / "cut").read_bytes()[:kept]
    (folder / "cut").write_bytes(data)
    with pytest.raises(DataError, match="is cut off: record 7 at byte 812"):
        read([Part(File(file.uri, kept), 0, kept)])
    with pytest.raises(DataError, match=f"ends at byte {kept}, and was listed with {file.size}"):
        read([Part(file, 0, file.size)])


@given(st.integers(0, 400), st.integers(0, 400))
def test_a_header_is_found_wherever_it_lies(before, after):
    noise = random.Random(before)
    data = noise.randbytes(before) + frame(noise.randbytes(after))
    assert before in boundaries(data)
