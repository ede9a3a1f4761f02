"""`tf-spawner data`: looks at training data wherever it is stored."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tfspawner.base.terminal import console, echo, print_json, show_table, table
from tfspawner.errors import ConfigurationError, DataError, escaped, without_secrets

URIS = click.argument("uris", nargs=-1, required=True, metavar="URI...")
OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result."
)
SHOWN_VALUES = 6
MOST_WORKERS = 100_000  # each one's share is computed
MOST_PROCESSES = 1024  # they start at once
MOST_RECORDS = 1_000_000_000


@click.group("data", context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Look at training data anywhere, copy and convert them.

    A URI is a path, s3://BUCKET/KEY, root://HOST//PATH or https://…, may hold the patterns * ? [ ], and may name a
    folder. S3's endpoint and keys come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on.

    \b
    tf-spawner data check s3://bucket/train/ -w 4
    """
    try:
        import google_crc32c  # noqa: F401
        import numpy  # noqa: F401
        import tfrecord_lite  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"{error.name} is missing here",
            hint="pip install 'tf-spawner[data]', or google-crc32c, numpy and tfrecord-lite",
        ) from None


@data.command("ls")
@URIS
@click.option(
    "-r",
    "--records",
    is_flag=True,
    help="Count records and show the first one's features, too: reads every file whole.",
)
@OUTPUT
def ls(uris: tuple[str, ...], records: bool, output: str) -> None:
    """List files and their sizes.

    \b
    tf-spawner data ls s3://bucket/train/
    """
    from tfspawner.data.checking import Shard, glance
    from tfspawner.data.filesystems import list_files

    files = list_files(uris, _left_out, strict=False)
    glances: dict[Any, Any] = {}
    if records:
        glances |= {file: glance(file) for file in files}
        read = iter(_checked([file for file in files if not glances[file]], None))
        shards = [glances[file] or next(read) for file in files]
    else:
        shards = [Shard(uri=file.uri, size=file.size) for file in files]
    if output == "json":
        keys = ("uri", "size", "records", "schema", "error") if records else ("uri", "size")
        return print_json([{key: asdict(shard)[key] for key in keys} for shard in shards])
    from tfspawner.base.words import human_bytes

    for shard in shards:
        count = f"  {shard.records:>9,} record{'s' * (shard.records != 1)}" if records else ""
        wrong = (
            "  " + shard.error.removeprefix(escaped(without_secrets(shard.uri))).lstrip(": ") if shard.error else ""
        )  # which names it, too
        echo(f"{human_bytes(shard.size):>10}{count}  {_shown(shard.uri)}{wrong}")
    total = human_bytes(sum(shard.size for shard in shards))
    count = f", {_counted(sum(shard.records for shard in shards))}" if records else ""
    echo(f"{_files(shards)}, {total}{count}")
    if records:
        for line in _schemas(shards, {shard.uri for shard in glances.values() if shard}):
            echo(line)


def _schemas(shards: list[Any], tables: set[str]) -> list[str]:
    """What the files hold: the columns of a table, or the features of another file's first record."""
    from tfspawner.data.example import named

    seen = Counter(
        (
            "each" if shard.uri in tables else "first",
            ", ".join(f"{named(n)} {kind}" for n, kind in shard.schema.items()),
        )
        for shard in shards
        if shard.records
    )
    lines = []
    for (which, words), count in seen.items():
        files = f" of {count:,} file{'s' * (count != 1)}" if len(seen) > 1 else " of each file" if count > 1 else ""
        lines.append(f"{which} record{'' if which == 'each' and len(seen) == 1 else files}: {words or 'no features'}")
    return lines


