"""--gpus on this machine, whose NVML is a stand-in: who gets which, what is measured, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TELLS = """
import os, time
print("has", os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"], flush=True)
open(f"{os.environ['TOLD']}/{os.environ['TFSPAWNER_ROLE']}", "w").close()
while len(os.listdir(os.environ["TOLD"])) < int(os.environ["TOT_WORKERS"]): time.sleep(0.02)  # the chief's end ends all
"""
WORKS = "import os, time\nwhile not os.path.exists(os.environ['GATE']):\n    print('works', flush=True)\n    time.sleep(0.2)\n"
A100, T4 = "NVIDIA A100-SXM4-40GB", "Tesla T4"


@pytest.fixture
def nvml(local_place):
    """A function that makes this machine's NVML answer for GPUs of these names, or with other values."""
    path = local_place.folder / "nvml.json"
    local_place.env.update(NVML_REPLAY=str(path), PYTHONPATH=str(Path(__file__).resolve().parent.parent / "nvml"))
    local_place.env.pop("CUDA_VISIBLE_DEVICES", None)

    def answer(*names: str, **values) -> None:
        devices = [{"name": name, "uuid": f"GPU-{n}", "used": 2 << 30, "total": 16 << 30, "use": 75, **values.get(name, {})}
                   for n, name in enumerate(names)]  # fmt: skip
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**values, "devices": devices}))
        part.replace(path)

    return answer


def test_each_replica_but_a_parameter_server_gets_gpus_of_its_own_of_the_type(local_place, nvml):
    place = local_place
    nvml(T4, A100, T4, A100, A100, A100)
    words = ("-w", "1", "--ps", "1", "--gpus", "2", "--gpu-type", "a100", "--name", "shared")
    told = place.folder / "told"
    told.mkdir()
    done = place.run(place.script(TELLS), *words, "--env", f"TOLD={told}")
    assert done.code == 0, done.err
    assert sorted(done.out.splitlines()) == [
        "chief-0 | has 1,3 PCI_BUS_ID",
        "ps-0 | has -1 PCI_BUS_ID",
        "worker-0 | has 4,5 PCI_BUS_ID",
    ]
    assert json.loads((place.runs / "shared/spec.json").read_text())["gpu_type"] == "a100"


def test_points_of_a_sweep_at_once_get_gpus_of_their_own(local_place, nvml):
    place = local_place
    nvml(T4, A100, A100, T4, A100)
    meets = """
    import os, sys, time
    print("has", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    open(f"{os.environ['MET']}/{sys.argv[1]}", "w").close()
    while len(os.listdir(os.environ["MET"])) < 2: time.sleep(0.02)
    """
    met = place.folder / "met"
    met.mkdir()
    words = ("-w", "1", "--gpus", "1", "--gpu-type", "A100", "--name", "s", "--env", f"MET={met}", "--grid")
    done = place.run(place.script(meets), *words, "x=1,2", "--parallel", "2")
    assert done.code == 0, done.err
    logs = {(place.runs / f"s-{number}/logs/worker-0.log").read_text() for number in (1, 2)}
    assert logs == {"has 1\n", "has 2\n"}
    refused = place.run(place.script(meets), *words, "x=1,2,3,4", "--parallel", "4")
    assert refused.code == 2
    assert "ask for 4 GPUs of type A100 in all, and this machine has" in refused.err


def test_more_than_there_are_of_the_type_are_refused_with_what_there_is(local_place, nvml):
    place = local_place
    nvml(T4, A100, T4)
    place.env["CUDA_VISIBLE_DEVICES"] = "1,2"  # as a batch system leaves it
    done = place.run(place.script(TELLS), "-w", "2", "--gpus", "1", "--gpu-type", "T4")
    assert done.code == 2
    assert f"ask for 2 GPUs of type T4 in all, and this machine has 1 {A100}, 1 {T4}" in done.err
    assert place.leftovers() == []
    nvml(init=18)
    done = place.run(place.script(TELLS), "-w", "1", "--gpus", "1")
    assert (done.code, "mismatch" in done.err) == (2, True), done.err


def test_what_is_measured_is_live_and_recorded_and_a_lost_gpu_is_said(local_place, nvml, wait_until):
    place = local_place
    nvml(A100, T4)
    script = place.script(WORKS)
    running = place.start_run(script, "-w", "1", "--gpus", "2", "--name", "watched", "--env", f"GATE={place.gate}")
    running.prints("works")

    def gpus() -> list[dict]:
        return place.of("status", "watched", "-o", "json").json["replicas"][0]["usage"].get("gpus", [])

    wait_until(lambda: [gpu["use"] for gpu in gpus()] == [75, 75], "the GPUs' use")
    assert "75% 4.0 GiB" in place.of("status", "watched").out
    nvml(A100, T4, **{A100: {"error": 15}})
    running.prints("[tf-spawner] GPU 0, NVIDIA A100-SXM4-40GB, is not measured: GPU is lost")
    assert "75% 2.0 GiB, 1 of 2: GPU is lost" in place.of("status", "watched").out
    place.open_gate("watched")
    assert running.done().code == 0
    events = map(json.loads, (place.runs / "watched/events.jsonl").read_text().splitlines())
    used = [(event["gpus"], event["gpu_memory"]) for event in events if event["event"] == "usage"]
    assert ([75, 75], 4 << 30) in used
