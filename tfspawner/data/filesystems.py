"""Where data is stored: a table of file systems, which list URIs, read ranges of bytes and take whole files."""

from __future__ import annotations

import fnmatch
import glob
import os
import posixpath
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tfspawner.base.userfile import A_FOLDER, ABSENT, kind_of, named, wrong_path
from tfspawner.errors import ConfigurationError, DataError
from tfspawner.replica import s3

from .files import File, FileSystem, Listing, has_pattern, is_hidden

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 6.0
COPY_BYTES = 1 << 20


def filesystem_of(uri: str) -> FileSystem:
    """The file system for a URI's scheme. Raises ConfigurationError for what is not a URI, or has a password."""
    scheme = checked_scheme(uri)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES if name)
        raise ConfigurationError(f"{uri}: there is no file system for {scheme}://", hint=f"known are paths and {known}")
    filesystem: FileSystem = SCHEMES[scheme]()
    return filesystem


def checked_scheme(uri: str) -> str:
    """A URI's scheme, "" for a path. Raises ConfigurationError."""
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    if scheme in ("", "file"):
        if reason := wrong_path(local_path(uri)):
            raise ConfigurationError(f"{named(uri)}: no file can have this path: {reason}")
        return scheme
    try:
        parts = urlsplit(uri)
        if scheme != "s3":  # a bucket has no port
            parts.port  # noqa: B018  # it is parsed here
    except ValueError:  # whose words, and the URI, may hold a password that was not written as one
        shown_uri = f"{scheme}://…" if "@" in uri else uri
        raise ConfigurationError(f"{shown_uri} is no URI", hint="write like https://HOST[:PORT]/PATH") from None
    if parts.password is not None or (parts.username is not None and scheme in ("http", "https")):
        raise ConfigurationError(
            f"{uri} was given with a password, which is not used and others would see",
            hint="leave it out; a web server's token is taken from BEARER_TOKEN",
        )
    if scheme in ("http", "https", "root") and not parts.hostname:
        raise ConfigurationError(f"{uri} names no server", hint=f"write like {scheme}://HOST/PATH")
    return scheme


def list_files(
    uris: str | Iterable[str], leave_out: Callable[[str], None] | None = None, *, strict: bool = True
) -> list[File]:
    """All files of one or more URIs or patterns, each once, in the order of their names. Raises DataError for none.

    Folders and hidden files inside a folder are left out, and leave_out is called with a sentence that counts them.
    A pipe, or a link that leads nowhere, is an error; unless strict, leave_out hears of it instead.
    """
    files: dict[str, File] = {}
    for uri in [uris] if isinstance(uris, str) else uris:
        listing = filesystem_of(uri).look(uri)
        if listing.wrong and strict:
            raise DataError(listing.wrong[0], hint="remove it, or name the files that are meant")
        if not listing.files:
            raise _none(uri, listing.others)
        if leave_out:
            verb = "fits" if has_pattern(uri) else "holds"
            for words in [*listing.wrong, *([f"{uri} also {verb} {listing.others}"] if listing.others else [])]:
                leave_out(words)
        files |= {file.uri: file for file in listing.files}
    return sorted(files.values())


def _none(uri: str, others: str) -> DataError:
    if others:
        return DataError(f"{uri}: it holds no file, but {others}", hint=f"name what is meant: {uri.rstrip('/')}/NAME")
    return DataError(f"{uri}: there is no such file", hint="look into the folder above: tf-spawner data ls FOLDER")


def incomplete(files: Iterable[File], uris: str | Iterable[str]) -> list[str]:
    """The missing files of sets like part-00003-of-00008, unless the files were named one by one."""
    named = {uris} if isinstance(uris, str) else set(uris)
    sets: dict[tuple[str, ...], set[int]] = {}
    for file in files:
        match = re.fullmatch(r"(.*-)(\d{5})-of-(\d{5})([^/]*)", file.uri)
        if match and file.uri not in named:
            sets.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    return [
        f"{first}{number:05}-of-{count}{last} is missing: {len(numbers)} of {int(count)} such files are there"
        for (first, count, last), numbers in sets.items()
        if (number := next((n for n in range(int(count)) if n not in numbers), None)) is not None
    ]


