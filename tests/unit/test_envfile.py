"""Env-files as people write them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfspawner.cli.envfile import read_env_file
from tfspawner.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("\n# comment\n  # another\n\nA=1", {"A": "1"}),
        ("A=b=c==", {"A": "b=c=="}),
        ("A=", {"A": ""}),
        ("export A=1", {"A": "1"}),
        ("  export\tA=1\nexported=2", {"A": "1", "exported": "2"}),
        ("A.b-c_1=x", {"A.b-c_1": "x"}),
        ("A = spaced out ", {"A": "spaced out"}),
        ("A=x # a comment", {"A": "x"}),
        ("A=x#no comment", {"A": "x#no comment"}),
        ("A=# all comment", {"A": ""}),
        ('A="x # y" # z', {"A": "x # y"}),
        ("A='x # y' # z", {"A": "x # y"}),
        ("A='  kept  '", {"A": "  kept  "}),
        ("A=\"\"\nB=''", {"A": "", "B": ""}),
        ('A=it\'s\nB=say "hi"', {"A": "it's", "B": 'say "hi"'}),
        ("A=${HOME}$(id)`id`", {"A": "${HOME}$(id)`id`"}),
        (r"A=C:\new", {"A": r"C:\new"}),
        (r'A="a\nb\t\"c\" \\ \$"', {"A": 'a\nb\t"c" \\ $'}),
        (r"A='a\nb'", {"A": r"a\nb"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=1\rB=2", {"A": "1", "B": "2"}),
        ('A="1"\r\n# c\r\n\r\nB=2', {"A": "1", "B": "2"}),
        ("\ufeffA=1", {"A": "1"}),
        ("", {}),
        ("A=x\u2028y\u0085z", {"A": "x\u2028y\u0085z"}),
    ],
)
def test_a_file_is_read_as_it_is_meant(tmp_path, text, env):
    path = tmp_path / "env"
    path.write_bytes(text.encode())
    assert read_env_file(path) == env


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A=1\n\ncanary value", "line 3: this is no KEY=VALUE"),
        ("# A\r\n\r\nexport canary", "line 3: this is no KEY=VALUE"),
        ("A=1\rA B=canary", "line 2: this is no KEY=VALUE"),
        ("A=1\n\ufeffB=canary", "line 2: this is no KEY=VALUE"),
        ("1A=canary", "line 1: this is no KEY=VALUE"),
        ("=canary", "line 1: this is no KEY=VALUE"),
        ('A="canary', "line 1: the quotes"),
        ("A='canary' more", "line 1: the quotes"),
        ("A='canary\n'", "line 1: the quotes around the value of A do not match in this line"),
        ('# x\nPEM="canary\nmore"', "line 2: the quotes around the value of PEM do not match in this line"),
        ('A="canary\\"', "line 1: the quotes"),
        ("A='canary\"", "line 1: the quotes"),
        ("A=1\nA=canary", "line 2: A is set a second time"),
    ],
)
def test_a_bad_line_is_told_by_number_and_never_shown(tmp_path, text, words):
    path = tmp_path / "env"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        read_env_file(path)
    assert words in error.value.message
    assert "canary" not in error.value.message


def test_a_value_of_several_lines_is_refused_with_the_way_to_write_it(tmp_path):
    path = tmp_path / "env"
    path.write_text('PEM="first\nsecond"')
    with pytest.raises(ConfigurationError) as error:
        read_env_file(path)
    assert '"first\\nsecond"' in error.value.hint
    path.write_text('PEM="first\\nsecond"')
    assert read_env_file(path) == {"PEM": "first\nsecond"}


def test_more_variables_than_a_record_takes_are_refused_at_once(tmp_path):
    path = tmp_path / "env"
    path.write_text("".join(f"A{number}=1\n" for number in range(50_000)))
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match="has more than 2,000 variables"):
        read_env_file(path)
    assert time.monotonic() - began < 2


def test_what_is_no_file_and_no_text_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        read_env_file(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"A=\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_env_file(tmp_path / "binary")


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z_][A-Z0-9_]{0,9}", fullmatch=True),
        st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    )
)
def test_any_value_survives_double_quotes(tmp_path_factory, env):
    path = tmp_path_factory.getbasetemp() / "env"
    quoted = {
        k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r") for k, v in env.items()
    }
    path.write_text("".join(f'{key}="{value}"\n' for key, value in quoted.items()), encoding="utf-8", newline="")
    assert read_env_file(path) == env


ONE_LINE = st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")


@given(st.text(ONE_LINE), st.sampled_from(["", "  ", ' # it\'s "so"']))
def test_any_line_survives_single_quotes_as_it_stands(tmp_path_factory, value, rest):
    value = value.replace("'", "")
    path = tmp_path_factory.getbasetemp() / "env"
    path.write_text(f"export KEY = '{value}'{rest}\r\nNEXT=1", encoding="utf-8", newline="")
    assert read_env_file(path) == {"KEY": value, "NEXT": "1"}


@given(st.text(ONE_LINE).map(str.strip).filter(lambda value: "#" not in value and value[:1] not in {"'", '"'}))
def test_any_line_without_quotes_is_taken_as_it_stands(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "env"
    path.write_text(f"KEY={value}\nNEXT=1", encoding="utf-8", newline="")
    assert read_env_file(path) == {"KEY": value, "NEXT": "1"}


@given(st.text(ONE_LINE, min_size=1))
def test_any_line_is_read_or_refused_with_its_number(tmp_path_factory, line):
    path = tmp_path_factory.getbasetemp() / "env"
    path.write_text(f"A=1\n{line}", encoding="utf-8", newline="")
    try:
        outcome = read_env_file(path)["A"]
    except ConfigurationError as error:
        outcome = error.message.removeprefix(f"env-file {path}, ")[:7]
    assert outcome in ("1", "line 2:")


@given(st.text(ONE_LINE, max_size=10), st.sampled_from("'\"= #\\"), st.text(ONE_LINE, max_size=10), st.booleans())
def test_whatever_stands_around_a_value_no_error_shows_it(tmp_path_factory, before, mark, after, is_twice):
    path = tmp_path_factory.getbasetemp() / "env"
    line = f"KEY={mark}{before}canary{after}"
    path.write_text(f"{line}\n{line if is_twice else before + 'canary'}", encoding="utf-8", newline="")
    try:
        read_env_file(path)
        told = f"env-file {path}, line 0"
    except ConfigurationError as error:
        told = f"{error.message}{error.hint}"
    assert told.startswith(f"env-file {path}, line ")
    assert "canary" not in told
