"""Searches the HLF classifier's hyper-parameters by cross-validation, and trains the best one on all events.

    python tune.py --data prepared/hlf --sample 0.02                    all 243 points, on this machine's processors
    python tune.py --data prepared/hlf --search optuna --points 40      where Optuna advises; --search random: by chance
    spark-submit tune.py --data hdfs-mount/hlf --engine spark           a Spark task for each fit
    tf-spawner run tune.py -w 4 --on kubernetes -- --data s3://bucket/hlf          each worker does its share; then
    python tune.py --data s3://bucket/hlf --merge runs/JOB              puts their points together

The space: batch 64, 100 or 200; 10, 30 or 50 epochs; 50, 100 or 150, then 20, 50 or 100, then 10, 20 or 50 units. A
point's score is its mean accuracy on the held-out events of each fold. Finished points stand in --output's points.jsonl
and are not computed again. In the end there are results.json, results.csv, tuning.png, model.keras and history.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import fits
import hlf
import numpy as np
from console import errors_told, write
from fits import Fit, Sample, Score
from points import PARAMETERS, Record, as_csv, line_of, merged, settings_of
from searches import Guided, Listed, Search, all_points, random_points

from tfspawner.errors import ConfigurationError, DataError

Submit = Callable[[Fit], "Future[list[Score]]"]
_sample: list[Sample] = []  # what a process of the pool works on


def sample_of(args: argparse.Namespace, features: hlf.Floats, labels: hlf.Labels) -> Sample:
    """A share of the events, each taken by chance, in folds."""
    chosen = np.random.default_rng(args.seed).random(len(labels)) < args.sample
    smallest = np.bincount(labels[chosen], minlength=3).min()
    if smallest < args.folds:
        raise DataError(
            f"--sample {args.sample} of {len(labels)} events leaves {smallest} of one class; {args.folds} folds take more",
            hint="a larger --sample",
        )
    return fits.folded(features[chosen], labels[chosen], args.folds, args.seed)


def _hold(sample: Sample) -> None:
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # that each fit traces functions of its own is meant
    _sample[:] = [sample]


def _hold_on_one_thread(sample: Sample) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    _hold(sample)


def _scores(fit: Fit) -> list[Score]:
    return fits.scores(fit, _sample[0])


def local(jobs: int, sample: Sample) -> tuple[Executor, Submit]:
    """So many processes of this machine, a thread each; one alone is this process."""
    pool: Executor
    if jobs == 1:
        pool = ThreadPoolExecutor(1, initializer=_hold, initargs=(sample,))
    else:
        pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_hold_on_one_thread, initargs=(sample,))
    return pool, lambda fit: pool.submit(_scores, fit)


def on_spark(jobs: int, sample: Sample) -> tuple[Executor, Submit]:
    """So many Spark tasks at once; each fit is a job of its own, so that it is on record as soon as it has ended."""
    import spark

    context = spark.session(jobs).sparkContext
    shipped = context.broadcast(sample)
    pool = ThreadPoolExecutor(jobs)

    def run(fit: Fit) -> list[Score]:
        return context.parallelize([fit], 1).map(lambda one: fits.scores(one, shipped.value)).collect()[0]

    return pool, lambda fit: pool.submit(run, fit)


def work(
    search: Search, submit: Submit, jobs: int, record: Record, told: Callable[[list[dict[str, Any]]], None]
) -> None:
    """Keeps `jobs` fits under way until the search has no more; what they give is recorded as it comes."""
    under_way: dict[Future[list[Score]], Fit] = {}
    while True:
        while len(under_way) < jobs and (fit := search.next()):
            under_way[submit(fit)] = fit
        if not under_way:
            return
        for ended in wait(under_way, return_when=FIRST_COMPLETED).done:
            fit = under_way.pop(ended)
            lines = [line_of(score) for score in ended.result()]
            for line in lines:
                record.add(line)
            search.tell(fit, lines)
            told(lines)


def searched(args: argparse.Namespace, sample: Sample, record: Record) -> None:
    """Does what of the search is not on record yet; among the workers of TF_CONFIG, this one's share."""
    worker, workers = place()
    if args.search == "optuna":
        share = len(range(worker, args.points, workers))
        search: Search = Guided(share, args.seed + worker, record.done)
    else:
        points = all_points() if args.search == "grid" else random_points(args.points, args.seed)
        search = Listed(points, record.done, worker, workers)
    began, number = time.monotonic(), iter(range(1, sys.maxsize))

    def told(lines: list[dict[str, Any]]) -> None:
        last = lines[-1]
        shape = f"batch {last['batch']:3}, {'-'.join(str(last[name]) for name in PARAMETERS[2:]):10}"
        after = "  ".join(f"{line['epochs']}: {line['accuracy']:.4f}" for line in lines)
        print(
            f"{next(number):3}/{search.total}  {shape}  accuracy after {after}  ({last['seconds']:.1f} s)", flush=True
        )

    pool, submit = on_spark(args.jobs, sample) if args.engine == "spark" else local(args.jobs, sample)
    with pool:
        work(search, submit, args.jobs, record, told)
    print(f"{len(record.lines)} points; this run took {time.monotonic() - began:.0f} s", flush=True)


