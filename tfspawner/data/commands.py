"""`tf-spawner data`: looks at training data where they lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigurationError, DataError

URIS = click.argument("uris", nargs=-1, required=True, metavar="URI...")
OUTPUT = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the result."
)
SHOWN_VALUES = 6


@click.group("data", context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Look at TFRecord files on S3, the web, mounts and disks.

    A URI is a path, s3://BUCKET/KEY or https://…, may hold the patterns * ? [ ], and may name a folder. S3's
    endpoint and keys come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on.
    """
    try:
        import google_crc32c  # noqa: F401
        import numpy  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is missing here", hint="pip install google-crc32c numpy") from None


@data.command("ls")
@URIS
@click.option("-r", "--records", is_flag=True, help="Count records and show the schema, too: reads every file whole.")
@OUTPUT
def ls(uris: tuple[str, ...], records: bool, output: str) -> None:
    """List files and their sizes."""
    from .checking import Shard
    from .filesystems import list_files

    files = list_files(uris)
    shards = _checked(files, None) if records else [Shard(uri=file.uri, size=file.size) for file in files]
    if output == "json":
        keys = ("uri", "size", "records", "schema", "error") if records else ("uri", "size")
        return _print_json([{key: asdict(shard)[key] for key in keys} for shard in shards])
    from ..view import human_bytes

    for shard in shards:
        count = f"  {shard.records:>9,} records" if records else ""
        click.echo(f"{human_bytes(shard.size):>10}{count}  {shard.uri}" + (f"  {shard.error}" if shard.error else ""))
    total = human_bytes(sum(shard.size for shard in shards))
    count = f", {sum(shard.records for shard in shards):,} records" if records else ""
    click.echo(f"{_files(shards)}, {total}{count}")
    if records and shards[0].schema:
        click.echo("each record: " + ", ".join(f"{name} {kind}" for name, kind in shards[0].schema.items()))


@data.command("check")
@URIS
@click.option("-w", "--workers", type=click.IntRange(1), help="Show how evenly so many workers would share the bytes.")
@click.option("--manifest", type=click.Path(path_type=Path), help="JSON file of {file's name: number of records}.")
@click.option(
    "--done", type=click.Path(path_type=Path), help="File that remembers sound files: a second check goes on there."
)
@OUTPUT
def check(uris: tuple[str, ...], workers: int | None, manifest: Path | None, done: Path | None, output: str) -> None:
    """Read every file whole and find what is damaged, cut off or unlike the others.

    Both checksums of each record are looked at. Exit code 4 if anything is wrong.
    """
    from .checking import balance, disagreements, read_manifest
    from .filesystems import list_files

    files = list_files(uris)
    expected = read_manifest(manifest) if manifest else None
    shards = _checked(files, done)
    wrong = [str(shard.error) for shard in shards if shard.error]
    wrong += disagreements([shard for shard in shards if not shard.error], expected)
    shares = balance([file for file in files if file.size], workers) if workers else []
    if output == "json":
        _print_json({"shards": [asdict(shard) for shard in shards], "wrong": wrong, "shares": shares})
    else:
        from ..view import human_bytes

        for words in wrong:
            click.echo(f"wrong: {words}")
        total = human_bytes(sum(shard.size for shard in shards))
        click.echo(f"{_files(shards)}, {total}, {sum(shard.records for shard in shards):,} records")
        if shares:
            click.echo(f"{workers} workers: {human_bytes(min(shares))} to {human_bytes(max(shares))} each")
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(shards)} files are not as they should be" if len(wrong) > 1 else wrong[0]
        )


@data.command("head")
@click.argument("uri")
@click.option("-n", "--count", type=click.IntRange(1), default=1, show_default=True, help="How many records.")
@OUTPUT
def head(uri: str, count: int, output: str) -> None:
    """Show the first records of a file."""
    from .example import parse_example
    from .filesystems import list_files
    from .reading import is_gzipped, read_records
    from .sharding import Part

    found: list[bytes] = []
    for file in list_files(uri):
        reading = read_records(
            [Part(file, 0, file.size)], gzipped=is_gzipped(file), window_bytes=1 << 20, chunk_bytes=1 << 18
        )
        for records in reading:
            found += records[: count - len(found)]
            if len(found) == count:
                break
        reading.close()
        if len(found) == count:
            break
    shown = []
    for record in found:
        try:
            shown.append({name: _values(values) for name, (_, values) in sorted(parse_example(record).items())})
        except ValueError as error:
            raise DataError(f"{uri}: record {len(shown)}: {error}") from None
    if output == "json":
        return _print_json(shown)
    for number, values in enumerate(shown):
        click.echo(f"record {number}")
        for name, items in values.items():
            more = f", … {len(items)} in all" if len(items) > SHOWN_VALUES else ""
            click.echo(f"  {name}: {', '.join(map(_short, items[:SHOWN_VALUES]))}{more}")


def _checked(files: list[Any], done: Path | None) -> list[Any]:
    """The files' shards, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from .checking import check_shards

    console = Console(stderr=True)
    bar = Progress(
        BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=sum(file.size for file in files))
        progress: Callable[[int], None] = lambda size: bar.advance(task, size)  # noqa: E731
        return list(check_shards(files, progress, done))


def _files(shards: list[Any]) -> str:
    return f"{len(shards)} file" + "s" * (len(shards) != 1)


def _values(values: list[Any]) -> list[Any]:
    return [value.decode(errors="backslashreplace") if isinstance(value, bytes) else value for value in values]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value[:60] + "…" if len(value) > 60 else value) if isinstance(value, str) else str(value)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1))
