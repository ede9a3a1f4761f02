"""Finds where a script trains with Keras, and where it saves."""

from __future__ import annotations

import ast
import re

from .reading import Call, Script

_FIT_KEYWORDS = {"epochs", "validation_data", "validation_split", "steps_per_epoch", "callbacks", "batch_size"}
_OTHER_MODELS = ("sklearn", "xgboost", "lightgbm", "catboost")


def is_fit(script: Script, call: Call) -> bool:
    """Whether this is Keras's fit, and not for example a scaler's."""
    if call.method not in ("fit", "fit_generator") or not isinstance(call.node.func, ast.Attribute):
        return False
    receiver = call.node.func.value
    made = script.value(receiver)
    if isinstance(made, ast.Call) and script.dotted(made.func).partition(".")[0] in _OTHER_MODELS:
        return False
    is_model = "model" in ast.unparse(receiver).lower() or makes_model(script, receiver)
    return script.mentions("keras|tensorflow") and (is_model or not _FIT_KEYWORDS.isdisjoint(call.keywords))


def makes_model(script: Script, node: ast.expr) -> bool:
    """Whether the expression's value is a Keras model, as far as the script shows."""
    value = script.value(node)
    return isinstance(value, ast.Call) and script.is_model(script.dotted(value.func))


def fit_calls(script: Script) -> list[Call]:
    """The calls of a model's fit."""
    return [call for call in script.calls if is_fit(script, call)]


def trainings(script: Script) -> list[Call]:
    """Calls of fit, and calls by which the script's own loop computes gradients."""
    taken = [
        call for call in script.calls if call.name == "tensorflow.GradientTape" or call.method == "apply_gradients"
    ]
    return [call for call in [*fit_calls(script), *taken] if call.where.reached]


def only_chief_fits(script: Script) -> bool:
    """Whether fit is called, and only in branches for the chief."""
    return {call.where.role if call.where.reached else None for call in fit_calls(script)} == {"chief"}


def own_keras(script: Script) -> list[Call]:
    """Calls of the package keras itself that make a model or a layer."""
    return [
        call for call in script.calls if re.match(r"keras\.(.*\.)?(Sequential|Model|layers|applications)\b", call.name)
    ]


def saved_path(script: Script, call: Call) -> ast.expr | None:
    """The path to which a call saves a model; None for other calls."""
    if call.name in ("tensorflow.saved_model.save", "tensorflow.keras.models.save_model", "keras.models.save_model"):
        return call.argument(1, "export_dir", "filepath")
    if call.method not in ("save", "export", "save_weights") or not isinstance(call.node.func, ast.Attribute):
        return None
    receiver = call.node.func.value
    fitted = {ast.unparse(fit.node.func.value) for fit in fit_calls(script) if isinstance(fit.node.func, ast.Attribute)}
    if not (ast.unparse(receiver) in fitted or makes_model(script, receiver)):
        return None
    return call.argument(0, "filepath", "path", "filename")


def save_calls(script: Script) -> list[tuple[Call, str]]:
    """The calls that save a model, each with the path as the script spells it."""
    return [
        (c, script.text(path)) for c in script.calls if c.where.reached and (path := saved_path(script, c)) is not None
    ]
