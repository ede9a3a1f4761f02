"""The script's folder, and how it arrives."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any, Callable

from .job import Job
from .notes import NO_ROOM, NoRoom, no_room
from .peers import Peer
from .protocol import CHUNK


class Code:
    """The script's folder: an archive that comes with the job, or is uploaded to the coordinator."""

    def __init__(self, job: Job, root: Path, shipped: Path) -> None:
        self.job, self.folder = job, root / "code"
        self.archive = shipped if shipped.exists() else root / "code.tar.gz"
        self.arrived = threading.Event()
        if shipped.exists():
            self.arrived.set()

    def receive(self, source: Any, size: int) -> None:
        """Takes the archive from a stream; refuses one whose checksum is not the job's."""
        part = self.archive.with_name(f"code.{threading.get_ident()}.part")
        digest = hashlib.sha256()
        try:
            with open(part, "wb") as file:
                left = size
                while left:
                    data = source.read(min(CHUNK, left))
                    if not data:
                        raise ValueError(f"the code's archive broke off {left} bytes before its end")
                    digest.update(data)
                    file.write(data)
                    left -= len(data)
            if digest.hexdigest() != self.job.code_sha256:
                raise ValueError("the code's archive has another SHA-256 than the job names")
            part.replace(self.archive)
        finally:
            part.unlink(missing_ok=True)
        self.arrived.set()

    def get(self, holders: Callable[[], list[Peer]], stopped: threading.Event, wait_s: float) -> None:
        """Waits for the archive (uploaded here, or pulled from an agent that has it) and unpacks it."""
        while not self.arrived.is_set() and not stopped.is_set():
            for holder in holders():
                try:
                    with holder.ask("GET", f"/code?wait={wait_s:g}") as response:
                        self.receive(response, int(response.headers["Content-Length"]))
                        break
                except (OSError, http.client.HTTPException):
                    continue
            self.arrived.wait(0.2)
        if stopped.is_set() or self.folder.exists():
            return
        part, needed = self.folder.with_name("code.part"), 0
        part.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(self.archive, "r:gz") as archive:
                needed = sum(member.size for member in archive.getmembers())
                if hasattr(tarfile, "data_filter"):
                    archive.extractall(part, filter="data")
                else:
                    archive.extractall(part)
        except OSError as error:
            why = f"the code takes {needed:,} bytes: {no_room(error, part)}"
            shutil.rmtree(part, ignore_errors=True)
            raise (NoRoom(why) if error.errno in NO_ROOM else error) from None
        part.rename(self.folder)

    def site(self) -> Path | None:
        """A folder with the wheels that came with the job, unpacked, for the end of PYTHONPATH."""
        wheels = list((self.folder / ".tfspawner").glob("*.whl"))
        site = self.folder.parent / "site"
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
        shutil.rmtree(self.folder / ".tfspawner", ignore_errors=True)
        return site if wheels else None
