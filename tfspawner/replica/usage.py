"""What a replica's script uses: processors, memory, GPUs.

GPUs are read by nvidia-ml-py, which travels along where it is installed; it needs the driver's library alone.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from typing import Any

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
NO_NVML = "nvidia-ml-py is missing"
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
SEARCH_PAUSE = 1000.0  # times as long as a search took, until the next


class Usage:
    """Samples what all processes of one session use; the session is known by its first process.

    `problems` are words for people on GPUs that are not measured, each there once, to be taken out by who tells them.
    """

    def __init__(self, session: int, *, wants_gpus: bool = False) -> None:
        self.session = session
        self.ticks: dict[int, int] = {}  # process -> processor time until the last sample
        self.search_at = -math.inf  # when /proc is to be searched for new ones
        self.sampled_at = time.monotonic()
        self.gpus = Gpus()
        self.missing = self.gpus.missing if wants_gpus else ""
        self.problems = [f"no GPU is measured here: {self.missing}"] if self.missing else []
        self.lost: set[str] = set()

    def sample(self) -> dict[str, Any]:
        """{"cpu": processors in use since the last sample, "memory": bytes, "gpus": as Gpus.sample()}.

        "gpus_missing": why there are none, where some are wanted.
        """
        now, memory, ticks = time.monotonic(), 0, {}
        for pid, used, pages in self.processes():
            ticks[pid] = used
            memory += pages * PAGE_BYTES
        spent = sum(max(0, used - self.ticks.get(pid, 0)) for pid, used in ticks.items())
        cpu = spent / TICKS_A_SECOND / max(now - self.sampled_at, 1e-3)
        self.ticks, self.sampled_at = ticks, now
        gpus = self.gpus.sample()
        for number, gpu in enumerate(gpus):
            problem = f"GPU {number}, {gpu['name']}, is not measured: {gpu.get('error')}"
            if "error" in gpu and problem not in self.lost:
                self.lost.add(problem)
                self.problems.append(problem)
        usage = {"cpu": round(cpu, 2), "memory": memory, "gpus": gpus}
        return {**usage, "gpus_missing": self.missing} if self.missing else usage

    def processes(self) -> list[Any]:
        """The session's processes. A node may have thousands: searching takes at most a thousandth of the time."""
        began = time.monotonic()
        if began < self.search_at:
            return session_processes(self.session, self.ticks)
        listed = session_processes(self.session, map(int, filter(str.isdigit, os.listdir("/proc"))))
        self.search_at = began + SEARCH_PAUSE * (time.monotonic() - began)
        return listed


def session_processes(session: int, candidates: Iterable[int]) -> list[Any]:
    """(process, its processor time in clock ticks, its resident pages) of the session's processes; see proc(5)."""
    processes = []
    for pid in candidates:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()  # the name before it may hold spaces
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[3]) == session:
            processes.append((pid, int(fields[11]) + int(fields[12]), int(fields[21])))
    return processes


class Gpus:
    """The GPUs that this process may use, according to NVML; `missing` says why there are none."""

    def __init__(self) -> None:
        self.devices: list[Gpu] = []
        self.missing = ""
        try:
            import pynvml
        except ImportError:
            self.missing = NO_NVML
            return
        self.nvml = pynvml
        try:
            pynvml.nvmlInit()
            whole = self.permitted(pynvml.nvmlDeviceGetCount())
            chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
            self.devices = [part for gpu in visible(whole, chosen) for part in gpu.parts()]
        except Exception as error:  # NVML has dozens of reasons, none of which is the script's
            self.missing = str(error)
            return
        if not self.devices:
            self.missing = "no GPU is there" if chosen is None else f"CUDA_VISIBLE_DEVICES={chosen!r} leaves none"

    def permitted(self, count: int) -> list[Gpu]:
        """The machine's GPUs that NVML lets this process use; raises its error if there are none."""
        gpus: list[Gpu] = []
        refusal = None
        for number in range(count):
            try:
                gpus.append(Gpu(self.nvml, self.nvml.nvmlDeviceGetHandleByIndex(number), number))
            except self.nvml.NVMLError as error:
                refusal = error
        if refusal and not gpus:
            raise refusal
        return gpus

    def sample(self) -> list[dict[str, Any]]:
        """Gpu.sample() of each GPU."""
        return [gpu.sample() for gpu in self.devices]


class Gpu:
    """A GPU, or one of the MIG devices that it is cut into."""

    def __init__(self, nvml: Any, handle: Any, number: int | None = None) -> None:
        self.nvml, self.handle = nvml, handle
        self.name = text(nvml.nvmlDeviceGetName(handle))
        self.uuid = text(nvml.nvmlDeviceGetUUID(handle))
        self.word = self.uuid if number is None else str(number)  # for CUDA_VISIBLE_DEVICES

    def parts(self) -> list[Gpu]:
        """Its MIG devices that this process may use, or itself if it is not divided."""
        nvml, devices = self.nvml, []
        try:
            if nvml.nvmlDeviceGetMigMode(self.handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
                return [self]
            most = nvml.nvmlDeviceGetMaxMigDeviceCount(self.handle)
        except nvml.NVMLError:  # for example on GPUs before Ampere
            return [self]
        for n in range(most):
            try:
                devices.append(Gpu(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex(self.handle, n)))
            except nvml.NVMLError:  # there is none of this number, or it is another's
                continue
        return devices

    def sample(self) -> dict[str, Any]:
        """{"name", "use": per cent of the time, "memory": bytes in use, "memory_total": bytes}.

        What it does not tell is None, such as a MIG device's use; "error": why it tells no more, such as one that fell
        off the bus.
        """
        measured: dict[str, Any] = {"name": self.name, "use": None, "memory": None, "memory_total": None}
        for read in (self.memory, self.use):
            try:
                measured.update(read())
            except self.nvml.NVMLError_NotSupported:
                pass
            except Exception as error:
                measured["error"] = str(error)
        return measured

    def memory(self) -> dict[str, int]:
        """Bytes of its memory, used and in all."""
        memory = self.nvml.nvmlDeviceGetMemoryInfo(self.handle)
        return {"memory": memory.used, "memory_total": memory.total}

    def use(self) -> dict[str, int]:
        """Its use in percent."""
        return {"use": self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu}


def text(name: str | bytes) -> str:
    """A text from nvidia-ml-py, which gave bytes before version 11.5."""
    return name if isinstance(name, str) else name.decode(errors="replace")


def visible(gpus: list[Gpu], chosen: str | None) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES names by number or UUID; as for CUDA, a missing one ends the list."""
    if chosen is None:
        return gpus
    gpus_seen: list[Gpu] = []
    for word in chosen.split(","):
        gpu = named(gpus, word.strip())
        if gpu is None:
            break
        gpus_seen.append(gpu)
    return gpus_seen


def named(gpus: list[Gpu], word: str) -> Gpu | None:
    """The GPU or part that a word of CUDA_VISIBLE_DEVICES names; None if it names none."""
    if word.isdigit():
        return next((gpu for gpu in gpus if gpu.word == str(int(word))), None)
    if not word.startswith(("GPU-", "MIG-")):
        return None
    places = gpus if word.startswith("GPU-") else [part for gpu in gpus for part in gpu.parts()]
    return next((gpu for gpu in places if gpu.uuid.startswith(word)), None)
