"""The page of a run, from its record."""

import json
import math
import re
import shutil
import subprocess
from itertools import combinations
from operator import mul
from pathlib import Path

import pytest
from click.testing import CliRunner
from in_process import context_of

from tfspawner.base.templating import templates_dir
from tfspawner.base.words import age
from tfspawner.cli import main as cli
from tfspawner.cli.options import make_spec, recorded_options
from tfspawner.errors import NotFoundError
from tfspawner.pages.charts import HEIGHT, MOST_CURVES, charts, draw, heights, in_order, last_of, ticks
from tfspawner.pages.comparison import arguments, names_of
from tfspawner.pages.comparison import page as compared_page
from tfspawner.pages.run import page, write_html, write_page
from tfspawner.pages.timeline import timeline
from tfspawner.plan.words import words_of
from tfspawner.record.learning import learned

VERBOSE_2 = "Epoch 1/2\n22/22 - 2s - loss: 1.96 - accuracy: 0.38 - 2s/epoch\nEpoch 2/2\n22/22 - 0s - loss: 0.79 - accuracy: 0.81\n"
BARS = (
    "Epoch 1/2\n\r 1/2 [==>...] - ETA: 0s - loss: 9.0\r2/2 [=====] - 1s 5ms/step - loss: 1.0"
    "\r2/2 [=====] - 1s 9ms/step - loss: 1.0 - val_loss: 1.5\nEpoch 2/2\n2/2 [=====] - 1s 5ms/step - loss: 0.5 - val_loss: 1.25\n"
)
HOSTILE = "</pre><script src='http://example.org/x.js'></script>"


@pytest.fixture
def run(tmp_path) -> Path:
    """The record of two workers, the second of which failed."""
    folder = tmp_path / "runs/bad"
    (folder / "logs").mkdir(parents=True)
    for replica in ("worker-0", "worker-1"):
        (folder / f"logs/{replica}.log").write_text(VERBOSE_2)
    (folder / "spec.json").write_text(json.dumps({
        "job": "bad", "code_sha256": "ab" * 32, "script": "train.py", "args": ["--name", "a b"], "workers": 3, "on": "local",
        "chief": False, "ps": 0, "evaluator": False, "gpus": 0, "out": "runs", "restarts": 0, "keep": False, "detach": False,
        "hold_s": 86400.0, "timeout_s": 60.0, "env": ["KEY"], "legacy_keras": False, "restart_on": ["lost", "stalled"],
        "collect": ["*.h5", "b"],
    }))  # fmt: skip
    lines = [
        {"replica": f"worker-{n}", "state": "failed", "node": "here", "message": "", "exit_code": n} for n in (0, 1)
    ]
    file = {"path": "a model/x.keras", "size": 2048, "sha256": "cd" * 32}
    (folder / "report.json").write_text(json.dumps({
        "job": "bad", "result": "failed", "seconds": 12.3, "restarts": [], "times": {}, "replicas": lines, "artifacts": None,
        "cause": {"replica": "worker-1", "message": f"ended with exit code 1 {HOSTILE}", "hint": "look", "tail": [HOSTILE]},
        "files": {"worker-0": [file]},
    }))  # fmt: skip
    events = [
        {"time": 100.0, "event": "launched"}, {"time": 101.0, "event": "phase", "phase": "meeting"},
        {"time": 101.0, "event": "pod", "replica": "worker-0", "state": "running"},
        {"time": 104.0, "event": "phase", "phase": "running"}, {"time": 104.0, "event": "replica", "replica": "worker-0", "state": "running"},
        {"time": 110.0, "event": "replica", "replica": "worker-0", "state": "failed"},
    ]  # fmt: skip
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"time": 111.0, "ev')
    return folder


