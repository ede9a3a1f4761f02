"""What the agent masks in the script's output, and how soon it passes the rest on."""

import base64
import json
import os
import re
import sys
import threading
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfspawner.replica.masking import HELD_S, Masker, masked

TEXT = "ab+/= \n\r\\'\"é\x7f%"
VALUES = st.lists(st.text(TEXT, max_size=40).map(str.encode), max_size=4)
SPELLINGS = {
    "plain": lambda value: value,
    "base64": base64.b64encode,
    "urlsafe base64": base64.urlsafe_b64encode,
    "base64 without padding": lambda value: base64.b64encode(value).rstrip(b"="),
    "bytes' repr": lambda value: repr(value).encode(),
    "repr": lambda value: repr(value.decode(errors="replace")).encode(),
    "json": lambda value: json.dumps(value.decode(errors="replace")).encode(),
    "percent-encoded": lambda value: urllib.parse.quote(value, safe="").encode(),
    "form-encoded": lambda value: urllib.parse.quote_plus(value).encode(),
    "wrapped base64": base64.encodebytes,
}


def fed(values: list[bytes], *pieces: bytes) -> bytes:
    masker = Masker(values)
    return b"".join([*(masker.feed(piece) for piece in pieces), masker.end()])


@st.composite
def outputs(draw) -> tuple[list[bytes], bytes]:
    """Secrets, and an output that is made of them, of parts of them, and of others."""
    values = draw(VALUES)
    spelled = [spell(value) for value in values for spell in SPELLINGS.values()]
    parts = st.text(TEXT, max_size=20).map(str.encode)
    if spelled:
        whole = st.sampled_from(spelled)
        parts |= whole | st.tuples(whole, st.integers(0, 40), st.integers(0, 40)).map(lambda t: t[0][t[1] : t[2]])
    return values, b"".join(draw(st.lists(parts, max_size=12)))


@pytest.mark.parametrize("half", [1, 2])
@settings(max_examples=200)
@given(output=outputs(), sizes=st.lists(st.integers(1, 30), max_size=40))
def test_however_the_output_is_cut_it_is_masked_the_same_and_holds_no_secret(half, output, sizes):
    values, data = output
    whole, pieces, rest = fed(values, data), [], data
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert fed(values, *pieces, rest) == whole
    for value in values:
        for line in value.splitlines():
            assert len(line.strip()) < 8 or line.strip() not in whole


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    "value", [b"hunter22", b"correct/horse+battery=staple?&", "pässwörd\\'\"".encode(), b"not utf-8: \xff\xfe", bytes(range(33, 127)) * 2]
)  # fmt: skip
def test_a_value_is_masked_in_each_spelling(spelling, value):
    text = SPELLINGS[spelling](value)
    told = fed([value], b"<" + text + b">\n")
    assert b"***" in told
    assert len(told.replace(b"***", b"")) < 16, told
    assert value not in told


@pytest.mark.parametrize("before", [b"", b"u", b"us", b"user:"])
@pytest.mark.parametrize("after", [b"", b"x", b"xy"])
def test_of_a_value_inside_of_longer_base64_nothing_but_its_edges_is_left(before, after):
    text = base64.b64encode(before + b"correct horse battery" + after)
    told = fed([b"correct horse battery"], text)
    assert b"***" in told
    assert len(told) <= len(base64.b64encode(before + after)) + 11
    assert not any(text[at : at + 4] in told for at in range(8, 24))


def test_values_and_lines_under_8_bytes_are_left_alone():
    output = b"DEBUG is 1, level verbose\n   indented\n"
    assert fed([b"1", b"verbose", b"", b"          ", b"level\n1,\n"], output) == output


def test_a_value_of_several_lines_is_masked_line_by_line():
    key = b"-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\nAS=\n-----END KEY-----\n"
    assert fed([key], b"the key:\n" + key + b"end\n") == b"the key:\n***\n***\n***\nAS=\n***\nend\n"
    assert fed([key], key.replace(b"\n", b"\r\n")) == b"***\r\n***\r\n***\r\nAS=\r\n***\r\n"
    assert fed([key], repr(key.decode()).encode()) == b"'***'"


def test_the_longer_of_two_values_that_begin_alike_is_masked_whole():
    assert fed([b"password", b"password-of-the-bucket"], b"password-of-the-", b"bucket password\n") == b"*** ***\n"


