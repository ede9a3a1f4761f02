"""Reading from a real S3 server, and what is said when it cannot be done."""

import random
import socket
import time

import pytest

from tfspawner.data.files import File
from tfspawner.data.filesystems import SCHEMES, list_files
from tfspawner.data.reading import read_exactly, read_records
from tfspawner.data.records import frame
from tfspawner.data.sharding import divide
from tfspawner.errors import ConfigurationError, DataError
from tfspawner.replica.s3 import S3, S3Error, Settings, settings_from, split_uri

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


def test_two_workers_read_each_byte_once_between_them(shards, monkeypatch):
    """Where a file is split, the record at the edge is read by both: a record's size, and a header to find it."""
    sizes = []
    read = S3.read
    monkeypatch.setattr(S3, "read", lambda self, b, k, at, size: sizes.append(size) or read(self, b, k, at, size))
    files = list_files("s3://bucket/train/part-r-*")
    for share in divide(files, 2):
        for _ in read_records(share):
            pass
    total = sum(file.size for file in files)
    assert total <= sum(sizes) <= total + 2 * max(map(len, RECORDS))


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
    ({}, "s3://no-such-bucket/train/*", "there is no bucket 'no-such-bucket'"),
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
        ({"AWS_ENDPOINT_URL": "https://s3.cern.ch/"}, {"endpoint": "https://s3.cern.ch"}),
        ({"S3_ENDPOINT": "s3.cern.ch"}, {"endpoint": "https://s3.cern.ch"}),
        ({"S3_ENDPOINT": "host:9000", "S3_USE_HTTPS": "0"}, {"endpoint": "http://host:9000"}),
        ({"AWS_ENDPOINT_URL_S3": "http://a", "AWS_ENDPOINT_URL": "http://b"}, {"endpoint": "http://a"}),
        ({"S3_ACCESS_KEY": "k", "S3_SECRET_KEY": "s"}, {"access_key": "k", "secret_key": "s"}),
        ({"AWS_ACCESS_KEY_ID": "a", "S3_ACCESS_KEY": "k"}, {"access_key": "a"}),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, {"region": "eu-west-1"}),
        ({"AWS_CA_BUNDLE": "/ca.pem"}, {"ca_file": "/ca.pem"}),
        ({}, {"endpoint": None, "access_key": None, "region": "us-east-1"}),
    ],
)
def test_the_usual_variables_are_understood(variables, expected, tmp_path):
    settings = settings_from({"HOME": str(tmp_path), **variables})
    assert {key: getattr(settings, key) for key in expected} == expected


