"""The script's checkpoints, which outlive a restart of the gang."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from .checks import fields, read_json
from .files import Tree, sha256_of
from .peers import Peer
from .protocol import CHUNK, SMALL
from .reports import FILE_HEAD, checkpoint_of


class Checkpoints:
    """$TFSPAWNER_CHECKPOINTS: where the script's checkpoints outlive a restart of the gang.

    TensorFlow's first replica writes them, the second keeps a copy of each, and before a restart all take the newest.
    """

    def __init__(self, root: Path, is_coordinator: bool) -> None:
        self.folder, self.copy = root / "checkpoints", root / "checkpoints-copy"
        self.folder.mkdir(exist_ok=True)
        self.newest = Tree(self.folder if is_coordinator else self.copy)

    def changed_at(self) -> int:
        """When the newest checkpoint was last written, in ns; 0 if there is none."""
        return self.newest.changed_at()

    def mirror(self, coordinator: Peer) -> None:
        """Copies the coordinator's checkpoints, if they have changed. Raises OSError."""
        files = checkpoint_of(coordinator.ask_json("GET", "/checkpoints"))
        if files and max(f["mtime_ns"] for f in files) != self.changed_at():
            self.pull(coordinator, files, self.copy)

    def take(self, holder: Peer | None) -> None:
        """Makes the folder equal to that agent's newest checkpoint; None: this replica's is it. Raises OSError."""
        if holder is not None:
            return self.pull(holder, checkpoint_of(holder.ask_json("GET", "/checkpoints")), self.folder)
        if self.newest.folder != self.folder:
            discard(self.folder)
            shutil.copytree(self.copy, self.folder)

    def pull(self, holder: Peer, files: list[dict[str, Any]], folder: Path) -> None:
        """Copies all of an agent's /checkpoints into folder, or nothing. Raises OSError."""
        part = folder.with_name(folder.name + ".part")
        discard(part)
        part.mkdir()
        expected = {file["path"]: file for file in files}
        with holder.ask("POST", "/checkpoints", [[f["path"], 0, f["size"]] for f in expected.values()]) as reply:
            for head in iter(lambda: fields(read_json(reply.readline(SMALL), 20), FILE_HEAD), {"end": True}):
                file = expected.pop(head.get("path"), None) if "size" in head else None
                if file is None:
                    raise OSError(f"a checkpoint changed while it was copied from {holder.host}")
                target = part / file["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as out:
                    copy_bytes(reply, out, file["size"])
                if sha256_of(str(target), file["size"]) != file["sha256"]:
                    raise OSError(f"{file['path']} did not come whole from {holder.host}")
                os.utime(target, ns=(file["mtime_ns"], file["mtime_ns"]))
        former = folder.with_name(folder.name + ".old")
        discard(former)
        with self.newest.lock:  # so that requests in the meantime find something
            if os.path.lexists(folder):
                folder.rename(former)
            part.rename(folder)
            self.newest.replaced += folder == self.newest.folder
        discard(former)


def copy_bytes(source: Any, out: Any, size: int) -> None:
    """Copies exactly `size` bytes. Raises OSError if the source has fewer."""
    while size:
        data = source.read(min(CHUNK, size))
        if not data:
            raise OSError(errno.EIO, "the stream broke off")
        out.write(data)
        size -= len(data)


def discard(path: Path) -> None:
    """Removes a folder with its contents, or what a script put in its place; of a link only the link."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
