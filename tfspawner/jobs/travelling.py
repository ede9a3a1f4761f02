"""Which files of the script's folder travel: not what .tfspawnerignore names, former runs, env-files or keys."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import translate
from pathlib import Path
from typing import TYPE_CHECKING

from tfspawner.base.names import ID_FILE, brief
from tfspawner.base.userfile import brief_line, named, read_bytes
from tfspawner.errors import ConfigurationError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".tfspawnerignore"
ALWAYS_IGNORED = frozenset(
    (".git", "__pycache__", ".ipynb_checkpoints", ".venv", ".mypy_cache", ".pytest_cache")
)  # folders
# Names, in lower case, that say that keys are inside. SSH's keys have no ending: id_map.csv is not one.
KEY_FOLDERS = frozenset(
    (
        ".aws",
        ".azure",
        ".docker",
        ".env",
        ".gcloud",
        ".gnupg",
        ".huggingface",
        ".kaggle",
        ".kube",
        ".oci",
        ".ssh",
        ".config/gcloud",
        ".config/rclone",
    )
)
KEY_FILES = (
    ".env",
    ".env.*",
    ".env[-_]*",
    "*.env",
    "*.env.local",
    ".flaskenv",
    ".envrc",
    ".envrc.*",
    "*.pem",
    "*.key",
    "*.pem.[0-9]",
    "*.key.[0-9]",
    "token",
    ".token",
    "hf_token",
    ".hf_token",
    ".vault_pass",
    ".vault_pass.txt",
    ".renviron",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.keytab",
    "*.kdbx",
    "*.ppk",
    "id_*",
    ".netrc",
    "_netrc",
    ".pgpass",
    ".my.cnf",
    ".git-credentials",
    ".pypirc",
    ".npmrc",
    ".dockercfg",
    ".htpasswd",
    ".s3cfg",
    ".boto",
    ".passwd-s3fs",
    ".databrickscfg",
    "rclone.conf",
    ".vault-token",
    "credentials",
    "credentials.json",
    "credentials.yaml",
    "credentials.yml",
    "credentials.csv",
    "credentials.db",
    "accesskeys.csv",
    "*_accesskeys.csv",
    "application_default_credentials.json",
    "client_secret*.json",
    "service-account*.json",
    "service_account*.json",
    "kaggle.json",
    "kubeconfig",
    "*.kubeconfig",
    "secrets.json",
    "secrets.toml",
    "secrets.yaml",
    "secrets.yml",
    "x509up_u*",
    "krb5cc_*",
)
NO_KEY_FILES = (
    ".env.example",
    ".env.sample",
    ".env.template",
    ".env.dist",
    ".env[-_]example",
    ".env[-_]sample",
    ".env[-_]template",
    ".envrc.example",
    ".envrc.sample",
    "example.env",
    "sample.env",
    "template.env",
    "*.example.env",
    "*.sample.env",
    "*.template.env",
    "id_*.*",
)
COPIES = re.compile(
    r"(?:~|\.(?:bak|old|orig|save|sw[a-p])| \([0-9]{1,3}\)| copy(?: [0-9]{1,3})?)+$"
)  # what editors, browsers and desktops add to a file's name when they change or copy it
SSH_KEYS = ("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*")
_KEY, _NO_KEY, _SSH_KEY = (re.compile("|".join(map(translate, names))) for names in (KEY_FILES, NO_KEY_FILES, SSH_KEYS))
MOST_PATTERNS = 1000
LONGEST_PATTERN = 4096
MOST_STARS = 3  # in one name of a pattern, and as many **: with each more, a long path takes a hundred times as long
SHOWN = 3
MOST_FILES = 200_000
CODE = (".py", ".ipynb", ".md")  # never a key, whatever it is called


class Travelling:
    """The files of a folder that travel. After files() has ended, `keys` are the likely keys that were left out.

    `env_files` never travel, whatever their names in the folder. A line with `!` in .tfspawnerignore includes a key
    only if it matches the key's own name: one that matches its folder, or any name, is about other files.
    """

    def __init__(self, folder: Path, out: Path, env_files: Iterable[Path] = ()) -> None:
        self.folder, self.out = folder, out.resolve()
        self.real = folder.resolve()
        self.env_files = {identity for path in env_files if (identity := _identity(path))}
        self.lines = _users_patterns(folder / IGNORE_FILE)
        self.patterns = _patterns(self.lines)  # the last one that matches decides
        self.keys: dict[str, str] = {}  # {what looks like a key: its first file}
        self.env_names: list[str] = []

    def files(self) -> Iterator[tuple[Path, str]]:
        """(path, name in the archive) of every file; follows links, but not in a circle. Raises ConfigurationError."""
        count = 0
        for top, folders, names in os.walk(self.folder, followlinks=True, onerror=self._refuse_folder):
            here = Path(top)
            relative = here.relative_to(self.folder)
            real = here.resolve()
            leads_round = real in {(self.folder / parent).resolve() for parent in relative.parents}
            if here != self.folder and (
                leads_round or real == self.out or not {"pyvenv.cfg", ID_FILE}.isdisjoint(names)
            ):
                folders.clear()
                continue
            folders[:] = sorted(
                name for name in folders if name not in ALWAYS_IGNORED and self._is_wanted(f"{relative / name}/")
            )
            count += len(names)
            if count > MOST_FILES:
                raise ConfigurationError(
                    f"the folder {named(self.folder)} holds more than {MOST_FILES:,} files, all of which would travel",
                    hint=f"name what is not code in {named(self.folder / IGNORE_FILE)}, "
                    "or name a smaller folder: --workdir",
                )
            for name in sorted(names):
                path, packed_as = here / name, str(relative / name)
                with reading(packed_as):
                    is_file = path.is_file()
                if is_file and self._travels(path, packed_as, real):
                    yield path, packed_as

    def _refuse_folder(self, error: OSError) -> None:
        """Raises ConfigurationError for a folder that cannot be listed; os.walk() alone would silently skip it."""
        with reading(os.path.relpath(error.filename or self.folder, self.folder)):
            raise error

    def refuse_without(self, script: str) -> None:
        """Raises ConfigurationError with the reason why the script itself would not travel."""
        parts = script.split("/")
        paths = [*("/".join(parts[:number]) + "/" for number in range(1, len(parts))), script]
        if not all(map(self._is_wanted, paths)):
            raise ConfigurationError(
                f"the script {named(script)} is left out by {IGNORE_FILE}, and nothing could run",
                hint=f"take it out there, or add the line !/{script} at the end",
            )
        key = next((f"looks like a key ({shown})" for shown, name in self.keys.items() if script == name), None)
        why = key or ("is the --env-file" if script in self.env_names else "is in a folder that never travels")
        raise ConfigurationError(
            f"the script {named(script)} {why}, and does not travel", hint="give it another name, or place"
        )

    def _is_wanted(self, name: str) -> bool:
        """Whether .tfspawnerignore lets it travel, whether or not it is a key."""
        return not self.patterns.check_file(name).include

    def _travels(self, path: Path, name: str, folder: Path) -> bool:
        if self.env_files and _identity(path) in self.env_files:
            self.env_names.append(name)
            return False
        if not self._is_wanted(name):
            return False
        key = _key_in(name) or self._key_behind(path, name, folder)
        if not key or self._is_asked_for(name):
            return True
        self.keys.setdefault(key, name)
        return False

    def _is_asked_for(self, name: str) -> bool:
        """Whether a line with `!` matches this name, but not any name there; a later line without `!` undoes it."""
        folder = name.rpartition("/")[0]
        others = [f"{folder}/{other}".lstrip("/") for other in ("\1", "\1.\1", "zq", "zq.zq")]
        is_asked = False
        for line, pattern in zip(self.lines, self.patterns.patterns, strict=True):
            if pattern.include is not None and pattern.match_file(name):
                is_asked = not pattern.include and _names_keys(line) and not any(map(pattern.match_file, others))
        return is_asked

    def _key_behind(self, path: Path, name: str, folder: Path) -> str | None:
        """The name, if it or its folder is a link to what looks like a key; else None."""
        real = path.resolve() if path.is_symlink() else folder / path.name
        if real == self.real / name:
            return None
        inside = real.is_relative_to(self.real)
        return name if _key_in(str(real.relative_to(self.real) if inside else real)) else None


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns an error in reading a file or folder into a ConfigurationError that names it and says what to do."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{named(name)}, in the folder that travels, cannot be read: {error.strerror or brief_line(str(error))}",
            hint=f"name it in {IGNORE_FILE} if the script does not need it",
        ) from None


def left_out(keys: Mapping[str, str], env_names: Iterable[str]) -> str | None:
    """One line that says what does not travel although nobody excluded it, and how to send a key all the same.

    An --env-file is mentioned only beside keys, because the user knows what it holds; a job.yaml with variables
    always, because the user thinks of it as options.
    """
    shown_env = [
        f"{_shown(name)} (holds {'env:' if is_job_file else 'variables'})"
        for name in env_names
        if (is_job_file := name.endswith((".yaml", ".yml"))) or keys
    ]
    env = _few(shown_env)
    if not keys:
        return f"not sent: {env}" if env else None
    many = len(keys) > 1
    kind = "they look like keys" if many else "it looks like a key"
    example = next(iter(keys.values()))
    line = re.sub(r"([\\*?\[ ])", r"\\\1", example)
    hint = f"; to send {'one' if many else 'it'}, add !{line} to {IGNORE_FILE}" if example.isprintable() else ""
    return f"not sent, {kind}: {_few(list(map(_shown, keys)))}{f'; nor {env}' if env else ''}{hint}"


def _shown(name: str) -> str:
    return name if name.isprintable() and len(name) <= 60 else brief(name)


def _few(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{rest}"


def _key_in(name: str) -> str | None:
    """The part of a path that looks like a key, with a slash at the end if it is a folder; None if none does."""
    *folders, last = name.split("/")
    lower = [folder.lower() for folder in folders]
    for number, folder in enumerate(lower):
        if not {folder, "/".join(lower[max(number - 1, 0) : number + 1])}.isdisjoint(KEY_FOLDERS):
            return "/".join(folders[: number + 1]) + "/" if not last.endswith(CODE) else None
    return name if _is_key(last.lower()) else None


def _is_key(last: str) -> bool:
    """Whether a file of this lower-case name is a key, or an editor's copy of one."""
    original = COPIES.sub("", last).strip("#")
    names = (original,) if original == last else (original, original.removeprefix("."))
    return not last.endswith(CODE) and any(map(_is_keys_own, names))


