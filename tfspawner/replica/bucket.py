"""The bucket to which --artifacts copies the replicas' files."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

STORE_FOR_S = 600.0  # how long a bucket may be out of reach

STORE_FAILED_FOR_S = 30.0  # the same if training has failed, and someone waits for the reason

STORE_AT_ONCE = 4


class Store:
    """The job's folder in a bucket, with the layout of a run's record."""

    def __init__(self, uri: str, job: str, env: Mapping[str, str]) -> None:
        from . import s3  # a job without such a place has no use for ssl

        bucket, prefix = s3.split_uri(uri)
        self.s3 = s3.S3(s3.settings_from(env))
        self.sha256 = s3.SHA256
        self.bucket, self.prefix = bucket, "".join(f"{part}/" for part in (*filter(None, prefix.split("/")), job))
        self.uri = f"s3://{bucket}/{self.prefix}"

    def check(self) -> None:
        """Raises OSError if the folder cannot be written, or has another job's files."""
        if next(self.s3.list(self.bucket, self.prefix), None):
            raise FileExistsError(f"{self.uri} holds files already; give another --name")
        with tempfile.NamedTemporaryFile() as probe:
            self.s3.put(self.bucket, self.prefix + ".tf-spawner", probe.name)
        self.s3.delete(self.bucket, self.prefix + ".tf-spawner")

    def put(self, name: str, path: str, size: int, sha256: str) -> None:
        """Uploads a file, unless it is there already. Raises OSError."""
        if not self.has(name, size, sha256):
            self.s3.put(self.bucket, self.prefix + name, path, {self.sha256: sha256})
            if not self.has(name, size, sha256):
                raise OSError(f"{self.uri}{name} is not what was sent")

    def has(self, name: str, size: int, sha256: str) -> bool:
        """Whether the bucket has the object with that size and checksum."""
        headers = self.s3.head(self.bucket, self.prefix + name) or {}
        return (headers.get("content-length"), headers.get(self.sha256)) == (str(size), sha256)

    def put_all(
        self, files: list[tuple[str, str, int, str]], stop: threading.Event, patience_s: float = STORE_FOR_S
    ) -> str | None:
        """Uploads (name, path, size, SHA-256), some at once, and retries errors that may pass.

        Returns why it is not all there.
        """
        waiting, error, progress_at = list(files), "", time.monotonic()
        pause_s = 0.5
        while waiting and not stop.is_set():
            with ThreadPoolExecutor(STORE_AT_ONCE) as pool:
                tried = [(file, pool.submit(self.put, *file)) for file in waiting]
            left = [(file, future.exception()) for file, future in tried if future.exception()]
            if len(left) < len(waiting):
                progress_at, pause_s = time.monotonic(), 0.5
            waiting = [file for file, _ in left]
            if left:
                error = str(left[0][1])
                passing = all(getattr(reason, "passing", False) for _, reason in left)
                if not passing or time.monotonic() - progress_at > patience_s:
                    return f"{len(left)} of {len(files)} files: {error}"
                stop.wait(pause_s)
                pause_s = min(2 * pause_s, 15.0)
        return f"{len(waiting)} of {len(files)} files: the replica was told to end" if waiting else None
