"""What of the script's folder travels: all but what .tfspawnerignore names, former runs, env-files, and what looks like a key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigurationError
from .recorded import ID_FILE
from .userfile import brief, brief_line, read_bytes

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".tfspawnerignore"
ALWAYS_IGNORED = (".git/", "__pycache__/", ".ipynb_checkpoints/", ".venv/", ".mypy_cache/", ".pytest_cache/")
# What holds keys by its name, in lower case. Names of SSH's keys have no ending: id_map.csv is none.
KEY_FOLDERS = frozenset((".aws", ".azure", ".docker", ".gcloud", ".gnupg", ".kaggle", ".kube", ".oci", ".ssh"))
KEY_FILES = (
    ".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.keytab", "*.kdbx", "*.ppk",
    "id_*", ".netrc", "_netrc", ".pgpass", ".my.cnf", ".git-credentials", ".pypirc", ".npmrc", ".dockercfg", ".htpasswd", ".s3cfg",
    ".boto", ".vault-token", "credentials", "credentials.json", "application_default_credentials.json", "client_secret*.json",
    "kaggle.json", "kubeconfig", "*.kubeconfig", "secrets.json", "secrets.toml", "secrets.yaml", "secrets.yml", "x509up_u*", "krb5cc_*",
)  # fmt: skip
NO_KEY_FILES = (".env.example", ".env.sample", ".env.template", ".env.dist", "example.env", "sample.env", "id_*.*")
SSH_KEYS = ("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*")
_KEY, _NO_KEY, _SSH_KEY = (re.compile("|".join(map(translate, names))) for names in (KEY_FILES, NO_KEY_FILES, SSH_KEYS))
MOST_PATTERNS = 1000
LONGEST_PATTERN = 4096
MOST_STARS = 3  # in one name of a pattern, and of **: each more makes matching a long path a hundred times as slow
SHOWN = 3


class Travelling:
    """The files of a folder that travel; `keys` are those that look like keys and were not asked for, once all were gone through.

    `env_files` never travel, under whatever name they lie there. `!` in .tfspawnerignore asks for what would stay here by its name.
    """

    def __init__(self, folder: Path, out: Path, env_files: Iterable[Path] = ()) -> None:
        self.folder, self.out = folder, out.resolve()
        self.real = folder.resolve()
        self.env_files = {identity for path in env_files if (identity := _identity(path))}
        self.patterns = _patterns(
            [*ALWAYS_IGNORED, *_users_patterns(folder / IGNORE_FILE)]
        )  # the last that fits decides
        self.keys: dict[str, None] = {}  # in the order in which they were met
        self.env_names: list[str] = []

    def files(self) -> Iterator[tuple[Path, str]]:
        """(path, name in the archive) of every file, links followed unless they lead round."""
        for top, folders, names in os.walk(self.folder, followlinks=True):
            here = Path(top)
            relative = here.relative_to(self.folder)
            real = here.resolve()
            leads_round = real in {(self.folder / parent).resolve() for parent in relative.parents}
            if here != self.folder and (
                leads_round or real == self.out or not {"pyvenv.cfg", ID_FILE}.isdisjoint(names)
            ):
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if self._is_wanted(f"{relative / name}/"))
            for name in sorted(names):
                path, packed_as = here / name, str(relative / name)
                if path.is_file() and self._travels(path, packed_as, real):
                    yield path, packed_as

    def _is_wanted(self, name: str) -> bool:
        """Whether neither .tfspawnerignore nor we leave it out, keys not considered."""
        return not self.patterns.check_file(name).include

    def _travels(self, path: Path, name: str, folder: Path) -> bool:
        if self.env_files and _identity(path) in self.env_files:
            self.env_names.append(name)
            return False
        found = self.patterns.check_file(name)
        if found.include is not None:
            return not found.include
        key = _key_in(name) or self._key_behind(path, name, folder)
        if key:
            self.keys[key] = None
        return not key

    def _key_behind(self, path: Path, name: str, folder: Path) -> str | None:
        """The name where it leads, by a link of its own or of its folder, to what looks like a key."""
        real = path.resolve() if path.is_symlink() else folder / path.name
        if real == self.real / name:
            return None
        inside = real.is_relative_to(self.real)
        return name if _key_in(str(real.relative_to(self.real) if inside else real)) else None


def left_out(keys: Iterable[str], env_names: Iterable[str]) -> str | None:
    """One line that says what stays here, and how to send it all the same."""
    keys, env_names = list(keys), list(env_names)
    names = [*(f"{name} (of --env-file)" for name in env_names), *keys]
    if not names:
        return None
    shown = ", ".join(name if name.isprintable() and len(name) <= 60 else brief(name) for name in names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    does = "does" if len(names) == 1 else "do"
    kind = " that look like keys" if keys and len(names) > 1 else ", which looks like a key," if keys else ""
    line = re.sub(r"([\\*?\[ ])", r"\\\1", keys[0]) if keys else ""
    asked = f": variables go by --env-file; the file itself by a line !{line} in {IGNORE_FILE}"
    return f"{shown}{more}{kind} {does} not travel{asked if keys and keys[0].isprintable() else ''}"


def _key_in(name: str) -> str | None:
    """The part of a path that looks like a key, a folder with a slash behind it; None where none does."""
    *folders, last = name.split("/")
    for number, folder in enumerate(folders):
        if folder.lower() in KEY_FOLDERS:
            return "/".join(folders[: number + 1]) + "/"
    last = last.lower()
    if _SSH_KEY.match(last):
        return None if last.endswith((".pub", ".py")) else name
    return name if _KEY.match(last) and not _NO_KEY.match(last) else None


def _identity(path: Path) -> tuple[int, int] | None:
    """What all names of a file have in common, links of both kinds among them."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _patterns(lines: Iterable[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines)


def _users_patterns(path: Path) -> list[str]:
    if not os.path.lexists(path):
        return []
    text = read_bytes(path, "the ignore file").decode("utf-8-sig", errors="surrogateescape")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"]
    if len(lines) > MOST_PATTERNS:
        raise ConfigurationError(
            f"{path} has {len(lines):,} patterns, and {MOST_PATTERNS:,} are possible",
            hint="name folders, or keep what is no code elsewhere",
        )
    for number, line in lines:
        if reason := _wrong_pattern(line):
            raise ConfigurationError(
                f"{path}, line {number}: {brief(line)} is no pattern of .gitignore's: {reason}",
                hint="a literal !, \\ or [ has a \\ before it",
            )
    return [line for _, line in lines]


def _wrong_pattern(line: str) -> str | None:
    if len(line) > LONGEST_PATTERN:
        return f"it has {len(line):,} characters, and {LONGEST_PATTERN:,} are possible"
    names = line.split("/")
    if any(name.count("*") > MOST_STARS for name in names) or names.count("**") > MOST_STARS:
        return f"it has more than {MOST_STARS} stars"
    try:
        _patterns([line])
    except (ValueError, re.error, OverflowError, RecursionError) as error:
        return brief_line(str(error).partition(" at position")[0].partition(":")[0].lower())
    return None
