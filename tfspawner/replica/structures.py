"""TensorFlow's structures for a file system: tensorflow/c/experimental/filesystem/filesystem_interface.h, by ctypes."""

from __future__ import annotations

from ctypes import CFUNCTYPE, POINTER, Structure, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any

OK, UNKNOWN, INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED = 0, 2, 3, 5, 7
FAILED_PRECONDITION, OUT_OF_RANGE, UNAVAILABLE = 9, 11, 14
TRANSLATE = "translate_name"  # the default one would leave the bucket's name out
FILE, FS, STATUS, PATH = POINTER(c_void_p), c_void_p, c_void_p, c_char_p


class FileStatistics(Structure):
    """TensorFlow's TF_FileStatistics."""

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
            "flush_caches",
            "start_transaction",
            "end_transaction",
            "add_to_transaction",
            "get_transaction_for_path",
            "get_or_start_transaction_for_path",
            "decode_transaction_token",
            "get_filesystem_configuration",
            "set_filesystem_configuration",
            "get_filesystem_configuration_option",
            "set_filesystem_configuration_option",
            "get_filesystem_configuration_keys",
        )
    ),
}


class Table(Structure):
    """One kind of operations, with the version of the interface that it was written for."""

    _fields_ = [("abi", c_int), ("api", c_int), ("size", c_size_t), ("ops", c_void_p)]


class PluginOps(Structure):
    """TensorFlow's TF_FilesystemPluginOps."""

    _fields_ = [
        ("scheme", c_void_p),
        ("filesystem", Table),
        ("random_access", Table),
        ("writable", Table),
        ("memory", Table),
    ]


class PluginInfo(Structure):
    """TensorFlow's TF_FilesystemPluginInfo."""

    _fields_ = [
        ("num_schemes", c_size_t),
        ("ops", POINTER(PluginOps)),
        ("allocate", c_void_p),
        ("free", c_void_p),
    ]


class Failure(Exception):
    """A failed operation, with TensorFlow's error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