def place() -> tuple[int, int]:
    """(this worker's number, how many there are), by TF_CONFIG."""
    from tfspawner.data.sharding import worker_from

    return worker_from(os.environ)


def finish(args: argparse.Namespace, record: Record, features: hlf.Floats, labels: hlf.Labels) -> None:
    """The table, the picture and the best model, trained on all events."""
    import pictures

    ranked = record.ranked()
    write(args.output / "results.csv", as_csv(ranked))
    settings = {**record.settings, "sample": args.sample}
    write(
        args.output / "results.json", json.dumps({"settings": settings, "best": ranked[0], "points": ranked}, indent=1)
    )
    pictures.save(pictures.tuning(ranked), args.output, "tuning")
    print(table(ranked[:10]))
    best = ranked[0]
    shape = tuple(best[name] for name in PARAMETERS[2:])
    tested = tested_on(args.data)
    fits.trained(
        Fit(batch=best["batch"], hidden=shape, epochs=(best["epochs"],)),
        features,
        labels,
        tested,
        args.seed,
        args.output,
    )
    print(
        f"the best, trained on all {len(labels):,} events: {args.output / 'model.keras'}; picture: {args.output / 'tuning.png'}"
    )


def tested_on(data: str) -> hlf.Events | None:
    """The test events, where there are any."""
    try:
        return hlf.read(data, "test")
    except DataError:
        return None


def table(lines: list[dict[str, Any]]) -> str:
    rows = [f"{'rank':>4} {'batch':>6} {'epochs':>7} {'units':>11} {'accuracy':>18} {'loss':>8}"]
    for rank, line in enumerate(lines, 1):
        units = "-".join(str(line[name]) for name in PARAMETERS[2:])
        score = f"{line['accuracy']:.4f} ± {line['spread']:.4f}"
        rows.append(f"{rank:4} {line['batch']:6} {line['epochs']:7} {units:>11} {score:>18} {line['loss']:8.4f}")
    return "\n".join(rows)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder of train/ (and test/) with HLF records")
    parser.add_argument("--search", choices=("grid", "random", "optuna"), default="grid")
    parser.add_argument("--points", type=int, default=30, help="how many, of random and optuna")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation")
    parser.add_argument("--sample", type=float, default=1.0, help="the share of the training events to search on")
    parser.add_argument("--engine", choices=("local", "spark"), default="local")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="fits at once: processes, or Spark tasks"
    )
    parser.add_argument("--merge", type=Path, nargs="+", metavar="RUN", help="take the points of these folders instead")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("TFSPAWNER_OUTPUT", "tuning")))
    return parser.parse_args(argv)


def checked(args: argparse.Namespace) -> argparse.Namespace:
    for name, least, most in (("folds", 2, 1000), ("points", 1, len(all_points())), ("jobs", 1, 10_000)):
        if not least <= getattr(args, name) <= most:
            raise ConfigurationError(f"--{name} is {getattr(args, name)}; it must be {least} to {most}")
    if not 0 < args.sample <= 1:
        raise ConfigurationError(f"--sample is {args.sample}; it must be over 0, and at most 1")
    return args


def main(argv: list[str] | None = None) -> None:
    with errors_told():
        args = checked(arguments(argv))
        features, labels = hlf.read(args.data, "train")
        sample = sample_of(args, features, labels)
        record = Record(args.output, settings_of(sample))
        if args.merge:
            files = merged(args.merge, record)
            print(f"{len(record.lines)} points of {files} workers")
        else:
            searched(args, sample, record)
        if args.merge or place()[1] == 1:
            finish(args, record, features, labels)


if __name__ == "__main__":
    main()
