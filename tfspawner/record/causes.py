"""Why a script failed, judged by its exit code and its last lines. Pure: values in, values out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tfspawner.base.cause import Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCause:
    """One way in which scripts fail: the pattern that shows it, and what to do next."""

    kind: str
    pattern: re.Pattern[str]
    hint: str


def _cause(kind: str, pattern: str, hint: str) -> KnownCause:
    return KnownCause(kind=kind, pattern=re.compile(pattern, re.M), hint=hint)


# The first match counts, so the special cases come before the general ones. Error texts are TensorFlow 2.21's.
CAUSES = (
    _cause(
        "keras-3",
        r"Attempt to convert a value \(PerReplica:|Invalid reduction dimension 0 for input with 0 dimensions",
        "Keras 3 cannot train on several workers: import it as tf.keras, which tf-spawner makes tf-keras, not as keras",
    ),
    _cause(
        "strategy-late",
        r"Collective ops must be configured at program startup",
        "create the strategy right after the imports, before any other use of TensorFlow",
    ),
    _cause(
        "too-few-files",
        r"Could not apply FILE based sharding",
        "give as many files as workers, or set AutoShardPolicy.DATA; tf-spawner data convert makes more files",
    ),
    _cause(
        "different-programs",
        r"joining a group with size|Collective instance \S+ expected|mismatched? .{0,500}collective"
        r"|Shape mismatch in the collective",
        "all workers must run the same steps on batches of the same shapes: look for what depends on the worker",
    ),
    _cause(
        "no-file-system",
        r"File system scheme '\w*' not implemented",
        "TensorFlow reads paths and gs:// by itself, and s3:// where s3:// stands in the script, its arguments or "
        "variables; for others: tfspawner.data, or tf-spawner data cp",
    ),
    _cause(
        "data-corrupt",
        r"DataLossError|^\S*DataError: .* is (damaged|cut off)",
        "find all such files: tf-spawner data check URI",
    ),
    _cause(
        "data-empty",
        r"Unexpected result of `?train_function`? \(Empty [Ll]ogs\)|[Ii]nput ran out of data"
        r"|Expected input data to be non-empty",
        "the dataset gave no batch: check its pattern by tf-spawner data ls, and drop_remainder",
    ),
    _cause(
        "parse-example",
        r"Feature: \w+ \(data type: \w+\) is required but could not be found"
        r"|Key: \w+\.\s{1,9}Can't parse serialized Example",
        "see what the records hold: tf-spawner data head URI",
    ),
    _cause(
        "port-taken",
        r"Could not start gRPC server",
        "another process has TensorFlow's port: give another by --port",
    ),
    _cause(
        "gpu-memory",
        r"CUDA_ERROR_OUT_OF_MEMORY|failed to allocate .{0,500} from device|ResourceExhaustedError.{0,2000}GPU",
        "the GPU's memory is full: a smaller batch, or tf.config.experimental.set_memory_growth",
    ),
    _cause(
        "allocation",
        r"ResourceExhaustedError|OOM when allocating tensor|^MemoryError|std::bad_alloc|Unable to allocate",
        "a smaller batch, or more memory: --memory",
    ),
    _cause("disk-full", r"Errno 28|No space left on device", "make room, or write less"),
    _cause(
        "read-only",
        r"Errno 30|Read-only file system",
        "in a replica write to $TFSPAWNER_OUTPUT, which comes back, to the working folder, or to /tmp",
    ),
    _cause(
        "no-tensorboard",
        r"TBNotInstalledError",
        "TensorFlow 2.21 does not bring along what tf.summary needs: install tensorboard where the replicas run",
    ),
    _cause("syntax", r"^[ \t]*(Syntax|Indentation|Tab)Error: ", "the script is not valid for the replicas' Python"),
    _cause(
        "module-missing",
        r"^ModuleNotFoundError: No module named",
        "install it where the replicas run: in the image (-i), or in this Python",
    ),
    _cause(
        "nothing-resolved",
        r"Name or service not known|Temporary failure in name resolution|No address associated with hostname",
        "the replica found no such host: check the name, and that it is known where the replicas run",
    ),
    _cause(
        "refused",
        r"Connection refused|ConnectionRefusedError|Errno 111",
        "nothing listens there: 127.0.0.1 is the replica itself, so give an address that the replicas reach",
    ),
    _cause(
        "data-missing",
        r"NotFoundError: |^FileNotFoundError: ",
        "replicas have the script's folder (--workdir) and what --volume mounts; other places need a URI",
    ),
    _cause(
        "permission",
        r"^PermissionError: |Errno 13|PermissionDeniedError",
        "replicas run as user 1000, not as root; $TFSPAWNER_OUTPUT is theirs",
    ),
    _cause("shapes", r"InvalidArgumentError: |Matrix size-incompatible|Incompatible shapes", ""),
)
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?([A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning))(?:: ?(.*))?$")
_NODES = re.compile(r"\{\{function_node [^{}]*\}\} ?| \[Op:\w+\] name: $")  # TensorFlow's own bookkeeping
TAIL = 65536  # how many of the last characters are searched
LONGEST = 200  # characters of an exception's text in a message


def cause_of(tail: Iterable[str]) -> KnownCause | None:
    """The cause that the last lines of a failed script show; None if it is not a known one."""
    text = "\n".join(tail)[-TAIL:]
    return next((cause for cause in CAUSES if cause.pattern.search(text)), None)


def exception_in(tail: Iterable[str]) -> str | None:
    """The exception that ended a Python script, from its last lines: "ValueError: no events"."""
    for line in reversed(list(tail)):
        match = _EXCEPTION.match(line[:TAIL])
        if match:
            words = _NODES.sub("", match[2] or "")
            text = f"{match[1]}: {words}" if words else match[1]
            return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return None


def explained(cause: Cause) -> Cause:
    """The cause with the exception added to its message, and with its class and the next step if they are known."""
    if not cause.message.startswith("ended with exit code"):
        return cause
    known, exception = cause_of(cause.tail), exception_in(cause.tail)
    words: dict[str, Any] = {}
    if exception:
        words["message"] = f"{cause.message}: {exception}"
    if known:
        words["class"] = known.kind
        words["hint"] = cause.hint or known.hint or None
    return cause.but(**words)
