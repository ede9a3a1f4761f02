"""Which lines of .tfspawnerignore send a key, and which other names are a key's."""

import pytest

from tfspawner.jobs.travelling import Travelling

MORE_KEYS = (
    ".env-prod", ".env_prod", ".env (1)", ".env copy", "prod.env.local", ".envrc.local", "hf_token", "token", ".token", ".vault_pass", ".Renviron",
    "key.pem.1", "id_rsa copy 2", "credentials (1)",
)  # fmt: skip
NO_KEYS = (
    ".env-example",
    "tokens.txt",
    "tokenizer.json",
    "token.py",
    "hf_token.md",
    "model copy.keras",
    "events (1).log",
    ".envrc.example",
)


def travelling(folder, names, lines=""):
    for name in names:
        (folder / name).write_text("x")
    if lines:
        (folder / ".tfspawnerignore").write_text(lines)
    found = Travelling(folder, folder / "runs")
    return {name for _, name in found.files()} - {".tfspawnerignore"}, set(found.keys)


def test_more_names_of_keys(tmp_path):
    assert travelling(tmp_path, MORE_KEYS + NO_KEYS) == (set(NO_KEYS), set(MORE_KEYS))


@pytest.mark.parametrize("line", ["!.*", "!*.json", "!*e*", "!*n", "!?env", "![.]*", "!**/*.json", "!.e*", "!c*.json"])
def test_a_wide_line_sends_no_key(tmp_path, line):
    assert travelling(tmp_path, [".env", "credentials.json", "a.txt"], f"{line}\n") == (
        {"a.txt"},
        {".env", "credentials.json"},
    )


@pytest.mark.parametrize(
    ("line", "key"),
    [("!.env", ".env"), ("!*.pem", "a.pem"), ("!id_*", "id_work"), ("!credentials.json", "credentials.json"), ("!.env.*", ".env.prod"),
     ("!.env\\ \\(1\\)", ".env (1)"), ("!x\\*.pem", "x*.pem")],
)  # fmt: skip
def test_a_line_that_fits_keys_alone_sends_them(tmp_path, line, key):
    assert travelling(tmp_path, [key], f"{line}\n") == ({key}, set())
