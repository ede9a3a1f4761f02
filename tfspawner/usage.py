"""What a replica's script uses: processors, memory, GPUs. It travels to the replicas: Python 3.9's standard library alone.

GPUs are read by nvidia-ml-py where the replica's image has it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from typing import Any

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
SEARCH_PAUSE = 1000.0  # times as long as a search took, until the next


class Usage:
    """Samples what all processes of one session use; the session is known by its first process."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.ticks: dict[int, int] = {}  # process -> processor time until the last sample
        self.search_at = -math.inf  # when /proc is to be searched for new ones
        self.sampled_at = time.monotonic()
        self.gpus = Gpus()

    def sample(self) -> dict[str, Any]:
        """{"cpu": processors in use since the last sample, "memory": bytes, "gpus": as Gpus.sample()}."""
        now, memory, ticks = time.monotonic(), 0, {}
        for pid, used, pages in self.processes():
            ticks[pid] = used
            memory += pages * PAGE_BYTES
        spent = sum(max(0, used - self.ticks.get(pid, 0)) for pid, used in ticks.items())
        cpu = spent / TICKS_A_SECOND / max(now - self.sampled_at, 1e-3)
        self.ticks, self.sampled_at = ticks, now
        return {"cpu": round(cpu, 2), "memory": memory, "gpus": self.gpus.sample()}

    def processes(self) -> list[Any]:
        """The session's. A node may have thousands: they are searched for a thousandth of the time at most."""
        began = time.monotonic()
        if began < self.search_at:
            return session_processes(self.session, self.ticks)
        found = session_processes(self.session, map(int, filter(str.isdigit, os.listdir("/proc"))))
        self.search_at = began + SEARCH_PAUSE * (time.monotonic() - began)
        return found


def session_processes(session: int, candidates: Iterable[int]) -> list[Any]:
    """(process, its processor time in clock ticks, its resident pages) of those that are of the session; proc(5)."""
    found = []
    for pid in candidates:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()  # the name before it may hold spaces
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[3]) == session:
            found.append((pid, int(fields[11]) + int(fields[12]), int(fields[21])))
    return found


class Gpus:
    """The GPUs that this replica sees; none where there is no driver, or no nvidia-ml-py."""

    def __init__(self) -> None:
        self.devices: list[Any] = []
        try:
            import pynvml

            self.nvml = pynvml
            pynvml.nvmlInit()
            everything = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
            self.devices = visible(everything, os.environ.get("CUDA_VISIBLE_DEVICES"))
        except Exception:  # NVML has dozens of reasons, none of which is the script's
            pass

    def sample(self) -> list[dict[str, Any]]:
        """[{"name", "use": per cent of the time, "memory": bytes in use, "memory_total": bytes}]."""
        return [told for told in map(self.tell, self.devices) if told]

    def tell(self, device: Any) -> dict[str, Any]:
        try:
            name, memory = self.nvml.nvmlDeviceGetName(device), self.nvml.nvmlDeviceGetMemoryInfo(device)
            return {"name": name if isinstance(name, str) else name.decode(), "memory": memory.used,
                    "memory_total": memory.total, "use": self.nvml.nvmlDeviceGetUtilizationRates(device).gpu}  # fmt: skip
        except Exception:  # such as a device that fell off the bus
            return {}


def visible(devices: list[Any], numbers: Any) -> list[Any]:
    """Those that CUDA_VISIBLE_DEVICES names by number; all, where it is unset or names them by UUID."""
    chosen = [word.strip() for word in numbers.split(",")] if numbers else []
    if not chosen or not all(word.isdigit() for word in chosen):
        return devices
    return [devices[int(word)] for word in chosen if int(word) < len(devices)]
