"""What the agent masks in the script's output, and how soon it passes the rest on."""

import base64
import json
import os
import threading
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfspawner.agent import HELD_S, Masker, masked

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
