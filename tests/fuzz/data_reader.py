"""A process that reads data files which others damaged, and tells what came of it: so a crash ends this one alone.

A request is a line of JSON, {"path"}; so is the reply: {"records"} as the file's features, or {"error"}; {"bug"} is
a traceback, {"peak_bytes"} what memory the process took at most.
"""

import json
import os
import resource
import sys
import traceback

import numpy as np

from tfspawner.data.checking import check_shard, glance
from tfspawner.data.convert import Options, Shard, _write
from tfspawner.data.filesystems import list_files
from tfspawner.data.reading import is_gzipped
from tfspawner.data.sharding import Part
from tfspawner.data.statistics import Summary, records_of
from tfspawner.data.tables import form_of, rows_of
from tfspawner.errors import DataError

CONVERTED_ONE_IN = 5  # writing takes most of the time
MOST_BYTES = 2 << 30  # of the whole process: where it wants more, that is a MemoryError


def read(path):
    """[the sum of lengths of each record's features], after the file went through all that looks at data."""
    (file,) = list_files(path)
    lengths, summaries = [], {}
    for record in records_of(file):
        lengths.append(sum(map(len, record.values())))
        for name, values in record.items():
            summaries.setdefault(name, Summary()).take(values, np.array([len(values)]))
    json.dumps({name: summary.words() for name, summary in summaries.items()})
    return lengths


def converted(path):
    (file,) = list_files(path)
    if not file.size:
        return 0
    form = form_of(file)
    part = Part(file, 0, file.size if form == "tfrecord" else rows_of(file))
    shard = Shard("out", (part,), form, form == "tfrecord" and is_gzipped(file))
    options = Options(form="parquet" if form == "tfrecord" else "tfrecord", nulls="empty")
    return _write(shard, {file.uri: file.size}, os.path.dirname(path), os.path.dirname(path), options).records


def outcome(work, path):
    try:
        return {"found": work(path)}
    except DataError as error:
        return {"error": error.message}
    except BaseException:
        return {"bug": traceback.format_exc()}


def checked(path):
    (file,) = list_files(path)
    glance(file)
    shard = check_shard(file)
    if shard.error:
        raise DataError(shard.error)
    return shard.records


def peak_bytes():
    """The most memory of this process; getrusage's also counts what the one had that started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def main():
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    for number, line in enumerate(sys.stdin):
        path = json.loads(line)["path"]
        works = (read, checked, converted) if number % CONVERTED_ONE_IN == 0 else (read, checked)
        reply = {work.__name__: outcome(work, path) for work in works}
        reply["peak_bytes"] = peak_bytes()
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
