"""S3 with the standard library alone, so that it works in any image.

Requests are signed by AWS Signature Version 4; see "Signing AWS API requests" and the S3 API Reference.
"""

from __future__ import annotations

import configparser
import hashlib
import hmac
import http.client
import os
import re
import socket
import ssl
import threading
import time
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import quote, unquote_plus, urlsplit

from .retrying import Retrying
from .s3_answers import parsed, printable, text_of

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 6.0
WRITE_TIMEOUT_S = 60.0  # a server takes its time to put a large object's parts together
TRIES = 4
PART_BYTES = 16 << 20
MOST_PARTS = 9000
PARALLEL_PARTS = 4
IDLE_CONNECTIONS = 64
MOST_ANSWER_BYTES = 16 << 20  # of a listing, or of an error; a page of 1,000 keys has less than 4 MiB
MOST_PAGES = 50_000  # of a listing
EMPTY_SHA256 = hashlib.sha256().hexdigest()
SHA256 = "x-amz-meta-sha256"  # where put() leaves what the object holds


class S3Error(OSError):
    """An error that names the server and never the secret; `passing` if it may not last."""

    def __init__(self, message: str, *, hint: str | None = None, code: str = "", passing: bool = False) -> None:
        super().__init__(message)
        self.message, self.hint, self.code, self.passing = message, hint, code, passing


class Object(NamedTuple):
    """One object of a listing."""

    key: str
    size: int
    etag: str = ""


class Settings(NamedTuple):
    """The server's address and credentials; `endpoint` None is AWS itself, `access_key` None is anonymous."""

    endpoint: str | None = None
    region: str = "us-east-1"
    access_key: str | None = None
    secret_key: str = ""
    session_token: str | None = None
    ca_file: str | None = None


def settings_from(env: Mapping[str, str]) -> Settings:
    """Settings from AWS's variables, the older ones of TensorFlow and the original tf-spawner, or AWS's own files.

    Raises S3Error for an endpoint that is none, or a profile that is not there.
    """

    def first(*names: str) -> str | None:
        return next((env[name] for name in names if env.get(name)), None)

    profile = _profile(env)
    in_env = bool(first("AWS_ACCESS_KEY_ID", "S3_ACCESS_KEY"))
    endpoint = first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT") or profile.get("endpoint_url")
    if endpoint and "://" not in endpoint:
        plain = env.get("S3_USE_HTTPS", "1").lower() in ("0", "false")
        endpoint = f"{'http' if plain else 'https'}://{endpoint}"
    if endpoint and not _is_endpoint(endpoint):
        shown = repr(endpoint) if "@" not in endpoint else "given with a password"
        raise S3Error(f"the S3 endpoint is {shown}", hint="write like https://s3.example.org")
    return Settings(
        endpoint=endpoint.rstrip("/") if endpoint else None,
        region=first("AWS_REGION", "AWS_DEFAULT_REGION") or profile.get("region") or "us-east-1",
        access_key=first("AWS_ACCESS_KEY_ID", "S3_ACCESS_KEY") or profile.get("aws_access_key_id"),
        secret_key=(first("AWS_SECRET_ACCESS_KEY", "S3_SECRET_KEY") if in_env else profile.get("aws_secret_access_key"))
        or "",
        session_token=first("AWS_SESSION_TOKEN") if in_env else profile.get("aws_session_token"),
        ca_file=first("AWS_CA_BUNDLE", "SSL_CERT_FILE"),
    )


def _is_endpoint(uri: str) -> bool:
    try:
        urlsplit(uri).port  # noqa: B018  # it is parsed here
    except ValueError:
        return False
    return bool(re.fullmatch(r"https?://[^/\s@?#]+/?", uri))


