"""What a replica's script uses: of real processes, and of GPUs that NVML's headers describe."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pynvml
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "nvml"))

from replay import device, loader, mig

from tfspawner.follow.state import ReplicaState
from tfspawner.replica.packing import packed_nvml
from tfspawner.replica.usage import Gpus, Usage
from tfspawner.views.table import replica_row

BUSY = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "held = b'x' * 60_000_000\\nprint(flush=True)\\nwhile True: pass"], stdout=subprocess.PIPE)
child.stdout.readline()
print(flush=True)
child.wait()
"""


def test_all_processes_of_the_script_count():
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdout.readline()
        usage = Usage(process.pid)
        first = usage.sample()
        while usage.sample()["cpu"] < 0.1:
            pass
        os.killpg(process.pid, signal.SIGKILL)
    assert first["memory"] > 60_000_000


def test_a_script_that_ended_uses_nothing():
    with subprocess.Popen(["true"], start_new_session=True) as process:
        process.wait()
        told = Usage(process.pid).sample()
    assert (told["cpu"], told["memory"]) == (0, 0)


# ---- GPUs: nvidia-ml-py itself, over a library that answers as nvml.h says --------------------------------------------

A100, T4 = device("NVIDIA A100-SXM4-40GB", 1), device("Tesla T4", 2, used=3 << 30, total=16 << 30, use=0)
CUT = device("NVIDIA A100-SXM4-40GB", 3, mig=[mig(1), None, mig(2, used=2 << 30)], nvmlDeviceGetMemoryInfo=4)


@pytest.fixture
def nvml(monkeypatch):
    """A function that makes the machine's NVML answer from a description of it."""

    def answer(**machine) -> dict:
        monkeypatch.setattr(pynvml, "CDLL", loader(lambda: machine))
        monkeypatch.setattr(pynvml, "nvmlLib", None)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return machine

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return answer


def test_each_gpu_tells_its_name_use_and_memory(nvml):
    nvml(devices=[A100, T4])
    assert Gpus().sample() == [
        {"name": "NVIDIA A100-SXM4-40GB", "use": 50, "memory": 10 << 30, "memory_total": 40 << 30},
        {"name": "Tesla T4", "use": 0, "memory": 3 << 30, "memory_total": 16 << 30},
    ]


def test_names_in_bytes_are_those_of_an_older_nvidia_ml_py(nvml, monkeypatch):
    nvml(devices=[A100])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", pynvml.nvmlDeviceGetName.__wrapped__)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", pynvml.nvmlDeviceGetUUID.__wrapped__)
    (gpu,) = Gpus().devices
    assert (gpu.name, gpu.uuid[:12]) == ("NVIDIA A100-SXM4-40GB", "GPU-00000001")


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        ({"load": False}, "NVML Shared Library Not Found"),
        ({"init": 9}, "Driver Not Loaded"),
        ({"init": 4}, "Insufficient Permissions"),
        ({"init": 18}, "RM has detected an NVML/RM version mismatch."),
        ({"init": 4711}, "Unknown Error"),
        ({"devices": []}, "no GPU is there"),
        ({"devices": [dict(A100, nvmlDeviceGetHandleByIndex=4)]}, "Insufficient Permissions"),
        ({"devices": [dict(A100, name="\xff")]}, "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_why_there_is_no_gpu_is_told_where_some_are_wanted(nvml, machine, told):
    nvml(**machine)
    usage = Usage(os.getpid(), wants_gpus=True)
    assert usage.problems[0].startswith(f"no GPU is measured here: {told}")
    sample = usage.sample()
    assert sample["gpus"] == []
    assert sample["gpus_missing"].startswith(told)
    quiet = Usage(os.getpid())
    assert "gpus_missing" not in quiet.sample()
    assert quiet.problems == []


def test_without_nvidia_ml_py_that_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gpus().missing == "nvidia-ml-py is missing"


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        (None, [1, 2, 9]), ("2,0", [9, 1]), ("1", [2]), ("01", [2]), ("7", []), ("", []), ("-1", []), ("0,-1,1", [1]),
        ("GPU-00000002-aaaa-bbbb-cccc-dddddddddddd", [2]), ("GPU-00000009,GPU-00000001", [9, 1]), ("GPU-77", []), ("junk", []),
    ],
)  # fmt: skip
def test_the_gpus_are_those_that_cuda_is_shown(nvml, monkeypatch, chosen, seen):
    nvml(devices=[A100, T4, device("Tesla T4", 9)])
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    gpus = Gpus()
    assert [int(gpu.uuid[4:12], 16) for gpu in gpus.devices] == seen
    assert gpus.missing == ("" if seen else f"CUDA_VISIBLE_DEVICES={chosen!r} leaves none")


