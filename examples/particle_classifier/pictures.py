"""Loss curves, ROC curves and confusion matrices as PNG, each for light and for dark pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from metrics import CLASSES, by_row

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#6a5acd", "#56b4e9", "#8c564b")  # told apart by all
THEMES = {
    "": {
        "ink": "#24292f",
        "muted": "#6e7781",
        "grid": "#d8dee4",
        "paper": "#ffffff",
        "map": ("#f6f9fc", "#6aaed6", "#08488e"),
    },
    "-dark": {
        "ink": "#e6edf3",
        "muted": "#8b949e",
        "grid": "#30363d",
        "paper": "#0d1117",
        "map": ("#161b22", "#0a4a86", "#6cb6ff"),
    },
}
AGAINST = tuple(f"{name} against {' and '.join(CLASSES[:k] + CLASSES[k + 1 :])}" for k, name in enumerate(CLASSES))

PARAMETERS = {
    "batch": "batch size", "epochs": "epochs", "nh1": "units of layer 1", "nh2": "units of layer 2", "nh3": "units of layer 3",
}  # fmt: skip

Theme = dict[str, Any]
Result = dict[str, Any]
Draw = Callable[[Theme], Figure]


def save(draw: Draw, folder: Path, name: str) -> list[str]:
    """Writes name.png and name-dark.png, and returns both names."""
    written = []
    for suffix, theme in THEMES.items():
        with styled(theme):
            figure = draw(theme)
            figure.savefig(folder / f"{name}{suffix}.png", dpi=160, metadata={"Software": None})
            plt.close(figure)
        written.append(f"{name}{suffix}.png")
    return written


@contextmanager
def styled(theme: Theme) -> Iterator[None]:
    ink = dict.fromkeys(["text.color", "axes.labelcolor", "xtick.color", "ytick.color"], theme["ink"])
    paper = dict.fromkeys(["figure.facecolor", "axes.facecolor", "savefig.facecolor"], theme["paper"])
    settings = {
        **ink, **paper, "axes.edgecolor": theme["muted"], "grid.color": theme["grid"], "axes.grid": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "font.size": 9.5, "legend.frameon": False, "legend.fontsize": 8.5,
        "lines.linewidth": 1.8, "figure.constrained_layout.use": True, "axes.axisbelow": True,
    }  # fmt: skip
    with plt.rc_context(settings):
        yield


def colours(results: list[Result]) -> list[tuple[Result, str]]:
    return [(result, COLOURS[k % len(COLOURS)]) for k, result in enumerate(results)]


def curves(results: list[Result], published: list[Result]) -> Draw:
    """Loss and accuracy after each epoch, of the training and the test events; published ones in grey."""

    def draw(theme: Theme) -> Figure:
        figure, panels = plt.subplots(1, 2, figsize=(10, 4.3))
        for panel, quantity in zip(panels, ("loss", "accuracy"), strict=True):
            for result in published:
                _history(panel, result["epochs"], quantity, theme["muted"], f"{result['model']}, as published", 1)
            for result, colour in colours(results):
                if result["epochs"]:
                    _history(panel, result["epochs"], quantity, colour, result["name"], 1.8)
            panel.set(xlabel="epoch", title=quantity.capitalize())
            panel.xaxis.get_major_locator().set_params(integer=True)
        panels[0].plot([], [], color=theme["ink"], label="test events")
        panels[0].plot([], [], color=theme["ink"], linestyle=":", label="training events")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return figure

    return draw


def _history(panel: Axes, epochs: list[Any], quantity: str, colour: str, label: str, width: float) -> None:
    """Dotted: in training; solid: on the test events. Epochs without a number are counted from 1."""
    x = [epoch.get("epoch", k) for k, epoch in enumerate(epochs, 1)]
    for key, style, shown in ((f"val_{quantity}", "-", label), (quantity, ":", None)):
        if all(epoch.get(key) is not None for epoch in epochs):
            panel.plot(
                x,
                [epoch[key] for epoch in epochs],
                style,
                color=colour,
                label=shown,
                marker="o",
                markersize=2 * width,
                linewidth=width,
            )


def roc(results: list[Result]) -> Draw:
    """For each class: the ROC curve, and below it how much background is left at each signal efficiency."""

    def draw(theme: Theme) -> Figure:
        figure, panels = plt.subplots(2, len(CLASSES), figsize=(12, 7.6))
        for k, title in enumerate(AGAINST):
            linear, logarithmic = panels[0, k], panels[1, k]
            for result, colour in colours(results):
                false, true = np.array(result["roc"][k])
                label = f"{result['name']}  AUC {result['auc'][k]:.4f}"
                linear.plot(false, true, color=colour, label=label, drawstyle="steps-post")
                logarithmic.plot(true[false > 0], false[false > 0], color=colour)
            linear.plot([0, 1], [0, 1], color=theme["muted"], linewidth=1, linestyle=":")
            linear.set(title=title, xlabel="false positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
            linear.legend(loc="lower right")
            logarithmic.set(xlabel=f"efficiency for {CLASSES[k]}", yscale="log", xlim=(0, 1.01), ylim=(None, 1.4))
        panels[0, 0].set_ylabel("true positive rate")
        panels[1, 0].set_ylabel("false positive rate")
        return figure

    return draw


def confusion(results: list[Result]) -> Draw:
    """A matrix for each result: rows are the true classes, each of which sums to 100 %."""
    columns = 2 if len(results) == 4 else min(3, len(results))
    rows = -(-len(results) // columns)

    def draw(theme: Theme) -> Figure:
        figure, panels = plt.subplots(rows, columns, figsize=(4.1 * columns, 3.9 * rows), squeeze=False)
        for panel in panels.flat[len(results) :]:
            panel.set_axis_off()
        for panel, result in zip(panels.flat, results, strict=False):
            _matrix(panel, np.array(result["confusion"]), theme)
            panel.set_title(f"{result['name']}: {result['accuracy']:.2%} right")
        return figure

    return draw


def _matrix(panel: Axes, counts: Any, theme: Theme) -> None:
    shares = by_row(counts)
    colours = matplotlib.colors.LinearSegmentedColormap.from_list("shares", theme["map"])
    image = panel.imshow(shares, cmap=colours, vmin=0, vmax=1)
    panel.grid(False)
    panel.set_xticks(range(len(CLASSES)), CLASSES)
    panel.set_yticks(range(len(CLASSES)), CLASSES)
    panel.set(xlabel="taken for", ylabel="true class")
    for (row, column), share in np.ndenumerate(shares):
        red, green, blue, _ = image.cmap(share)
        ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        text = f"{share:.1%}\n{counts[row, column]:,}"
        panel.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)


def tuning(lines: list[dict[str, Any]]) -> Draw:
    """A search's points, best first: their paths through the parameters, and the accuracy over each parameter."""
    values = {name: sorted({line[name] for line in lines}) for name in PARAMETERS}
    accuracies = np.array([line["accuracy"] for line in lines])

    def draw(theme: Theme) -> Figure:
        figure = plt.figure(figsize=(12, 7.2))
        grid = figure.add_gridspec(2, len(PARAMETERS), height_ratios=(1.25, 1))
        _paths(figure.add_subplot(grid[0, :]), lines, values, accuracies)
        shared = None
        for k, (name, title) in enumerate(PARAMETERS.items()):
            shared = panel = figure.add_subplot(grid[1, k], sharey=shared)
            _over(panel, [values[name].index(line[name]) for line in lines], accuracies, theme)
            panel.set_xticks(range(len(values[name])), values[name])
            panel.set_xlabel(title)
            panel.tick_params(labelleft=k == 0)
        figure.axes[-len(PARAMETERS)].set_ylabel("accuracy")
        return figure

    return draw