def _is_keys_own(name: str) -> bool:
    if _SSH_KEY.match(name):
        return not name.endswith((".pub", ".py"))
    return bool(_KEY.match(name)) and not _NO_KEY.match(name)


def _names_keys(line: str) -> bool:
    """Whether the last name in a line of .tfspawnerignore matches only keys: !*.pem does, !*.json and !*e* do not."""
    last = line.rstrip().rstrip("/").rpartition("/")[2].removeprefix("!")
    plain = re.sub(r"\\.", "", last)
    filled = re.sub(r"\[[^]]*\]|[*?]", "zq", plain)
    return filled == plain or _is_key(filled.lower())


def _identity(path: Path) -> tuple[int, int] | None:
    """What all names of a file have in common, through hard links and symbolic ones: its device and inode."""
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
    data = read_bytes(path, "the ignore file")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise ConfigurationError(
            f"the ignore file {named(path)} is UTF-16, or no text, and would leave nothing out",
            hint="save it as UTF-8; in PowerShell: Out-File -Encoding utf8",
        )
    text = data.decode("utf-8-sig", errors="surrogateescape")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"]
    if len(lines) > MOST_PATTERNS:
        raise ConfigurationError(
            f"{path} has {len(lines):,} patterns, and {MOST_PATTERNS:,} are possible",
            hint="name folders, or keep what is not code elsewhere",
        )
    for number, line in lines:
        if wrong := _wrong_pattern(line):
            reason, hint = wrong
            raise ConfigurationError(
                f"{path}, line {number}: {brief(line)} is not a .gitignore pattern: {reason}", hint=hint
            )
    return [line for _, line in lines]


def _wrong_pattern(line: str) -> tuple[str, str] | None:
    """(what is wrong with a pattern, what to do); None if nothing is."""
    if len(line) > LONGEST_PATTERN:
        return f"it has {len(line):,} characters, and {LONGEST_PATTERN:,} are possible", "name the folder alone"
    names = line.split("/")
    if any(name.count("*") > MOST_STARS for name in names) or names.count("**") > MOST_STARS:
        return (
            f"it has more than {MOST_STARS} stars",
            f"write it with at most {MOST_STARS} stars in a name, or as several lines",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # re warns of [[:alpha:]], which Python does not know
            _patterns([line])
    except FutureWarning:
        return (
            "it has sets like [[:alpha:]], which are not known here",
            "write [a-zA-Z]; a literal [ in a set has a \\ before it",
        )
    except (ValueError, re.error, OverflowError, RecursionError) as error:
        reason = brief_line(str(error).partition(" at position")[0].partition(":")[0].lower())
        return reason, "a literal !, \\ or [ has a \\ before it"
    return None
