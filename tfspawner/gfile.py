"""s3:// for TensorFlow itself, so that scripts which give it to tf.data and tf.io.gfile run as they are.

TensorFlow takes file systems as plug-ins, by the C interface of tensorflow/c/experimental/filesystem/
filesystem_interface.h. Here its functions are Python's, by ctypes; native_library() makes the shared library that
TensorFlow insists on. Needs Python 3.9's standard library alone, since it travels to the replicas' images.
"""

from __future__ import annotations

import atexit
import ctypes
import fnmatch
import os
import platform
import re
import struct
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from ctypes import CFUNCTYPE, POINTER, Structure, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from .s3 import S3

MEMORY_BYTES = 256 << 20  # read ahead of all open files together; one block of each is always allowed
BLOCK_BYTES = 4 << 20
LEAST_BLOCK_BYTES = 256 << 10
MOST_BLOCKS_AHEAD = 16
READS_AT_ONCE = 32
RECORDS_BUFFER_BYTES = 133169152  # what TFRecordDataset asks for of s3:// (tf_record_dataset_op.cc); it takes less
TRIES = 6
EXIT_WAIT_S = 10.0

OK, UNKNOWN, INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED = 0, 2, 3, 5, 7
FAILED_PRECONDITION, OUT_OF_RANGE, UNAVAILABLE = 9, 11, 14

# ---- the shared library -------------------------------------------------------------------------

PAGE = 0x1000
STUBS_AT, STUB_BYTES, SLOT_BYTES = 0x400, 16, 8
SHIFTED = 1  # the function that passes its second argument on as the first: translate_name, by C's strdup


def native_library(slots: int, machine: str) -> bytes:
    """An ELF shared object with that many functions, each of which jumps to the address in its slot.

    It exports TF_InitPlugin, the first of them, and `slots`, where the addresses lie: the second page. Behind the
    last function is one that returns 0. See the System V ABI, "Object Files" and "Dynamic Linking".
    """
    names = b"\0TF_InitPlugin\0slots\0"
    code, end = _stubs(slots, machine), {"x86_64": 62, "aarch64": 183}
    symbols = b"".join(
        struct.pack("<IBBHQQ", *symbol)
        for symbol in (
            (0, 0, 0, 0, 0, 0),
            (1, 0x12, 0, 1, STUBS_AT, 8),
            (15, 0x11, 0, 1, PAGE + 0x100, slots * SLOT_BYTES),
        )
    )
    hashes = struct.pack("<6I", 1, 3, 1, 0, 2, 0)  # one bucket, that begins with symbol 1, which is followed by 2
    symbols_at, names_at, hashes_at = 0x200, 0x300, 0x380
    dynamic = b"".join(
        struct.pack("<QQ", tag, value)
        for tag, value in ((4, hashes_at), (5, names_at), (6, symbols_at), (10, len(names)), (11, 24), (0, 0))
    )
    size = 0x100 + slots * SLOT_BYTES
    segments = (
        (1, 5, 0, PAGE, PAGE),  # PT_LOAD, read and execute
        (1, 6, PAGE, size, PAGE),  # PT_LOAD, read and write
        (2, 6, PAGE, len(dynamic), 8),  # PT_DYNAMIC
        (0x6474E551, 6, 0, 0, 16),  # PT_GNU_STACK: the stack needs not be executable
    )
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 3, end[machine], 1, 0, 64, 0, 0, 64, 56, len(segments), 64, 0, 0
    )
    for kind, flags, at, length, align in segments:
        header += struct.pack("<IIQQQQQQ", kind, flags, at, at, at, length, length, align)
    first = bytearray(PAGE)
    for at, part in ((0, header), (symbols_at, symbols), (names_at, names), (hashes_at, hashes), (STUBS_AT, code)):
        first[at : at + len(part)] = part
    return bytes(first) + dynamic.ljust(size, b"\0")