@pytest.mark.parametrize(
    ("text", "curves"),
    [
        (VERBOSE_2, {"loss": {1: 1.96, 2: 0.79}, "accuracy": {1: 0.38, 2: 0.81}}),
        (BARS, {"loss": {1: 1.0, 2: 0.5}, "val_loss": {1: 1.5, 2: 1.25}}),
        (VERBOSE_2 + "1/9 [>...] - ETA: 0s - loss: 7.0\r9/9 [===] - 0s - loss: 8.0\n", {"loss": {1: 1.96, 2: 0.79}, "accuracy": {1: 0.38, 2: 0.81}}),
        ("Epoch 1/2\n22/22 - 2s - loss: 2.0\nEpoch 2/2\n3/22 [>...] - ETA: 1s - loss: 9.0\n[tf-spawner] restart 1 of 1\n"
         "Epoch 2/2\n22/22 - 2s - loss: 1.0\n", {"loss": {1: 2.0, 2: 1.0}}),
        ("a/b\n\x1b[31mnothing of Keras 3/4\n", {}),
    ],
    ids=["verbose=2", "bars", "an evaluation after it", "a restart", "no Keras"],
)  # fmt: skip
def test_curves_are_what_keras_printed_at_each_epochs_end(tmp_path, text, curves):
    log = tmp_path / "worker-0.log"
    log.write_bytes(text.encode())
    assert learned(log) == curves


def test_replicas_that_tell_the_same_are_one_line_and_others_are_not():
    same = {"worker-0": {"loss": {1: 2.0, 2: 1.0}}, "worker-1": {"loss": {1: 2.0, 2: 1.0}}}
    assert [line.label for line in charts(same)[0].lines] == ["loss, all 2 replicas"]
    other = {**same, "worker-1": {"loss": {1: 2.0, 2: float("nan")}}}
    assert [line.label for line in charts(other)[0].lines] == ["loss, worker-0", "loss, worker-1"]
    assert charts({"worker-0": {"loss": {1: 2.0}}}) == []
    diverged = {replica: {"loss": {1: 2.0, 2: 1.0, 3: float(told)}} for replica, told in (("a", "nan"), ("b", "nan"))}
    assert [line.label for line in charts(diverged)[0].lines] == ["loss, all 2 replicas"]


def test_a_curve_has_a_gap_where_its_value_is_no_number_and_says_since_when():
    nan = float("nan")
    (line,) = draw("loss", {"loss": {1: 2.0, 2: 1.0, 3: nan, 4: 1.0, 5: 1.5}}).lines
    assert [part.count(",") for part in line.path.split("M")[1:]] == [2, 2]
    assert (line.last, last_of({1: 2.0, 2: nan, 3: nan})) == ("1.5", "nan from 2 on")
    assert draw("loss", {"loss": {1: nan, 2: nan, 3: 1.0}}) is None


@pytest.mark.parametrize(
    "values", [(1e308, -1e308), (5e-324, 0.0), (1e-320, 2e-320), (1.0, 1.0000000000000002), (-1e300, 1e300)]
)
def test_a_chart_of_values_beyond_reckoning_leaves_them_out_and_does_not_fail(values):
    curve = {1: 1.0, 2: 2.0, **dict(enumerate(values, 3))}
    (line,) = draw("loss", {"loss": curve}).lines
    assert "nan" not in line.path
    assert "inf" not in line.path
    heights_of_alike, _ = heights(list(values) if max(map(abs, values)) < 1e301 else [0.0])
    assert all(0 <= heights_of_alike(value) <= HEIGHT for value in values if abs(value) < 1e301)


@pytest.mark.parametrize(("seconds", "words"), [(float("nan"), "0s"), (-1e300, "0s"), (float("inf"), "277777h46m")])
def test_a_time_that_is_no_number_is_told_all_the_same(seconds, words):
    assert age(seconds) == words


def test_replicas_are_in_order_whatever_their_numbers_are_made_of():
    names = ["worker-10", "worker-2", "worker-\u00b2", "worker-" + "9" * 250]
    assert sorted(names, key=in_order)[-2:] == ["worker-2", "worker-10"]


