"""Where data lie: one table of file systems, each of which lists URIs and reads ranges of bytes."""

from __future__ import annotations

import fnmatch
import glob
import os
import posixpath
import re
import shutil
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol
from urllib.parse import urlsplit

from ..errors import ConfigurationError, DataError

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 6.0
NO_ANSWER = "NETWORK_CONNECTION|curlCode: (6|7|28)"  # host not found, refused, silent
HIDDEN = ("_", ".")  # Spark's _SUCCESS and the like are no data


@dataclass(frozen=True, slots=True, order=True)
class File:
    """One file, as a listing gives it."""

    uri: str
    size: int


class FileSystem(Protocol):
    """What is needed of a place where data lie. All methods raise DataError; reading may be asked from many threads."""

    def list(self, uri: str) -> list[File]:
        """The file of that URI, the files that its pattern matches, or those of the folder that it names."""

    def read(self, uri: str, offset: int, size: int) -> bytes:
        """size bytes from offset on; fewer where the file ends. Raises OSError for what may pass."""

    def put(self, path: str, uri: str) -> None:
        """Puts a local file there, whole or not at all; what was there is replaced."""


def filesystem_of(uri: str) -> FileSystem:
    """The file system for a URI's scheme."""
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES if name)
        raise ConfigurationError(f"{uri}: there is no file system for {scheme}://", hint=f"known are paths and {known}")
    found: FileSystem = SCHEMES[scheme]()
    return found


def list_files(uris: str | Iterable[str]) -> list[File]:
    """All files of one or more URIs or patterns, each once, in the order of their names. Raises DataError for none."""
    found: set[File] = set()
    for uri in [uris] if isinstance(uris, str) else uris:
        files = filesystem_of(uri).list(uri)
        if not files:
            raise DataError(f"{uri}: there is no such file", hint="tf-spawner data ls shows what is there")
        found.update(files)
    return sorted(found)


def incomplete(files: Iterable[File], uris: str | Iterable[str]) -> list[str]:
    """What is missing among files named like part-00003-of-00008, unless they are named one by one."""
    named = {uris} if isinstance(uris, str) else set(uris)
    sets: dict[tuple[str, ...], set[int]] = {}
    for file in files:
        match = re.fullmatch(r"(.*-)(\d{5})-of-(\d{5})([^/]*)", file.uri)
        if match and file.uri not in named:
            sets.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    return [
        f"{first}{number:05}-of-{count}{last} is missing: {len(found)} of {int(count)} such files are there"
        for (first, count, last), found in sets.items()
        if (number := next((n for n in range(int(count)) if n not in found), None)) is not None
    ]


def has_pattern(path: str) -> bool:
    return bool(re.search(r"[*?\[]", path))