@data.command("check")
@URIS
@click.option(
    "-w",
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    help="Show how evenly so many workers would share the bytes.",
)
@click.option("--manifest", type=click.Path(path_type=Path), help="JSON file of {file's name: number of records}.")
@click.option("--done", type=click.Path(path_type=Path), help="File that remembers sound files, until they change.")
@OUTPUT
def check(uris: tuple[str, ...], workers: int | None, manifest: Path | None, done: Path | None, output: str) -> None:
    """Read every file and find what is damaged or unlike others.

    Both checksums of each record are looked at, and the features of the first one of each 4 MiB. Exit code 4 if
    anything is wrong.

    \b
    tf-spawner data check s3://bucket/train/ --workers 4
    """
    from tfspawner.data.checking import balance, disagreements, read_manifest, without
    from tfspawner.data.filesystems import incomplete, list_files

    files = without(list_files(uris), done) if done else list_files(uris)
    expected = read_manifest(manifest) if manifest else None
    shards = _checked(files, done)
    wrong = [str(shard.error) for shard in shards if shard.error]
    wrong += incomplete(files, uris)
    wrong += disagreements([shard for shard in shards if not shard.error], expected)
    shares = balance([file for file in files if file.size], workers) if workers else []
    if output == "json":
        print_json({"shards": [asdict(shard) for shard in shards], "wrong": wrong, "shares": shares})
    else:
        from tfspawner.base.words import human_bytes

        for words in wrong:
            echo(f"wrong: {_shown(words)}")
        total = human_bytes(sum(shard.size for shard in shards))
        echo(f"{_files(shards)}, {total}, {_counted(sum(shard.records for shard in shards))}")
        if shares:
            echo(f"{workers} workers: {human_bytes(min(shares))} to {human_bytes(max(shares))} each")
    if wrong:
        raise DataError(f"{len(wrong)} things are wrong, listed above" if len(wrong) > 1 else wrong[0])


@data.command("head")
@click.argument("uri")
@click.option(
    "-n", "--count", type=click.IntRange(1, MOST_RECORDS), default=1, show_default=True, help="How many records."
)
@OUTPUT
def head(uri: str, count: int, output: str) -> None:
    """Show the first records of a file.

    \b
    tf-spawner data head s3://bucket/train/part-00000.tfrecord
    """
    from itertools import chain, islice

    from tfspawner.data.example import named
    from tfspawner.data.filesystems import list_files
    from tfspawner.data.statistics import records_of

    records = chain.from_iterable(records_of(file, 1 << 18) for file in list_files(uri))
    if output == "json":
        return print_json(
            [{name: _values(values.tolist()) for name, values in sorted(r.items())} for r in islice(records, count)]
        )
    number = -1
    for number, record in enumerate(islice(records, count)):
        echo(f"record {number}")
        if not record:
            echo("  no features")
        for name, values in sorted(record.items()):
            if not len(values):
                echo(f"  {named(name)}: no values")
                continue
            rest = f", … {len(values)} in all" if len(values) > SHOWN_VALUES else ""
            echo(f"  {named(name)}: {', '.join(map(_short, _values(values[:SHOWN_VALUES].tolist())))}{rest}")
    if number < 0:
        echo("no records", err=True)