def test_what_cannot_be_a_secrets_beginning_is_passed_on_at_once():
    masker = Masker([b"password"])
    assert masker.feed(b"10/20 [====>...]") == b"10/20 [====>...]"
    assert masker.feed(b" pass") == b" "
    assert masker.feed(b"ed\npass") == b"passed\n"
    assert masker.feed(b"word") == b"***"
    assert masker.feed(b"!") == b"!"
    assert masker.end() == b""


def test_without_secrets_the_output_is_passed_on_as_it_is():
    masker = Masker([])
    data = b"anything at all"
    assert masker.feed(data) is data
    assert masker.end() == b""


def test_what_is_held_back_is_passed_on_when_no_more_comes():
    read_end, write_end = os.pipe()
    came, arrived = [], threading.Event()

    def read() -> None:
        with open(read_end, "rb", buffering=0) as output:
            for data in masked(output, Masker([b"password"])):
                came.append(data)
                if b"pass" in b"".join(came):
                    arrived.set()

    reader = threading.Thread(target=read)
    reader.start()
    os.write(write_end, b"Enter the pass")
    assert arrived.wait(HELD_S + 10)
    os.write(write_end, b", pass")
    os.write(write_end, b"word\n")
    os.close(write_end)
    reader.join(10)
    assert b"".join(came) == b"Enter the pass, ***\n"


@pytest.mark.timeout(30)
def test_the_longest_values_that_linux_allows_are_masked_as_they_stand():
    values = [os.urandom(60_000).hex().encode() for _ in range(2)]
    assert fed(values, b"<", *values, b">") == b"<" + 2 * b"***" + b">"


