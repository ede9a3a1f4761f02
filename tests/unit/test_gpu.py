"""Why TensorFlow sees no GPU, told by a program that runs in the replica; TensorFlow, driver and libraries are stand-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfspawner.replica import gpu

BUILD = "build_info = {'is_cuda_build': %s, 'cuda_version': '12.5.1', 'cudnn_version': '9'}\n"
SEES = "from code import InteractiveConsole  # as TensorFlow does in the end\nclass config:\n    def list_physical_devices(kind):\n        assert kind == 'GPU'\n        return %s\n"


def tensorflow(folder: Path, *, cuda: bool = True, gpus: tuple[str, ...] = ()) -> Path:
    """A package that says of itself what TensorFlow does."""
    platform = folder / "tensorflow/python/platform"
    platform.mkdir(parents=True)
    (platform / "build_info.py").write_text(BUILD % cuda)
    (folder / "tensorflow/__init__.py").write_text(SEES % (gpus,))
    return folder


def told(folder: Path, **env: str) -> dict[str, str] | None:
    found = subprocess.run([sys.executable, gpu.__file__], env={**os.environ, "PYTHONPATH": str(folder), **env},
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    return json.loads(found) if found else None


def test_a_build_for_cpus_is_told_with_an_image_for_gpus(tmp_path):
    found = told(tensorflow(tmp_path, cuda=False))
    assert found["message"] == "it is built without CUDA"
    assert "-i tensorflow/tensorflow:2.21.0-gpu" in found["hint"]


def test_what_tensorflow_sees_nevertheless_counts(tmp_path):
    assert told(tensorflow(tmp_path, cuda=False, gpus=("of a plug-in",))) is None


def test_without_tensorflow_or_with_one_that_cannot_be_imported_nothing_is_told(tmp_path):
    folder = tensorflow(tmp_path / "broken", cuda=False)
    (folder / "tensorflow/__init__.py").write_text("raise ImportError('no libstdc++ here')\n")
    done = subprocess.run([sys.executable, gpu.__file__], env={"PYTHONPATH": str(folder)}, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert subprocess.run([sys.executable, "-S", gpu.__file__], capture_output=True, check=True).stdout == b""


class Driver:
    """libcuda.so.1, as its header describes it."""

    def __init__(self, *, error: int = 0, devices: int = 1) -> None:
        self.error, self.devices = error, devices

    def cuInit(self, flags: int) -> int:
        return self.error

    def cuDeviceGetCount(self, count) -> int:
        count._obj.value = self.devices
        return 0

    def cuGetErrorName(self, error: int, name) -> int:
        name._obj.value = {100: b"CUDA_ERROR_NO_DEVICE", 803: b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}[error]
        return 0


@pytest.fixture
def libraries(monkeypatch):
    """What the loader finds from now on: name -> library."""
    found: dict[str, object] = {}

    def load(name: str) -> object:
        if name not in found:
            raise OSError(f"{name}: cannot open shared object file")
        return found[name]

    monkeypatch.setattr(gpu.ctypes, "CDLL", load)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_a_driver_that_is_not_there_is_told(libraries):
    found = gpu.missing_driver()
    assert found["message"] == "there is no NVIDIA driver (libcuda.so.1)"
    assert "device plugin" in found["hint"]


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (Driver(error=100), "the NVIDIA driver finds none (CUDA_ERROR_NO_DEVICE)"),
        (Driver(error=803), "the NVIDIA driver finds none (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)"),
        (Driver(devices=0), "the NVIDIA driver finds none (no device)"),
    ],
)
def test_a_driver_without_a_gpu_is_told_with_its_own_word(libraries, driver, message):
    libraries["libcuda.so.1"] = driver
    assert gpu.missing_driver()["message"] == message


def test_gpus_that_are_hidden_are_told_with_the_variable(libraries, monkeypatch):
    libraries["libcuda.so.1"] = Driver(error=100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpu.missing_driver()["message"] == "CUDA_VISIBLE_DEVICES='-1' leaves it none"


def test_a_driver_with_a_gpu_is_well(libraries):
    libraries["libcuda.so.1"] = Driver()
    assert gpu.missing_driver() is None


def test_cuda_libraries_are_named_that_are_neither_the_loaders_nor_in_nvidias_wheels(libraries, tmp_path, monkeypatch):
    info = {"is_cuda_build": True, "cuda_version": "12.5.1", "cudnn_version": "9"}
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert gpu.missing_libraries(info)["message"] == "CUDA libraries are missing (libcudart.so.12, libcudnn.so.9)"
    libraries["libcudart.so.12"] = object()
    (tmp_path / "nvidia/cudnn/lib").mkdir(parents=True)
    (tmp_path / "nvidia/cudnn/lib/libcudnn.so.9").touch()
    assert gpu.missing_libraries(info) is None


def test_a_wheel_that_tells_nothing_of_its_build_is_no_reason(tmp_path):
    assert gpu.build_info(tmp_path) == {}
    assert gpu.missing_libraries({}) is None