def _profile(env: Mapping[str, str]) -> dict[str, str]:
    """The settings of AWS_PROFILE, or of "default", in ~/.aws/config and ~/.aws/credentials."""
    name = env.get("AWS_PROFILE") or "default"
    home = os.path.join(env.get("HOME") or os.path.expanduser("~"), ".aws")
    profile: dict[str, str] = {}
    for path, section in (
        (env.get("AWS_CONFIG_FILE") or os.path.join(home, "config"), name if name == "default" else f"profile {name}"),
        (env.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.join(home, "credentials"), name),
    ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (configparser.Error, UnicodeDecodeError):
            raise S3Error(f"{path} is not in AWS's format", hint="mend it, or set AWS_ACCESS_KEY_ID") from None
        if parser.has_section(section):
            profile.update(parser.items(section))
    if env.get("AWS_PROFILE") and not profile:
        raise S3Error(f"AWS_PROFILE is {name!r}, and {home} has no such profile", hint="aws configure list-profiles")
    return profile


class S3:
    """A client of one server, for any number of threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._idle.clear)  # those connections are the parent's
        self._signing_key: tuple[str, bytes] = ("", b"")
        self._tls = ssl.create_default_context(cafile=settings.ca_file) if self._scheme == "https" else None

    @property
    def check(self) -> str:
        """The hint if nobody answers."""
        return "check AWS_ENDPOINT_URL" if self.settings.endpoint else "set AWS_ENDPOINT_URL, unless it is AWS itself"

    @property
    def where(self) -> str:
        return self.settings.endpoint or f"AWS, {self.settings.region}"

    @property
    def _scheme(self) -> str:
        return urlsplit(self.settings.endpoint).scheme if self.settings.endpoint else "https"

    # -- operations. All raise S3Error.

    def list(self, bucket: str, prefix: str = "", *, deep: bool = True) -> Iterator[Object]:
        """The objects whose keys begin with prefix, in order; unless deep, only up to the next "/".

        What is below such a "/" is one object whose key ends with it, with size -1.
        """
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix}
        if not deep:
            query["delimiter"] = "/"
        for _ in range(MOST_PAGES):
            page = self._xml(self._ask("GET", bucket, query=query))
            yield from sorted(self._objects(page, prefix, deep))
            if text_of(page, "IsTruncated") != "true":
                return
            token = text_of(page, "NextContinuationToken")
            if not token or token == query.get("continuation-token"):
                raise self._odd("its listing does not go on")
            query["continuation-token"] = token
        raise self._odd("its listing has no end")

    def _objects(self, page: xml.Element, prefix: str, deep: bool) -> Iterator[Object]:
        """The objects on a page. Raises S3Error for ones that were not asked for."""
        plain = unquote_plus if text_of(page, "EncodingType") == "url" else str
        for item in page.iterfind("{*}Contents"):
            size = text_of(item, "Size")
            if not re.fullmatch("[0-9]{1,18}", size):
                raise self._odd("an object without a size")
            yield Object(self._key(plain(text_of(item, "Key")), prefix, deep), int(size), text_of(item, "ETag"))
        for item in page.iterfind("{*}CommonPrefixes"):
            yield Object(self._key(plain(text_of(item, "Prefix")), prefix, deep), -1)

    def _key(self, key: str, prefix: str, deep: bool) -> str:
        inner = key[len(prefix) :]
        if not key or not key.startswith(prefix) or "\0" in key or (not deep and "/" in inner[:-1]):
            raise self._odd(f"it lists {printable(ascii(key))}, and {printable(ascii(prefix))} was asked for")
        return key

    def head(self, bucket: str, key: str) -> dict[str, str] | None:
        """The object's headers, with lower-case names; None if there is no such object."""
        try:
            headers, _ = self._ask("HEAD", bucket, key)
        except S3Error as error:
            if error.code == "404":
                return None
            raise
        if not re.fullmatch("[0-9]{1,18}", headers.get("content-length", "")):
            raise self._odd("an object without a size")
        return headers

    def read(self, bucket: str, key: str, offset: int, size: int) -> bytes:
        """size bytes from offset on, fewer at the object's end; one try."""
        if size <= 0:
            return b""
        try:
            headers = {"range": f"bytes={offset}-{offset + size - 1}"}
            reply_headers, data = self._ask("GET", bucket, key, headers=headers, tries=1, most_bytes=size)
        except S3Error as error:
            if error.code == "InvalidRange":
                return b""
            raise
        if begins_at(reply_headers.get("content-range")) != offset:
            raise S3Error(f"{self.where} sends other bytes than those from {offset} on", hint=self.check)
        return data

    def put(self, bucket: str, key: str, path: str, headers: dict[str, str] | None = None) -> None:
        """Uploads the file; the object appears when it is whole. Each part is sent with its SHA-256."""
        size = os.path.getsize(path)
        if size <= PART_BYTES:
            with open(path, "rb") as file:
                self._ask("PUT", bucket, key, body=file.read(), headers=headers, timeout_s=WRITE_TIMEOUT_S)
            return
        reply = self._xml(self._ask("POST", bucket, key, query={"uploads": ""}, headers=headers))
        upload = {"uploadId": text_of(reply, "UploadId")}
        try:
            self._put_parts(bucket, key, path, size, upload)
        except BaseException:
            try:
                self._ask("DELETE", bucket, key, query=upload, tries=2)
            except S3Error:
                pass  # the first error is the one to report
            raise

    def _put_parts(self, bucket: str, key: str, path: str, size: int, upload: dict[str, str]) -> None:
        part_bytes = max(PART_BYTES, -(-size // MOST_PARTS))

        def put_part(offset: int) -> str:
            with open(path, "rb") as file:
                file.seek(offset)
                data = file.read(part_bytes)
            query = dict(upload, partNumber=str(offset // part_bytes + 1))
            etag = self._ask("PUT", bucket, key, query=query, body=data, timeout_s=WRITE_TIMEOUT_S)[0].get("etag")
            if not etag:
                raise self._odd("a part without an ETag")
            return etag

        with ThreadPoolExecutor(PARALLEL_PARTS) as pool:
            futures = [pool.submit(put_part, offset) for offset in range(0, size, part_bytes)]
            try:
                etags = [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()
        root = xml.Element("CompleteMultipartUpload")
        for number, etag in enumerate(etags, 1):
            part = xml.SubElement(root, "Part")
            xml.SubElement(part, "PartNumber").text = str(number)
            xml.SubElement(part, "ETag").text = etag
        reply = self._ask("POST", bucket, key, query=upload, body=xml.tostring(root), timeout_s=WRITE_TIMEOUT_S)
        if self._xml(reply).tag.endswith("Error"):  # sent with status 200, after a wait
            raise self._refused(200, reply[1], {}, bucket)

    def copy(self, bucket: str, key: str, to_bucket: str, to_key: str) -> None:
        """Copies an object at the server; up to 5 GiB, S3's bound for that."""
        source = {"x-amz-copy-source": quote(f"/{bucket}/{key}", safe="/-_.~")}
        reply = self._ask("PUT", to_bucket, to_key, headers=source, timeout_s=WRITE_TIMEOUT_S)
        if self._xml(reply).tag.endswith("Error"):
            raise self._refused(200, reply[1], {}, to_bucket)

    def delete(self, bucket: str, key: str) -> None:
        """Removes the object, if there is one."""
        self._ask("DELETE", bucket, key)

    # -- requests

    def _ask(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        tries: int = TRIES,
        timeout_s: float = READ_TIMEOUT_S,
        most_bytes: int | None = None,
    ) -> tuple[dict[str, str], bytes]:
        """(the reply's headers, its body of most_bytes at most).

        Retries errors that may pass, if the request did not take too long.
        """
        retrying = Retrying(tries, 0.4, within_s=timeout_s)
        while True:
            try:
                return self._ask_once(method, bucket, key, query or {}, headers or {}, body, timeout_s, most_bytes)
            except S3Error as error:
                if not error.passing or retrying.is_over():
                    raise
                retrying.pause()

    def _ask_once(
        self,
        method: str,
        bucket: str,
        key: str,
        query: dict[str, str],
        headers: dict[str, str],
        body: bytes,
        timeout_s: float,
        most_bytes: int | None,
    ) -> tuple[dict[str, str], bytes]:
        host, path = self._address(bucket, key)
        words = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted(query.items()))
        signed = self._sign(method, host, path, words, headers, body)
        target = f"{path}?{words}" if words else path
        with self._connection(host, timeout_s) as connection:
            for name in ("first", "again"):
                fresh = connection.sock is None
                try:
                    connection.request(method, target, body or None, signed)
                    reply = connection.getresponse()
                    break
                except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                    connection.close()
                    if fresh or name == "again":  # else the server closed a connection that had long been idle
                        raise
            data = self._body(reply, most_bytes)
        reply_headers = {name.lower(): value for name, value in reply.getheaders()}
        if reply.status // 100 == 2:
            return reply_headers, data
        raise self._refused(reply.status, data, reply_headers, bucket)

    def _body(self, reply: http.client.HTTPResponse, expected_bytes: int | None) -> bytes:
        """The whole body. Raises S3Error if it is longer than requested, or than an answer in XML may be."""
        most = MOST_ANSWER_BYTES if expected_bytes is None or reply.status // 100 != 2 else expected_bytes
        expected = f", and {most:,} were asked for" if most == expected_bytes else ""
        if reply.length is not None:
            if reply.length > most:
                raise S3Error(f"{self.where} sends {reply.length:,} bytes{expected}", hint=self.check)
            return reply.read()
        data = reply.read(most + 1)
        if len(data) > most:
            raise S3Error(f"{self.where} sends more than {most:,} bytes{expected}", hint=self.check)
        return data

    def _address(self, bucket: str, key: str) -> tuple[str, str]:
        """(host, path): at AWS each bucket has its own host, unless the certificate would not match its name."""
        path = "/" + quote(key, safe="/-_.~")
        if self.settings.endpoint:
            return urlsplit(self.settings.endpoint).netloc, f"/{quote(bucket)}{path}"
        host = f"s3.{self.settings.region}.amazonaws.com"
        return (host, f"/{bucket}{path}") if "." in bucket else (f"{bucket}.{host}", path)

    def _sign(
        self, method: str, host: str, path: str, query: str, headers: dict[str, str], body: bytes
    ) -> dict[str, str]:
        digest = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
        settings = self.settings
        sent = dict(headers, host=host)
        sent["x-amz-content-sha256"] = digest
        if body and "content-type" not in sent:
            sent["content-type"] = "application/octet-stream"
        if settings.access_key is None:
            return sent
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        sent["x-amz-date"] = now
        if settings.session_token:
            sent["x-amz-security-token"] = settings.session_token
        names = ";".join(sorted(sent))
        canonical = "".join(f"{name}:{sent[name].strip()}\n" for name in sorted(sent))
        request = "\n".join((method, path, query, canonical, names, digest))
        scope = f"{now[:8]}/{settings.region}/s3/aws4_request"
        text = "\n".join(("AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()))
        signature = hmac.new(self._key_of(now[:8]), text.encode(), "sha256").hexdigest()
        sent["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={settings.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return sent

    def _key_of(self, day: str) -> bytes:
        known, key = self._signing_key
        if known != day:
            key = f"AWS4{self.settings.secret_key}".encode()
            for word in (day, self.settings.region, "s3", "aws4_request"):
                key = hmac.new(key, word.encode(), "sha256").digest()
            self._signing_key = (day, key)
        return key

    @contextmanager
    def _connection(self, host: str, timeout_s: float) -> Iterator[http.client.HTTPConnection]:
        """A connection for one user at a time; kept for the next request if all goes well."""
        with self._lock:
            idle = self._idle.setdefault(host, [])
            connection = idle.pop() if idle else None
        if connection is None:
            if self._tls:
                connection = http.client.HTTPSConnection(host, timeout=CONNECT_TIMEOUT_S, context=self._tls)
            else:
                connection = http.client.HTTPConnection(host, timeout=CONNECT_TIMEOUT_S)
        try:
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(timeout_s)
            yield connection
        except S3Error:
            connection.close()
            raise
        except ssl.SSLCertVerificationError as error:
            raise S3Error(
                f"the certificate of {self.where} cannot be verified: {error.verify_message}",
                hint="set AWS_CA_BUNDLE to its authority's certificate",
            ) from None
        except http.client.IncompleteRead:
            connection.close()
            raise S3Error(f"{self.where} broke off its answer", passing=True) from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise S3Error(
                f"{self.where} does not answer: {_reason(error)}", hint=self.check, code="NoAnswer", passing=True
            ) from None
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if connection.sock is not None and len(idle) < IDLE_CONNECTIONS:
                idle.append(connection)
                return
        connection.close()

    def _refused(self, status: int, data: bytes, headers: Mapping[str, str], bucket: str) -> S3Error:
        """The server's error in the user's terms."""
        try:
            reply = parsed(data)
            code, words = printable(text_of(reply, "Code"))[:80], printable(text_of(reply, "Message"))
        except xml.ParseError:
            code, words = str(status), http.client.responses.get(status, "")
        key, where = self.settings.access_key, self.where
        who = f"access key {key}" if key else "no access key (AWS_ACCESS_KEY_ID is not set)"
        region = printable(headers.get("x-amz-bucket-region") or "")
        if status in (500, 502, 503, 504, 429) or code in ("RequestTimeout", "SlowDown"):
            return S3Error(f"{where} is busy: {status} {code}", code=code, passing=True)
        for codes, message, hint in (
            ("SignatureDoesNotMatch", f"{where} refuses the secret of {who}", "check AWS_SECRET_ACCESS_KEY"),
            (
                "InvalidAccessKeyId|.*UserNotFound|InvalidClientTokenId|NotSignedUp",
                f"{where} does not know the {who}",
                "check AWS_ACCESS_KEY_ID",
            ),
            (
                "ExpiredToken|InvalidToken",
                f"{where} does not take the session token, or not any more",
                "get a new AWS_SESSION_TOKEN",
            ),
            ("RequestTimeTooSkewed", f"{where} says that the clock here is wrong", "set this machine's clock"),
            ("NoSuchBucket", f"there is no bucket {bucket!r} at {where}", "check its name and the endpoint"),
            ("NoSuchKey|404", f"there is no such object at {where}", None),
            (
                "PermanentRedirect|AuthorizationHeaderMalformed|TemporaryRedirect|30[17]",
                f"the bucket {bucket!r} is not in region {self.settings.region}",
                f"set AWS_REGION{'=' + region if region else ''}",
            ),
            (
                "AccessDenied|403|401",
                f"{where} refuses access with {who}",
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
            ),
        ):
            if re.fullmatch(codes, code):
                return S3Error(message, hint=hint, code=code)
        return S3Error(f"{where} answers {status} {code}: {words}", code=code)

    def _xml(self, reply: tuple[dict[str, str], bytes]) -> xml.Element:
        try:
            return parsed(reply[1])
        except xml.ParseError:
            raise S3Error(f"{self.where} does not answer as S3 does", hint=self.check) from None

    def _odd(self, why: str) -> S3Error:
        return S3Error(f"{self.where} does not answer as S3 does: {why}", hint=self.check)


def split_uri(uri: str) -> tuple[str, str]:
    """(bucket, key) of s3://bucket/key."""
    bucket, _, key = uri[len("s3://") :].partition("/")
    return bucket, key


def begins_at(content_range: str | None) -> int:
    """An answer's first byte, from its Content-Range; 0 for a whole file."""
    match = re.match("bytes ([0-9]{1,18})-", content_range or "bytes 0-")
    return int(match[1]) if match else -1


def _reason(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return "no answer in time"
    return printable(getattr(error, "strerror", None) or str(error)) or type(error).__name__