def test_a_curve_and_its_val_share_a_colour_and_those_beyond_the_colours_stand_behind():
    curves = {f"{kind}loss, {n}": {1: 2.0, 2: 1.0} for kind in ("", "val_") for n in range(MOST_CURVES + 2)}
    lines = draw("loss", curves).lines
    assert {(line.colour, line.dashed) for line in lines if line.label.endswith(", 3")} == {(3, False), (3, True)}
    assert {line.label for line in lines if line.faint} == {"loss, 8", "loss, 9", "val_loss, 8", "val_loss, 9"}


PALETTE = re.compile(r"--(\w+): (#\w+)")
DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))


@pytest.fixture(params=[0, 1], ids=["light", "dark"])
def palette(request) -> dict[str, tuple[float, ...]]:
    """The page's colours by their names in the style, as linear RGB."""
    style = (templates_dir() / "page.html").read_text().split(":root {")[request.param + 1].split("}")[0]
    return {name: linear(colour) for name, colour in PALETTE.findall(style)}


def linear(colour: str) -> tuple[float, ...]:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    return tuple(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)


def contrast(one, other) -> float:
    """WCAG's contrast ratio."""
    low, high = sorted(0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in (one, other))
    return (high + 0.05) / (low + 0.05)


def oklab(colour) -> tuple[float, float, float]:
    red, green, blue = colour
    long = max(0.0, 0.4122215 * red + 0.5363325 * green + 0.0514460 * blue) ** (1 / 3)
    middle = max(0.0, 0.2119035 * red + 0.6806995 * green + 0.1073970 * blue) ** (1 / 3)
    short = max(0.0, 0.0883025 * red + 0.2817188 * green + 0.6299787 * blue) ** (1 / 3)
    return (0.2104543 * long + 0.7936178 * middle - 0.0040720 * short, 1.9779985 * long - 2.4285922 * middle + 0.4505937 * short,
            0.0259040 * long + 0.7827718 * middle - 0.8086758 * short)  # fmt: skip


def test_text_and_curves_stand_out_as_wcag_aa_asks(palette):
    texts = [(name, back) for name in ("fore", "dim", "bad", "c0", "c1") for back in ("back", "panel")]
    texts += [("back", "good"), ("back", "bad")]
    curves = [(f"c{n}", "back") for n in range(MOST_CURVES)]
    low = {pair: contrast(*(palette[name] for name in pair)) for pair in texts}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    assert [pair for pair in curves if contrast(*(palette[name] for name in pair)) < 3] == []


@pytest.mark.parametrize("seen", [None, DEUTERANOPIA, PROTANOPIA], ids=["all", "deuteranopia", "protanopia"])
def test_curves_are_told_apart_by_colour_blind_people_too(palette, seen):
    colours = [palette[f"c{n}"] for n in range(MOST_CURVES)]
    if seen:
        colours = [[sum(map(mul, row, colour)) for row in seen] for colour in colours]
    alike = [pair for pair in combinations(map(oklab, colours), 2) if math.dist(*pair) < 0.08]
    assert not alike


@pytest.mark.parametrize(
    ("low", "high", "places"),
    [(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.19, 1.96, [0.5, 1.0, 1.5]), (3.0, 3.0, [3.0])],
)
def test_ticks_are_round(low, high, places):
    assert ticks(low, high) == pytest.approx(places)


def test_the_timeline_has_the_gangs_phases_and_each_replicas_states(run):
    rows = dict(timeline([json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()[:-1]]))
    assert list(rows) == ["all", "worker-0"]
    assert [(bar.state, bar.left, bar.width) for bar in rows["worker-0"]] == [
        ("", 10, 30), ("running", 40, 60), ("failed", 100, 0)
    ]  # fmt: skip


