"""Trains on N TensorFlow workers that are the tasks of one Spark stage: where there is a Spark cluster, that is enough.

    python spark_train.py -w 2 --output runs/spark -- --data prepared/hlf --model hlf               on this machine
    spark-submit --master yarn spark_train.py -w 8 --output runs/spark -- --data s3://bucket/small --model inclusive

What stands behind -- goes to train.py, which runs unchanged, as under tf-spawner. The stage is a barrier stage: Spark
starts all tasks or none, and when one fails it ends them all; the failed one's last lines are shown. The executors
need Python with TensorFlow, tf-keras and tf-spawner's data extra, and have to see the data; the scripts are sent along.
Logs and files come back to --output as from `tf-spawner run`: logs/worker-0.log, files/worker-0/model.keras.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import spark
from console import errors_told

from tfspawner.errors import ConfigurationError, JobFailed
from tfspawner.replica.endings import classify
from tfspawner.replica.gang import ROOT_CAUSE_WAIT_S
from tfspawner.replica.job import tf_config
from tfspawner.replica.protocol import EXIT_PEER_LOST, address

LAST_LINES, SHOWN_LINES = 80, 20
FAILED = re.compile(r"^RuntimeError: <<<worker (\{.*\})>>>$", re.M)
ERROR = re.compile(r"^(?:[A-Z]\w*(?:Error|Exception): .*|Caused by: .*)$", re.M)
PR_SET_PDEATHSIG = 1


def task(packed: bytes, arguments: tuple[str, ...], checkpoints: str | None) -> tuple[int, bytes]:
    """One worker, within its task: trains, and returns (its number, a zip file of its log and files).

    packed: a zip file of train.py, its neighbours and the package tfspawner; checkpoints: a folder that all tasks see.
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    index = context.partitionId()
    folder = Path(tempfile.mkdtemp(prefix="spark-train-"))
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(folder / "code")
        hosts = meet(context)
        environment = environment_of(hosts, index, folder, checkpoints)
        code, lines = run(folder, arguments, environment)
        if code:
            told = {"worker": index, "host": hosts[index].rpartition(":")[0], "exit": code, "lines": lines}
            raise RuntimeError(f"<<<worker {json.dumps(told)}>>>")
        return index, zipped(folder, index)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def meet(context: Any) -> list[str]:
    """All tasks' host:port, in their order: each finds a free port, and tells the others."""
    own = context.getTaskInfos()[context.partitionId()].address.rpartition(":")[0].strip("[]")
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    return [str(host) for host in context.allGather(address(own, port))]


def environment_of(hosts: list[str], index: int, folder: Path, checkpoints: str | None) -> dict[str, str]:
    """What a worker's script finds in its environment, as under tf-spawner."""
    several = {"TF_USE_LEGACY_KERAS": "1"} if len(hosts) > 1 else {}
    return {
        **several, **os.environ,
        "TF_CONFIG": tf_config({"worker": hosts}, "worker", index),
        "TFSPAWNER_ROLE": "worker", "TFSPAWNER_INDEX": str(index),
        "TFSPAWNER_OUTPUT": str(folder / "output"), "TFSPAWNER_CHECKPOINTS": checkpoints or str(folder / "checkpoints"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder / "code"), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def run(folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> tuple[int, list[str]]:
    """Runs train.py to its end; (exit code, last lines). Its lines go to Spark's log of the task, too."""
    index, last = environment["TFSPAWNER_INDEX"], deque[str](maxlen=LAST_LINES)
    (folder / "output").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(folder / "code/train.py"), *arguments], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", preexec_fn=die_with_parent,
    )  # fmt: skip
    assert process.stdout
    with open(folder / "log", "w") as log:
        for line in process.stdout:
            log.write(line)
            last.append(line.rstrip("\n"))
            print(f"worker-{index} | {line}", end="", file=sys.stderr, flush=True)
    code, _ = classify(process.wait(), "\n".join(last).encode())
    if code == EXIT_PEER_LOST:
        time.sleep(ROOT_CAUSE_WAIT_S)  # the lost peer's own task is to be the first that fails
    return code, list(last)[-SHOWN_LINES:]


def die_with_parent() -> None:
    """Linux kills the script when Spark kills its task's Python."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def zipped(folder: Path, index: int) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "log", f"logs/worker-{index}.log")
        for path in sorted((folder / "output").rglob("*")):
            if path.is_file():
                archive.write(path, Path(f"files/worker-{index}") / path.relative_to(folder / "output"))
    return content.getvalue()


def train(session: Any, workers: int, arguments: tuple[str, ...], output: Path, checkpoints: str | None) -> None:
    """Runs the stage, and puts what its tasks return into output, all of it or nothing."""
    context = session.sparkContext
    context.setLogLevel("FATAL")  # what failed is told in the end
    room = context.defaultParallelism
    if room < workers:
        raise ConfigurationError(
            f"{workers} workers take {workers} tasks at once, and Spark has room for {room}",
            hint="more executors or cores for Spark, or a smaller -w",
        )
    packed = context.broadcast(spark.packed(spark.HERE))
    stage = context.parallelize(range(workers), workers).barrier()
    try:
        returned = stage.mapPartitions(lambda _: [task(packed.value, arguments, checkpoints)]).collect()
    except Exception as error:
        raise failure(str(error)) from None
    unfinished = output.with_name(output.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    for _, content in returned:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(unfinished)
    unfinished.rename(output)


def failure(text: str) -> JobFailed:
    """What Spark's error says of the worker that failed, or of what else went wrong."""
    found = FAILED.search(text)
    if not found:
        reasons = ERROR.findall(text) or text.strip().splitlines()
        return JobFailed(f"Spark ended the workers: {reasons[-1]}", hint="the executors' logs tell more")
    told = json.loads(found[1])
    lines = "".join(f"\n  {line}" for line in told["lines"])
    return JobFailed(f"worker-{told['worker']} on {told['host']} ended with exit code {told['exit']}:{lines}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("runs/spark"), help="a folder that is not there yet")
    parser.add_argument(
        "--checkpoints", help="a folder that all executors share; a stage that is tried again goes on from it"
    )
    parser.add_argument("--restarts", type=int, default=0, help="how often the stage may start again")
    parser.add_argument("--master", help="Spark's; else this machine, or spark-submit's")
    parser.add_argument("arguments", nargs="*", metavar="-- ARGUMENTS", help="train.py's")
    args = parser.parse_args(argv)
    with errors_told():
        if args.workers < 1:
            raise ConfigurationError(f"--workers is {args.workers}; it takes 1 or more")
        if args.output.exists():
            raise ConfigurationError(f"--output {args.output} is there already", hint="give a folder that is not")
        args.output.parent.mkdir(parents=True, exist_ok=True)
        session = spark.session(args.workers, args.master, args.restarts + 1)
        train(session, args.workers, tuple(args.arguments), args.output, args.checkpoints)
        print(f"trained by {args.workers} workers: {args.output / 'files/worker-0/model.keras'}")


if __name__ == "__main__":
    main()
