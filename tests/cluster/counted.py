"""Jobs whose lines and files are known, so that it is seen whether all have come."""

from __future__ import annotations

import json

LINES = """
import os, time
for number in range(4000):
    print("line", number, "of", os.environ["TFSPAWNER_INDEX"], "x" * 50, flush=number % 100 == 0)
    if number % 100 == 0:
        time.sleep(0.05)
open(os.environ["TFSPAWNER_OUTPUT"] + "/model", "wb").write(bytes(300_000))
"""
HELD = """
import os, time
print("ready", flush=True)
while not os.path.exists("/tmp/gate"):
    time.sleep(0.05)
for number in range(4000):
    print("line", number, "of", os.environ["TFSPAWNER_INDEX"], "x" * 50)
open(os.environ["TFSPAWNER_OUTPUT"] + "/model", "wb").write(bytes(300_000))
"""


def assert_complete(place, job: str, replicas: int, first: str = "") -> None:
    for index in range(replicas):
        log = (place.runs / f"{job}/logs/worker-{index}.log").read_text()
        assert log == first + "".join(f"line {number} of {index} {'x' * 50}\n" for number in range(4000))
        assert (place.runs / f"{job}/files/worker-{index}/model").read_bytes() == bytes(300_000)
    assert json.loads((place.runs / f"{job}/report.json").read_text())["result"] == "succeeded"
    assert place.leftovers() == []
