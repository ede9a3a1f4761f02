"""What in a training script will not work on several replicas, as far as reading it tells; it is never executed."""

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
    """What will not work, in the order of lines.

    Bytes are read as Python reads a file, by its coding cookie. `workers` are the replicas that train, the chief
    among them; `legacy_keras` is whether they get TF_USE_LEGACY_KERAS=1; `local_modules` lie in the script's folder,
    and may hold what the script seems to lack; `mounts` are folders mounted into the pods; `collect` are the patterns
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
        found = [finding for rule in _rules(job) for finding in rule(script, job)]
    except (RecursionError, MemoryError):  # nested so deeply that only a Python with a larger stack could tell
        return []
    return sorted(set(found), key=lambda finding: (finding.line or 0, finding.kind))


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
            warnings.simplefilter("ignore")  # SyntaxWarning: the replica will say it
            compile(text, filename, "exec", dont_inherit=True)
            return ast.parse(text, filename)
    except SyntaxError as error:
        return _syntax_error(error, text)
    except UnicodeError as error:
        return _not_text(error)
    except ValueError as error:  # Python 3.11 says so of null bytes
        line = text[: text.find("\0")].count("\n") + 1
        hint = "save the file anew as text"
        return Finding(kind="syntax", line=line, message=f"is not valid Python: {error}", hint=hint, is_error=True)


def _decoded(source: str | bytes) -> str:
    """The text, by the file's own coding cookie. Raises SyntaxError or UnicodeError as Python does for such a file."""
    if isinstance(source, str):
        source.encode()  # lone surrogates stand for what was not UTF-8
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