@data.command("convert")
@click.argument("uris", nargs=-1, required=True, metavar="SOURCE... DESTINATION")
@click.option("--to", type=click.Choice(["tfrecord", "parquet", "arrow"]), help="Format.  [default: by DESTINATION]")
@click.option(
    "-e",
    "--encode",
    multiple=True,
    metavar="NAME=ROWSxWIDTH|none",
    help="Store the longest run of a repeated row once; none: all of them.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of encoded features; the loss is told.",
)
@click.option("--overflow", is_flag=True, help="Let too large numbers be infinite.")
@click.option("--shards", type=click.IntRange(1), metavar="N", help="Files to write.  [default: as are read]")
@click.option("--gzip", is_flag=True, help="Compress TFRecord files.")
@click.option(
    "--nulls",
    type=click.Choice(["error", "empty"]),
    default="error",
    show_default=True,
    help="What nulls become.",
)
@click.option("-j", "--jobs", type=click.IntRange(1, MOST_PROCESSES), metavar="N", help="Processes.  [default: cores]")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def convert_(
    uris: tuple[str, ...],
    to: str | None,
    encode: tuple[str, ...],
    dtype: str,
    overflow: bool,
    shards: int | None,
    gzip: bool,
    nulls: str,
    jobs: int | None,
    overwrite: bool,
) -> None:
    """Write data in another format, size or number of files.

    DESTINATION is a folder, or a .tfrecord, .parquet or .arrow file.

    \b
    tf-spawner data convert s3://bucket/parquet/ train/ --shards 16
    """
    from tfspawner.base.words import human_bytes
    from tfspawner.data.convert import Options, convert, destination_of, parse_shapes
    from tfspawner.data.dataset import filled
    from tfspawner.data.encoding import Encoding

    *sources, destination = uris
    if not sources:
        raise click.UsageError("give one or more sources and, last, a destination")
    folder, name, form = destination_of(destination, to)
    shapes = parse_shapes([word for word in encode if word != "none"], "--encode")
    encodings = tuple(
        Encoding(name=feature, rows=rows, width=width, stored=dtype) for feature, (rows, width) in shapes.items()
    )
    if "none" in encode and shapes:
        raise ConfigurationError("--encode none goes with no other --encode")
    if dtype != "float32" and not shapes:
        raise ConfigurationError(f"--dtype {dtype} is for encoded features", hint="--encode NAME=ROWSxWIDTH")
    gzip = gzip or destination.endswith(".gz")
    if form != "tfrecord" and (shapes or gzip):
        raise ConfigurationError(f"--encode and --gzip are for TFRecord files, and these become {form}")
    files = filled(sources)
    before = sum(file.size for file in files)
    with _bar(before) as progress:
        done = convert(
            files,
            folder,
            name=name,
            shards=shards,
            jobs=jobs or os.cpu_count() or 1,
            overwrite=overwrite,
            options=Options(
                form=form, encodings=encodings, plain="none" in encode, gzip=gzip, overflow=overflow, nulls=nulls
            ),
            progress=progress,
        )
    echo(
        f"{_files(files)}, {_counted(done.records)}, {human_bytes(before)} became {done.files} file"
        f"{'s' * (done.files != 1)}, {human_bytes(done.size)}: {done.size / before:.3g} of the size"
        + _lost(done.loss, dtype)
        + _lost(done.doubles, "float32")
    )


def _lost(loss: Any, dtype: str) -> str:
    if not (loss.absolute or loss.infinite):
        return ""
    infinite = f", {loss.infinite} values became infinite" if loss.infinite else ""
    return f"; {dtype} changed values by {loss.absolute:.3g} or {loss.relative:.3g} of the value at most{infinite}"


@data.command("stats")
@URIS
@click.option(
    "--shape", multiple=True, metavar="NAME=ROWSxWIDTH", help="A feature's shape, to count its padding; repeatable."
)
@OUTPUT
def stats(uris: tuple[str, ...], shape: tuple[str, ...], output: str) -> None:
    """Show each feature's range, mean, padding and classes.

    Every file is read whole. Padding is the part of the rows that lies in a record's longest run of one repeated row.

    \b
    tf-spawner data stats s3://bucket/train/ -o json
    """
    from tfspawner.data.convert import parse_shapes
    from tfspawner.data.example import named, names_of
    from tfspawner.data.filesystems import list_files
    from tfspawner.data.statistics import summarize

    shapes = parse_shapes(shape, "--shape")
    files = list_files(uris)
    with _bar(sum(file.size for file in files)) as progress:
        summaries = {name: summary.words() for name, summary in sorted(summarize(files, shapes, progress).items())}
    unknown = sorted(shapes.keys() - summaries.keys())
    if unknown:
        raise DataError(f"there is no feature {unknown[0]}; there are {names_of(summaries)}")
    if output == "json":
        return print_json(summaries)
    if not summaries:
        return echo("no records with features", err=True)
    from rich import box

    titles = ("feature", "records", "values each", "min", "max", "mean", "deviation", "nan", "inf", "padding")
    rows = [_stats_row(named(name), words) for name, words in summaries.items()]
    stats_table = table(titles, rows, box=box.SIMPLE_HEAD)
    for column in stats_table.columns:
        column.justify = "left" if column is stats_table.columns[0] else "right"
        column.no_wrap, column.overflow = True, "ellipsis"
    show_table(stats_table)  # nothing is left out where there is no terminal
    for name, words in summaries.items():
        if words["classes"]:
            without = words["records"] - sum(words["classes"].values())
            counts = [f"{label}: {count:,}" for label, count in words["classes"].items()]
            echo(f"{named(name)}: " + ", ".join(counts + [f"no value: {without:,}"] * bool(without)))


