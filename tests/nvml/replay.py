"""A stand-in for libnvidia-ml.so.1 that answers as nvml.h describes it, called by the real nvidia-ml-py through its own ctypes.

The machine is JSON: {"load": false where there is no such library, "init": nvmlInit's error, "devices": [{name, uuid,
used, total (bytes), use (per cent), and errors by function name; "mig": [devices like these, or null for a free place]}]}.
A file of it is read anew at each call, so that a GPU may be lost while a job runs.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOT_FOUND, NOT_SUPPORTED = 6, 3  # NVML_ERROR_…
MIG_PLACES = 7  # nvmlDeviceGetMaxMigDeviceCount of an A100
TEXTS = {15: b"GPU is lost", 18: b"Driver/library version mismatch"}


def device(name: str, number: int, **values: Any) -> dict[str, Any]:
    """A GPU with 40 GiB, of which it uses a quarter, each second one."""
    return {"name": name, "uuid": f"GPU-{number:08x}-aaaa-bbbb-cccc-dddddddddddd", "used": 10 << 30, "total": 40 << 30,
            "use": 50, **values}  # fmt: skip


def mig(number: int, used: int = 1 << 30) -> dict[str, Any]:
    """A MIG device: nvml.h has no utilization for it."""
    return {"name": "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "uuid": f"MIG-{number:08x}-aaaa-bbbb-cccc-dddddddddddd", "used": used,
            "total": 5 << 30, "nvmlDeviceGetUtilizationRates": NOT_SUPPORTED}  # fmt: skip


class Library:
    """libnvidia-ml.so.1: its functions take ctypes' values and return nvmlReturn_t."""

    def __init__(self, machine: Callable[[], dict[str, Any]]) -> None:
        self.machine = machine
        self.functions: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        """One function object for each name, as of ctypes: nvidia-ml-py sets its restype."""
        method = getattr(type(self), f"_{name.removesuffix('_v2')}", None)
        if method is None:
            raise AttributeError(name)

        def function(*words: Any) -> Any:
            return method(self, *words)

        return self.functions.setdefault(name, function)

    # -- handles: 1, 2, … are GPUs, 101, 102, … the MIG devices of the first, and so on

    def at(self, handle: Any) -> dict[str, Any]:
        number = ctypes.cast(handle, ctypes.c_void_p).value or 0
        gpu = self.machine()["devices"][number % 100 - 1]
        return gpu["mig"][number // 100 - 1] if number > 100 else gpu

    @staticmethod
    def give(handle: Any, number: int) -> int:
        ctypes.c_void_p.from_buffer(handle._obj).value = number
        return 0

    def answer(self, handle: Any, function: str, give: Callable[[dict[str, Any]], Any]) -> int:
        found = self.at(handle)
        error = found.get(function) or found.get("error")
        if not error:
            give(found)
        return int(error or 0)

    # -- functions

    def _nvmlInitWithFlags(self, flags: int) -> int:
        return int(self.machine().get("init", 0))

    def _nvmlErrorString(self, error: int) -> bytes:
        return TEXTS.get(error, b"Unknown Error")

    def _nvmlSystemGetDriverVersion(self, text: Any, size: Any) -> int:
        text.value = b"570.86.15"
        return 0

    def _nvmlDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.machine()["devices"])
        return 0

    def _nvmlDeviceGetHandleByIndex(self, index: Any, handle: Any) -> int:
        error = self.machine()["devices"][index.value].get("nvmlDeviceGetHandleByIndex", 0)
        return error or self.give(handle, index.value + 1)

    def _nvmlDeviceGetName(self, handle: Any, text: Any, size: Any) -> int:
        return self.answer(
            handle, "nvmlDeviceGetName", lambda found: setattr(text, "value", found["name"].encode("latin-1"))
        )

    def _nvmlDeviceGetUUID(self, handle: Any, text: Any, size: Any) -> int:
        return self.answer(handle, "nvmlDeviceGetUUID", lambda found: setattr(text, "value", found["uuid"].encode()))

    def _nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        def give(found: dict[str, Any]) -> None:
            memory._obj.used, memory._obj.total = found["used"], found["total"]
            memory._obj.free = found["total"] - found["used"]

        return self.answer(handle, "nvmlDeviceGetMemoryInfo", give)

    def _nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:
        return self.answer(
            handle, "nvmlDeviceGetUtilizationRates", lambda found: setattr(rates._obj, "gpu", found["use"])
        )

    def _nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> int:
        found = self.at(handle)
        if "mig" not in found:
            return NOT_SUPPORTED
        current._obj.value = pending._obj.value = 1
        return 0

    def _nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> int:
        count._obj.value = MIG_PLACES
        return 0

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: Any, found: Any) -> int:
        places = self.at(handle)["mig"]
        if index.value >= len(places) or places[index.value] is None:
            return NOT_FOUND
        number = ctypes.cast(handle, ctypes.c_void_p).value or 0
        return self.give(found, number + 100 * (index.value + 1))


def loader(machine: Callable[[], dict[str, Any]]) -> Callable[[str], Library]:
    """What stands in the place of ctypes.CDLL in nvidia-ml-py."""

    def load(name: str) -> Library:
        assert name == "libnvidia-ml.so.1"
        if not machine().get("load", True):
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return Library(machine)

    return load


def from_file(path: str) -> Callable[[], dict[str, Any]]:
    return lambda: json.loads(Path(path).read_text())
