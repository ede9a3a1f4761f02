"""Reading takes no more memory than its window and little more, however large the files are."""

import subprocess
import sys

import pytest

from tfspawner.data.records import frame

READ = """
import sys
from tfspawner.data.filesystems import list_files
from tfspawner.data.reading import read_records
from tfspawner.data.sharding import divide
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
files = list_files(sys.argv[1])
parts = divide(files, 1)[0]
sum(len(found) for found in read_records([type(parts[0])(parts[0].file, 0, 2_000_000)], window_bytes=1 << 20))
before = peak()
count = sum(len(found) for found in read_records(parts, window_bytes=int(sys.argv[2])))
print(count, peak() - before)
"""
RECORD = frame(bytes(61_000))


@pytest.fixture(params=[50_000_000, 800_000_000])
def shard(request, s3):
    """One file of that many bytes, in the bucket."""
    path = s3.folder / "bucket/memory"
    count = request.param // len(RECORD)
    with path.open("wb") as file:
        for _ in range(count):
            file.write(RECORD)
    yield count
    path.unlink()


@pytest.mark.parametrize("window", [16 << 20, 64 << 20])
def test_the_window_bounds_the_memory_whatever_a_shards_size(shard, window):
    """The stated bound: malloc keeps back some of the freed chunks for each thread, which makes it twice the window."""
    done = subprocess.run(
        [sys.executable, "-c", READ, "s3://bucket/memory", str(window)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    count, taken = map(int, done.stdout.split())
    assert count == shard
    assert taken < 2 * window + (16 << 20), taken
