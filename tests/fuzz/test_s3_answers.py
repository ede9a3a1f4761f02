"""Damaged answers of an S3 server: a listing of what was asked for, or an S3Error in one short line."""

import pytest
from lying_server import lying_server
from mutating import damaged

from tfspawner.replica.s3 import S3, Object, S3Error, Settings

PAGE = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>bucket</Name><Prefix>train/</Prefix><KeyCount>12</KeyCount><EncodingType>url</EncodingType>"
    "<IsTruncated>false</IsTruncated>"
    + "".join(
        f"<Contents><Key>train/part-r-{n:05}%20x</Key><LastModified>2026-01-01T00:00:00Z</LastModified>"
        f'<ETag>"{n:032x}"</ETag><Size>{n * 1000}</Size><StorageClass>STANDARD</StorageClass></Contents>'
        for n in range(10)
    )
    + "<CommonPrefixes><Prefix>train/a/</Prefix></CommonPrefixes></ListBucketResult>"
).encode()
ERROR = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message><Resource>/x</Resource></Error>"


@pytest.fixture
def server():
    with lying_server() as server:
        yield server


def test_a_damaged_answer_is_a_listing_or_an_error(fuzz, server):
    client = S3(Settings(endpoint=server.url, access_key="key", secret_key="secret"))
    server.answer = lambda *_: (200, {}, PAGE)
    whole = list(client.list("bucket", "train/", deep=False))
    assert whole[1:3] == [
        Object("train/part-r-00000 x", 0, f'"{0:032x}"'),
        Object("train/part-r-00001 x", 1000, f'"{1:032x}"'),
    ]
    refused = []
    for rng in fuzz.rounds(300):
        status, body = rng.choice(((200, PAGE), (200, PAGE), (403, ERROR)))
        answer = (status, {}, damaged(body, rng))
        server.answer = lambda *_, answer=answer: answer
        try:
            for found in client.list("bucket", "train/", deep=False):
                assert found.key.startswith("train/")
                assert found.size >= -1
                assert "\0" not in found.key
        except S3Error as error:
            refused.append(error.message)
    assert all(message.isprintable() and len(message) < 700 for message in refused)
    assert len(refused) > fuzz.round // 4