def _stats_row(name: str, words: dict[str, Any]) -> list[str]:
    low, high = words["shape"]
    is_number = words["minimum"] is not None or words["nan"] or words["infinite"]
    return [
        f"{name} {words['kind']}",
        f"{words['records']:,}",
        f"{low}" if low == high else f"{low} to {high}",
        *(_number(words[key]) for key in ("minimum", "maximum", "mean", "deviation")),
        *([str(words["nan"]), str(words["infinite"])] if is_number else ["", ""]),
        "" if words["padding"] is None else f"{100 * words['padding']:.1f} %",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


@data.command("cp")
@click.argument("uris", nargs=-1, required=True, metavar="SOURCE... DESTINATION")
@click.option("--overwrite", is_flag=True, help="Replace files that are there already and are others.")
@OUTPUT
def cp(uris: tuple[str, ...], overwrite: bool, output: str) -> None:
    """Copy files from anywhere to anywhere, and compare them.

    A folder stands for the files that data ls shows; what else it holds is said. Four at once. DESTINATION is a folder
    if it ends with a slash, is one of this machine, or takes several files. Each file has its name only when it is
    whole. Files that are there already and are equal are not sent again: broken off, it goes on.

    \b
    tf-spawner data cp root://eospublic.cern.ch//eos/opendata/x.root data/
    """
    from tfspawner.base.words import human_bytes
    from tfspawner.data.copying import copy_all, is_folder, plan
    from tfspawner.data.filesystems import list_files

    *sources, destination = uris
    if not sources:
        raise click.UsageError("give one or more sources and, last, a destination")
    files = list_files(sources, _left_out)
    copies = plan(files, destination, into=len(files) > 1 or is_folder(destination))
    with _bar(sum(file.size for file in files)) as progress:
        before = [was_there for _, was_there in copy_all(copies, progress, overwrite=overwrite)]
    if output == "json":
        return print_json(
            [
                {"source": copy.source.uri, "target": copy.target, "size": copy.source.size, "sent": not was_there}
                for copy, was_there in zip(copies, before, strict=True)
            ]
        )
    there = f", {sum(before)} of them there already" if any(before) else ""
    echo(f"{_files(files)}, {human_bytes(sum(file.size for file in files))}, copied and compared{there}")


def _left_out(words: str) -> None:
    echo(f"warning: {_shown(words)}: left out", err=True)


def _shown(text: str) -> str:
    """A URI, or text with one, on one line; unchanged in a pipe, unless it contains a line break."""
    text = without_secrets(text)
    return escaped(text) if sys.stdout.isatty() or len(text.splitlines()) > 1 else text


def _checked(files: list[Any], done: Path | None) -> list[Any]:
    """The files' shards, with a progress bar on a terminal."""
    from tfspawner.data.checking import check_shards

    with _bar(sum(file.size for file in files)) as progress:
        return list(check_shards(files, progress, done))


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal; called with each number of bytes done."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    bar_console = console(err=True)
    bar = Progress(
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=bar_console,
        transient=True,
        disable=not bar_console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda size: bar.advance(task, size)


def _files(shards: list[Any]) -> str:
    return f"{len(shards)} file" + "s" * (len(shards) != 1)


def _counted(records: int) -> str:
    return f"{records:,} record" + "s" * (records != 1)


def _values(values: list[Any]) -> list[Any]:
    return [value.decode(errors="backslashreplace") if isinstance(value, bytes) else value for value in values]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value[:60] + "…" if len(value) > 60 else value) if isinstance(value, str) else str(value)
