"""A sweep's points: their values, names and jobs, what of them is done, and the page that shows them."""

import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import tfspawner
from tfspawner.backends.local.ports import free_ports
from tfspawner.cli import main as cli
from tfspawner.cli.options import make_spec, recorded_sweep
from tfspawner.errors import ConfigurationError
from tfspawner.follow.sweep import Point
from tfspawner.jobs.prepare import planned_like
from tfspawner.jobs.prepare import prepare as prepare_job
from tfspawner.jobs.running import described
from tfspawner.jobs.sweep_plan import points_of, prepare
from tfspawner.pages.sweep import axis, page, write_page
from tfspawner.plan.grid import Sweep, best, grid_word, parse_grid, ranked
from tfspawner.plan.spec import JobSpec
from tfspawner.plan.words import sweep_words
from tfspawner.views.sweep import live_table

SVG = re.compile(r"<svg.*?</svg>", re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A script's folder, in which a sweep is asked for."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/train.py").write_text("print('trained')\n")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TFSPAWNER_IMAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(grid, **values) -> Sweep:
    more = {name: values.pop(name) for name in ("parallel", "file") if name in values}
    return Sweep(spec=JobSpec(**{"script": "code/train.py", "name": "swp", "workers": 1, **values}), grid=grid, **more)


def record_of(sweep: Sweep, *done: str) -> Path:
    """What a launcher leaves of a sweep, of which some points are done."""
    planned = prepare(sweep)
    points = []
    for point in planned.points:
        ended = point.job in done
        points.append({"job": point.job, "values": point.values, "id": f"id-{point.job}" if ended else "",
                       "result": "succeeded" if ended else "waiting", "error": "", "seconds": 3.0, "metrics": {}})  # fmt: skip
        if ended:
            write_run(sweep.spec.out / point.job, f"id-{point.job}")
    planned.folder.mkdir(parents=True, exist_ok=True)
    (planned.folder / "sweep.json").write_text(json.dumps({**planned.record, "points": points}))
    return planned.folder


def write_run(run: Path, id: str, result: str = "succeeded", log: str = "", **more) -> None:
    (run / "logs").mkdir(parents=True, exist_ok=True)
    (run / ".job-id").write_text(id)
    (run / "logs/worker-0.log").write_text(log)
    replicas = [{"replica": "worker-0", "state": result, "node": "", "message": "", "exit_code": 0}]
    (run / "report.json").write_text(
        json.dumps({"job": run.name, "result": result, "seconds": 3.0, "replicas": replicas, **more})
    )


# ---- values and points --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("lr=1e-3,1e-4", ("1e-3", "1e-4")),
        ("batch-size=64", ("64",)),
        ('layers="64,32",128', ("64,32", "128")),
        ("name=a b, c", ("a b", "c")),
        ("x=-1,a=b,é,[bold]", ("-1", "a=b", "é", "[bold]")),
    ],
)
def test_the_values_of_a_flag_stand_between_commas(word, values):
    assert tuple(parse_grid([word]).values()) == (values,)


@given(
    st.lists(
        st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1).filter(lambda v: v.strip()), min_size=1
    )
)
def test_what_is_written_as_a_word_is_read_as_the_same_values(values):
    assert parse_grid([grid_word("x", values)]) == {"x": tuple(values)}


def test_each_combination_is_a_job_with_its_flags_behind_the_scripts_arguments(folder):
    sweep = asked({"lr": [1e-3, "1e-4"], "batch": [64, 128]}, args=("fit", "--epochs", "3"), tag=None)
    assert [" ".join(values.values()) for values in sweep.points] == ["0.001 64", "0.001 128", "1e-4 64", "1e-4 128"]
    one = prepare(sweep).specs[2]
    assert (one.name, one.tag) == ("swp-3", "swp")
    assert one.args == ("fit", "--epochs", "3", "--lr=1e-4", "--batch=64")
    assert prepare(asked({"a": ["1"]}, tag="mine")).specs[0].tag == "mine"