def test_the_timeline_tells_a_replica_without_a_node_from_one_that_starts():
    pod = {"event": "pod", "replica": "worker-0"}
    events = [
        {"time": 0.0, "event": "launched"}, {"time": 0.0, **pod, "state": "pending"}, {"time": 6.0, **pod, "state": "starting"},
        {"time": 8.0, "event": "replica", "replica": "worker-0", "state": "running"}, {"time": 10.0, **pod, "state": "succeeded"},
    ]  # fmt: skip
    bars = dict(timeline(events))["worker-0"]
    assert [(bar.state, bar.left, bar.width) for bar in bars] == [("pending", 0, 60), ("", 60, 20), ("running", 80, 20)]


def test_the_page_says_what_failed_and_lets_nothing_in(run):
    text = page(run)
    assert "ended with exit code 1" in text
    assert "<script" not in text
    assert not re.search(r'(?:src|href)="(?!logs/|files/)', text)
    assert 'href="files/worker-0/a%20model/x.keras"' in text
    assert "tf-spawner run train.py --workers 3 --env KEY=... --collect &#39;*.h5&#39; --collect b --timeout 60" in text


def test_a_record_of_the_least_makes_a_page(run):
    (run / "report.json").write_text(
        '{"job": "bad", "result": "failed", "seconds": 0, "replicas": [], "cause": {"message": "was cut off"}}'
    )
    for name in ("spec.json", "events.jsonl", "logs/worker-0.log", "logs/worker-1.log"):
        (run / name).unlink()
    assert "was cut off" in page(run)


def test_without_a_record_the_next_step_is_named(tmp_path):
    with pytest.raises(NotFoundError, match="no record of an ended run") as raised:
        write_page(tmp_path)
    assert "tf-spawner fetch" in raised.value.hint


def test_the_recorded_command_makes_the_same_spec(run, monkeypatch):
    monkeypatch.delenv("TFSPAWNER_IMAGE", raising=False)
    monkeypatch.chdir(run.parent.parent)
    Path("train.py").touch()
    stored = json.loads((run / "spec.json").read_text())
    spec, _ = make_spec({"env_pairs": ("KEY=v",)}, (), recorded_options(stored))
    words = [word.replace("KEY=...", "KEY=v") for word in words_of(stored)]
    parsed = context_of("run", words)
    again, _ = make_spec({key: value for key, value in parsed.params.items() if key not in ("output", "args")},
                         (*parsed.params["args"], *parsed.meta["script_args"]))  # fmt: skip
    assert again == spec
    assert (spec.workers, spec.args, spec.legacy_keras, spec.timeout_s) == (3, ("--name", "a b"), False, 60)


def test_rerun_asks_for_the_variables_that_no_record_has(run, monkeypatch):
    monkeypatch.chdir(run.parent.parent)
    Path("train.py").touch()
    done = CliRunner().invoke(cli.cli, ["rerun", "bad"])
    assert "had the variables KEY" in str(done.exception)


def test_compare_puts_runs_side_by_side(run):
    done = CliRunner().invoke(cli.cli, ["compare", str(run), str(run), "-o", "json"])
    rows = json.loads(done.stdout)
    assert [row["metrics"] for row in rows] == [{"loss": 0.79, "accuracy": 0.81}] * 2
    table = CliRunner().invoke(cli.cli, ["compare", str(run)]).stdout
    assert re.search(r"failed +12s +2 +2 +0\.79 +0\.81 +--name a b", table)


def test_compare_takes_arguments_as_they_are(run):
    spec = json.loads((run / "spec.json").read_text())
    (run / "spec.json").write_text(json.dumps({**spec, "args": ["[bold]x[/bold]", "[/]"]}))
    assert "[bold]x[/bold] [/]" in CliRunner().invoke(cli.cli, ["compare", str(run)]).stdout


