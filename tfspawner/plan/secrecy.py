"""Decides which values are secret, and keeps them out of all records and of all objects but the Secret.

Arguments of the script, or a command file, that contain a secret travel in the Secret. Code that contains one is
uploaded and put into no object. One of the job's own options that contains one is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tfspawner.errors import ConfigurationError
from tfspawner.replica.masking import Masker
from tfspawner.replica.protocol import MASK, MASKED_BYTES

from .limits import MAX_ENV_BYTES
from .spec import JobSpec, flag_of

HIDDEN = "TFSPAWNER_HIDDEN"  # the variable in the Secret for the parts of job.json and command file with a secret
SHOWN = 2
NOT_SECRET = (
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "S3_ACCESS_KEY",
    "S3_ENDPOINT",
)
_PLACE = re.compile(r"(?:(?:s3|root|gs|hdfs|https?)://|\.{0,2}/)[^@?\s]*")
# Matches a word in a variable's name, between underscores or the ends. TOKENS alone is a number, as in MAX_TOKENS.
_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:KEYS?|CREDS?|CREDENTIALS?|AUTH|AUTHORI[SZ]ATION|BEARER|PASS|PRIVATE|COOKIES?|SESSIONS?|(?<=_)PWD"
    r"|(?:API|AUTH|ACCESS|REFRESH|BEARER|USER|HF|GITHUB)[_.-]?TOKENS"
    r"|[A-Z0-9]*(?:TOKEN|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|(?:API|ACCESS|PRIVATE|SECRET)KEYS?))(?=[_.-]|[0-9]*$)",
    re.I,
)
# Matches words and numbers that any code may have: efficientnet_v2, EfficientNetB0, imagenet2012, 1e-3.
# It does not match keys, in which letters and digits alternate.
_WORD = r"(?:[a-z]{1,20}|[A-Z]{1,20}|(?:[A-Z][a-z]{2,19}){1,4}[A-Z]?)[0-9]{0,4}"
_NUMBER = r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{1,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?"
_PLAIN = re.compile(rf"(?:{_WORD}|{_NUMBER})(?:[ .,:+_-](?:{_WORD}|{_NUMBER})){{0,9}}")


def secret_names(env: Mapping[str, str], own_words: str = "") -> list[str]:
    """The names of all variables that are not public.

    Public are the variables in NOT_SECRET, which errors must be able to show; and, unless the name says key, token or
    the like, paths and URIs, and values that own_words contains anyway (KERAS_BACKEND=tensorflow). A path that
    own_words contains is public under any name. A URL with a password or a query is secret.
    """

    def is_public(name: str, value: str) -> bool:
        if name in NOT_SECRET and "@" not in value:
            return True
        is_said = len(value) >= MASKED_BYTES and value in own_words
        is_place = bool(_PLACE.fullmatch(value))
        return (is_said and is_place) or ((is_said or is_place) and not _SECRET_NAME.search(name))

    return sorted(name for name, value in env.items() if not is_public(name, value))


def is_plain(name: str, value: str) -> bool:
    """Whether a value is a word or a number that any code may contain, and its name does not call it a secret."""
    return not _SECRET_NAME.search(name) and bool(_PLAIN.fullmatch(value))


class Known:
    """A job's secret values; finds and masks them as the agents do.

    `names` are the variables whose values the agents mask in the output. Unlike them, this class does not look for
    plain words such as MODEL=efficientnet.
    """

    def __init__(self, env: Mapping[str, str], own_words: str = "") -> None:
        self.names = secret_names(env, own_words)
        self._values = {name: env[name].encode() for name in self.names if not is_plain(name, env[name])}
        self._masker = Masker(list(self._values.values()))

    @property
    def is_idle(self) -> bool:
        """Whether there are no secrets."""
        return self._masker.is_idle

    def mask(self, text: str) -> str:
        """The text with *** in place of each secret."""
        return text if self._masker.is_idle else self._masker.mask_text(text)

    def mask_bytes(self, data: bytes) -> bytes:
        """The same for the bytes of a file or a log."""
        return self._masker.mask(data)

    def holds(self, text: str) -> bool:
        """Whether the text contains a secret."""
        return not self._masker.is_idle and self._masker.mask_text(text) != text

    def find(self, data: bytes) -> tuple[str, int] | None:
        """(variable, line) of the first secret value in data; None if there is none."""
        if self.is_idle or not self._masker.quick.search(data):
            return None
        place = self._masker.exact.search(data)
        if not place:
            return None
        name = next(
            name for name, value in self._values.items() if Masker([value]).exact.search(place[0]) or value in place[0]
        )
        return name, data.count(b"\n", 0, place.start()) + 1


def known_of(spec: JobSpec, own_words: str = "", pod_file: bytes = b"") -> Known:
    """The job's secrets; `own_words` is what tf-spawner itself sends, so nothing in it is secret.

    Raises ConfigurationError if an option contains a secret: options go into names, labels and records.
    """
    options = _options(spec, pod_file)
    known = Known(spec.env, "\n".join([own_words, *(text for _, text in options)]) if spec.env else "")
    for flag, text in options:
        if hit := known.find(text.encode(errors="replace")):
            raise ConfigurationError(
                f"{flag} holds the value of the variable {hit[0]}, which is secret by its name",
                hint="it would stand in objects and records, which others may read: write something else there",
            )
    return known


def _options(spec: JobSpec, pod_file: bytes) -> list[tuple[str, str]]:
    """(flag, text) of all options that go into objects or records unchanged."""
    fields = {name: value for name, value in asdict(spec).items() if name not in ("env", "env_files", "args")}
    options = [(flag_of(name), text) for name, value in fields.items() for text in _texts(value)]
    if spec.pod_file:
        options.append((f"--pod-file {spec.pod_file}", pod_file.decode(errors="replace")))
    return options


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for pair in value.items() for text in pair]
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return [str(value)] if isinstance(value, str | Path) else []


def hidden(spec: JobSpec, known: Known, command: bytes | None) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """(masked fields for job.json, the Secret's variable with their real values, warnings).

    Raises ConfigurationError if the values are too long for a variable.
    """
    secret: dict[str, Any] = {}
    warnings = []
    masked = [known.mask(arg) for arg in spec.args]
    if masked != list(spec.args):
        secret["args"] = list(spec.args)
        name = next(hit[0] for arg in spec.args if (hit := known.find(arg.encode(errors="surrogateescape"))))
        warnings.append(
            f"an argument of the script holds the value of {name}: it travels in the Secret, and is *** in records; "
            f'better read it in the script: os.environ["{name}"]'
        )
    if command is not None and (hit := known.find(command)):
        secret["command"] = command.decode(errors="surrogateescape")
        warnings.append(
            f"the command file, line {hit[1]} holds the value of {hit[0]}: it travels in the Secret; "
            f'better write "${hit[0]}" there'
        )
    if not secret:
        return {}, {}, []
    text = json.dumps(secret, separators=(",", ":"))
    if len(text) + len(HIDDEN) + 1 > MAX_ENV_BYTES:
        raise ConfigurationError(
            f"the arguments or the command file hold a secret, and are {len(text):,} bytes: "
            "too much for a Secret's variable",
            hint="have the script read it from its environment",
        )
    return {"args": masked}, {HIDDEN: text}, warnings


def is_masked(args: Iterable[str]) -> bool:
    """Whether a secret was masked in a record's arguments."""
    return any(MASK.decode() in arg for arg in args)


def code_warnings(places: Sequence[str]) -> list[str]:
    """One warning for all places of the code that contain a secret."""
    if not places:
        return []
    rest = f" and so in {len(places) - SHOWN} more files" if len(places) > SHOWN else ""
    return [
        f"{'; '.join(places[:SHOWN])}{rest}: better have it read from the environment; "
        "the code is uploaded, and put into no object"
    ]