@pytest.mark.parametrize(
    ("grid", "values", "words"),
    [
        ({}, {}, "the grid is empty"),
        ({"lr": []}, {}, "--grid lr has no values"),
        ({"lr": ["1", "1"]}, {}, "--grid lr has the value '1' twice"),
        ({"lr": ["1", ""]}, {}, "a value is empty"),
        ({"lr": ["a\0b"]}, {}, r"holds what cannot be printed"),
        ({"lr": ["\udcff"]}, {}, "holds what cannot be printed"),
        ({"lr": ["a\n"]}, {}, "holds what cannot be printed"),
        ({"lr": [None]}, {}, "None is no text or number"),
        ({"--lr": ["1"]}, {}, "'--lr' is no name of a flag"),
        ({"l r": ["1"]}, {}, "'l r' is no name of a flag"),
        ({"lr": ["1"]}, {"args": ("--lr", "5")}, "--lr stands among the script's arguments"),
        ({"lr": ["1"]}, {"args": ("--lr=5",)}, "--lr stands among the script's arguments"),
        ({"lr": ["1"]}, {"args": ("--", "x")}, "hold a --"),
        ({"a": range(101), "b": range(10)}, {}, r"1,010 points \(101 x 10\); at most 1,000"),
        ({"lr": ["1"]}, {"parallel": 0}, "parallel is 0; it must be 1 to 100"),
        ({"lr": ["1"]}, {"parallel": True}, "parallel is True"),
        ({"lr": ["1"]}, {"detach": True}, "--detach cannot go with --grid"),
        ({"lr": ["1"]}, {"port": 5000, "parallel": 2}, "all would take the same ports"),
    ],
)  # fmt: skip
def test_what_makes_no_grid_is_told(folder, grid, values, words):
    with pytest.raises(ConfigurationError, match=words):
        asked(grid, **values)


@pytest.mark.parametrize(
    ("words", "told"),
    [(["lr"], "is not NAME=V1,V2"), (["=1"], "is not NAME=V1,V2"), (["lr=1", "lr=2"], "lr is given twice"), (['lr="a'], "cannot be read")],
)  # fmt: skip
def test_a_word_that_makes_no_grid_is_told(words, told):
    with pytest.raises(ConfigurationError, match=told):
        parse_grid(words)


def test_the_longest_name_of_a_point_has_to_fit(folder):
    grid = {"x": range(10)}
    prepare(asked(grid, name="n" * 51))
    with pytest.raises(ConfigurationError, match="at most"):
        prepare(asked(grid, name="n" * 52))


def test_job_yaml_has_a_grid_and_flags_win(folder):
    (folder / "job.yaml").write_text("script: code/train.py\ngrid: {lr: [1e-3, 1e-4], on: [true, 1]}\nparallel: 3\n")
    found, _ = make_spec({"job_file": folder / "job.yaml", "grid": ("lr=5",)}, ())
    assert (found.grid, found.parallel) == ({"lr": ("5",), "on": ("true", "1")}, 3)
    for text in ("grid: lr=1", "grid: {}", "grid: {lr: 1}", "grid: [a]"):
        (folder / "job.yaml").write_text(f"script: code/train.py\n{text}\n")
        with pytest.raises(ConfigurationError, match="grid must be a mapping of lists"):
            make_spec({"job_file": folder / "job.yaml"}, ())


def test_parallel_without_a_grid_is_told(folder):
    with pytest.raises(ConfigurationError, match="there is no grid"):
        make_spec({"script": Path("code/train.py"), "parallel": 2}, ())


# ---- what is done -------------------------------------------------------------------------------


def test_a_point_is_known_by_its_values_and_new_ones_get_new_numbers(folder):
    record_of(asked({"lr": ["1", "2"]}), "swp-1", "swp-2")
    found = prepare(asked({"lr": ["3", "2"]}))
    assert [(point.job, point.values["lr"], point.id) for point in found.points] == [
        ("swp-3", "3", ""), ("swp-2", "2", "id-swp-2"), ("swp-1", "1", "id-swp-1")
    ]  # fmt: skip
    assert [spec.args for spec in found.specs] == [("--lr=3",), ("--lr=2",)]


