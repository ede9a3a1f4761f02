"""A sweep: values for the script's flags, and a job for each point of their grid. Pure."""

from __future__ import annotations

import csv
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal

from tfspawner.base.names import brief
from tfspawner.errors import ConfigurationError

from .options import FIXED, GRID, NUMBER, OFTEN, SWEEPS, described, option, options_of
from .spec import OPTIONS, JobSpec

MAX_POINTS = 1000
MAX_PARALLEL = 100
_FLAG = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")

Values = dict[str, str]  # of one point: flag -> value


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One job for each point of the grid, `parallel` of them at a time. Raises ConfigurationError."""

    spec: JobSpec
    grid: Mapping[str, Sequence[Any]] = field(  # of numbers texts are made
        metadata=described(
            GRID, "--grid", SWEEPS, OFTEN, metavar="NAME=V1,V2", help="A job for each value of --NAME; repeatable."
        )
    )
    parallel: int = option(1, NUMBER, "--parallel", SWEEPS, help="Jobs of --grid at a time.  [default: {default}]")
    file: Path | None = None  # the job.yaml that says so: it may lie beside the script, and is no code

    def __post_init__(self) -> None:
        if not isinstance(self.grid, Mapping):
            raise ConfigurationError(
                f"the grid is {brief(self.grid)}; it must be a mapping", hint='{"lr": [1e-3, 1e-4]}'
            )
        for name in self.grid:
            _check_name(str(name), self.spec.args)
        object.__setattr__(self, "grid", {str(name): _texts(str(name), values) for name, values in self.grid.items()})
        count = math.prod(len(values) for values in self.grid.values())
        if not self.grid:
            raise ConfigurationError("the grid is empty", hint="--grid lr=1e-3,1e-4")
        if count > MAX_POINTS:
            sizes = " x ".join(str(len(values)) for values in self.grid.values())
            raise ConfigurationError(f"the grid has {count:,} points ({sizes}); at most {MAX_POINTS:,} are run")
        if type(self.parallel) is not int or not 1 <= self.parallel <= MAX_PARALLEL:
            raise ConfigurationError(f"parallel is {brief(self.parallel)}; it must be 1 to {MAX_PARALLEL}")
        self._check_spec()

    def _check_spec(self) -> None:
        if self.spec.detach:
            raise ConfigurationError(
                "--detach cannot go with --grid: the launcher starts one point after the other, so it has to stay",
                hint="leave it in tmux or behind nohup; if it is killed, the same command with the same --name goes on",
            )
        if self.spec.port and self.spec.on == "local" and self.parallel > 1:
            raise ConfigurationError(
                f"--port {self.spec.port} with --parallel {self.parallel}: "
                "all would take the same ports on this machine",
                hint="leave --port out, and each gets free ones",
            )
        if "--" in self.spec.args:
            raise ConfigurationError("the script's arguments hold a --, behind which the grid's flags would be none")

    @property
    def points(self) -> list[Values]:
        """All combinations; the last flag's values change first."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    def job(self, sweep: str, name: str, values: Values) -> JobSpec:
        """A point's job: the sweep's, with the point's flags after the script's own arguments."""
        args = (*self.spec.args, *(f"--{flag}={value}" for flag, value in values.items()))
        return replace(self.spec, name=name, tag=self.spec.tag or sweep, args=args)


SWEEP_OPTIONS = options_of(Sweep)