@pytest.mark.parametrize("size", [8, 9, 100, 5000])
@pytest.mark.parametrize("last", [1, 2, 7])
def test_a_long_value_whose_last_bytes_come_later_is_held_back_from_its_first(size, last):
    value = (os.urandom(size // 2 + 1).hex().encode())[:size]
    masker = Masker([value])
    assert masker.feed(value[:-last]) == b""
    assert masker.feed(value[-last:] + b"!") == b"***!"


def test_a_value_is_held_back_from_its_first_byte_wherever_the_line_began():
    value = b"g" + os.urandom(2500).hex().encode()  # whose last byte can begin no other
    masker = Masker([value])
    assert masker.feed(b"a line\nkey=" + value[:-1]) == b"a line\nkey="
    assert masker.feed(value[-1:]) == b"***"
    assert masker.feed(b"\r" + value[:-1]) == b"\r"
    assert masker.feed(b"x") == value[:-1] + b"x"


def inner_forms(value: bytes) -> dict[str, bytes]:
    """How Python, JSON and URLs write a value, without the quotes."""
    words = value.decode(errors="replace")
    percent = urllib.parse.quote(value, safe="")
    return {
        "plain": value,
        "repr": repr(words)[1:-1].encode(),
        "ascii": ascii(words)[1:-1].encode(),
        "json": json.dumps(words)[1:-1].encode(),
        "bytes": repr(value)[2:-1].encode(),
        "backslashes": words.encode("ascii", "backslashreplace"),
        "percent": percent.encode(),
        "percent but /": urllib.parse.quote(value).encode(),
        "form": urllib.parse.quote_plus(value).encode(),
        "small percent": re.sub("%..", lambda code: code[0].lower(), percent).encode(),
    }


@pytest.mark.parametrize("form", inner_forms(b""))
@pytest.mark.parametrize(
    "value", [b"hunter22", "ä'\"s/ \\\x7fwörd é'".encode(), b"/tokens/tokens/", "äääää/ä".encode()]
)
def test_of_a_value_in_another_spelling_not_a_byte_is_left(form, value):
    assert fed([value], b"<" + inner_forms(value)[form] + b">\n") == b"<***>\n"


@pytest.mark.parametrize("size", [8, 9, 10, 46, 48, 49, 60, 100, 200])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_of_a_value_in_base64_not_a_byte_is_left(size, encode):
    value = bytes(33 + (7 * number) % 93 for number in range(size))
    assert fed([value], b"<" + encode(value) + b">") == b"<***>"
    assert fed([value], b"<" + encode(value).rstrip(b"=") + b">") == b"<***>"
    for width in (64, 76):
        lines = [encode(value)[at : at + width] for at in range(0, len(encode(value)), width)]
        told = fed([value], b"\n".join(lines))
        assert [len(line) for line in told.split(b"\n")] == [3 if len(line) >= 8 else len(line) for line in lines]


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("size", [12, 13, 14])
def test_inside_of_longer_base64_all_is_masked_that_no_neighbour_has_a_part_in(before, size):
    value = bytes(33 + (7 * number) % 93 for number in range(size))
    text = base64.b64encode(b"\xff" * before + value + b"\xff" * 3)
    first, last = -(-before * 8 // 6), (before + size) * 8 // 6
    assert fed([value], text) == text[:first] + b"***" + text[last:]


@pytest.mark.parametrize(("size", "is_masked"), [(4096, True), (4097, False)])
def test_up_to_4096_bytes_are_looked_for_in_base64(size, is_masked):
    value = os.urandom(size // 2 + 1).hex().encode()[:size]
    assert (b"***" in fed([value], base64.b64encode(value))) is is_masked
    assert fed([value], value) == b"***"


@pytest.mark.parametrize(
    ("value", "told"), [(b"1234567", b"1234567"), (b"12345678", b"***"), (b" 1234567 ", b" 1234567 ")]
)
def test_8_bytes_make_a_secret(value, told):
    assert fed([value], value) == told


def test_a_masker_knows_whether_there_is_anything_to_mask():
    assert Masker([]).is_idle
    assert Masker([b"short"]).is_idle
    assert not Masker([b"long enough"]).is_idle
    assert Masker([b"long enough"]).mask_text("a long enough text") == "a *** text"
    assert Masker([b"long enough"]).mask(b"nothing") == b"nothing"


def test_of_two_secrets_that_overlap_the_first_is_masked_and_the_rest_held_back():
    masker = Masker([b"abcdefghij", b"ghijklmnop"])
    assert masker.feed(b"abcdefghij") == b""
    assert masker.feed(b"klmnop!") == b"***klmnop!"
    assert masker.feed(b"\nghijklmnop") == b"\n***"
    assert masker.end() == b""
    masker = Masker([b"abcdefgh", b"abcdefgh-and-more"])
    assert masker.feed(b"x abcdefgh-and") == b"x "
    assert masker.end() == b"***-and"
    assert masker.end() == b""


def test_of_a_value_in_wrapped_base64_that_goes_on_the_last_line_is_masked_too():
    value = bytes(33 + (7 * number) % 93 for number in range(61))  # 81 characters are its own
    text = base64.b64encode(value + b"\xff" * 30)
    assert fed([value], text[:64] + b"\n" + text[64:]) == b"***\n***" + text[81:]
    assert fed([value], text[:76] + b"\n" + text[76:]) == b"***\n" + text[76:]  # 5 are no secret's worth


def test_a_whole_secret_is_passed_on_though_another_may_begin_right_after_it():
    masker = Masker([b"password"])
    assert masker.feed(b"passwordpass") == b"***"
    assert masker.feed(b"word") == b"***"


class Pipe:
    """An output in pieces, and a poll() that says whether one has come."""

    POLLIN = 1

    def __init__(self, *pieces: bytes, quiet: int = 0) -> None:
        self.pieces, self.quiet, self.waits, self.is_watched = list(pieces), quiet, list[float](), False

    def poll(self, *wait_ms: float) -> object:
        if not wait_ms:
            return self
        assert self.is_watched
        self.waits += wait_ms
        self.quiet -= 1
        return [] if self.quiet >= 0 else [1]

    def register(self, output: object, events: int) -> None:
        self.is_watched = (output, events) == (self, 1)

    def read(self, most: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


@pytest.mark.parametrize(
    ("quiet", "came", "waits"),
    [(0, [b"", b"***\n", b""], 1), (1, [b"", b"pass", b"word\n", b""], 1)],
)
def test_the_beginning_of_a_secret_waits_a_little_for_the_rest(monkeypatch, quiet, came, waits):
    pipe = Pipe(b"pass", b"word\n", quiet=quiet)
    monkeypatch.setattr(sys.modules[Masker.__module__], "select", pipe)
    assert list(masked(pipe, Masker([b"password"]))) == came
    assert pipe.waits == [HELD_S * 1000] * waits


def test_nothing_waits_where_nothing_is_held_back(monkeypatch):
    pipe = Pipe(b"one\n", b"two\n", quiet=9)
    monkeypatch.setattr(sys.modules[Masker.__module__], "select", pipe)
    assert list(masked(pipe, Masker([b"password"]))) == [b"one\n", b"two\n", b""]
    assert pipe.waits == []
