"""Which values are secret, and where they are found; without a job."""

import json
from pathlib import Path

import pytest

from tfspawner.errors import ConfigurationError
from tfspawner.jobs import packing
from tfspawner.jobs.packing import pack
from tfspawner.plan.limits import MAX_ENV_BYTES
from tfspawner.plan.secrecy import (
    HIDDEN,
    Known,
    code_warnings,
    hidden,
    is_masked,
    is_plain,
    known_of,
    secret_names,
)
from tfspawner.plan.spec import JobSpec
from tfspawner.replica.packing import sources

CANARY = "canary/value+7"


@pytest.mark.parametrize(
    ("name", "value", "is_secret"),
    [
        ("API_KEY", CANARY, True),
        ("OTHER", CANARY, True),
        ("OTHER", "/data/set", False),
        ("OTHER", "./data", False),
        ("OTHER", "../data", False),
        ("OTHER", ".../data", True),
        ("OTHER", "s3://bucket/x", False),
        ("OTHER", "https://host/x", False),
        ("OTHER", "https://user:pass@host/x", True),
        ("OTHER", "https://host/x?token=1", True),
        ("OTHER", "s3://a b", True),
        ("OTHER_KEY", "/data/set", True),
        ("AWS_REGION", "eu-west-1", False),
        ("AWS_ACCESS_KEY_ID", "AKIA", False),
        ("S3_ENDPOINT", "https://user:pass@host", True),
    ],
)
def test_what_is_no_path_is_secret_and_so_is_what_a_name_calls_a_key(name, value, is_secret):
    assert secret_names({name: value}) == ([name] if is_secret else [])


@pytest.mark.parametrize(
    ("name", "value", "is_secret"),
    [
        ("BACKEND", "tensorflow", False),
        ("BACKEND", "tensorfl", False),  # 8 bytes
        ("BACKEND", "tensorf", True),  # too short to be found by chance
        ("BACKEND", "no-such-word", True),
        ("API_KEY", "tensorflow", True),  # a word under a key's name
        ("API_KEY", "/data/keys", False),  # a path that the job says itself
        ("API_KEY", "/data/none", True),
    ],
)
def test_what_the_job_says_itself_is_public(name, value, is_secret):
    assert secret_names({name: value}, "the backend is tensorflow; keys are in /data/keys") == [name] * is_secret


def test_names_are_in_order():
    assert secret_names({"B": "x y", "A": "x y", "C": "/x"}) == ["A", "B"]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ("efficientnet_v2", True),
        ("1e-3", True),
        ("bert-base-uncased", True),
        ("a,b,c,d,e,f,g,h,i,j", True),
        ("a,b,c,d,e,f,g,h,i,j,k", False),
        ("a" * 20, True),
        ("a" * 21, False),
        ("imagenet2012", True),
        ("imagenet20123", False),
        ("a1b2c3", False),
    ],
)
def test_words_and_numbers_are_plain(value, plain):
    assert is_plain("MODEL", value) is plain
    assert is_plain("API_KEY", value) is False


def test_a_known_value_is_found_with_its_line_and_its_variable():
    known = Known({"KEY": CANARY, "OTHER_KEY": "another/value+8", "MODEL": "efficientnet"})
    assert known.names == ["KEY", "MODEL", "OTHER_KEY"]
    assert known.find(f"a\nb {CANARY}\n".encode()) == ("KEY", 2)
    assert known.find(b"another/value+8") == ("OTHER_KEY", 1)
    assert known.find(b"\n\n\nefficientnet") is None
    assert known.find(b"") is None
    assert known.find(b"Y2FuYXJ5L3ZhbHVlKzc=") == ("KEY", 1)  # in base64
    assert (known.holds(f"x{CANARY}"), known.holds("x")) == (True, False)
    assert (known.mask(f"x{CANARY}"), known.mask_bytes(CANARY.encode())) == ("x***", b"***")


def test_without_secrets_nothing_is_found_and_nothing_changed():
    known = Known({"PLACE": "/data"})
    text = "é" * 10
    assert (known.names, known.find(b"/data"), known.holds("/data")) == ([], None, False)
    assert known.mask(text) is text