def test_the_page_tells_what_was_measured_of_each_replica(run):
    slow = VERBOSE_2.replace("- 0s -", "- 3s -")
    (run / "logs/worker-1.log").write_text(slow + "Epoch 3/3\n22/22 - 3s - loss: nan\n")
    (run / "logs/worker-0.log").write_text(VERBOSE_2.replace("- 0s -", "- 2s -"))
    text = page(run)
    assert "worker-1 took 3 s for an epoch" not in text  # 2 s and 3 s may both be 2.5 s
    (run / "logs/worker-1.log").write_text(slow.replace("- 3s -", "- 9s -"))
    assert "In training: worker-1 took 9 s for an epoch, 350 % longer than the fastest, worker-0 (2 s)." in page(run)
    assert 'class="number">9 s</td>' in page(run)


@pytest.fixture
def runs(run) -> list[Path]:
    """That run, and another of the same script that succeeded."""
    other = shutil.copytree(run, run.with_name("good"))
    spec = json.loads((run / "spec.json").read_text())
    changed = {"job": "good", "workers": 2, "args": ["--name", "c", "--lr=-1e-3", HOSTILE]}
    (other / "spec.json").write_text(json.dumps({**spec, **changed}))
    report = json.loads((run / "report.json").read_text())
    (other / "report.json").write_text(json.dumps({**report, "job": "good", "result": "succeeded", "seconds": 70}))
    (other / "logs/worker-0.log").write_text(VERBOSE_2.replace("0.79", "nan"))
    return [run, other]


def test_runs_have_a_page_with_what_differs_and_a_curve_each(runs, tmp_path):
    done = CliRunner().invoke(cli.cli, ["compare", *map(str, runs), "--page", str(tmp_path / "both.html")])
    text = (tmp_path / "both.html").read_text()
    assert done.exit_code == 0
    assert "page:" in done.stderr
    assert re.findall(r'class="whole">([^<]+)</td><td class="value">', text) == ["workers", "-- --name", "-- --lr"]
    assert '<td class="value">a b</td><td class="value other">c</td>' in text
    assert [f"accuracy, {run.name}: 0.81" in text for run in runs] == [True, True]
    assert "loss, good: nan from 2 on" in text
    assert 'href="runs/good/report.html"' not in text  # which it does not have
    assert "<script" not in text
    write_page(runs[1])
    assert 'href="runs/good/report.html"' in compared_page(runs, tmp_path)


def test_one_run_twice_is_nothing_that_differs(runs, tmp_path):
    text = compared_page([runs[0], runs[0]], tmp_path)
    assert "Nothing." in text
    assert "loss, bad (2)" in text


def test_a_page_that_cannot_be_written_is_told(runs, tmp_path):
    done = CliRunner().invoke(cli.cli, ["compare", str(runs[0]), "--page", str(tmp_path / "not/there.html")])
    assert "cannot be written: No such file or directory" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], {}),
        (["10", "--lr", "0.1", "--verbose"], {"argument 1": "10", "--lr": "0.1", "--verbose": "given"}),
        (["--layers", "64", "32", "--lr=-.5", "-x", "-3"], {"--layers": "64 32", "--lr": "-.5", "-x": "-3"}),
        (["--data", "a", "--data=b", "-"], {"--data": "a b -"}),
    ],
)
def test_arguments_are_told_apart_by_their_flags(words, found):
    assert arguments(words) == found


def test_runs_of_the_same_name_are_told_by_their_folders(tmp_path):
    folders = [tmp_path / "a/x", tmp_path / "b/x", tmp_path / "y"]
    assert names_of(folders) == [str(folders[0]), str(folders[1]), "y"]


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("several", [False, True], ids=["run", "compared"])
def test_a_browser_shows_it_without_a_complaint(runs, tmp_path, dark, several):
    shown = write_html(tmp_path / "both.html", compared_page(runs, tmp_path)) if several else write_page(runs[0])
    picture = tmp_path / "page.png"
    done = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}/profile",
         *(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []), f"--screenshot={picture}",
         "--window-size=1200,1600", shown.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    assert picture.stat().st_size > 10_000