def test_points_that_were_never_launched_give_their_numbers_back(folder):
    former = [{"job": "swp-1", "values": {"a": "1"}, "id": ""}]
    points, count = points_of(asked({"b": ["1", "2"]}), "swp", former)
    assert ([point.job for point in points], count) == (["swp-1", "swp-2"], 2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"args": ("--epochs", "3")}, "args was none and is --epochs 3"),
        ({"workers": 2}, "workers was 1 and is 2"),
        ({"legacy_keras": False}, "legacy-keras was True and is False"),
    ],
)
def test_another_job_is_not_mixed_with_what_is_done(folder, change, told):
    record_of(asked({"lr": ["1", "2"]}), "swp-1")
    with pytest.raises(ConfigurationError, match=told) as raised:
        prepare(asked({"lr": ["1", "2"]}, **change))
    assert "another --name" in raised.value.hint


def test_other_code_is_not_mixed_with_what_is_done_but_other_places_and_files_are_no_matter(folder, monkeypatch):
    file = folder / "code/job.yaml"
    file.write_text("grid: {lr: [1]}")
    sweep = asked({"lr": ["1", "2"]}, file=file)
    record_of(sweep, "swp-1")
    file.write_text("grid: {lr: [1, 2]}")
    (folder / "code/output.log").write_text("new")
    assert not prepare(sweep).is_other
    prepare(asked({"lr": ["1"]}, file=file, memory=None, timeout_s=9, restarts=2))
    (folder / "code/train.py").write_text("print('trains otherwise')")
    with pytest.raises(ConfigurationError, match=r"train\.py has changed"):
        prepare(sweep)


def test_other_code_is_no_matter_while_nothing_is_done(folder):
    record_of(asked({"lr": ["1"]}))
    (folder / "code/train.py").write_text("print('repaired')")
    assert prepare(asked({"lr": ["1"]})).is_other


@pytest.mark.parametrize(
    ("id", "more", "done"),
    [("id-swp-1", {}, True), ("another", {}, False), ("id-swp-1", {"result": "failed"}, False),
     ("id-swp-1", {"missing": "worker-0 was gone"}, False)],
)  # fmt: skip
def test_done_is_what_its_own_jobs_record_calls_succeeded_and_whole(folder, id, more, done):
    sweep = asked({"lr": ["1"]})
    record_of(sweep, "swp-1")
    write_run(folder / "runs/swp-1", id, **more)
    (folder / "code/train.py").write_text("print('other')")
    if done:
        with pytest.raises(ConfigurationError, match="was begun with other settings"):
            prepare(sweep)
    else:
        prepare(sweep)


def test_rerun_of_a_sweep_is_the_same_grid_and_its_page_tells_the_command(folder):
    sweep = asked({"lr": ["1", "a,b"], "x": ["0"]}, args=("--epochs", "3"), parallel=2)
    stored = json.loads((record_of(sweep) / "sweep.json").read_text())
    again, _ = make_spec({}, (), recorded_sweep(stored))
    assert again == replace(sweep, spec=replace(sweep.spec, name=None), grid=again.grid)
    assert sweep_words(stored) == ["code/train.py", "--workers", "1", "--name", "swp", "--grid", 'lr=1,"a,b"', "--grid", "x=0",
                                   "--parallel", "2", "--", "--epochs", "3"]  # fmt: skip


def test_a_record_keeps_what_is_switched_off(folder):
    _, plan = prepare_job(JobSpec(script="code/train.py", workers=0, chief=True, legacy_keras=False))
    stored = json.loads(json.dumps(described(plan), default=str))
    assert (stored["workers"], stored["legacy_keras"]) == (0, False)


# ---- on the command line ------------------------------------------------------------------------


def call(*words: str):
    return CliRunner().invoke(cli.cli, words)


