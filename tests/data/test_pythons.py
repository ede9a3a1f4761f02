"""A job under each Python that a replica's image may have: all that travels, really run, as far as this machine has it."""

from __future__ import annotations

import json
import sys

import pytest
from pythons import VERSIONS, interpreter

# The launcher needs Python 3.11; it starts agents by sys.executable, and an agent its script by its own.
LAUNCHER = """
import runpy, sys
sys.executable = sys.argv.pop(1)
runpy.run_module("tfspawner", run_name="__main__", alter_sys=True)
"""
# Fails once, and goes on from its checkpoint; waits then until it was measured.
SCRIPT = """
import os, pathlib, signal, sys, time
from tfspawner_s3 import elf, gfile, s3  # as TensorFlow would be given s3://; which none of these Pythons has
print("python", "%d.%d" % sys.version_info[:2], os.environ["KEY"], flush=True)
checkpoint, restart = pathlib.Path(os.environ["TFSPAWNER_CHECKPOINTS"], "step"), int(os.environ["TFSPAWNER_RESTART"])
print("from step", checkpoint.read_text() if checkpoint.exists() else 0, flush=True)
if restart == 0:
    if os.environ["TFSPAWNER_INDEX"] == "0":
        checkpoint.write_text("7")
        time.sleep(600)
    while not (checkpoint.parents[2] / "worker-0/checkpoints/step").exists():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
client = s3.S3(s3.settings_from(os.environ))
bucket, key = s3.split_uri("s3://bucket/pythons/part-0")
(found,) = client.list(bucket, key)
print("read", client.read(bucket, key, 0, found.size), len(elf.native_library(3, "x86_64")), gfile.FileSystem.__name__)
while not os.path.exists(os.environ["GATE"]):
    time.sleep(0.02)
pathlib.Path(os.environ["TFSPAWNER_OUTPUT"], "model").write_text("weights")
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_job_with_all_that_travels_runs_under_each_python(local_place, s3_server, wait_until, version):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"this machine has no Python {version}: neither on the PATH nor pyenv's")
    place, job = local_place, f"python{version.replace('.', '-')}"
    part = s3_server.folder / "bucket/pythons/part-0"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"a record")
    env_file = place.folder / "s3.env"
    variables = {**s3_server.variables, "KEY": "a-secret-value", "GATE": place.gate}
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    place.tf_spawner = (sys.executable, "-c", LAUNCHER, python)
    options = ["-e", env_file, "--restarts", "1", "--artifacts", "s3://bucket/of-pythons"]
    running = place.start_run(place.script(SCRIPT), "-w", "2", "--name", job, *options)

    def measured() -> bool:
        assert running.process.poll() is None, running.done().err
        events = place.runs / job / "events.jsonl"
        lines = events.read_text().splitlines(keepends=True) if events.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("\n")]
        return {event["replica"] for event in told if event["event"] == "usage"} == {"worker-0", "worker-1"}

    running.prints("worker-0 | read b'a record'", "worker-1 | read b'a record'")
    wait_until(measured, "what each replica uses")
    place.open_gate(job)
    done = running.done()
    assert done.code == 0, done.err
    assert "restart 1 of 1: worker-1 was killed by SIGKILL" in done.err
    kept = s3_server.folder / "bucket/of-pythons" / job
    for replica in ("worker-0", "worker-1"):
        log = (place.runs / job / f"logs/{replica}.log").read_text()
        assert log.count(f"python {version} ***\n") == 2
        assert "from step 7\n" in log, "it did not go on from the checkpoint"
        assert (kept / f"logs/{replica}.log").read_text() == log
        assert (kept / f"files/{replica}/model").read_text() == "weights"
    assert place.leftovers() == []
