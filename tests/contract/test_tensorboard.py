"""`tf-spawner tensorboard`: a real TensorBoard shows what a job writes while it trains, and after. Nothing here imports TensorFlow."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

LAST = -1.0  # the value of the last step
# Event files as TensorFlow writes them: TFRecords of tensorflow.Event, by hand.
WRITER = """
import struct

def crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

def record(data):
    size = struct.pack("<Q", len(data))
    return size + crc(size) + data + crc(data)

def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data

def event(step, body):
    return record(b"\\x09" + struct.pack("<d", time.time()) + b"\\x10" + bytes([step % 128 | 128, step // 128]) + body)

def scalar(step, value):
    return event(step, field(5, field(1, field(1, b"loss") + b"\\x15" + struct.pack("<f", value))))
"""
SCRIPT = (
    WRITER
    + """
if os.environ["TFSPAWNER_INDEX"] == "1":
    folder = os.environ["TFSPAWNER_OUTPUT"] + "/logs/train"
    os.makedirs(folder)
    with open(folder + "/events.out.tfevents.1.host", "wb", buffering=0) as file:
        file.write(event(0, field(3, b"brain.Event:2")))
        step = 0
        while step < 2 or not os.path.exists(os.environ["GATE"] + ".end"):
            step += 1
            data = scalar(step, 1 / step)
            file.write(data[:9])  # a reader may find half a record
            time.sleep(0.05)
            file.write(data[9:])
        file.write(scalar(step + 1, -1))
"""
)


def without_tensorflow(place) -> None:
    """TensorBoard does without TensorFlow, whose import takes seconds, where it finds none."""
    folder = place.folder / "none"
    folder.mkdir()
    (folder / "tensorflow.py").write_text("raise ImportError('not in this test')")
    place.env["PYTHONPATH"] = str(folder)


def url_of(running) -> str:
    running.prints("TensorBoard: http://127.0.0.1:")
    return bytes(running.streams["stdout"]).decode().split("TensorBoard: ")[1].split()[0]


def losses(url: str, run: str) -> dict[int, float]:
    """What TensorBoard shows of a run, by step; nothing where it does not know it yet."""
    try:
        with urllib.request.urlopen(f"{url}data/plugin/scalars/scalars?tag=loss&run={quote(run, safe='')}") as reply:
            return {step: value for _, step, value in json.load(reply)}
    except urllib.error.HTTPError:
        return {}


def is_whole(shown: dict[int, float]) -> bool:
    *steps, last = shown or [0]
    return steps == list(range(1, last)) and shown.get(last) == LAST


def end_training(place) -> None:
    if place.on == "local":
        Path(f"{place.gate}.end").touch()
        return
    pod = next(pod for pod in place.pods("shown") if "worker-1" in pod)
    place.kubectl("-n", place.namespace, "exec", pod, "--", "touch", f"{place.gate}.end")


def test_scalars_grow_while_it_trains_and_stay_after(place, gate_code, wait_until):
    run = "worker-1/logs/train"
    without_tensorflow(place)
    script = place.script(gate_code + SCRIPT)
    place.run(script, "-w", "2", "--name", "shown", "--detach", "--env", f"GATE={place.gate}")
    shown = place.start("tensorboard", *place.target, "shown", "--every", "0.5s", "--out", place.runs)
    shown.prints("shown: no event files yet. Scripts write them below $TFSPAWNER_OUTPUT", stream="stderr")
    url = url_of(shown)
    place.open_gate("shown")
    wait_until(lambda: losses(url, run), "the first scalars")
    first = len(losses(url, run))
    wait_until(lambda: len(losses(url, run)) > first, "more scalars")
    end_training(place)
    shown.prints("shown: worker-1: 1 event file, ", "shown: succeeded; 1 event file, ", stream="stderr")
    wait_until(lambda: is_whole(losses(url, run)), "all scalars")
    shown.send(signal.SIGINT)
    done = shown.done()
    assert (done.code, done.err.splitlines()[-1]) == (0, "TensorBoard has ended"), done.err
    assert done.err.count("worker-1: ") == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(url).port))
    assert place.jobs() == ["shown"]


def test_runs_that_are_gone_are_shown_side_by_side_and_those_without_event_files_are_told(local_place, wait_until):
    place = local_place
    without_tensorflow(place)
    script = place.script("import os, time\n" + SCRIPT.replace('"1"', '"0"'))
    Path(f"{place.gate}.end").touch()
    assert place.run(script, "-w", "1", "--name", "one", "--env", f"GATE={place.gate}").code == 0
    shutil.copytree(place.runs / "one", place.runs / "two")
    shown = place.start("tensorboard", "one", place.runs / "two", "--every", "0.5s", "--out", place.runs)
    url = url_of(shown)
    for name in ("one", "two"):
        wait_until(lambda name=name: is_whole(losses(url, f"{name}/worker-0/logs/train")), f"{name}'s scalars")
    again = place.tf("tensorboard", "one", place.runs / "one", "--out", place.runs)
    assert (again.code, "two of these are called one" in again.err) == (2, True)
    shown.send(signal.SIGTERM)
    assert shown.done().code == 0

    empty = place.script("print()")
    place.run(empty, "-w", "1", "--name", "empty", "--detach")
    done = place.of("tensorboard", "empty", "--every", "0.2s", "--out", place.runs)
    assert (done.code, "there are no event files of empty" in done.err) == (3, True), done.err
    (place.runs / "two/files/worker-0/logs/train/events.out.tfevents.1.host").unlink()
    done = place.tf("tensorboard", place.runs / "two")
    assert (done.code, "has no event files" in done.err) == (3, True), done.err
