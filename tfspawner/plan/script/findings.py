"""Reads a training script, without running it, and reports what will not work on several replicas."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import warnings

from . import surroundings
from . import workers as several
from .finding import Finding, Job, Rule
from .walk import read

__all__ = ["Finding", "findings"]


def findings(
    source: str | bytes,
    filename: str,
    *,
    workers: int,
    gpus: int,
    image: str | None,
    legacy_keras: bool,
    on: str,
    s3_plugin: bool = True,
    restarts: int = 0,
    local_modules: frozenset[str] = frozenset(),
    mounts: tuple[str, ...] = (),
    collect: tuple[str, ...] = (),
) -> list[Finding]:
    """What will not work, sorted by line.

    Bytes are decoded as Python does it, by the coding cookie. `workers` is the number of replicas that train, with the
    chief; `legacy_keras` is whether they get TF_USE_LEGACY_KERAS=1; `local_modules` are modules in the script's folder,
    which may contain what the script seems to lack; `mounts` are folders mounted into the pods; `collect` are patterns
    of files that are brought back from anywhere.
    """
    job = Job(
        workers=workers,
        gpus=gpus,
        image=image,
        legacy_keras=legacy_keras,
        on=on,
        s3_plugin=s3_plugin,
        restarts=restarts,
        local_modules=local_modules,
        mounts=mounts,
        collect=collect,
    )
    if _is_notebook(source):
        return [_notebook(filename)]
    try:
        tree = _compiled(source, filename)
        if isinstance(tree, Finding):
            return [tree]
        script = read(tree)
        results = [finding for rule in _rules(job) for finding in rule(script, job)]
    except (RecursionError, MemoryError):  # nested too deeply for this Python's stack
        return []
    return sorted(set(results), key=lambda finding: (finding.line or 0, finding.kind))


def _rules(job: Job) -> list[Rule]:
    for_workers = several.RULES if job.workers > 1 else []
    for_kubernetes = surroundings.RULES_ON_KUBERNETES if job.on == "kubernetes" else []
    return [*surroundings.RULES, *for_workers, *for_kubernetes]


# ---- the source -----------------------------------------------------------------------------------


def _compiled(source: str | bytes, filename: str) -> ast.Module | Finding:
    text = ""
    try:
        text = _decoded(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning: the replica will show it
            compile(text, filename, "exec", dont_inherit=True)
            return ast.parse(text, filename)
    except SyntaxError as error:
        return _syntax_error(error, text)
    except UnicodeError as error:
        return _not_text(error)
    except ValueError as error:  # Python 3.11 raises it for null bytes
        line = text[: text.find("\0")].count("\n") + 1
        hint = "save the file anew as text"
        return Finding(kind="syntax", line=line, message=f"is not valid Python: {error}", hint=hint, is_error=True)


def _decoded(source: str | bytes) -> str:
    """Decodes by the file's coding cookie. Raises SyntaxError or UnicodeError, as Python does for such a file."""
    if isinstance(source, str):
        source.encode()  # fails for lone surrogates, which stand for bytes that were not UTF-8
        return source
    coding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    return source.decode(coding)


def _not_text(error: UnicodeError) -> Finding:
    line = None
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        before = error.object[: error.start]
        line = before.count("\n" if isinstance(before, str) else b"\n") + 1  # type: ignore[arg-type]  # of its own kind
    return Finding(
        kind="syntax",
        line=line,
        hint="save the file anew as UTF-8",
        is_error=True,
        message=f"is not valid text, in UTF-8 or the coding that it names: {error}",
    )


def _syntax_error(error: SyntaxError, text: str) -> Finding:
    where = f" (line {error.lineno}, column {error.offset})" if error.lineno else ""
    lines = text.splitlines()
    faulty = lines[error.lineno - 1].strip() if error.lineno and error.lineno <= len(lines) else ""
    hint = "correct the line; nothing was created"
    if faulty.startswith(("%", "!")):
        hint = "that is a notebook's command; leave the line out, and name packages in the image or requirements"
    elif re.match(r"print\s+[^(=\s]", faulty):
        hint = "that is Python 2; 2to3 or a print() with parentheses makes it Python 3"
    return Finding(
        kind="syntax",
        line=error.lineno,
        message=f"is not valid Python: {error.msg}{where}",
        hint=hint,
        is_error=True,
    )


def _is_notebook(source: str | bytes) -> bool:
    if source[:1] not in ("{", b"{"):
        return False
    try:
        return "nbformat" in json.loads(source)
    except (ValueError, RecursionError):
        return False


def _notebook(filename: str) -> Finding:
    return Finding(
        kind="notebook",
        line=None,
        message=f"{filename} is a notebook, not a script",
        hint=f"jupyter nbconvert --to script {filename}",
    )
