"""Lines at a terminal's lower end that are redrawn in place, while others scroll away above them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console

from tfspawner.base.terminal import harmless, silence, text_of

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

TABLE_EVERY_S = 1.0
TEXT_EVERY_S = 0.25  # what scrolls above comes so soon
LINK_BYTES_S = 8192  # the pane takes no more of a slow link


class Pane:
    """Lines that are redrawn in place.

    Rewrites only the lines that changed, and no sooner than what it wrote last has passed a slow link.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.drawn: list[str] = []
        self.cells: list[int] = []  # how wide each of them is
        self.drawn_at = -math.inf
        self.busy_s = 0.0  # so long the last drawing takes on a slow link

    def is_due(self, has_text: bool) -> bool:
        """Whether enough time has passed since the last drawing; waiting text is drawn sooner."""
        pause_s = TEXT_EVERY_S if has_text else TABLE_EVERY_S
        return time.monotonic() - self.drawn_at >= max(pause_s, self.busy_s)

    def draw(self, pane: Text | Table, text: str = "", most: int | None = None) -> None:
        """Shows these lines in the pane, as many as fit, and prints text, which ends with a line feed, above it."""
        lines = self.ansi(pane).split("\n")[:-1] if pane else []
        if most is not None and len(lines) > most:
            lines = [*lines[: max(0, most - 1)], "…"]
        if text or len(lines) != len(self.drawn) or self.rows() != len(self.drawn):
            written = "".join(f"{line}\n" for line in lines)
            self.console.file.write(self.erasing() + text + written)
        else:
            written = self.changes(lines)
            self.console.file.write(written)
        self.console.file.flush()
        self.drawn, self.cells = lines, [cell_len(harmless(line).rstrip()) for line in lines]
        self.drawn_at, self.busy_s = time.monotonic(), len(written) / LINK_BYTES_S

    def ansi(self, text: Text | Table) -> str:
        """The text with the escape sequences for this terminal."""
        with self.console.capture() as captured:
            self.console.print(text, soft_wrap=True)
        return captured.get()

    def rows(self) -> int:
        """How many rows the lines take; if the window was made narrower, some take two."""
        return sum(max(1, math.ceil(cells / self.console.width)) for cells in self.cells)

    def erasing(self) -> str:
        """The escape sequences that remove the lines drawn last."""
        return f"\x1b[{self.rows()}A\r\x1b[J" if self.drawn else ""

    def changes(self, lines: list[str]) -> str:
        """The output that turns the drawn lines into these (the same number); the cursor stays below them."""
        parts = []
        for number, (line, before) in enumerate(zip(lines, self.drawn, strict=True)):
            if line != before:
                up = len(lines) - number
                parts.append(f"\x1b[{up}A\r{line}\x1b[K\r\x1b[{up}B")
        return "".join(parts)


class LivePane:
    """A pane that redraws itself from content() when it is due; several threads may draw it."""

    def __init__(self, console: Console, content: Callable[[], Text | Table], *, stays: bool = False) -> None:
        self.console, self.pane, self.content, self.stays = console, Pane(console), content, stays
        self.above: list[str] = []  # what is still to be shown there
        self.has_ended = False
        self.lock = threading.Lock()

    def note(self, text: str) -> None:
        """Shows a note above it, at once."""
        self.scroll([self.styled(text, "yellow")], now=True)

    def scroll(self, lines: list[str], *, now: bool = False) -> None:
        """Prints lines above it; they already have their escape sequences."""
        with self.lock:
            self.above += [f"{line}\n" for line in lines]
        self.draw(now=now)

    def styled(self, text: str, style: str) -> str:
        """The text in this style, with this terminal's escape sequences."""
        return self.pane.ansi(text_of(text, style=style)).rstrip("\n")

    def draw(self, *, now: bool = False) -> None:
        """Redraws it if it is due, or now. After the end, only a pane that stays is drawn."""
        with self.lock:
            if now or self.pane.is_due(bool(self.above)):
                content = text_of() if self.has_ended and not self.stays else self.content()
                text, self.above = "".join(self.above), []
                try:
                    self.pane.draw(content, text, self.console.height - 1)
                except OSError:
                    silence(self.console.file)  # the job goes on, unseen

    def finish(self) -> None:
        """Ends the pane: removes it or leaves it on the screen."""
        self.has_ended = True
        if not self.stays or self.above:
            self.draw(now=True)