def test_check_looks_at_one_point_and_counts_them(folder):
    words = ("check", "code/train.py", "-w", "2", "--grid", "lr=1,2,3")
    assert call(*words).stdout.startswith("2 replicas on this machine for each of 3 points: ")
    assert json.loads(call(*words, "-o", "json").stdout)["points"] == 3


def test_render_shows_the_first_point(folder):
    done = call("render", "code/train.py", "-w", "2", "--name", "swp", "--grid", "lr=1,2")
    assert "point 1 of 2: lr=1" in done.stderr
    assert '"--lr=1"' in done.stdout.replace("\\", "")
    assert '"--lr=2"' not in done.stdout.replace("\\", "")


def test_a_verb_for_jobs_says_what_the_jobs_of_a_sweep_are(folder):
    record_of(asked({"lr": ["1"]}))
    assert "tf-spawner delete -t swp" in call("logs", "swp", "--on", "local").exception.hint


# ---- side by side -------------------------------------------------------------------------------


def test_points_share_the_code_and_differ_in_name_arguments_and_token(folder):
    planned = prepare(asked({"lr": ["1", "2"]}, args=("a",)))
    (folder / "code/train.py").write_text("print('edited meanwhile')")
    plans = [planned_like(planned.plan, spec, "here:1") for spec in planned.specs]
    configs = [json.loads(plan.files["job.json"]) for plan in plans]
    assert [(config["job"], config["args"]) for config in configs] == [
        ("swp-1", ["a", "--lr=1"]),
        ("swp-2", ["a", "--lr=2"]),
    ]
    assert len({plan.token for plan in plans}) == len({plan.id for plan in plans}) == 2
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda plan: plan.code.open().read(), plans * 50))
    assert len(set(read)) == 1


def test_ports_come_again_only_after_all_others():
    found = [port for _ in range(100) for port in free_ports(4, None)]
    assert len(set(found)) == len(found)


def test_from_python_a_sweep_tells_of_all_points_and_is_done_only_once(folder):
    (folder / "code/train.py").write_text("import sys; sys.exit(3 if sys.argv[1] == '--x=2' else 0)")
    spec = JobSpec(script="code/train.py", workers=1, name="swp")
    found = tfspawner.sweep(spec, {"x": [1, 2]}, parallel=2)
    assert {point["values"]["x"]: point["result"] for point in found.points} == {"1": "succeeded", "2": "failed"}
    assert (found.result, found.error.exit_code, found.page.exists()) == ("failed", 125, True)
    assert "swp-2 (x=2): worker-0 ended with exit code 3" in found.error.message
    first = folder.joinpath("runs/swp-1/.job-id").read_text()
    assert tfspawner.sweep(spec, {"x": [1]}).result == "succeeded"
    assert folder.joinpath("runs/swp-1/.job-id").read_text() == first


# ---- what is shown ------------------------------------------------------------------------------


def row(job: str, result: str = "succeeded", **metrics: float):
    return {"job": job, "result": result, "metrics": metrics}


def test_the_best_stand_first_and_what_failed_last():
    rows = [row("a", val_loss=2.0, f1=0.5), row("b", "failed", val_loss=0.1), row("c", val_loss=float("nan"), f1=0.9),
            row("d", val_loss=1.0, f1=0.7), row("e")]  # fmt: skip
    assert [found["job"] for found in ranked(rows)] == ["d", "a", "c", "e", "b"]
    assert best(rows) == {"val_loss": "d", "f1": "c"}
    assert [found["job"] for found in ranked([row("a", acc=0.1), row("b", acc=0.2)])] == ["b", "a"]
    assert best([row("a", temperature=1.0)]) == {}