def _paths(panel: Axes, lines: list[dict[str, Any]], values: dict[str, list[int]], accuracies: Any) -> None:
    """Parallel coordinates; equal values are spread by rank, so that every point's line can be seen."""
    spread = np.linspace(0.12, -0.12, len(lines))  # the best on top
    low, high = accuracies.min(), max(accuracies.max(), accuracies.min() + 1e-6)
    colours = matplotlib.colormaps["viridis"]((accuracies - low) / (high - low))
    for k in reversed(range(len(lines))):
        heights = [(values[n].index(lines[k][n]) + 0.5) / len(values[n]) + spread[k] for n in PARAMETERS]
        best = k == 0
        panel.plot(
            heights, color="#d55e00" if best else colours[k], linewidth=3 if best else 0.9, alpha=1 if best else 0.7
        )
    for x, name in enumerate(PARAMETERS):
        panel.axvline(x, color="grey", linewidth=0.8)
        for at, value in enumerate(values[name]):
            text = {"ha": "right", "va": "center", "fontsize": 9, "fontweight": "bold"}
            panel.text(x - 0.03, (at + 0.5) / len(values[name]), str(value), **text)
    panel.set_xticks(range(len(PARAMETERS)), PARAMETERS.values())
    panel.set(xlim=(-0.2, len(PARAMETERS) - 0.9), ylim=(0, 1), yticks=[])
    panel.grid(False)
    panel.spines[:].set_visible(False)
    panel.set_title(f"{len(lines)} points; the best one, {accuracies[0]:.4f}, in orange")
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(low, high), "viridis")
    panel.figure.colorbar(scale, ax=panel, label="accuracy", pad=0.01, aspect=14)


def _over(panel: Axes, places: list[int], accuracies: Any, theme: Theme) -> None:
    """Each point's accuracy at its value, side by side, and their means."""
    here = np.array(places)
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(here))
    panel.scatter(here + jitter, accuracies, s=9, color=COLOURS[0], alpha=0.5, linewidths=0)
    used = np.unique(here)
    means = [accuracies[here == place].mean() for place in used]
    panel.plot(used, means, color=theme["ink"], marker="D", markersize=5, linewidth=1.2)
    panel.grid(axis="x", visible=False)
