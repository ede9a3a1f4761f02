"""root://host//path: EOS and other XRootD servers, read by processes of their own.

XRootD's library and TensorFlow's crash in one process (both bring OpenSSL's names), so a few helpers, which are this
file run as a program, do all that concerns XRootD, and this process talks to them over pipes. Several helpers, since
the library sends all reads of a process over one connection to a server, or a few.

A request is a line of JSON; so is a reply, behind which its "size" bytes stand.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import posixpath
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from tfspawner.errors import ConfigurationError, DataError

from .files import File, Listing, has_pattern, is_hidden

HELPERS = 4
REQUESTS_AT_ONCE = 16  # in one helper
COPY_BYTES = 8 << 20
TIMEOUT_S = 12
# The library's own bounds are minutes; see "XrdCl environment variables" in xrdcp's manual.
SETTINGS = {
    "XRD_CONNECTIONWINDOW": "5",
    "XRD_CONNECTIONRETRY": "2",
    "XRD_REQUESTTIMEOUT": str(TIMEOUT_S),
    "XRD_STREAMTIMEOUT": str(TIMEOUT_S),
    "XRD_TIMEOUTRESOLUTION": "1",
    "XRD_SUBSTREAMSPERCHANNEL": "4",
    "XRD_LOGLEVEL": "Error",
}
LOGIN_HINT = "kinit, or set X509_USER_PROXY, or BEARER_TOKEN_FILE; in pods by --env-file"


class Helper:
    """One helper process; asked from many threads, it answers in any order. A new one is started when it has ended."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.waiting: dict[int, Future[tuple[dict[str, Any], bytes]]] = {}
        self.numbers = itertools.count()

    def ask(self, **request: Any) -> tuple[dict[str, Any], bytes]:
        """The reply and its bytes. Raises OSError if the helper has ended."""
        future: Future[tuple[dict[str, Any], bytes]] = Future()
        with self.lock:
            if self.process is None:
                self.start()
            assert self.process
            assert self.process.stdin
            number = next(self.numbers)
            self.waiting[number] = future
            try:
                self.process.stdin.write(json.dumps({**request, "id": number}).encode() + b"\n")
                self.process.stdin.flush()
            except OSError:
                pass  # its end is noticed by listen(), which tells all who wait
        return future.result()

    def start(self) -> None:
        """Starts the process that uses XRootD, and a thread that reads its answers."""
        command = [sys.executable, "-m", "tfspawner.data.xrootd"]
        self.process = subprocess.Popen(
            command,
            env={**SETTINGS, **os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        threading.Thread(target=self.listen, args=(self.process,), daemon=True).start()

    def listen(self, process: subprocess.Popen[bytes]) -> None:
        """Hands each answer to the thread that waits for it, until the process ends."""
        assert process.stdout
        try:
            for line in process.stdout:
                reply = json.loads(line)
                data = process.stdout.read(reply["size"])
                if len(data) == reply["size"]:
                    self.waiting.pop(reply["id"]).set_result((reply, data))
        except ValueError:
            pass  # it was killed within a line
        finally:  # whatever went wrong, nobody must wait for ever
            process.kill()
            process.wait()
            with self.lock:
                self.process = None
                left, self.waiting = self.waiting, {}
            for future in left.values():
                future.set_exception(OSError("the process that reads root:// has ended"))


class XRootDFiles:
    """root:// URIs; authentication is by Kerberos, X509 or a token, as for XRootD's own tools."""

    def __init__(self) -> None:
        if not find_spec("XRootD"):
            raise ConfigurationError("root:// needs the package xrootd here", hint="pip install xrootd")
        self.helpers = [Helper() for _ in range(HELPERS)]
        self.turns = itertools.count()

    def ask(self, uri: str, do: str, **request: Any) -> tuple[dict[str, Any], bytes]:
        """Asks a helper. Raises DataError for lasting errors, and OSError for those that may pass."""
        reply, data = self.helpers[next(self.turns) % HELPERS].ask(uri=uri, do=do, **request)
        if "error" in reply:
            if reply["passing"]:
                raise OSError(reply["error"])
            raise DataError(f"{uri}: {reply['error']}", hint=reply["hint"])
        return reply, data

    def look(self, uri: str) -> Listing:
        try:
            reply, _ = self.ask(uri, "look")
        except OSError as error:
            raise DataError(f"{uri}: {error}", hint="check the server's name") from None
        files, folders, hidden = reply["found"]
        return Listing(files=[File(*file) for file in files], folders=folders, hidden=hidden)

    def list(self, uri: str) -> list[File]:
        return self.look(uri).files

    def read(self, uri: str, offset: int, size: int) -> bytes:
        return self.ask(uri, "read", offset=offset, length=size)[1]

    def put(self, path: str, uri: str) -> None:
        try:
            self.ask(uri, "put", path=path)
        except OSError as error:
            raise DataError(f"{uri}: {error}", hint="try again") from None


# ---- the helper ---------------------------------------------------------------------------------


class Refused(Exception):
    """An error of XRootD, in the user's terms."""

    def __init__(self, status: Any, host: str) -> None:
        text = " ".join(str(status.message).split())
        self.missing = status.errno == 3011
        self.there = status.errno == 3018
        self.passing, self.hint = False, None
        if "Auth failed" in text or status.code == 204:
            message, self.hint = f"{host} takes none of the credentials that are here", LOGIN_HINT
        elif status.errno == 3010:
            message, self.hint = f"{host} refuses access", LOGIN_HINT
        elif self.missing:
            message = "there is no such file"
        elif "[FATAL]" in text or status.errno in (0, None):
            self.passing, message = True, f"{host} does not answer: {text}"
        else:
            message = f"{host} answers: {text}"
        super().__init__(message)


class Server:
    """What the helper does with XRootD's library."""

    def __init__(self) -> None:
        from XRootD import client
        from XRootD.client import flags

        self.client: Any = client
        self.flags: Any = flags
        self.open: dict[str, Any] = {}
        self.lock = threading.Lock()

    def names(self, fs: Any, host: str, folder: str) -> list[tuple[str, int, str, bool]]:
        """A folder's entries: name, size, time of change, whether it is a folder; none where it is absent."""
        status, listing = fs.dirlist(folder or "/", self.flags.DirListFlags.STAT, timeout=TIMEOUT_S)
        if not status.ok:
            refused = Refused(status, host)
            if refused.missing:
                return []
            raise refused
        return [
            (e.name, e.statinfo.size, str(e.statinfo.modtime), bool(e.statinfo.flags & self.flags.StatInfoFlags.IS_DIR))
            for e in listing
            if e.statinfo
        ]

    def look(self, uri: str) -> tuple[list[tuple[str, int, str]], int, int]:
        """(files, how many folders, how many hidden files) that the URI stands for."""
        host, path = split(uri)
        fs = self.client.FileSystem(f"root://{host}")
        status, info = fs.stat(path, timeout=TIMEOUT_S)
        if status.ok and not info.flags & self.flags.StatInfoFlags.IS_DIR:
            return [(uri, info.size, str(info.modtime))], 0, 0
        if status.ok:
            return self.inside(fs, host, [path], "*")
        refused = Refused(status, host)
        if refused.passing or not (refused.missing or has_pattern(path)):
            raise refused
        if not has_pattern(path):
            return [], 0, 0
        parts = path.split("/")
        first = next(number for number, part in enumerate(parts) if has_pattern(part))
        folders = ["/".join(parts[:first])]
        for part in parts[first:-1]:
            folders = [
                posixpath.join(folder, name)
                for folder in folders
                for name, _, _, is_folder in self.names(fs, host, folder)
                if is_folder and fnmatch.fnmatchcase(name, part)
            ]
        files, count, _ = self.inside(fs, host, folders, parts[-1])
        return files, count, 0

    def inside(
        self, fs: Any, host: str, folders: list[str], pattern: str
    ) -> tuple[list[tuple[str, int, str]], int, int]:
        """The same for what matches the pattern in these folders."""
        fitting = [
            (f"root://{host}/{posixpath.join(folder, name)}", size, version, is_folder, is_hidden(name, pattern))
            for folder in folders
            for name, size, version, is_folder in self.names(fs, host, folder)
            if fnmatch.fnmatchcase(name, pattern)
        ]
        files = [entry for entry in fitting if not entry[3]]
        return [entry[:3] for entry in files if not entry[4]], len(fitting) - len(files), sum(e[4] for e in files)

    def read(self, uri: str, offset: int, length: int) -> bytes:
        status, data = self.opened(uri).read(offset, length, timeout=TIMEOUT_S)
        if not status.ok:
            with self.lock:
                self.open.pop(uri, None)
            raise Refused(status, split(uri)[0])
        return bytes(data)

    def opened(self, uri: str) -> Any:
        """The file, which stays open for the next read. Raises Refused."""
        with self.lock:
            file = self.open.get(uri)
        if file is None:
            file = self.client.File()
            status, _ = file.open(uri, self.flags.OpenFlags.READ, timeout=TIMEOUT_S)
            if not status.ok:
                raise Refused(status, split(uri)[0])
            with self.lock:
                file = self.open.setdefault(uri, file)
        return file

    def put(self, uri: str, path: str) -> None:
        host, target = split(uri)
        folder, name = posixpath.split(target)
        part = posixpath.join(folder, f".{name}.{os.getpid()}.part")
        fs, file = self.client.FileSystem(f"root://{host}"), self.client.File()
        flags = self.flags.OpenFlags.DELETE | self.flags.OpenFlags.MAKEPATH
        self.must(file.open(f"root://{host}/{part}", flags, timeout=TIMEOUT_S)[0], host)
        try:
            with open(path, "rb") as source:
                for offset in itertools.count(0, COPY_BYTES):
                    data = source.read(COPY_BYTES)
                    if not data:
                        break
                    self.must(file.write(data, offset, timeout=TIMEOUT_S)[0], host)
            self.must(file.close()[0], host)
            status, _ = fs.mv(part, target)
            if not status.ok and Refused(status, host).there:
                self.must(fs.rm(target)[0], host)
                status, _ = fs.mv(part, target)
            self.must(status, host)
        except BaseException:
            file.close()
            fs.rm(part)
            raise

    @staticmethod
    def must(status: Any, host: str) -> None:
        """Raises Refused for a status that is not ok."""
        if not status.ok:
            raise Refused(status, host)


def split(uri: str) -> tuple[str, str]:
    """(host and port, absolute path) of root://host//path."""
    parts = urlsplit(uri)
    query = f"?{parts.query}" if parts.query else ""
    return parts.netloc, "/" + parts.path.strip("/") + query


def main() -> None:
    """Answers the requests of stdin on stdout, several at a time."""
    server, lock = Server(), threading.Lock()

    def answer(request: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"id": request.pop("id")}
        data = b""
        try:
            result = getattr(server, request.pop("do"))(**request)
            if isinstance(result, bytes):
                data = result
            else:
                reply["found"] = result
        except Refused as refused:
            reply.update(error=str(refused), hint=refused.hint, passing=refused.passing)
        except Exception as error:  # the request is answered, whatever it is
            reply.update(error=f"{type(error).__name__}: {error}", hint=None, passing=False)
        with lock:
            sys.stdout.buffer.write(json.dumps({**reply, "size": len(data)}).encode() + b"\n")
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        for line in sys.stdin.buffer:
            pool.submit(answer, json.loads(line))
        os._exit(0)  # the parent is gone


if __name__ == "__main__":
    main()