def searched(folder: Path, known: Known, **contents: bytes) -> tuple[tuple[str, ...], bool]:
    """Where the code of a folder has a secret, and whether all of it was searched."""
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    code = pack(folder, out=folder / "runs", is_named=False, known=known)
    return code.secrets, code.is_searched


def test_files_are_searched_by_name_and_content(tmp_path):
    known = Known({"KEY": "canary-value+7"})
    places, whole = searched(tmp_path, known, a=b"x\ncanary-value+7", b=b"nothing", **{"canary-value+7.py": b""})
    assert whole is True
    assert places == ("the name of ***.py holds the value of KEY", "a, line 2 holds the value of KEY")
    assert searched(tmp_path, Known({})) == ((), True)


@pytest.mark.parametrize(("more", "whole"), [(0, True), (1, False)])
def test_as_much_as_16_mib_of_the_code_is_searched(tmp_path, monkeypatch, more, whole):
    assert packing.MOST_SEARCHED_BYTES == 16 << 20
    monkeypatch.setattr(packing, "MOST_SEARCHED_BYTES", 100)
    found = searched(tmp_path, Known({"KEY": CANARY}), a=CANARY.encode() + bytes(46), b=bytes(40 + more), c=b"")
    assert found == (("a, line 1 holds the value of KEY",), whole)


def test_what_lies_beyond_what_is_searched_is_not_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "MOST_SEARCHED_BYTES", 100)
    assert searched(tmp_path, Known({"KEY": CANARY}), a=bytes(101), b=CANARY.encode()) == ((), False)


@pytest.mark.parametrize(("places", "words"), [
    (["a"], "a: better"), (["a", "b"], "a; b: better"), (["a", "b", "c"], "a; b and so in 1 more files: better"),
    (list("abcde"), "a; b and so in 3 more files: better"),
])  # fmt: skip
def test_one_warning_is_given_for_all_places(places, words):
    (warning,) = code_warnings(places)
    assert warning.startswith(words)
    assert code_warnings([]) == []


def test_masked_arguments_are_recognised():
    assert is_masked(["--a", "x***"]) is True
    assert is_masked(["--a", "**"]) is is_masked([]) is False


def test_own_words_are_what_travels():
    assert "class Gang" in "\n".join(sources().values())


@pytest.fixture
def spec_of(folder):
    return lambda **values: JobSpec(script=folder / "train.py", env={"API_KEY": CANARY}, **values)


def test_where_no_secret_stands_nothing_is_hidden(spec_of):
    spec = spec_of(args=("--a", "1"))
    assert hidden(spec, known_of(spec), b"echo\n") == ({}, {}, [])
    assert hidden(spec, known_of(spec), None) == ({}, {}, [])


def test_a_secret_of_the_command_alone_leaves_the_arguments(spec_of):
    spec = spec_of(args=("--a", "1"))
    masked, secret, warnings = hidden(
        spec, known_of(spec), f"x\ny\necho {CANARY} \udcff".encode(errors="surrogateescape")
    )
    assert masked == {"args": ["--a", "1"]}
    assert json.loads(secret[HIDDEN]) == {"command": f"x\ny\necho {CANARY} \udcff"}
    assert len(warnings) == 1
    assert warnings[0].startswith("the command file, line 3 holds the value of API_KEY")


@pytest.mark.parametrize("more", [0, 1])
def test_what_is_hidden_fills_one_variable_and_no_more(spec_of, more):
    frame = len(HIDDEN) + 1 + len(json.dumps({"args": [CANARY, "", ""]}, separators=(",", ":")))
    spec = spec_of(args=(CANARY, "x" * 60_000, "y" * (MAX_ENV_BYTES - frame - 60_000 + more)))
    if not more:
        assert len(hidden(spec, known_of(spec), None)[1][HIDDEN]) + len(HIDDEN) + 1 == MAX_ENV_BYTES
        return
    with pytest.raises(ConfigurationError, match="too much for a Secret's variable"):
        hidden(spec, known_of(spec), None)