class LocalFiles:
    """Paths of this machine, its mounts such as /eos among them, and file://."""

    def list(self, uri: str) -> list[File]:
        path = local_path(uri)
        names = sorted(glob.glob(path)) if has_pattern(path) else [path]
        if names == [path] and os.path.isdir(path):
            names = [os.path.join(path, name) for name in sorted(os.listdir(path)) if not name.startswith(HIDDEN)]
        try:
            return [File(name, os.stat(name).st_size) for name in names if not os.path.isdir(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataError(f"{uri}: {error.strerror}") from None

    def read(self, uri: str, offset: int, size: int) -> bytes:
        with open(local_path(uri), "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size)

    def put(self, path: str, uri: str) -> None:
        place = local_path(uri)
        unfinished = f"{place}.{os.getpid()}.tmp"
        try:
            shutil.copyfile(path, unfinished)
            os.replace(unfinished, place)
        except OSError as error:
            if os.path.exists(unfinished):
                os.unlink(unfinished)
            raise DataError(f"{uri}: {error.strerror}") from None


def local_path(uri: str) -> str:
    return uri.removeprefix("file://")


class S3Files:
    """s3://bucket/key, by pyarrow; credentials and endpoint from the usual variables."""

    def __init__(self) -> None:
        self.settings = s3_settings(os.environ)
        self.fs = _arrow_s3(self.settings)
        self._open: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    def list(self, uri: str) -> list[File]:
        from pyarrow.fs import FileSelector, FileType

        path = uri.removeprefix("s3://").rstrip("/")
        fixed = path.split("/")
        while has_pattern("/".join(fixed)):
            fixed.pop()
        try:
            if len(fixed) == path.count("/") + 1 and len(fixed) > 1:  # no pattern: a key, or else a folder
                info = self.fs.get_file_info(path)
                if info.type == FileType.File:
                    return [File(uri, info.size)]
            found = self.fs.get_file_info(
                FileSelector("/".join(fixed), recursive=path.count("/") > len(fixed), allow_not_found=False)
            )
        except FileNotFoundError:
            self._must_have_bucket(uri, fixed[0])
            return []
        except OSError as error:
            raise self._explain(error, uri) from None
        return [
            File(f"s3://{info.path}", info.size)
            for info in found
            if info.type == FileType.File and matches(info.path, path)
        ]

    def read(self, uri: str, offset: int, size: int) -> bytes:
        try:
            return bytes(self._opened(uri).read_at(size, offset))
        except FileNotFoundError:
            raise DataError(f"{uri}: it is not there any more") from None
        except OSError as error:
            if re.search(NO_ANSWER, str(error)):
                raise OSError(f"{self.where} does not answer") from None
            raise self._explain(error, uri) from None

    def put(self, path: str, uri: str) -> None:
        try:
            with open(path, "rb") as file, self.fs.open_output_stream(uri.removeprefix("s3://")) as out:
                shutil.copyfileobj(file, out, 8 << 20)
        except OSError as error:
            explained = self._explain(error, uri)
            raise explained if isinstance(explained, DataError) else DataError(str(explained)) from None

    def _opened(self, uri: str) -> Any:
        """The object, opened once whoever asks first: it takes a request to the server."""
        with self._lock:
            opened = self._open.get(uri)
            first = opened is None
            if opened is None:
                opened = self._open[uri] = Future()
        if first:
            try:
                opened.set_result(self.fs.open_input_file(uri.removeprefix("s3://")))
            except BaseException as error:
                with self._lock:
                    del self._open[uri]
                opened.set_exception(error)
        return opened.result()

    def _must_have_bucket(self, uri: str, bucket: str) -> None:
        from pyarrow.fs import FileType

        if self.fs.get_file_info(bucket).type == FileType.NotFound:
            raise DataError(
                f"{uri}: there is no bucket {bucket!r} at {self.where}", hint="check its name and the endpoint"
            )

    @property
    def where(self) -> str:
        endpoint = self.settings.get("endpoint_override")
        return f"{self.settings.get('scheme', 'https')}://{endpoint}" if endpoint else f"AWS, {self.settings['region']}"

    def _explain(self, error: OSError, uri: str) -> Exception:
        """AWS's words in the user's; what may pass stays an OSError."""
        text = str(error)
        key = self.settings.get("access_key")
        who = f"access key {key}" if key else "no access key (AWS_ACCESS_KEY_ID is not set)"
        for pattern, message, hint in (
            (NO_ANSWER, f"{self.where} does not answer", "check AWS_ENDPOINT_URL"),
            ("SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch", f"{self.where} refuses the secret of {who}",
             "check AWS_SECRET_ACCESS_KEY"),
            ("INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|UserNotFound|INVALID_CLIENT_TOKEN", f"{self.where} does not know the {who}",
             "check AWS_ACCESS_KEY_ID"),
            ("EXPIRED_TOKEN|ExpiredToken", f"the session token for {self.where} has expired", "get a new AWS_SESSION_TOKEN"),
            ("NO_SUCH_BUCKET|NoSuchBucket", f"there is no such bucket at {self.where}", "check its name and the endpoint"),
            ("ACCESS_DENIED|HTTP Status Code: 403|HTTP status 403", f"{self.where} refuses access with {who}",
             "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"),
            ("PermanentRedirect|HTTP Status Code: 301|AuthorizationHeaderMalformed", f"the bucket is not in region {self.settings['region']}",
             "set AWS_REGION"),
        ):  # fmt: skip
            if re.search(pattern, text):
                return DataError(f"{uri}: {message}", hint=hint)
        return OSError(f"{uri}: {text.split('. Detail:')[0][:300]}")


def matches(path: str, pattern: str) -> bool:
    """Whether a listed path is what was asked for: it fits the pattern, or lies in the folder, and is not hidden."""
    if posixpath.basename(path).startswith(HIDDEN):
        return False
    parts, wanted = path.split("/"), pattern.split("/")
    if not has_pattern(pattern):
        return posixpath.dirname(path) == pattern
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def s3_settings(env: Mapping[str, str]) -> dict[str, Any]:
    """pyarrow's S3FileSystem options from AWS's variables, or the older ones of TensorFlow and the original tf-spawner."""

    def first(*names: str) -> str | None:
        return next((env[name] for name in names if env.get(name)), None)

    settings: dict[str, Any] = {
        "access_key": first("AWS_ACCESS_KEY_ID", "S3_ACCESS_KEY"),
        "secret_key": first("AWS_SECRET_ACCESS_KEY", "S3_SECRET_KEY"),
        "session_token": first("AWS_SESSION_TOKEN"),
        "region": first("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1",
        "tls_ca_file_path": first("AWS_CA_BUNDLE", "SSL_CERT_FILE"),
    }
    endpoint = first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT")
    if endpoint:
        scheme, separator, rest = endpoint.partition("://")
        plain = env.get("S3_USE_HTTPS", "1").lower() in ("0", "false")
        settings["scheme"] = scheme if separator else "http" if plain else "https"
        settings["endpoint_override"] = (rest if separator else endpoint).rstrip("/")
        if settings["scheme"] not in ("http", "https"):
            raise ConfigurationError(f"the S3 endpoint is {endpoint!r}", hint="write like https://s3.example.org")
    return {key: value for key, value in settings.items() if value is not None}


def _arrow_s3(settings: dict[str, Any]) -> Any:
    try:
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem
    except ImportError:
        raise ConfigurationError("s3:// needs pyarrow here", hint="pip install pyarrow") from None
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")  # else it looks for a cloud's own credentials for long
    return S3FileSystem(
        **settings, anonymous="access_key" not in settings and "AWS_PROFILE" not in os.environ, background_writes=False,
        connect_timeout=CONNECT_TIMEOUT_S, request_timeout=READ_TIMEOUT_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=2),
    )  # fmt: skip


class WebFiles:
    """https:// and http:// URIs, each a file: nothing can be listed there."""

    def __init__(self) -> None:
        import urllib3

        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
        self.pool = urllib3.PoolManager(
            maxsize=32, timeout=timeout, retries=urllib3.Retry(2, redirect=5, backoff_factor=0.2)
        )
        token = os.environ.get("BEARER_TOKEN")
        self.headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def list(self, uri: str) -> list[File]:
        if has_pattern(urlsplit(uri).path):
            raise ConfigurationError(f"{uri}: a web server cannot be asked for a pattern", hint="name each file")
        reply = self._ask("HEAD", uri, {})
        if "Content-Length" not in reply.headers:
            raise DataError(f"{uri}: the server does not tell its size")
        return [File(uri, int(reply.headers["Content-Length"]))]

    def read(self, uri: str, offset: int, size: int) -> bytes:
        reply = self._ask("GET", uri, {"Range": f"bytes={offset}-{offset + size - 1}"})
        if reply.status != 206:
            raise DataError(f"{uri}: the server does not send parts of a file")
        return bytes(reply.data)

    def put(self, path: str, uri: str) -> None:
        raise ConfigurationError(f"{uri}: nothing can be written there", hint="name a path or s3://…")

    def _ask(self, method: str, uri: str, headers: dict[str, str]) -> Any:
        import urllib3

        try:
            reply = self.pool.request(method, uri, headers={**self.headers, **headers})
        except urllib3.exceptions.MaxRetryError as error:
            raise DataError(f"{uri}: the server does not answer: {error.reason}") from None
        except urllib3.exceptions.HTTPError as error:
            raise OSError(f"{uri}: {error}") from None
        if reply.status in (401, 403):
            raise DataError(f"{uri}: the server refuses access", hint="set BEARER_TOKEN, if it takes one")
        if reply.status in (404, 410):
            raise DataError(f"{uri}: there is no such file")
        if reply.status >= 400:
            raise OSError(f"{uri}: the server answered {reply.status}")
        return reply


SCHEMES: dict[str, Any] = {
    "": cache(LocalFiles),
    "file": cache(LocalFiles),
    "s3": cache(S3Files),
    "https": cache(WebFiles),
    "http": cache(WebFiles),
}
