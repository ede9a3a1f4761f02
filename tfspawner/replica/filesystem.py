"""The operations on s3://, as TensorFlow calls them."""

from __future__ import annotations

import ctypes
import fnmatch
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import TYPE_CHECKING, Any

from .reading import BLOCK_BYTES, ReadFile, Reading, WriteFile
from .structures import (
    FAILED_PRECONDITION,
    FILESYSTEM,
    INVALID_ARGUMENT,
    NOT_FOUND,
    OK,
    OUT_OF_RANGE,
    PATH,
    PERMISSION_DENIED,
    RANDOM_ACCESS,
    TRANSLATE,
    UNAVAILABLE,
    UNKNOWN,
    WRITABLE,
    Failure,
    FileStatistics,
)

if TYPE_CHECKING:
    from .s3 import S3

RECORDS_BUFFER_BYTES = 133169152  # what TFRecordDataset asks for of s3:// (tf_record_dataset_op.cc); it takes less
EXIT_WAIT_S = 10.0


class FileSystem:
    """The operations on s3://, by name as TensorFlow has them; what they raise becomes its status."""

    def __init__(self, framework: Any) -> None:
        self.set_status = framework.TF_SetStatus
        self.set_status.argtypes, self.set_status.restype = [c_void_p, c_int, c_char_p], None
        self.libc = ctypes.CDLL(None)
        self.libc.malloc.restype, self.libc.malloc.argtypes = c_void_p, [c_size_t]
        self.libc.strdup.restype, self.libc.strdup.argtypes = c_void_p, [c_char_p]
        self.lock = threading.Lock()
        self.client: S3 | None = None
        self.reading = Reading()
        self.handles: dict[int, Any] = {}
        self.last_handle = 0
        self.running = 0  # calls in progress
        self.keep: list[Any] = []
        os.register_at_fork(after_in_child=self.forked)

    def forked(self) -> None:
        """After a fork: makes new connections and locks, since these are the parent's."""
        self.lock, self.client, self.running = threading.Lock(), None, 0

    @property
    def s3(self) -> S3:
        """The client, made when the first URI is used: its settings are the environment's then."""
        with self.lock:
            if self.client is None:
                from . import s3

                self.client = s3.S3(s3.settings_from(os.environ))
            return self.client

    def split(self, uri: str) -> tuple[str, str]:
        """The bucket and the key of an s3:// URI."""
        bucket, _, key = uri[len("s3://") :].partition("/")
        if not bucket:
            raise Failure(INVALID_ARGUMENT, "it names no bucket")
        return bucket, re.sub("//+", "/", key)

    def opened(self, uri: str, file: Any, handle: Any) -> None:
        """Puts a handle's number into TensorFlow's file struct; TensorFlow keeps nothing else."""
        with self.lock:
            self.last_handle += 1
            self.handles[self.last_handle] = handle
            file[0] = self.last_handle

    def size_of(self, uri: str) -> int | None:
        """The object's size; -1 for a folder, None for nothing."""
        bucket, key = self.split(uri)
        if key and not key.endswith("/"):
            headers = self.s3.head(bucket, key)
            if headers is not None:
                return int(headers["content-length"])
        prefix = f"{key.rstrip('/')}/" if key else ""
        child = next(self.s3.list(bucket, prefix, deep=False), None)
        return -1 if child or not key else None

    def must_exist(self, uri: str) -> int:
        """The object's size; below 0 for a folder. Raises Failure if there is neither."""
        size = self.size_of(uri)
        if size is None:
            raise Failure(NOT_FOUND, f"there is no such object at {self.s3.where}")
        return size

    # -- files

    def new_random_access_file(self, uri: str, file: Any) -> None:
        """Opens an object for reading."""
        size = self.must_exist(uri)
        if size < 0:
            raise Failure(FAILED_PRECONDITION, "it is a folder")
        self.opened(uri, file, ReadFile(self.s3, *self.split(uri), size, self.reading))

    def new_writable_file(self, uri: str, file: Any) -> None:
        """Opens a new object for writing."""
        self.opened(uri, file, WriteFile(self.s3, *self.split(uri)))

    def new_appendable_file(self, uri: str, file: Any) -> None:
        """Opens an object for appending: its contents are fetched first."""
        handle = WriteFile(self.s3, *self.split(uri))
        size = self.size_of(uri)
        if size is not None and size >= 0:
            for offset in range(0, size, BLOCK_BYTES):
                data = self.s3.read(*self.split(uri), offset, min(BLOCK_BYTES, size - offset))
                if len(data) != min(BLOCK_BYTES, size - offset):
                    raise Failure(UNAVAILABLE, f"of its bytes from {offset} on only {len(data)} came")
                handle.append(data)
        self.opened(uri, file, handle)

    # -- names

    def create_dir(self, uri: str) -> None:
        """Does nothing: a folder exists once something is in it."""

    recursively_create_dir = create_dir

    def delete_file(self, uri: str) -> None:
        """Deletes an object."""
        if self.must_exist(uri) < 0:
            raise Failure(FAILED_PRECONDITION, "it is a folder")
        self.s3.delete(*self.split(uri))

    def delete_dir(self, uri: str) -> None:
        """Deletes an empty folder, which does not exist in a bucket."""
        bucket, key = self.split(uri)
        if next(self.s3.list(bucket, f"{key.rstrip('/')}/"), None):
            raise Failure(FAILED_PRECONDITION, "the folder is not empty")

    def delete_recursively(self, uri: str, files: Any, folders: Any) -> None:
        """Deletes an object or all below a folder."""
        files[0] = folders[0] = 0
        bucket, key = self.split(uri)
        if self.must_exist(uri) >= 0:
            self.s3.delete(bucket, key)
        for item in list(self.s3.list(bucket, f"{key.rstrip('/')}/")):
            self.s3.delete(bucket, item.key)

    def copy_file(self, source: str, target: str) -> None:
        """Copies within the store, a folder with all below it."""
        for old, new in self.moved(source, target):
            self.s3.copy(*old, *new)

    def rename_file(self, source: str, target: str) -> None:
        """Moves within the store: copies and deletes."""
        for old, new in self.moved(source, target):
            self.s3.copy(*old, *new)
            self.s3.delete(*old)

    def moved(self, source: str, target: str) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """(old bucket and key, new bucket and key) of an object, or of each one in a folder."""
        old, new = self.split(source), self.split(target)
        if self.must_exist(source) >= 0:
            return [(old, new)]
        prefix = f"{old[1].rstrip('/')}/"
        keys = [item.key for item in self.s3.list(old[0], prefix)]
        return [((old[0], key), (new[0], f"{new[1].rstrip('/')}/{key[len(prefix) :]}")) for key in keys]

    def path_exists(self, uri: str) -> None:
        """Raises Failure where there is neither object nor folder."""
        self.must_exist(uri)

    def stat(self, uri: str, statistics: Any) -> None:
        """Fills in size and kind, but no modification time."""
        size = self.must_exist(uri)
        statistics[0] = FileStatistics(max(size, 0), 0, size < 0)

    def is_directory(self, uri: str) -> bool:
        """Raises Failure for what is not a folder."""
        if self.must_exist(uri) >= 0:
            raise Failure(FAILED_PRECONDITION, "it is no folder")
        return True

    def get_file_size(self, uri: str) -> int:
        """An object's size in bytes."""
        size = self.must_exist(uri)
        if size < 0:
            raise Failure(FAILED_PRECONDITION, "it is a folder")
        return size

    def get_children(self, uri: str, entries: Any) -> int:
        """Lists a folder's names; returns how many there are."""
        if self.must_exist(uri) >= 0:
            raise Failure(FAILED_PRECONDITION, "it is no folder")
        bucket, key = self.split(uri)
        prefix = f"{key.rstrip('/')}/" if key else ""
        names = [item.key[len(prefix) :].rstrip("/") for item in self.s3.list(bucket, prefix, deep=False)]
        return self.texts([name for name in names if name], entries)

    def get_matching_paths(self, uri: str, entries: Any) -> int:
        """Lists the URIs that match a pattern, sorted; returns how many there are."""
        return self.texts(sorted(self.matching(uri)), entries)

    def matching(self, uri: str) -> Iterator[str]:
        """The URIs that match a pattern."""
        bucket, pattern = self.split(uri)
        wild = re.search(r"[*?\[\\]", pattern)
        if not wild:
            if self.size_of(uri) is not None:
                yield uri
            return
        parts = pattern.split("/")
        seen = set()
        deep = "/" in pattern[wild.start() :]
        for item in self.s3.list(bucket, pattern[: wild.start()], deep=deep):
            path = item.key.rstrip("/").split("/")[: len(parts)]  # what lies deeper stands for its folder
            name = "/".join(path)
            if name not in seen and len(path) == len(parts) and all(map(fnmatch.fnmatchcase, path, parts)):
                seen.add(name)
                yield f"s3://{bucket}/{name}"

    def texts(self, values: list[str], entries: Any) -> int:
        """Gives TensorFlow texts in memory that it will free."""
        array = self.libc.malloc(max(1, len(values)) * ctypes.sizeof(c_void_p))
        slots = (c_void_p * len(values)).from_address(array)
        for number, value in enumerate(values):
            slots[number] = self.libc.strdup(value.encode())
        entries[0] = array
        return len(values)

    # -- from TensorFlow's calls to these methods

    def functions(self) -> dict[str, dict[str, Any]]:
        """The three kinds of operations as C functions, in the order of TensorFlow's structures."""
        return {
            "filesystem": {
                name: kind and (kind(self.on_path(name, kind)) if name != TRANSLATE else self.libc.strdup)
                for name, kind in FILESYSTEM.items()
            },
            "random_access": {
                "cleanup": RANDOM_ACCESS["cleanup"](self.close_reading),
                "read": RANDOM_ACCESS["read"](self.read),
            },
            "writable": {
                name: kind({"cleanup": self.close_writing, "append": self.append}.get(name) or self.on_file(name))
                for name, kind in WRITABLE.items()
            },
        }

    def on_path(self, name: str, kind: Any) -> Callable[..., Any]:
        """The function for TensorFlow's table that calls the method of this name with texts."""
        if name == "init":
            return lambda _, status: self.set_status(status, OK, b"")
        if name == "cleanup":
            return lambda _: None
        method = getattr(self, name)
        paths = sum(argument is PATH for argument in kind._argtypes_)

        def call(_: Any, *words: Any) -> Any:
            uris = [path.decode(errors="surrogateescape") for path in words[:paths]]
            return self.guarded(uris[0], words[-1], lambda: method(*uris, *words[paths:-1]), kind._restype_)

        return call

    def on_file(self, name: str) -> Callable[..., Any]:
        """The function for TensorFlow's table that does this with an open file."""

        def call(file: Any, status: Any) -> Any:
            handle = self.handles[file[0]]
            work = {"tell": lambda: handle.size, "close": handle.close}.get(name, lambda: None)
            return self.guarded(f"s3://{handle.bucket}/{handle.key}", status, work, c_int64 if name == "tell" else None)

        return call

    def read(self, file: Any, offset: int, size: int, buffer: int, status: Any) -> int:
        handle = self.handles[file[0]]

        def work() -> int:
            data = handle.read(offset, size, some=size == RECORDS_BUFFER_BYTES)
            ctypes.memmove(buffer, data, len(data))
            return len(data)

        got = int(self.guarded(f"s3://{handle.bucket}/{handle.key}", status, work, c_int64))
        if 0 <= got < size and offset + got >= handle.size:
            self.set_status(status, OUT_OF_RANGE, b"the object ends here")
        return got

    def append(self, file: Any, data: int, size: int, status: Any) -> None:
        """Writes `size` bytes, at the address `data`, to an open file."""
        handle = self.handles[file[0]]
        uri = f"s3://{handle.bucket}/{handle.key}"
        self.guarded(uri, status, lambda: handle.append(ctypes.string_at(data, size)), None)

    def close_reading(self, file: Any) -> None:
        """Forgets a file that was read."""
        self.handles.pop(file[0]).close()

    def close_writing(self, file: Any) -> None:
        """Forgets a file that was written; an error in storing it goes to stderr."""
        handle = self.handles.pop(file[0])
        try:
            handle.close()
        except OSError as error:
            print(f"s3://{handle.bucket}/{handle.key}: {error}", file=sys.stderr)

    def guarded(self, uri: str, status: Any, work: Callable[[], Any], kind: Any) -> Any:
        """The work's result, with its failure as TensorFlow's status, which names the URI."""
        with self.lock:
            self.running += 1
        try:
            result = work()
            self.set_status(status, OK, b"")
            return result
        except Failure as failure:
            code, message = failure.code, str(failure)
        except OSError as error:
            code, message = _code_of(error), str(error)
        except Exception as error:  # a C function must not raise, whatever happened
            code, message = UNKNOWN, repr(error)
        finally:
            with self.lock:
                self.running -= 1
        self.set_status(status, code, f"{uri}: {message}".encode(errors="replace"))
        return False if kind is c_bool else -1 if kind in (c_int, c_int64) else None

    def finish(self) -> None:
        """Before Python ends: writes what is open, and waits for calls under way."""
        for handle in list(self.handles.values()):
            if isinstance(handle, WriteFile):
                try:
                    handle.close()
                except OSError as error:
                    print(f"s3://{handle.bucket}/{handle.key}: {error}", file=sys.stderr)
            else:
                handle.closed = True
        deadline = time.monotonic() + EXIT_WAIT_S
        time.sleep(0.02)  # calls that have passed a slot already, and wait for Python
        while self.running and time.monotonic() < deadline:
            time.sleep(0.01)


def _code_of(error: OSError) -> int:
    code = getattr(error, "code", "")
    if code in ("NoSuchKey", "NoSuchBucket", "404"):
        return NOT_FOUND
    if getattr(error, "passing", False):
        return UNAVAILABLE
    return PERMISSION_DENIED if code else UNKNOWN
