"""S3 and web servers that lie about sizes, send what nobody asked for, or try to fill the memory: refused in one line."""

import time
import tracemalloc

import pytest
from lying_server import lying_server

from tfspawner.data.filesystems import WebFiles
from tfspawner.errors import DataError
from tfspawner.replica import s3
from tfspawner.replica.s3 import S3, S3Error, Settings

PAGE = "<ListBucketResult>{}</ListBucketResult>"
KEY = "<Contents><Key>{}</Key><Size>{}</Size></Contents>"


@pytest.fixture
def server():
    with lying_server() as server:
        yield server


@pytest.fixture
def client(server):
    return S3(Settings(endpoint=server.url, access_key="key", secret_key="secret"))


def page(server, *parts: str) -> None:
    server.answer = lambda *_: (200, {}, PAGE.format("".join(parts)).encode())


BOMB = "<!DOCTYPE x [<!ENTITY a0 'ha'>" + "".join(
    f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10)
)  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        (BOMB + "]>" + PAGE.format("<Prefix>&a9;</Prefix>")).encode(),
        ("<?xml version='1.0' encoding='utf-16'?>" + BOMB + "]><x>&a9;</x>").encode("utf-16"),
        b"<?xml version='1.0' encoding='cp037'?>" + (BOMB + "]><x>&a9;</x>").encode("cp037"),
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>',
        b"<x>" + b"<a/>" * 1_000_000 + b"</x>",
        b"<a>" * 600_000,
        b"<a>" * 300_000 + b"</a>" * 300_000,
    ],
)
def test_an_answer_that_grows_is_refused_while_it_is_small(server, client, answer):
    server.answer = lambda *_: (200, {}, answer)
    began = time.monotonic()
    with pytest.raises(S3Error, match="does not answer as S3 does"):
        list(client.list("bucket"))
    assert time.monotonic() - began < 5


def test_an_answer_longer_than_any_listing_is_refused_before_it_is_read(server, client):
    server.answer = lambda *_: (200, {"Content-Length": str(10 << 30)}, b"<x>" + b" " * 1000)
    with pytest.raises(S3Error, match="sends 10,737,418,240 bytes"):
        list(client.list("bucket"))
    server.answer = lambda *_: (200, {"Content-Length": ""}, b" " * (s3.MOST_ANSWER_BYTES + 2))
    with pytest.raises(S3Error, match="sends more than 16,777,216 bytes"):
        list(client.list("bucket"))
    server.answer = lambda *_: (403, {"Content-Length": str(10 << 30)}, b"")
    with pytest.raises(S3Error, match="sends 10,737,418,240 bytes"):
        list(client.list("bucket"))


@pytest.mark.parametrize(
    "parts",
    [
        KEY.format("other/x", 1), KEY.format("", 1), KEY.format("train/a%00b", 1), KEY.format("train/x", -1),
        KEY.format("train/x", ""), KEY.format("train/x", "9" * 5000), KEY.format("train/x", "1_0"), KEY.format("train/x", "٣"),
        KEY.format("train/../../x", 1), "<CommonPrefixes><Prefix>x/</Prefix></CommonPrefixes>",
        "<IsTruncated>true</IsTruncated>",
        "<IsTruncated>true</IsTruncated><NextContinuationToken>same</NextContinuationToken>",
    ],
)  # fmt: skip
def test_a_listing_of_what_was_not_asked_for_is_refused(server, client, parts):
    page(server, "<EncodingType>url</EncodingType>", parts)
    with pytest.raises(S3Error, match="does not answer as S3 does: "):
        list(client.list("bucket", "train/", deep=False))
    assert len(server.paths) <= 2


