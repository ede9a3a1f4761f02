"""What a notebook shows of a job: replicas and curves in the cell's output, redrawn in place."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from tfspawner.base.templating import html_environment
from tfspawner.base.terminal import harmless
from tfspawner.base.words import age, human_bytes
from tfspawner.errors import Interrupted, SpawnerError
from tfspawner.follow.outcome import Outcome, raise_for
from tfspawner.follow.state import JobState, View
from tfspawner.pages.charts import charts
from tfspawner.record.folder import RunFolder
from tfspawner.record.learning import Learning

from .plain import LONGEST_LINE, PlainView
from .table import replica_cells

REFRESH_S = 1.0
BYTES_PER_S = 100_000  # Jupyter drops output of ten times as much
MOST_LINES = 5  # of output, until there are curves
MOST_NOTES = 20
MOST_FILES = 20

Publish = Callable[[Mapping[str, str]], None]  # of one output in its formats, in the place of the one before
Result = TypeVar("Result", Outcome, JobState)


def shown(title: str, work: Callable[[View], Result]) -> Result:
    """Does the work and returns its result; the cell shows the view, and in the end the result or the error."""
    view = NotebookView(cell_output(), title)
    try:
        result = work(view)
    except BaseException as error:
        view.end(error=error)
        raise
    view.end(result)
    return result


def cell_output() -> Publish:
    """Puts an output below the running cell, and replaces it from then on."""
    from IPython.display import display

    handle: Any = None

    def publish(formats: Mapping[str, str]) -> None:
        nonlocal handle
        if handle:
            handle.update(formats, raw=True)
        else:
            handle = display(formats, raw=True, display_id=True)  # type: ignore[no-untyped-call]  # IPython has no types

    return publish


class NotebookView(PlainView):
    """A page in a cell's output, redrawn about once a second."""

    def __init__(self, publish: Publish, title: str) -> None:
        super().__init__(sys.stdout, sys.stderr)
        self.publish, self.title = publish, title
        self.state: JobState | None = None
        self.learned: dict[str, Learning] = defaultdict(Learning)
        self.rests: dict[str, bytes] = {}  # of each replica, what follows the last line that was read
        self.last_lines: deque[str] = deque(maxlen=MOST_LINES)
        self.notes: deque[str] = deque(maxlen=MOST_NOTES)
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self.lock = threading.RLock()  # files are collected by several threads
        self.next_at = 0.0
        self.template = html_environment().get_template("notebook.html")
        self.draw()

    def show(self, state: JobState) -> None:
        self.state = state
        self.draw_if_due()

    def log(self, replica: str, data: bytes) -> None:
        super().log(replica, data)
        *drawn, rest = re.split(rb"[\r\n]", self.rests.get(replica, b"") + data)
        self.rests[replica] = rest[-LONGEST_LINE:]
        for line in drawn:
            self.learned[replica].read(line.decode(errors="replace"))

    def write(self, replica: str, lines: list[str]) -> None:
        """Keeps the last lines of logs, for a page without curves."""
        self.last_lines.extend(f"{replica} | {harmless(line)}" for line in lines)

    def received(self, size_bytes: int) -> None:
        with self.lock:
            super().received(size_bytes)
        self.draw_if_due()

    def note(self, text: str) -> None:
        self.notes.append(harmless(text).strip())
        self.draw()

    def end(self, result: Outcome | JobState | None = None, error: BaseException | None = None) -> None:
        """Shows how the job ended: an outcome with its files, or an error with the next step."""
        self.error = error
        if isinstance(result, Outcome):
            self.outcome = result
        elif isinstance(result, JobState):
            self.state = result
            try:
                raise_for(result, None)
            except SpawnerError as failure:
                self.error = failure
        elif isinstance(error, SpawnerError):
            self.outcome = error.outcome
        self.finish()

    def finish(self) -> None:
        super().finish()
        self.draw()

    def draw_if_due(self) -> None:
        """Redraws the cell, but not more often than a slow notebook can follow."""
        if time.monotonic() >= self.next_at:
            self.draw()

    def draw(self) -> None:
        """Redraws the cell now."""
        with self.lock:
            page = self.page()
            self.publish({"text/html": page, "text/plain": harmless(f"{self.heading}: {self.word}")})
            self.next_at = time.monotonic() + max(REFRESH_S, len(page) / BYTES_PER_S)

    @property
    def heading(self) -> str:
        return self.state.job if self.state else self.title

    @property
    def word(self) -> str:
        """How far the job is, or how it ended."""
        if isinstance(self.error, KeyboardInterrupt | Interrupted):
            return "interrupted"
        if self.outcome:
            return self.outcome.result
        if self.error:
            return "failed"
        if not self.state:
            return "preparing"
        return "collecting" if self.state.result and self.collected else self.state.result or self.state.phase

    def page(self) -> str:
        """The cell as HTML."""
        columns, rows, counts = replica_cells(self.state) if self.state else ([], [], "")
        drawn = charts({replica: learning.curves for replica, learning in self.learned.items()})
        return self.template.render(
            heading=self.heading,
            word=harmless(self.word),
            columns=columns,
            rows=rows,
            more=counts,
            charts=drawn,
            lines=[] if drawn else self.last_lines,
            notes=self.notes,
            collected=human_bytes(self.collected) if self.collected else "",
            error=_error_fields(self.error) if self.error else None,
            came=_came(self.outcome) if self.outcome else None,
        )


def _error_fields(error: BaseException) -> dict[str, Any]:
    """An error as the template shows it."""
    if isinstance(error, KeyboardInterrupt):
        return {}
    if not isinstance(error, SpawnerError):
        return {"message": harmless(f"{type(error).__name__}: {error}")}
    lines = [harmless(line) for line in getattr(error, "lines", [])]
    about = getattr(error, "about", "")
    return {
        "message": harmless(error.message),
        "hint": harmless(error.hint or ""),
        "about": harmless(about),
        "lines": lines,
    }


def _came(outcome: Outcome) -> dict[str, Any]:
    """The files that came back, and where they are. A page below the notebook's folder gets a link."""
    page = RunFolder(outcome.folder).page
    files = [
        (harmless(f"{collected.replica}/{file['path']}"), human_bytes(file["size"]))
        for collected in outcome.collected
        for file in collected.files
    ]
    return {
        "took": age(outcome.seconds),
        "files": files[:MOST_FILES],
        "more": len(files[MOST_FILES:]),
        "folder": outcome.folder,
        "page": page,
        "link": None if page.is_absolute() else f"./{quote(str(page))}",
        "artifacts": harmless(outcome.artifacts or ""),
    }