@pytest.mark.parametrize(
    ("values", "labels", "how"),
    [
        (["1e-2", "1e-4", "1e-3"], ["1e-4", "1e-3", "1e-2"], " (logarithmic)"),
        (["64", "128"], ["64", "128"], ""),
        (["-1", "1000"], ["-1", "1000"], ""),
        (["adam", "sgd", "1"], ["adam", "sgd", "1"], ""),
        (["1", "1.01", "2"], ["1", "2"], ""),
        (["a" * 99, "nan"], ["a" * 14 + "…", "nan"], ""),
    ],
)
def test_numbers_have_an_axis_and_words_an_order(values, labels, how):
    place, ticks, found = axis(values)
    assert ([text for _, text in ticks], found) == (labels, how)
    assert all(52 <= place(value) <= 632 for value in values)


def test_on_a_logarithmic_axis_equal_factors_are_equal_steps():
    place, _, _ = axis(["1", "10", "100"])
    assert place("10") - place("1") == pytest.approx(place("100") - place("10"))


def test_of_many_points_those_that_run_are_shown_and_the_rest_counted():
    points = [
        Point(job=f"p-{n}", values={"x": str(n)}, result="running" if n == 999 else "waiting") for n in range(1000)
    ]
    table = live_table(points)
    assert table.row_count == 21
    assert "p-999" in [str(cell) for cell in table.columns[0].cells]
    assert "and 980 more: 980 waiting" in [str(cell) for cell in table.columns[1].cells]


@pytest.fixture
def swept(folder) -> Path:
    """The record of twelve points of a hostile grid."""
    grid = {"lr": ["1e-2", "1e-3", "1e-4", "</script><script>alert(1)</script>"], "opt": ["adam", "sgd", "[bold]é"]}
    sweep = asked(grid)
    path = record_of(sweep, *(f"swp-{n}" for n in range(1, 12))) / "sweep.json"
    stored = json.loads(path.read_text())
    for n, point in enumerate(stored["points"][:11], 1):
        lines = [
            f"Epoch {e}/3\n9/9 - 1s - loss: {n / e:.3f} - val_loss: {n / e + 1:.3f} - accuracy: {1 / n:.3f}"
            for e in (1, 2, 3)
        ]
        write_run(folder / "runs" / point["job"], point["id"], log="\n".join(lines) + "\n")
        point["metrics"] = {"loss": n / 3, "val_loss": n / 3 + 1, "accuracy": 1 / n}
    stored["points"][11].update(result="failed", error="<b>worker-0</b> ended with exit code 1")
    path.write_text(json.dumps(stored))
    return path.parent


def test_the_page_shows_all_points_and_lets_nothing_in(swept):
    text = page(swept)
    assert "<script" not in text
    assert "<b>worker" not in text
    assert not re.search(r'(?:src|href)="(?!\.\./swp-\d+/report\.html")', text)
    assert "11 of 12 done" in text
    assert text.index(">swp-1<") < text.index(">swp-2<") < text.index(">swp-11<") < text.index(">swp-12<")
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert titles == [
        "val_loss",
        "accuracy",
        "val_loss over lr",
        "accuracy over lr",
        "val_loss over opt",
        "accuracy over opt",
    ]
    assert "code/train.py" in text
    learned, over = SVG.findall(text)[0], SVG.findall(text)[2]
    assert (learned.count("<path"), learned.count('class="faint"')) == (11, 3)
    assert (over.count("<circle"), over.count("class=best")) == (11, 1)


def test_a_sweep_of_which_nothing_ran_has_a_page(folder):
    assert "0 of 2 done" in page(record_of(asked({"lr": ["1", "2"]})))


def test_points_of_a_former_grid_are_shown_only_where_they_are_done(folder):
    record = record_of(asked({"lr": ["1", "2"]}), "swp-1")
    stored = json.loads((record / "sweep.json").read_text())
    stored["grid"] = {"lr": ["3"]}
    (record / "sweep.json").write_text(json.dumps(stored))
    assert "1 of 1 done" in page(record)


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_it_without_a_complaint(swept, tmp_path, dark):
    picture = tmp_path / "page.png"
    done = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}/profile",
         *(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []), f"--screenshot={picture}",
         "--window-size=1200,1600", write_page(swept).resolve().as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    assert picture.stat().st_size > 10_000
