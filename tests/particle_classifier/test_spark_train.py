"""train.py on Spark: as many workers as tasks, one loss for all, and an end for all when one fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import clouds
import models
import numpy as np
import pytest
import spark_train


@pytest.fixture
def data(tmp_path):
    return clouds.write_hlf(tmp_path / "hlf", train=512, test=120)


def called(data: Path, output: Path, *options: str, model: str = "hlf") -> subprocess.CompletedProcess:
    root = Path(spark_train.__file__).parents[2]
    script = ["--data", str(data), "--model", model, "--epochs", "2", "--batch-size", "32"]
    return subprocess.run(
        [sys.executable, spark_train.__file__, "--output", str(output), *options, "--", *script],
        capture_output=True, text=True, timeout=240, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip


def running_with(word: str) -> list[str]:
    """The command lines of processes here that hold the word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if word in command:
            found.append(command)
    return found


def test_two_tasks_train_one_model_whose_files_come_back(data, tmp_path):
    done = called(data, tmp_path / "run", "-w", "2")
    assert done.returncode == 0, done.stderr
    folders = [tmp_path / f"run/files/worker-{index}" for index in (0, 1)]
    histories = [json.loads((folder / "history.json").read_text()) for folder in folders]
    losses = [[epoch["loss"] for epoch in history["epochs"]] for history in histories]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
    assert histories[0]["workers"] == 2
    weights = [models.load_model(folder / "model.keras").get_weights() for folder in folders]
    for mine, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert "Epoch 2/2" in (tmp_path / "run/logs/worker-1.log").read_text()
    assert not list(tmp_path.glob("*.tmp"))


def test_one_failed_worker_ends_all_and_its_last_lines_are_shown(data, tmp_path):
    """One worker's half of the events is damaged: the other trains, and waits for it."""
    path = data / "train/part-r-00001.tfrecord"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    done = called(data, tmp_path / "run", "-w", "2")
    assert done.returncode == 125
    told = done.stderr[done.stderr.index("error: worker-") :]
    assert "ended with exit code 1:" in told
    assert "DataLossError" in told
    assert "org.apache.spark" not in told
    assert not (tmp_path / "run").exists()
    assert running_with(str(data)) == []


def test_more_workers_than_spark_has_room_for_are_refused(data, tmp_path):
    done = called(data, tmp_path / "run", "-w", "2", "--master", "local[1]")
    assert done.returncode == 2
    assert "2 workers take 2 tasks at once, and Spark has room for 1" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_there_is_not_written_over(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        spark_train.main(["--output", str(tmp_path), "--", "--data", str(data)])
    assert ended.value.code == 2
    assert f"--output {tmp_path} is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "x\n: org.apache.spark.SparkException: Job aborted\nValueError: no such thing\n\tat java\n",
            "ValueError: no such thing",
        ),
        (
            "Py4JJavaError\nCaused by: java.io.IOException: disk full\n\tat a.b",
            "Caused by: java.io.IOException: disk full",
        ),
        ("only this\n", "only this"),
    ],
)
def test_what_else_goes_wrong_in_spark_is_told_by_its_reason(text, told):
    assert spark_train.failure(text).message == f"Spark ended the workers: {told}"