def test_gpus_of_others_are_left_out_and_the_numbers_stay(nvml, monkeypatch):
    nvml(devices=[dict(A100, nvmlDeviceGetHandleByIndex=4), T4])
    assert [gpu.word for gpu in Gpus().devices] == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.name for gpu in Gpus().devices] == ["Tesla T4"]


def test_of_a_gpu_that_is_cut_its_mig_devices_tell_their_memory_and_no_use(nvml, monkeypatch):
    nvml(devices=[CUT, T4])
    first, second, whole = Gpus().sample()
    assert first == {
        "name": "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "use": None,
        "memory": 1 << 30,
        "memory_total": 5 << 30,
    }
    assert (second["memory"], whole["name"]) == (2 << 30, "Tesla T4")
    assert [gpu.word[:12] for gpu in Gpus().devices] == ["MIG-00000001", "MIG-00000002", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-00000002-aaaa-bbbb-cccc-dddddddddddd")
    assert [gpu["memory"] for gpu in Gpus().sample()] == [2 << 30]


def test_a_gpu_that_is_lost_is_told_once_and_the_others_go_on(nvml):
    machine = nvml(devices=[dict(A100), T4])
    usage = Usage(os.getpid(), wants_gpus=True)
    assert (usage.sample()["gpus"][0]["use"], usage.problems) == (50, [])
    machine["devices"][0]["error"] = 15
    for _ in range(2):
        lost, whole = usage.sample()["gpus"]
    assert lost == {"name": A100["name"], "use": None, "memory": None, "memory_total": None, "error": "GPU is lost"}
    assert whole["memory"] == 3 << 30
    assert usage.problems == ["GPU 0, NVIDIA A100-SXM4-40GB, is not measured: GPU is lost"]


def test_memory_and_use_are_told_each_without_the_other(nvml):
    nvml(devices=[dict(A100, nvmlDeviceGetMemoryInfo=3), dict(T4, nvmlDeviceGetUtilizationRates=3)])
    first, second = Gpus().sample()
    assert (first["use"], first["memory"]) == (50, None)
    assert (second["use"], second["memory"]) == (None, 3 << 30)


@pytest.mark.parametrize(
    ("machine", "cell"),
    [
        ({"devices": [A100, T4]}, "25% 13.0 GiB"),
        ({"devices": [CUT]}, "3.0 GiB"),
        ({"devices": [dict(A100, nvmlDeviceGetMemoryInfo=3)]}, "50%"),
        ({"devices": [A100, dict(T4, nvmlDeviceGetMemoryInfo=15, nvmlDeviceGetUtilizationRates=15)]}, "50% 10.0 GiB, 1 of 2: GPU is lost"),
        ({"devices": [dict(A100, nvmlDeviceGetMemoryInfo=15, nvmlDeviceGetUtilizationRates=15)]}, "GPU is lost"),
        ({"init": 9}, "not measured"),
    ],
)  # fmt: skip
def test_the_table_shows_what_is_known(nvml, machine, cell):
    nvml(**machine)
    line = ReplicaState(replica="worker-0", state="running", usage=Usage(os.getpid(), wants_gpus=True).sample())
    assert replica_row(line, time.time())["gpu"] == cell


def test_nvidia_ml_py_travels_as_a_file_that_python_imports_from(tmp_path):
    archive = tmp_path / "pynvml.zip"
    archive.write_bytes(packed_nvml())
    assert archive.stat().st_size < 128 * 1024
    source = f"import sys; sys.path.append({str(archive)!r}); import pynvml; print(pynvml.__file__)"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{archive}/pynvml.py"