class LocalFiles:
    """Paths of this machine, its mounts such as /eos among them, and file://."""

    def look(self, uri: str) -> Listing:
        path = local_path(uri)
        pattern = has_pattern(path) and not os.path.lexists(path)
        is_folder = not pattern and os.path.isdir(path)
        try:
            names = sorted(glob.glob(path)) if pattern else sorted(os.listdir(path)) if is_folder else [path]
        except OSError as error:
            raise DataError(f"{uri}: {error.strerror}") from None
        files, wrong, folders, hidden = [], list[str](), 0, 0
        for name in names:
            place = os.path.join(path, name) if is_folder else name
            if is_folder and is_hidden(name):
                hidden += not os.path.isdir(place)
                folders += os.path.isdir(place)
                continue
            with suppress(OSError):
                status = os.stat(place)
                if stat.S_ISREG(status.st_mode):
                    files.append(File(place, status.st_size, f"{status.st_mtime_ns}-{status.st_ctime_ns}"))
                    continue
            kind = kind_of(Path(place))
            folders += kind == A_FOLDER
            if kind == ABSENT and os.path.islink(place):
                wrong.append(f"{place} is a link that leads nowhere")
            elif kind not in ("", ABSENT, A_FOLDER):
                wrong.append(f"{place} {kind}" + (", and no file" if kind.startswith("is ") else ""))
        if wrong and not (is_folder or pattern):
            raise DataError(wrong[0])
        return Listing(files=files, wrong=wrong, folders=folders, hidden=hidden)

    def list(self, uri: str) -> list[File]:
        listing = self.look(uri)
        if listing.wrong:
            raise DataError(listing.wrong[0], hint="remove it, or name the files that are meant")
        return listing.files

    def read(self, uri: str, offset: int, size: int) -> bytes:
        with open(local_path(uri), "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size)

    def put(self, path: str, uri: str) -> None:
        target = local_path(uri)
        folder, name = os.path.split(target)
        try:
            if folder:
                os.makedirs(folder, exist_ok=True)
            if os.stat(path).st_dev == os.stat(folder or ".").st_dev:
                return os.replace(path, target)
            part = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.part")
            try:
                with open(path, "rb") as source, open(part, "xb") as copy:  # x: fails if anything is there, even a link
                    shutil.copyfileobj(source, copy, COPY_BYTES)
                os.replace(part, target)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(part)
                raise
        except OSError as error:
            raise DataError(f"{uri}: {error.strerror}") from None


def local_path(uri: str) -> str:
    """The path of a file:// URI, or the path itself."""
    return uri.removeprefix("file://")


class S3Files:
    """s3://bucket/key; endpoint and keys from the usual variables."""

    def __init__(self) -> None:
        try:
            self.s3 = s3.S3(s3.settings_from(os.environ))
        except s3.S3Error as error:
            raise ConfigurationError(error.message, hint=error.hint) from None

    def _objects(self, uri: str, bucket: str, prefix: str, *, deep: bool = False) -> list[s3.Object]:
        try:
            return list(self.s3.list(bucket, prefix, deep=deep))
        except s3.S3Error as error:
            raise DataError(f"{uri}: {error.message}", hint=error.hint) from None

    def look(self, uri: str) -> Listing:
        bucket, path = s3.split_uri(uri.rstrip("/"))
        if has_pattern(bucket) or not bucket:
            raise ConfigurationError(f"{uri}: a bucket must be named", hint="write like s3://bucket/folder/part-*")
        fixed = re.split(r"[*?\[]", path)[0]
        is_asked = path and (has_pattern(path) or not uri.endswith("/"))
        near = self._objects(uri, bucket, fixed, deep="/" in path[len(fixed) :]) if is_asked else []
        if not uri.endswith("/") and (exact := next((one for one in near if one.key == path), None)):
            return Listing(files=[_file(bucket, exact)])
        is_folder = any(one.key.startswith(f"{path}/") for one in near)  # with exactly that name
        if has_pattern(path) and not is_folder:
            return self._fitting(bucket, path, near)
        inside = [one for one in self._objects(uri, bucket, f"{path}/" if path else "") if one.key != f"{path}/"]
        files = [one for one in inside if not one.key.endswith("/")]
        shown = [_file(bucket, one) for one in files if not is_hidden(posixpath.basename(one.key))]
        return Listing(files=shown, folders=len(inside) - len(files), hidden=len(files) - len(shown))

    @staticmethod
    def _fitting(bucket: str, path: str, objects: list[s3.Object]) -> Listing:
        """The objects that match a pattern."""
        files = [_file(bucket, one) for one in objects if not one.key.endswith("/") and matches(one.key, path)]
        parts = {
            tuple(one.key.split("/")[: path.count("/") + 1]) for one in objects if one.key.count("/") > path.count("/")
        }
        return Listing(files=files, folders=sum(matches("/".join(part), path) for part in parts))

    def list(self, uri: str) -> list[File]:
        return self.look(uri).files

    def read(self, uri: str, offset: int, size: int) -> bytes:
        try:
            return self.s3.read(*s3.split_uri(uri), offset, size)
        except s3.S3Error as error:
            if error.passing:
                raise
            raise DataError(f"{uri}: {error.message}", hint=error.hint) from None

    def put(self, path: str, uri: str) -> None:
        try:
            self.s3.put(*s3.split_uri(uri), path)
        except s3.S3Error as error:
            raise DataError(f"{uri}: {error.message}", hint=error.hint) from None


def _file(bucket: str, item: s3.Object) -> File:
    return File(f"s3://{bucket}/{item.key}", item.size, item.etag)


def matches(path: str, pattern: str) -> bool:
    """Whether a listed path matches the pattern, part by part, and is not hidden."""
    parts, patterns = path.split("/"), pattern.split("/")
    if is_hidden(parts[-1], patterns[-1]):
        return False
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


class WebFiles:
    """https:// and http:// URIs, each a file: nothing can be listed there."""

    def __init__(self) -> None:
        import urllib3

        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
        self.pool = urllib3.PoolManager(
            maxsize=32, timeout=timeout, retries=urllib3.Retry(2, redirect=5, backoff_factor=0.2)
        )
        token = os.environ.get("BEARER_TOKEN")
        if token and not (token.isascii() and token.isprintable()):
            raise ConfigurationError("BEARER_TOKEN holds characters that no HTTP header can", hint="set it anew")
        self.headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def look(self, uri: str) -> Listing:
        return Listing(files=self.list(uri))

    def list(self, uri: str) -> list[File]:
        try:
            reply = self._ask("HEAD", uri, {})
        except (DataError, OSError) as error:
            if has_pattern(urlsplit(uri).path):
                raise ConfigurationError(
                    f"{error}; a web server cannot be asked for a pattern", hint="name each file"
                ) from None
            if isinstance(error, DataError):
                raise
            raise DataError(str(error), hint="try again later") from None
        reply.release_conn()
        if not re.fullmatch("[0-9]{1,18}", reply.headers.get("Content-Length", "")):
            raise DataError(f"{uri}: the server does not tell its size")
        version = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
        return [File(uri, int(reply.headers["Content-Length"]), version)]

    def read(self, uri: str, offset: int, size: int) -> bytes:
        reply = self._ask("GET", uri, {"Range": f"bytes={offset}-{offset + size - 1}"})
        try:
            if reply.status != 206:
                raise DataError(f"{uri}: the server sends no parts of a file")
            if s3.begins_at(reply.headers.get("Content-Range", "none")) != offset:
                raise DataError(f"{uri}: the server sends other bytes than those from {offset} on")
            if reply.headers.get("Content-Encoding", "identity") != "identity":
                raise DataError(f"{uri}: the server sends it compressed, which nobody asked for")
            data = self._body(reply, uri, size)
            if len(data) > size:
                raise DataError(f"{uri}: the server sends more bytes than the {size} that were asked for")
        except BaseException:
            reply.close()
            raise
        reply.release_conn()
        return data

    def put(self, path: str, uri: str) -> None:
        raise ConfigurationError(f"{uri}: nothing can be put on a web server", hint="give a path or s3://")

    @staticmethod
    def _body(reply: Any, uri: str, size: int) -> bytes:
        import urllib3

        try:
            return bytes(reply.read(size + 1, decode_content=False))
        except urllib3.exceptions.HTTPError as error:
            raise OSError(f"{uri}: {error}") from None

    def _ask(self, method: str, uri: str, headers: dict[str, str]) -> Any:
        import urllib3

        try:
            reply = self.pool.request(method, uri, headers={**self.headers, **headers}, preload_content=False)
        except urllib3.exceptions.MaxRetryError as error:
            raise DataError(f"{uri}: the server does not answer: {error.reason}") from None
        except (urllib3.exceptions.HTTPError, ValueError) as error:  # ValueError: it redirects to what is no URI
            raise OSError(f"{uri}: {error}") from None
        if reply.status >= 400:
            reply.close()
        if reply.status in (401, 403):
            raise DataError(f"{uri}: the server refuses access", hint="set BEARER_TOKEN, if it takes one")
        if reply.status in (404, 410):
            raise DataError(f"{uri}: there is no such file")
        if reply.status >= 400:
            raise OSError(f"{uri}: the server answered {reply.status}")
        return reply


def _xrootd() -> Any:
    from .xrootd import XRootDFiles

    return XRootDFiles()


SCHEMES: dict[str, Any] = {
    "": cache(LocalFiles),
    "file": cache(LocalFiles),
    "s3": cache(S3Files),
    "root": cache(_xrootd),
    "https": cache(WebFiles),
    "http": cache(WebFiles),
}