@pytest.fixture
def home(tmp_path):
    """A home folder with AWS's two files."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = one\naws_secret_access_key = sone%\n"
        "[other]\naws_access_key_id = two\naws_secret_access_key = stwo\naws_session_token = t\n"
    )
    (tmp_path / ".aws/config").write_text("[profile other]\nregion = eu-north-1\nendpoint_url = http://gw:9\n")
    return tmp_path


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Settings(access_key="one", secret_key="sone%")),
        ({"AWS_PROFILE": "other"}, Settings(endpoint="http://gw:9", region="eu-north-1", access_key="two",
                                            secret_key="stwo", session_token="t")),
        ({"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_PROFILE": "other"},
         Settings(endpoint="http://gw:9", region="eu-north-1", access_key="k", secret_key="s")),
    ],
)  # fmt: skip
def test_a_profile_in_awss_own_files_is_understood(home, variables, expected):
    assert settings_from({"HOME": str(home), **variables}) == expected


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"AWS_ENDPOINT_URL": "ftp://x"}, "the S3 endpoint is 'ftp://x'"),
        ({"AWS_ENDPOINT_URL": "http://host/path"}, "the S3 endpoint is 'http://host/path'"),
        ({"AWS_PROFILE": "none"}, "AWS_PROFILE is 'none'"),
    ],
)
def test_settings_that_are_none_are_told(home, variables, words):
    with pytest.raises(S3Error, match=words):
        settings_from({"HOME": str(home), **variables})


def test_such_settings_end_a_listing_with_exit_code_2(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "ftp://x")
    SCHEMES["s3"].cache_clear()
    with pytest.raises(ConfigurationError, match="the S3 endpoint is 'ftp://x'"):
        list_files("s3://bucket/x")


@pytest.fixture
def client(s3) -> S3:
    return SCHEMES["s3"]().s3


NAMES = ["plain", "with blank", "plus+and%25", "ünïcode/deep", "a=b&c;d", "quote'\"s", "tilde~(1)!*"]


@pytest.mark.parametrize("name", NAMES)
def test_any_key_is_put_listed_read_and_deleted(client, tmp_path, name):
    (tmp_path / "file").write_bytes(b"content of " + name.encode())
    client.put("bucket", f"names/{name}", str(tmp_path / "file"))
    assert f"names/{name}" in [found.key for found in client.list("bucket", "names/")]
    assert client.read("bucket", f"names/{name}", 11, 100) == name.encode()
    assert client.head("bucket", f"names/{name}")["content-length"] == str(11 + len(name.encode()))
    client.delete("bucket", f"names/{name}")
    assert client.head("bucket", f"names/{name}") is None


@pytest.mark.parametrize("size", [0, 1, (16 << 20), (16 << 20) + 1, 40_000_001])
def test_a_file_is_put_whole_in_parts_where_it_is_large(client, s3, tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(random.Random(size).randbytes(size))
    client.put("bucket", "put/it", str(path), {"x-amz-meta-sha256": "of it"})
    assert (s3.folder / "bucket/put/it").read_bytes() == path.read_bytes()
    assert client.head("bucket", "put/it")["x-amz-meta-sha256"] == "of it"


def test_what_breaks_off_leaves_nothing_behind(client, s3, tmp_path, monkeypatch):
    """The third part cannot be read: no object appears, and no parts stay on the server."""
    path = tmp_path / "file"
    path.write_bytes(bytes(50_000_000))
    ask = client._ask_once

    def broken(method, bucket, key, query, *rest):
        if query.get("partNumber") == "3":
            raise OSError("a fault")
        return ask(method, bucket, key, query, *rest)

    monkeypatch.setattr(client, "_ask_once", broken)
    with pytest.raises(OSError, match="a fault"):
        client.put("bucket", "broken/it", str(path))
    assert client.head("bucket", "broken/it") is None
    uploads = client._xml(client._ask("GET", "bucket", query={"uploads": ""}))
    assert uploads.find("{*}Upload") is None


def test_more_than_one_page_is_listed(client, s3):
    folder = s3.folder / "bucket/many"
    folder.mkdir()
    for number in range(2345):
        (folder / f"{number:05}").touch()
    assert [found.key for found in client.list("bucket", "many/")] == [f"many/{n:05}" for n in range(2345)]


def test_a_connection_that_the_server_closed_meanwhile_is_no_error(client, s3, gateway):
    (s3.folder / "bucket/kept").write_bytes(b"kept")
    assert client.read("bucket", "kept", 0, 9) == b"kept"
    s3.stop()
    s3.start(gateway)
    assert client.read("bucket", "kept", 0, 9) == b"kept"


def test_whoever_has_no_keys_is_refused_with_words(shards, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    SCHEMES["s3"].cache_clear()
    with pytest.raises(DataError, match=r"no access key \(AWS_ACCESS_KEY_ID is not set\)"):
        list_files("s3://bucket/train/*")


def test_a_certificate_that_cannot_be_verified_is_named(s3_over_tls):
    server, certificate = s3_over_tls
    (server.folder / "bucket/x").write_bytes(b"over TLS")
    endpoint = f"https://localhost:{server.port}"
    found = settings_from({**server.variables, "AWS_ENDPOINT_URL": endpoint, "HOME": str(certificate.parent)})
    with pytest.raises(S3Error, match=r"the certificate of https://localhost:.* cannot be verified"):
        list(S3(found).list("bucket"))
    assert S3(found._replace(ca_file=str(certificate))).read("bucket", "x", 0, 100) == b"over TLS"


def test_a_uri_is_a_bucket_and_a_key():
    assert split_uri("s3://bucket/a/b c") == ("bucket", "a/b c")
    assert split_uri("s3://bucket") == ("bucket", "")
