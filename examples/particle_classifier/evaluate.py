"""Evaluates trained models on the test events: ROC and AUC per class, confusion, loss curves, a page with all of it.

    python evaluate.py runs/hlf runs/inclusive --data prepared --output results
    python evaluate.py GRU=runs/inclusive forest --data prepared --output results      # forest: of trees.py

A model is what `tf-spawner run` left of one (runs/JOB), a folder with model.keras, or a .keras file; history.json beside
it tells of its training. A folder with metrics.json, as trees.py leaves it, has been evaluated already. Writes
results.json, roc.png, curves.png, confusion.png (and each for dark pages) and report.html, which needs nothing else.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from console import errors_told, write
from metrics import CLASSES, measured

from tfspawner.errors import ConfigurationError, DataError

HERE = Path(__file__).parent
FAMILIES = ("hlf", "sequence", "inclusive", "lstm", "transformer", "forest", "gbt", "xgboost")
BATCH = 1024

Result = dict[str, Any]


def replicas(path: Path) -> list[Path]:
    """The folders of a run's trainers that hold a model, the one whose model counts first; or the folder itself."""
    if path.suffix == ".keras":
        return [path.parent]
    found = [path] if (path / "model.keras").exists() else []
    for files in (path / "files", path):
        for role in ("chief", "worker"):
            numbered = sorted(files.glob(f"{role}-*/model.keras"), key=lambda p: int(p.parent.name.split("-")[1]))
            found += [model.parent for model in numbered]
    return found


def history_of(folder: Path) -> dict[str, Any]:
    """history.json of a folder; empty where there is none."""
    path = folder / "history.json"
    return json.loads(path.read_text()) if path.exists() else {}


def disagreement(histories: list[dict[str, Any]]) -> float | None:
    """The largest difference between two workers' loss after an epoch; None for a single worker."""
    losses = [[epoch["loss"] for epoch in history["epochs"]] for history in histories if history.get("epochs")]
    if len(losses) < 2 or len({len(each) for each in losses}) > 1:
        return None
    return float(np.ptp(np.array(losses), axis=0).max())


def name_of(model: Any) -> str:
    """Which of models.py's models it is: told by its name, or where it has another one by what it takes."""
    import models

    try:
        models.kind_of(model.name)
        return str(model.name)
    except ValueError:
        ranks = sorted(len(tensor.shape) for tensor in model.inputs)
        return {(2,): "hlf", (3,): "sequence"}.get(tuple(ranks), "inclusive")


def test_folder(data: str, name: str) -> str:
    """The folder that holds test/ with what the model reads: data itself, or one of prepare.py's below it."""
    if "://" in data or any(Path(data).glob("test*/part-*")):
        return data
    for form in ("hlf", "small", "inclusive") if name == "hlf" else ("small", "inclusive"):
        if any(Path(data, form).glob("test*/part-*")):
            return str(Path(data, form))
    raise ConfigurationError(
        f"--data {data} holds no test events for the model {name}", hint="give prepare.py's --output"
    )


def predicted(model: Any, data: str, name: str) -> tuple[Any, Any, float]:
    """(labels, probabilities, seconds) of all test events, in their order."""
    import batches
    import tensorflow as tf

    labels, probabilities = [], []
    began = time.perf_counter()
    try:
        for inputs, encoded in batches.labelled(test_folder(data, name), name, BATCH):
            labels.append(np.asarray(encoded).argmax(axis=-1))
            probabilities.append(np.asarray(model(inputs, training=False)))
    except tf.errors.OpError as error:
        reason = str(error.message).splitlines()[0]
        raise DataError(f"{data} cannot be read for the model {name}: {reason}", hint="tf-spawner data check") from None
    return np.concatenate(labels), np.concatenate(probabilities), time.perf_counter() - began