def parse_grid(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The flags and values of words like "lr=1e-3,1e-4"; a value with a comma is in double quotes."""
    grid: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, listed = word.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"--grid {brief(word)} is not NAME=V1,V2,…", hint="--grid lr=1e-3,1e-4")
        if name in grid:
            raise ConfigurationError(
                f"--grid {name} is given twice", hint=f"put all its values into one: --grid {name}=V1,V2"
            )
        try:
            rows = list(csv.reader([listed], skipinitialspace=True, strict=True))
        except csv.Error as error:
            raise ConfigurationError(
                f"--grid {name}: {brief(listed)} cannot be read: {error}", hint="""like 'layers="64,32","128"'"""
            ) from None
        grid[name] = tuple(rows[0]) if rows else ()
    return grid


def grid_word(name: str, values: Sequence[str]) -> str:
    """The word that parse_grid reads as these values."""

    def quoted(value: str) -> str:
        doubled = value.replace('"', '""')
        return f'"{doubled}"' if "," in value or '"' in value or value[0] == " " else value

    return f"{name}={','.join(map(quoted, values))}"


def shown(values: Mapping[str, str]) -> str:
    """A point's values on one line."""
    return " ".join(f"{name}={value}" for name, value in values.items())


def numbers(values: Iterable[str]) -> list[float] | None:
    """The values as numbers, if all of them are."""
    try:
        floats = [float(value) for value in values]
    except ValueError:
        return None
    return floats if all(map(math.isfinite, floats)) else None


def is_better(metric: str) -> Literal["higher", "lower"] | None:
    """Whether higher or lower values of a Keras metric are better, by its name; None if unknown."""
    name = metric.removeprefix("val_").lower()
    if re.search(r"acc|auc|precision|recall|f1|iou|dice|r2|similarity|true_", name):
        return "higher"
    return "lower" if re.search(r"loss|error|mae|mse|mape|msle|entropy|divergence|perplexity|false_", name) else None


def main_metric(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """The metric by which points are ordered: val_loss, else loss, else the first whose better values are known."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    return next((name for name in ("val_loss", "loss", *names) if name in names and is_better(name)), None)


def main_metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One of each pair of metrics, val_ if there is one; the metric that orders the points comes first."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    main = main_metric(rows)
    chosen = [name for name in names if f"val_{name}" not in names]
    return [main, *(name for name in chosen if name != main)] if main and main in chosen else chosen


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points, the best by the main metric first; then those without it, and those that did not succeed."""
    metric = main_metric(rows)

    def key(row: Mapping[str, Any]) -> tuple[bool, bool, float]:
        value = row["metrics"].get(metric, math.nan)
        sign = -1 if metric and is_better(metric) == "higher" else 1
        return row["result"] != "succeeded", not math.isfinite(value), sign * value if math.isfinite(value) else 0.0

    return sorted(rows, key=key)


def best(rows: list[dict[str, Any]]) -> dict[str, str]:
    """For each metric whose better values are known, the job that has the best last value of it."""
    winners = {}
    for metric in dict.fromkeys(name for row in rows for name in row["metrics"]):
        values = {
            row["job"]: row["metrics"][metric]
            for row in rows
            if row["result"] == "succeeded" and math.isfinite(row["metrics"].get(metric, math.nan))
        }
        if values and is_better(metric):
            choose = max if is_better(metric) == "higher" else min
            winners[metric] = choose(values, key=values.__getitem__)
    return winners


def differences(former: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two records of a sweep because of which their results do not belong together."""
    old, new = former.get("spec", {}), now["spec"]
    changes = [
        f"{name.replace('_', '-')} was {_brief(name, old)} and is {_brief(name, new)}"
        for name, one in OPTIONS.items()
        if FIXED in one.traits and _brief(name, old) != _brief(name, new)
    ]
    files = former.get("files", {})
    changed = sorted(name for name, digest in now["files"].items() if files.get(name, digest) != digest)
    return [*changes, *(f"{name} has changed" for name in changed)]


def _brief(name: str, spec: Mapping[str, Any]) -> str:
    value = spec.get(name)
    if name in ("script", "command_file") and value:
        return Path(value).name  # it may be named from another folder; whether it is the same, its SHA-256 says
    if name == "args":
        return shlex.join(value or ()) or "none"
    return "not given" if value is None else str(value)


def _check_name(name: str, args: tuple[str, ...]) -> None:
    if not _FLAG.fullmatch(name) or len(name) > 100:
        raise ConfigurationError(
            f"--grid: {brief(name)} is no name of a flag; it must be letters, digits, '_', '-' and '.', "
            "and begin with a letter",
            hint="lr becomes --lr, and batch-size --batch-size",
        )
    if any(arg == f"--{name}" or arg.startswith(f"--{name}=") for arg in args):
        raise ConfigurationError(
            f"--{name} stands among the script's arguments, and in the grid", hint="leave it out of one of them"
        )


def _listed(name: str, values: Any) -> list[Any]:
    """The values, at most one more than allowed: an iterator may be endless."""
    try:
        return list(islice(values, MAX_POINTS + 1))
    except TypeError:
        raise ConfigurationError(
            f"--grid {name}: {brief(values)} is no list of values", hint='{"lr": [1e-3, 1e-4]}'
        ) from None


def _texts(name: str, values: Any) -> tuple[str, ...]:
    """A flag's values as texts, each once."""
    listed = [values] if isinstance(values, str | int | float) else _listed(name, values)
    if not listed:
        raise ConfigurationError(f"--grid {name} has no values", hint=f"--grid {name}=V1,V2")
    if len(listed) > MAX_POINTS:
        count = f"{len(values):,}" if hasattr(values, "__len__") else f"more than {MAX_POINTS:,}"
        raise ConfigurationError(f"--grid {name} has {count} values; at most {MAX_POINTS:,} are run")
    texts: dict[str, None] = {}
    for value in listed:
        if not isinstance(value, str | int | float) or (isinstance(value, int) and value.bit_length() > 10_000):
            raise ConfigurationError(f"--grid {name}: {brief(value)} is no text or number")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if not text:
            raise ConfigurationError(f"--grid {name}: a value is empty", hint="is there a comma too many?")
        if not text.isprintable():
            raise ConfigurationError(f"--grid {name}: the value {brief(text)} holds what cannot be printed")
        if text in texts:
            raise ConfigurationError(f"--grid {name} has the value {brief(text)} twice")
        texts[text] = None
    return tuple(texts)