def _stubs(slots: int, machine: str) -> bytes:
    """A jump through each slot, and a function that returns 0."""
    code = b""
    for slot in range(slots):
        ahead = PAGE + 0x100 + slot * SLOT_BYTES - (STUBS_AT + slot * STUB_BYTES)
        if machine == "x86_64":  # mov rdi, rsi; jmp [rip + ahead]
            shift = b"\x48\x89\xf7" if slot == SHIFTED else b""
            stub = shift + b"\xff\x25" + struct.pack("<i", ahead - 6 - len(shift))
        else:  # mov x0, x1; ldr x16, [pc + ahead]; br x16
            shift = struct.pack("<I", 0xAA0103E0) if slot == SHIFTED else b""
            stub = shift + struct.pack("<II", 0x58000010 | (ahead - len(shift)) // 4 << 5, 0xD61F0200)
        code += stub.ljust(STUB_BYTES, b"\0")
    return code + (b"\x31\xc0\xc3" if machine == "x86_64" else struct.pack("<II", 0xD2800000, 0xD65F03C0))


# ---- TensorFlow's structures --------------------------------------------------------------------

TRANSLATE = "translate_name"  # the default one would leave the bucket's name out
FILE, FS, STATUS, PATH = POINTER(c_void_p), c_void_p, c_void_p, c_char_p


class FileStatistics(Structure):
    _fields_ = [("length", c_int64), ("mtime_nsec", c_int64), ("is_directory", c_bool)]


RANDOM_ACCESS: dict[str, Any] = {
    "cleanup": CFUNCTYPE(None, FILE),
    "read": CFUNCTYPE(c_int64, FILE, c_uint64, c_size_t, c_void_p, STATUS),
}
WRITABLE: dict[str, Any] = {
    "cleanup": CFUNCTYPE(None, FILE),
    "append": CFUNCTYPE(None, FILE, c_void_p, c_size_t, STATUS),
    "tell": CFUNCTYPE(c_int64, FILE, STATUS),
    "flush": CFUNCTYPE(None, FILE, STATUS),
    "sync": CFUNCTYPE(None, FILE, STATUS),
    "close": CFUNCTYPE(None, FILE, STATUS),
}
_OF_PATH = CFUNCTYPE(None, FS, PATH, STATUS)
_OPENS = CFUNCTYPE(None, FS, PATH, FILE, STATUS)
_LISTS = CFUNCTYPE(c_int, FS, PATH, POINTER(c_void_p), STATUS)
FILESYSTEM: dict[str, Any] = {
    "init": CFUNCTYPE(None, c_void_p, STATUS),
    "cleanup": CFUNCTYPE(None, c_void_p),
    "new_random_access_file": _OPENS,
    "new_writable_file": _OPENS,
    "new_appendable_file": _OPENS,
    "new_read_only_memory_region_from_file": None,
    "create_dir": _OF_PATH,
    "recursively_create_dir": _OF_PATH,
    "delete_file": _OF_PATH,
    "delete_dir": _OF_PATH,
    "delete_recursively": CFUNCTYPE(None, FS, PATH, POINTER(c_uint64), POINTER(c_uint64), STATUS),
    "rename_file": CFUNCTYPE(None, FS, PATH, PATH, STATUS),
    "copy_file": CFUNCTYPE(None, FS, PATH, PATH, STATUS),
    "path_exists": _OF_PATH,
    "paths_exist": None,
    "stat": CFUNCTYPE(None, FS, PATH, POINTER(FileStatistics), STATUS),
    "is_directory": CFUNCTYPE(c_bool, FS, PATH, STATUS),
    "get_file_size": CFUNCTYPE(c_int64, FS, PATH, STATUS),
    "translate_name": CFUNCTYPE(c_void_p, FS, PATH),
    "get_children": _LISTS,
    "get_matching_paths": _LISTS,
    **dict.fromkeys(
        (
            "flush_caches", "start_transaction", "end_transaction", "add_to_transaction", "get_transaction_for_path",
            "get_or_start_transaction_for_path", "decode_transaction_token", "get_filesystem_configuration",
            "set_filesystem_configuration", "get_filesystem_configuration_option",
            "set_filesystem_configuration_option", "get_filesystem_configuration_keys",
        )
    ),
}  # fmt: skip


class Table(Structure):
    """One kind of operations, with the version of the interface that it was written for."""

    _fields_ = [("abi", c_int), ("api", c_int), ("size", c_size_t), ("ops", c_void_p)]


class PluginOps(Structure):
    _fields_ = [
        ("scheme", c_void_p), ("filesystem", Table), ("random_access", Table), ("writable", Table), ("memory", Table),
    ]  # fmt: skip


class PluginInfo(Structure):
    _fields_ = [
        ("num_schemes", c_size_t), ("ops", POINTER(PluginOps)), ("allocate", c_void_p), ("free", c_void_p),
    ]  # fmt: skip


class Failure(Exception):
    """What an operation ends with, as TensorFlow counts failures."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


# ---- reading and writing ------------------------------------------------------------------------


class Reading:
    """What all open files share: threads that read, and the memory for what is read ahead."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset()
        os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        self.pool = ThreadPoolExecutor(READS_AT_ONCE, thread_name_prefix="tfspawner-s3")
        self.files, self.held = 0, 0
        self.lock = threading.Lock()

    def block_bytes(self) -> int:
        """How much a file reads at once: less where many are open."""
        return max(LEAST_BLOCK_BYTES, min(BLOCK_BYTES, MEMORY_BYTES // max(1, self.files) // 4))

    def take(self, size: int, *, first: bool) -> bool:
        with self.lock:
            if not first and self.held + size > MEMORY_BYTES:
                return False
            self.held += size
            return True

    def give(self, size: int) -> None:
        with self.lock:
            self.held -= size


class ReadFile:
    """An object that is open for reading; what follows a read is read ahead, the more the longer it goes on."""

    def __init__(self, s3: S3, bucket: str, key: str, size: int, reading: Reading) -> None:
        self.s3, self.bucket, self.key, self.size, self.reading = s3, bucket, key, size, reading
        self.lock = threading.Lock()
        self.blocks: deque[tuple[int, int, Future[bytes]]] = deque()  # (offset, size, bytes), without gaps
        self.next = 0
        self.begun = 0  # blocks since the last jump: the first are small, so that the first records come soon
        self.closed = False
        with reading.lock:
            reading.files += 1

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.drop(self.size + 1)
        with self.reading.lock:
            self.reading.files -= 1

    def read(self, offset: int, size: int, *, some: bool = False) -> bytes:
        """size bytes from offset on; fewer where the object ends, or if `some` will do."""
        with self.lock:
            end = min(offset + size, self.size)
            pieces = []
            while offset < end:
                self.look_ahead(offset)
                start, _, future = self.blocks[0]
                data = future.result()
                piece = data[offset - start : end - start]
                if not piece:
                    raise Failure(NOT_FOUND, "it ends before the size that it had when it was opened")
                pieces.append(piece)
                offset += len(piece)
                if some:
                    break
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def look_ahead(self, offset: int) -> None:
        """Sees to it that the first block holds the byte at offset, and that others are under way."""
        self.drop(offset)
        if not self.blocks or offset < self.blocks[0][0]:
            self.drop(self.size + 1)
            if offset != self.next:
                self.next, self.begun = offset, 0
        while len(self.blocks) < min(self.begun + 4, MOST_BLOCKS_AHEAD) and self.next < self.size:
            size = min(self.reading.block_bytes(), LEAST_BLOCK_BYTES << self.begun // 2, self.size - self.next)
            if not self.reading.take(size, first=not self.blocks):
                break
            self.blocks.append((self.next, size, self.reading.pool.submit(self.fetch, self.next, size)))
            self.next += size
            self.begun += 1

    def drop(self, offset: int) -> None:
        while self.blocks and self.blocks[0][0] + self.blocks[0][1] <= offset:
            _, size, future = self.blocks.popleft()
            future.cancel()
            self.reading.give(size)

    def fetch(self, offset: int, size: int) -> bytes:
        for tries in range(TRIES):
            try:
                return self.s3.read(self.bucket, self.key, offset, size)
            except OSError as error:
                if not getattr(error, "passing", False) or tries == TRIES - 1 or self.closed:
                    raise
                time.sleep(0.1 * 2**tries)
        raise AssertionError


class WriteFile:
    """An object that is being written: a file of this machine that is put when it is closed."""

    def __init__(self, s3: S3, bucket: str, key: str) -> None:
        self.s3, self.bucket, self.key = s3, bucket, key
        self.file: BinaryIO | None = tempfile.TemporaryFile(prefix="tf-spawner-")
        self.size = 0

    def append(self, data: bytes) -> None:
        if self.file is None:
            raise Failure(FAILED_PRECONDITION, "it is closed")
        self.file.write(data)
        self.size += len(data)

    def close(self) -> None:
        if self.file is None:
            return
        file, self.file = self.file, None
        with file:
            file.flush()
            self.s3.put(self.bucket, self.key, f"/proc/self/fd/{file.fileno()}")


# ---- the operations -----------------------------------------------------------------------------


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
        self.running = 0  # calls under way
        self.keep: list[Any] = []
        os.register_at_fork(after_in_child=self.forked)

    def forked(self) -> None:
        """Connections and locks are the parent's."""
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
        bucket, _, key = uri[len("s3://") :].partition("/")
        if not bucket:
            raise Failure(INVALID_ARGUMENT, "it names no bucket")
        return bucket, re.sub("//+", "/", key)

    def opened(self, uri: str, file: Any, handle: Any) -> None:
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
        found = next(self.s3.list(bucket, prefix, deep=False), None)
        return -1 if found or not key else None

    def must_exist(self, uri: str) -> int:
        size = self.size_of(uri)
        if size is None:
            raise Failure(NOT_FOUND, f"there is no such object at {self.s3.where}")
        return size

    # -- files

    def new_random_access_file(self, uri: str, file: Any) -> None:
        size = self.must_exist(uri)
        if size < 0:
            raise Failure(FAILED_PRECONDITION, "it is a folder")
        self.opened(uri, file, ReadFile(self.s3, *self.split(uri), size, self.reading))

    def new_writable_file(self, uri: str, file: Any) -> None:
        self.opened(uri, file, WriteFile(self.s3, *self.split(uri)))

    def new_appendable_file(self, uri: str, file: Any) -> None:
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
        """Folders are there by themselves once something is in them."""

    recursively_create_dir = create_dir

    def delete_file(self, uri: str) -> None:
        if self.must_exist(uri) < 0:
            raise Failure(FAILED_PRECONDITION, "it is a folder")
        self.s3.delete(*self.split(uri))

    def delete_dir(self, uri: str) -> None:
        bucket, key = self.split(uri)
        if next(self.s3.list(bucket, f"{key.rstrip('/')}/"), None):
            raise Failure(FAILED_PRECONDITION, "the folder is not empty")

    def delete_recursively(self, uri: str, files: Any, folders: Any) -> None:
        files[0] = folders[0] = 0
        bucket, key = self.split(uri)
        if self.must_exist(uri) >= 0:
            self.s3.delete(bucket, key)
        for found in list(self.s3.list(bucket, f"{key.rstrip('/')}/")):
            self.s3.delete(bucket, found.key)

    def copy_file(self, source: str, target: str) -> None:
        for old, new in self.moved(source, target):
            self.s3.copy(*old, *new)

    def rename_file(self, source: str, target: str) -> None:
        for old, new in self.moved(source, target):
            self.s3.copy(*old, *new)
            self.s3.delete(*old)

    def moved(self, source: str, target: str) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """(bucket and key now, and then) of an object, or of all in a folder."""
        old, new = self.split(source), self.split(target)
        if self.must_exist(source) >= 0:
            return [(old, new)]
        prefix = f"{old[1].rstrip('/')}/"
        keys = [found.key for found in self.s3.list(old[0], prefix)]
        return [((old[0], key), (new[0], f"{new[1].rstrip('/')}/{key[len(prefix) :]}")) for key in keys]

    def path_exists(self, uri: str) -> None:
        self.must_exist(uri)

    def stat(self, uri: str, found: Any) -> None:
        size = self.must_exist(uri)
        found[0] = FileStatistics(max(size, 0), 0, size < 0)

    def is_directory(self, uri: str) -> bool:
        if self.must_exist(uri) >= 0:
            raise Failure(FAILED_PRECONDITION, "it is no folder")
        return True

    def get_file_size(self, uri: str) -> int:
        size = self.must_exist(uri)
        if size < 0:
            raise Failure(FAILED_PRECONDITION, "it is a folder")
        return size

    def get_children(self, uri: str, entries: Any) -> int:
        if self.must_exist(uri) >= 0:
            raise Failure(FAILED_PRECONDITION, "it is no folder")
        bucket, key = self.split(uri)
        prefix = f"{key.rstrip('/')}/" if key else ""
        names = [found.key[len(prefix) :].rstrip("/") for found in self.s3.list(bucket, prefix, deep=False)]
        return self.texts([name for name in names if name], entries)

    def get_matching_paths(self, uri: str, entries: Any) -> int:
        return self.texts(sorted(self.matching(uri)), entries)

    def matching(self, uri: str) -> Iterator[str]:
        bucket, pattern = self.split(uri)
        wild = re.search(r"[*?\[\\]", pattern)
        if not wild:
            if self.size_of(uri) is not None:
                yield uri
            return
        parts = pattern.split("/")
        seen = set()
        deep = "/" in pattern[wild.start() :]
        for found in self.s3.list(bucket, pattern[: wild.start()], deep=deep):
            path = found.key.rstrip("/").split("/")[: len(parts)]  # what lies deeper stands for its folder
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
        handle = self.handles[file[0]]
        uri = f"s3://{handle.bucket}/{handle.key}"
        self.guarded(uri, status, lambda: handle.append(ctypes.string_at(data, size)), None)

    def close_reading(self, file: Any) -> None:
        self.handles.pop(file[0]).close()

    def close_writing(self, file: Any) -> None:
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
        except Exception as error:  # whatever it is, no exception may come out of a C function
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
        time.sleep(0.02)  # who has come through a slot already, and waits for Python
        while self.running and time.monotonic() < deadline:
            time.sleep(0.01)


def _code_of(error: OSError) -> int:
    code = getattr(error, "code", "")
    if code in ("NoSuchKey", "NoSuchBucket", "404"):
        return NOT_FOUND
    if getattr(error, "passing", False):
        return UNAVAILABLE
    return PERMISSION_DENIED if code else UNKNOWN


# ---- registering --------------------------------------------------------------------------------

_registered: list[FileSystem] = []


def register() -> bool:
    """Gives TensorFlow s3://, once; returns whether it has it from here.

    False where it has it already, as from tensorflow-io. Raises OSError on machines other than Linux on x86-64 or
    ARM, and where no temporary folder allows to load a library.
    """
    import tensorflow as tf

    if _registered:
        return True
    machine = platform.machine().replace("arm64", "aarch64")
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        raise OSError(f"TensorFlow cannot be given s3:// on {sys.platform}, {machine}")
    try:
        tf.io.gfile.exists("s3://")
        return False
    except tf.errors.UnimplementedError:
        pass
    except tf.errors.OpError:
        return False
    framework = ctypes.CDLL(os.path.join(os.path.dirname(tf.__file__), "libtensorflow_framework.so.2"))
    filesystem = FileSystem(framework)
    functions = filesystem.functions()
    wanted = [(kind, name) for kind, table in functions.items() for name, function in table.items() if function]
    wanted.sort(key=lambda which: which[1] != TRANSLATE)
    with tempfile.TemporaryDirectory(prefix="tf-spawner-") as folder:
        path = os.path.join(folder, "tfspawner_s3.so")
        with open(path, "wb") as file:
            file.write(native_library(1 + len(wanted), machine))
        library = ctypes.CDLL(path)
        slots = (c_void_p * (1 + len(wanted))).in_dll(library, "slots")
        first = ctypes.cast(library.TF_InitPlugin, c_void_p).value or 0
        stubs = {which: first + STUB_BYTES * number for number, which in enumerate(wanted, SHIFTED)}
        nothing = first + STUB_BYTES * (1 + len(wanted))

        def init(info: Any) -> None:
            _describe(info[0], functions, stubs, filesystem.libc)

        start = CFUNCTYPE(None, POINTER(PluginInfo))(init)
        filesystem.keep += [functions, start, library]
        slots[0] = ctypes.cast(start, c_void_p)
        for number, (kind, name) in enumerate(wanted, SHIFTED):
            slots[number] = ctypes.cast(functions[kind][name], c_void_p)
        tf.experimental.register_filesystem_plugin(path)

    def at_exit() -> None:
        """TensorFlow's threads may go on to read when there is no Python any more: then nothing is done."""
        for number in range(SHIFTED + 1, len(slots)):
            slots[number] = nothing
        filesystem.finish()

    atexit.register(at_exit)
    _registered.append(filesystem)
    return True


def _describe(
    info: PluginInfo, functions: dict[str, dict[str, Any]], stubs: dict[tuple[str, str], int], libc: Any
) -> None:
    """Fills in what TensorFlow asks a plug-in for, in memory that it frees."""

    def allocated(size: int) -> int:
        found = int(libc.malloc(size))
        ctypes.memset(found, 0, size)
        return found

    info.num_schemes = 1
    info.allocate, info.free = ctypes.cast(libc.malloc, c_void_p), ctypes.cast(libc.free, c_void_p)
    info.ops = ctypes.cast(allocated(ctypes.sizeof(PluginOps)), POINTER(PluginOps))
    info.ops[0].scheme = libc.strdup(b"s3")
    for kind, table in functions.items():
        pointers = allocated(len(table) * ctypes.sizeof(c_void_p))
        for number, name in enumerate(table):
            if (kind, name) in stubs:
                (c_void_p * len(table)).from_address(pointers)[number] = stubs[kind, name]
        setattr(info.ops[0], kind, Table(0, 0, len(table) * ctypes.sizeof(c_void_p), pointers))
