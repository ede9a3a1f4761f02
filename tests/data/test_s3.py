"""Reading from a real S3 server, and what is said when it cannot be done."""

import socket
import time

import pytest

from tfspawner.data.filesystems import SCHEMES, File, list_files, s3_settings
from tfspawner.data.reading import read_exactly, read_records
from tfspawner.data.records import frame
from tfspawner.data.sharding import divide
from tfspawner.errors import ConfigurationError, DataError

RECORDS = [bytes([number]) * (number * 997 % 5000) for number in range(256)]


@pytest.fixture
def shards(s3):
    """Five objects in s3://bucket/train, with others beside them."""
    folder = s3.folder / "bucket/train"
    (folder / "deeper").mkdir(parents=True, exist_ok=True)
    for number in range(5):
        data = b"".join(map(frame, RECORDS[number * 60 : number * 60 + 60]))
        (folder / f"part-r-{number:05}").write_bytes(data)
    (folder / "_SUCCESS").touch()
    (folder / "deeper/part-r-00009").write_bytes(b"not asked for")
    (folder / "notes.txt").write_bytes(b"not asked for")
    return folder


@pytest.mark.parametrize("pattern", ["part-r-*", "part-r-0000[0-4]", "part*"])
def test_a_pattern_finds_its_objects_with_their_sizes(shards, pattern):
    expected = [File(f"s3://bucket/train/{p.name}", p.stat().st_size) for p in sorted(shards.glob("part-r-*"))]
    assert list_files(f"s3://bucket/train/{pattern}") == expected
    assert list_files(f"s3://bucket/tr*n/{pattern}") == expected


def test_a_folder_is_its_objects_and_a_key_is_itself(shards):
    names = [file.uri.rsplit("/", 1)[1] for file in list_files("s3://bucket/train/")]
    assert names == ["notes.txt", *(f"part-r-{number:05}" for number in range(5))]
    [one] = list_files("s3://bucket/train/part-r-00002")
    assert one.size == (shards / "part-r-00002").stat().st_size


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_workers_read_each_record_once(shards, workers):
    files = list_files("s3://bucket/train/part-r-*")
    found = [
        record
        for share in divide(files, workers)
        for records in read_records(share, window_bytes=200_000, chunk_bytes=50_000)
        for record in records
    ]
    assert found == RECORDS


def test_the_window_bounds_what_is_read_ahead(shards, monkeypatch):
    """After the first chunk was taken, no more than the window's others are under way."""
    asked = []
    filesystem = SCHEMES["s3"]()
    read = filesystem.read
    monkeypatch.setattr(type(filesystem), "read", lambda self, uri, at, size: asked.append(size) or read(uri, at, size))
    reading = read_records(
        divide(list_files("s3://bucket/train/part-r-*"), 1)[0], window_bytes=40_000, chunk_bytes=10_000
    )
    next(reading)
    assert sum(asked) <= 50_000
    reading.close()


BAD = [
    (
        {"AWS_SECRET_ACCESS_KEY": "wrong-secret"},
        "s3://bucket/train/*",
        "refuses the secret of access key the-access-key",
    ),
    ({"AWS_ACCESS_KEY_ID": "nobody"}, "s3://bucket/train/*", "does not know the access key nobody"),
    ({}, "s3://no-such-bucket/train/*", "there is no such bucket"),
    ({}, "s3://bucket/none/part*", "there is no such file"),
    ({}, "s3://bucket/train/part-x", "there is no such file"),
    ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://bucket/train/*", "http://127.0.0.1:9 does not answer"),
    ({"AWS_ENDPOINT_URL": "http://no-such-host.invalid"}, "s3://bucket/x", "no-such-host.invalid does not answer"),
]


@pytest.mark.parametrize(("variables", "uri", "words"), BAD)
def test_what_is_wrong_is_named_soon_and_without_the_secret(shards, monkeypatch, variables, uri, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    SCHEMES["s3"].cache_clear()
    began = time.monotonic()
    with pytest.raises(DataError) as error:
        list_files(uri)
    assert time.monotonic() - began < 15
    assert words in error.value.message
    assert uri in error.value.message
    assert "secret" not in (error.value.message + str(error.value.hint)).replace("the secret of", "").lower().replace(
        "aws_secret_access_key", ""
    )


def test_a_server_that_accepts_and_says_nothing_is_given_up_within_15_s(shards, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        SCHEMES["s3"].cache_clear()
        began = time.monotonic()
        with pytest.raises(DataError, match="does not answer"):
            list_files("s3://bucket/train/*")
        assert time.monotonic() - began < 15


def test_reading_goes_on_when_the_server_was_away(shards, s3, gateway):
    [file] = list_files("s3://bucket/train/part-r-00001")
    assert len(read_exactly(file, 0, 100)) == 100
    s3.stop()
    import threading

    back = threading.Timer(1.0, s3.start, [gateway])
    back.start()
    data = read_exactly(file, 0, file.size)
    back.join()
    assert data == (shards / "part-r-00001").read_bytes()


def test_an_object_that_shrank_meanwhile_is_told(shards):
    [file] = list_files("s3://bucket/train/part-r-00003")
    with pytest.raises(DataError, match=rf"ends at byte {file.size}, and was listed with {file.size + 10}"):
        read_exactly(File(file.uri, file.size + 10), 0, file.size + 10)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"AWS_ENDPOINT_URL": "https://s3.cern.ch/"}, {"scheme": "https", "endpoint_override": "s3.cern.ch"}),
        ({"S3_ENDPOINT": "s3.cern.ch"}, {"scheme": "https", "endpoint_override": "s3.cern.ch"}),
        ({"S3_ENDPOINT": "host:9000", "S3_USE_HTTPS": "0"}, {"scheme": "http", "endpoint_override": "host:9000"}),
        (
            {"AWS_ENDPOINT_URL_S3": "http://a", "AWS_ENDPOINT_URL": "http://b"},
            {"scheme": "http", "endpoint_override": "a"},
        ),
        ({"S3_ACCESS_KEY": "k", "S3_SECRET_KEY": "s"}, {"access_key": "k", "secret_key": "s"}),
        ({"AWS_ACCESS_KEY_ID": "a", "S3_ACCESS_KEY": "k"}, {"access_key": "a"}),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, {"region": "eu-west-1"}),
        ({"AWS_CA_BUNDLE": "/ca.pem"}, {"tls_ca_file_path": "/ca.pem"}),
    ],
)
def test_the_usual_variables_are_understood(variables, expected):
    settings = s3_settings(variables)
    assert {key: settings.get(key) for key in expected} == expected


def test_an_endpoint_that_is_none_is_told():
    with pytest.raises(ConfigurationError, match="the S3 endpoint is 'ftp://x'"):
        s3_settings({"AWS_ENDPOINT_URL": "ftp://x"})