def evaluated(name: str, path: Path, data: str) -> Result:
    """One model's results: its measures, and what is known of its training."""
    if (path / "metrics.json").exists():
        return {**json.loads((path / "metrics.json").read_text()), "name": name, "epochs": []}
    folders = replicas(path)
    file = path if path.suffix == ".keras" else folders[0] / "model.keras" if folders else path / "model.keras"
    if not file.exists():
        raise ConfigurationError(
            f"{path}: no model.keras and no metrics.json is there; give a folder of runs/, or a .keras file"
        )
    import models

    model = models.load_model(str(file))
    histories = [history_of(folder) for folder in folders]
    history = histories[0]
    kind = name_of(model)
    labels, probabilities, seconds = predicted(model, data, kind)
    try:
        measures = measured(labels, probabilities)
    except ValueError as error:
        raise DataError(f"{name} cannot be measured: {error}", hint=f"look at the test events in {data}") from None
    return {
        "name": name, "model": models.kind_of(kind)[0], "parameters": int(model.count_params()), **training(history),
        "workers_differ_by": disagreement(histories), "evaluation_s": round(seconds, 3), **measures,
    }  # fmt: skip


def training(history: dict[str, Any]) -> dict[str, Any]:
    """How a model was trained: workers, events, seconds, events/s and the epochs."""
    epochs = history.get("epochs", [])
    seconds = sum(epoch.get("seconds", 0) for epoch in epochs)
    events = history.get("events")
    rate = round(events * len(epochs) / seconds, 1) if events and seconds else None
    kept = {key: history.get(key) for key in ("workers", "batch_size", "fast", "schedule")}
    return {**kept, "trained_events": events, "time_s": seconds or None, "events_per_s": rate, "epochs": epochs}


def named(words: list[str]) -> list[tuple[str, Path]]:
    """(name, path) of NAME=PATH or PATH; the name is the path's own where none is given."""
    pairs = []
    for word in words:
        name, _, path = word.rpartition("=")
        place = Path(path)
        own = place.stem if place.suffix == ".keras" and place.stem != "model" else place.resolve().name
        pairs.append((name or (place.resolve().parent.name if place.name == "model.keras" else own), place))
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(f"two models are called {twice[0]}: name them, as in {twice[0]}-2={pairs[-1][1]}")
    return pairs


def published() -> dict[str, Any]:
    return json.loads((HERE / "published_results.json").read_text())


def report(results: list[Result], known: dict[str, Any], output: Path, pictures_of: dict[str, list[str]]) -> None:
    """report.html, with the pictures inside."""
    from jinja2 import Environment, FileSystemLoader

    def inline(name: str) -> str:
        return "data:image/png;base64," + base64.b64encode((output / name).read_bytes()).decode()

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(inline=inline, duration=duration, thousands=lambda number: f"{number:,}")
    families = {family for family in FAMILIES if any(result["model"] == family for result in results)}
    page = environment.get_template("report.html.j2").render(
        results=results, known=known, pictures=pictures_of, classes=CLASSES, made=datetime.now(UTC),
        families=[family for family in FAMILIES if family in families],
    )  # fmt: skip
    write(output / "report.html", page)


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 4.2 s, 5 min 17 s, 2 h 2 min."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def write_all(results: list[Result], output: Path) -> None:
    import pictures

    output.mkdir(parents=True, exist_ok=True)
    known = published()
    trained = {result["model"] for result in results if result["epochs"]}
    histories = [result for result in known["results"] if result.get("epochs") and result["model"] in trained]
    made = {"roc": pictures.save(pictures.roc(results), output, "roc")}
    made["confusion"] = pictures.save(pictures.confusion(results), output, "confusion")
    if trained:
        made["curves"] = pictures.save(pictures.curves(results, histories), output, "curves")
    compared = [entry for entry in known["results"] if entry["model"] in {result["model"] for result in results}]
    write(
        output / "results.json", json.dumps({"results": results, "published": compared}, indent=1, ensure_ascii=False)
    )
    report(results, known, output, made)


def table(results: list[Result]) -> str:
    lines = [f"{'model':20} {'events':>9} {'accuracy':>9} {'loss':>8}  AUC of {', '.join(CLASSES)}"]
    for r in results:
        areas = "  ".join(f"{area:.5f}" for area in r["auc"])
        lines.append(f"{r['name']:20} {r['events']:9,} {r['accuracy']:9.4f} {r['loss']:8.4f}  {areas}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="[NAME=]MODEL")
    parser.add_argument("--data", default="prepared", help="prepare.py's output, or a folder that holds test/")
    parser.add_argument("--output", type=Path, default=Path("results"))
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with errors_told():
        results = [evaluated(name, path, args.data) for name, path in named(args.models)]
        write_all(results, args.output)
    print(table(results))
    print(f"page: {args.output / 'report.html'}")


if __name__ == "__main__":
    main()
