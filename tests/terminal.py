"""A terminal for tests: a command runs in it, and what it shows at last can be read as lines."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping
from pathlib import Path

PIECE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n])|([^\r\n\x1b]+)")


class Screen:
    """Obeys what tf-spawner sends a terminal: colours are left out, and any other control is an error."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.lines, self.row, self.column = [""], 0, 0

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            piece = PIECE.match(text, at)
            assert piece, f"a terminal would not know {text[at : at + 20]!r}"
            self.obey(piece)
            at = piece.end()

    def obey(self, piece: re.Match[str]) -> None:
        number, control, move, shown = piece.groups()
        top = max(0, len(self.lines) - self.height)
        if control == "A":
            self.row = max(top, self.row - int(number or 1))
        elif control == "B":
            self.row = min(len(self.lines) - 1, self.row + int(number or 1))
        elif control == "J":
            self.lines[self.row :] = [self.lines[self.row][: self.column]]
        elif control == "K":
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif move == "\r":
            self.column = 0
        elif move == "\n":
            self.down()
        elif shown:
            for character in shown:
                self.put(character)
        else:
            assert control == "m", f"a terminal would do something else: {piece[0]!r}"

    def put(self, character: str) -> None:
        if self.column == self.width:
            self.down()
            self.column = 0
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    @property
    def shown(self) -> list[str]:
        """The lines in the window."""
        return [line.rstrip() for line in self.lines[-self.height :]]


class Terminal:
    """Runs a command in a terminal of that size."""

    def __init__(
        self, command: list[str], env: Mapping[str, str], cwd: Path, *, width: int = 100, height: int = 30
    ) -> None:
        self.screen, self.sent, self.changed = Screen(width, height), bytearray(), threading.Condition()
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process = subprocess.Popen(
            command, env={**env, "TERM": "xterm-256color"}, cwd=cwd, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self) -> None:
        rest = b""
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # its last process has ended
                break
            with self.changed:
                self.sent += data
                whole = rest + data  # a character or a control may be cut in two
                end = max(whole.rfind(b"\n"), whole.rfind(b"m"), whole.rfind(b"B")) + 1
                rest = whole[end:]
                self.screen.feed(whole[:end].decode())
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def shows(self, pattern: str, timeout_s: float = 120) -> list[str]:
        """Returns the window's lines once the pattern is found in them."""

        def is_there() -> bool:
            return bool(re.search(pattern, "\n".join(self.screen.shown)))

        with self.changed:
            self.changed.wait_for(lambda: is_there() or not self.thread.is_alive(), timeout_s)
            assert is_there(), f"{pattern!r} is not in\n" + "\n".join(self.screen.shown)
            return self.screen.shown

    def ctrl_c(self) -> None:
        os.write(self.master, b"\x03")

    def done(self, timeout_s: float = 120) -> int:
        """Its exit code, once it has ended and all is shown."""
        code = self.process.wait(timeout_s)
        self.thread.join(timeout_s)
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.master)


class Unread(Terminal):
    """Keeps what it is sent, and obeys nothing."""

    def read(self) -> None:
        while True:
            try:
                self.sent += os.read(self.master, 65536)
            except OSError:
                break