def test_a_listing_without_an_end_ends_at_a_bound(server, client, monkeypatch):
    monkeypatch.setattr(s3, "MOST_PAGES", 20)
    text = "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>"
    server.answer = lambda *_: (200, {}, PAGE.format(text.format(len(server.paths))).encode())
    with pytest.raises(S3Error, match="its listing has no end"):
        list(client.list("bucket"))
    assert len(server.paths) == 20


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((206, {"Content-Range": "bytes 100-109/1000"}, b"x" * 11), "sends 11 bytes, and 10 were asked for"),
        ((206, {"Content-Range": "bytes 0-9/1000"}, b"x" * 10), "sends other bytes than those from 100 on"),
        ((206, {}, b"x" * 10), "sends other bytes than those from 100 on"),
        ((200, {}, b"x" * 10), "sends other bytes than those from 100 on"),
        ((200, {}, b"x" * 1000), "sends 1,000 bytes, and 10 were asked for"),
        ((206, {"Content-Range": "bytes 100-109/1000", "Content-Length": ""}, b"x" * 11), "sends more than 10 bytes"),
        ((206, {"Content-Range": "bytes 100-109/1000", "Content-Length": "10"}, b"x" * 4), "broke off its answer"),
    ],
)
def test_an_answer_of_other_bytes_than_were_asked_for_is_refused(server, client, answer, words):
    server.answer = lambda *_: answer
    with pytest.raises(S3Error, match=words):
        client.read("bucket", "key", 100, 10)
    server.answer = lambda *_: (206, {"Content-Range": "bytes 100-105/106"}, b"abcdef")
    assert client.read("bucket", "key", 100, 10) == b"abcdef"


def test_an_error_s_text_is_shown_short_and_without_control_characters(server, client):
    told = "<Error><Code>{}</Code><Message>{}</Message></Error>".format("\u202eOdd" * 1000, "\u009b2J" * 1000)
    server.answer = lambda *_: (418, {}, told.encode())
    with pytest.raises(S3Error) as found:
        list(client.list("bucket"))
    assert found.value.message.isprintable()
    assert len(found.value.message) < 500


def test_no_redirect_takes_the_credentials_elsewhere(server, client):
    with lying_server() as other:
        other.answer = lambda *_: (200, {}, b"<x/>")
        server.answer = lambda *_: (307, {"Location": other.url + "/bucket"}, b"")
        with pytest.raises(S3Error, match="is not in region"):
            list(client.list("bucket"))
        assert other.paths == []


def test_an_object_without_a_size_or_a_part_without_an_etag_is_an_error(server, client, tmp_path):
    server.answer = lambda *_: (200, {"Content-Length": "", "Connection": "close"}, b"")
    with pytest.raises(S3Error, match="does not answer as S3 does: an object without a size"):
        client.head("bucket", "key")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(s3.PART_BYTES + 1)
    server.answer = lambda *_: (200, {}, b"<x><UploadId>1</UploadId></x>")
    with pytest.raises(S3Error, match="does not answer as S3 does: a part without an ETag"):
        client.put("bucket", "key", str(large))


# ---- web servers


def test_a_web_server_s_size_must_be_one(server):
    for size in ("-5", "x", "9" * 30):
        server.answer = lambda *_, size=size: (200, {"Content-Length": size}, b"")
        with pytest.raises((DataError, OSError), match=r"does not tell its size|server"):
            WebFiles().list(server.url + "/x")


@pytest.mark.parametrize(
    "answer",
    [
        (206, {"Content-Range": "bytes 100-109/1000"}, b"x" * 11),
        (206, {"Content-Range": "bytes 0-9/1000"}, b"x" * 10),
        (206, {"Content-Range": "bytes 100-109/1000", "Content-Length": ""}, b"x" * (1 << 20)),
        (206, {"Content-Range": "bytes 100-109/1000", "Content-Encoding": "gzip"}, b"x" * 10),
        (200, {}, b"x" * 10),
        (206, {}, b"x" * 10),
    ],
)
def test_a_web_server_s_answer_of_other_bytes_is_refused(server, answer):
    server.answer = lambda *_: answer
    with pytest.raises(DataError, match="the server sends"):
        WebFiles().read(server.url + "/x", 100, 10)


def test_an_answer_of_gigabytes_from_a_web_server_takes_no_memory(server):
    server.answer = lambda *_: (206, {"Content-Range": "bytes 0-9/10", "Content-Length": ""}, b"x" * (50 << 20))
    web = WebFiles()
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            web.read(server.url + "/x", 0, 10)
        # the server of this test holds its answer once
        assert tracemalloc.get_traced_memory()[1] < 55 << 20
    finally:
        tracemalloc.stop()


def test_a_token_is_not_taken_along_to_another_server(server, monkeypatch):
    monkeypatch.setenv("BEARER_TOKEN", "secret")
    with lying_server() as other:
        seen = []
        other.answer = lambda _, __, headers: (seen.append(headers), (200, {}, b""))[1]
        server.answer = lambda *_: (307, {"Location": other.url + "/x"}, b"")
        WebFiles().list(server.url + "/x")
        assert [headers.get("Authorization") for headers in seen] == [None]
