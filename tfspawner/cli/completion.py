"""Shell completion: its scripts, and the places where bash, zsh and fish look for them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from tfspawner.errors import ConfigurationError

SHELLS = ("bash", "zsh", "fish")
PROGRAM, VARIABLE = "tf-spawner", "_TF_SPAWNER_COMPLETE"
MARK = "# tf-spawner completion"  # ends the line in .bashrc or .zshrc that is ours


def shell_of(environment: Mapping[str, str]) -> str:
    """The shell that $SHELL names. Raises ConfigurationError if it is not one of SHELLS."""
    name = Path(environment.get("SHELL", "")).name
    if name not in SHELLS:
        problem = f"$SHELL is {name}" if name else "$SHELL is not set"
        raise ConfigurationError(
            f"{problem}, and completion is there for {', '.join(SHELLS)}",
            hint="name one: tf-spawner completion bash --install",
        )
    return name


def script(shell: str, command: click.Command) -> str:
    """The script that a shell has to read."""
    completion = get_completion_class(shell)
    assert completion
    return completion(command, {}, PROGRAM, VARIABLE).source()


def install(shell: str, command: click.Command) -> str:
    """Writes the script to its place and, except for fish, one line into the shell's rc file; returns what was done."""
    path, rc = _place(shell), _rc(shell)
    report = [str(path)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, script(shell, command) + "\n")
        if rc:
            before = "".join(_others(rc))
            ends = "\n" if before and not before.endswith("\n") else ""
            _write(rc, f"{before}{ends}{_loading(shell)}source {shlex.quote(str(path))}  {MARK}\n")
            report.append(f"{rc}: its last line reads that")
    except OSError as error:
        raise _unchanged(error, shell) from None
    return "\n".join([*report, f"new shells have it; to undo: tf-spawner completion {shell} --uninstall"])


def uninstall(shell: str) -> str:
    """Removes what `install` wrote; returns what was done."""
    path, rc, gone = _place(shell), _rc(shell), []
    try:
        if path.exists():
            path.unlink()
            gone.append(f"{path} is removed")
        if rc and _others(rc) != _lines(rc):
            _write(rc, "".join(_others(rc)))
            gone.append(f"{rc}: the line is removed")
    except OSError as error:
        raise _unchanged(error, shell) from None
    return "\n".join(gone) or f"{shell} has no completion of {PROGRAM} here"


def _home(variable: str, otherwise: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / otherwise)


def _place(shell: str) -> Path:
    """The script's path; fish reads it there by itself."""
    if shell == "fish":
        return _home("XDG_CONFIG_HOME", ".config") / "fish/completions" / f"{PROGRAM}.fish"
    return _home("XDG_DATA_HOME", ".local/share") / PROGRAM / f"completion.{shell}"


def _rc(shell: str) -> Path | None:
    """The file that an interactive shell reads when it starts."""
    return {"bash": Path.home() / ".bashrc", "zsh": _home("ZDOTDIR", "") / ".zshrc"}.get(shell)


def _loading(shell: str) -> str:
    """What zsh needs before the script, unless another line of .zshrc already does it."""
    return "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }; " if shell == "zsh" else ""


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8", "surrogateescape").splitlines(keepends=True) if path.exists() else []


def _write(path: Path, text: str) -> None:
    """Writes what _lines reads; bytes that are no UTF-8 stay as they are."""
    path.write_text(text, "utf-8", "surrogateescape")


def _others(path: Path) -> list[str]:
    return [line for line in _lines(path) if not line.rstrip().endswith(MARK)]


def _unchanged(error: OSError, shell: str) -> ConfigurationError:
    return ConfigurationError(
        f"{error.filename} cannot be changed: {error.strerror}", hint=f"tf-spawner completion {shell} prints the script"
    )
