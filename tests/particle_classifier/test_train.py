"""train.py as its users run it: alone, by tf-spawner on two workers, and through the loss of one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import models  # noqa: E402
import synthetic  # noqa: E402
import train  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sizes = {"hlf": (1200, 130), "small": (200, 50)}
    return {kind: synthetic.write(folder / kind, train=n, test=m, kind=kind) for kind, (n, m) in sizes.items()}


def run_alone(example: Path, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, example / "train.py", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_process_trains_and_leaves_a_model_its_history_and_tensorboards_files(data, example, tmp_path):
    options = ("--epochs", 5, "--batch-size", 32, "--schedule", "constant", "--rate", 3, "--output", tmp_path)
    done = run_alone(example, "--data", data["hlf"], "--model", "hlf", *options)
    assert done.returncode == 0, done.stderr
    assert "1,200 events to train on: 37 steps an epoch of 1 x 32, which leaves out 16" in done.stdout
    history = json.loads((tmp_path / "history.json").read_text())
    assert {
        "model": "hlf",
        "parameters": 2013,
        "workers": 1,
        "batch_size": 32,
        "events": 1200,
    }.items() <= history.items()
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2, 3, 4, 5]
    last = history["epochs"][-1]
    assert last["learning_rate"] == pytest.approx(0.003)
    assert last["val_accuracy"] > 0.75, history
    assert last["seconds"] > 0
    assert exact(train.load(tmp_path / "model.keras"), data["hlf"]) == pytest.approx(last["val_accuracy"], abs=1e-6)
    logged = {
        value.tag: value.tensor.float_val
        for path in (tmp_path / "tensorboard").rglob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if event.step == 5
    }
    assert set(logged) == {"epoch_loss", "epoch_accuracy", "epoch_learning_rate"}


def exact(model, folder: Path) -> float:
    """The accuracy on all test events."""
    import batches

    pairs = list(batches.labelled(str(folder), model.name, 50))
    right = [model.predict(i, verbose=0).argmax(1) == labels.numpy().argmax(1) for i, labels in pairs]
    return float(np.concatenate(right).mean())


def test_the_learning_rate_is_the_published_one():
    rates = [train.learning_rate("published", epoch) for epoch in range(7)]
    assert rates == [0.0005, 0.0005, 0.0005, 0.0002, 0.0002, 0.0001, 0.0001]


def test_bad_requests_are_told_in_a_line_and_leave_nothing(data, tmp_path, capsys):
    for words, told in (
        (["--data", str(tmp_path / "none")], "there is no such file"),
        (["--data", str(data["hlf"]), "--batch-size", "5000"], "1200 events to train on, and a step takes 5000"),
    ):
        with pytest.raises(SystemExit) as ended:
            train.main([*words, "--output", str(tmp_path / "output")])
        assert ended.value.code == 2
        assert told in capsys.readouterr().err.splitlines()[0]
    assert not (tmp_path / "output").exists()


def test_a_training_goes_on_after_its_last_epoch_and_refuses_another_models_checkpoint(data, tmp_path, capsys):
    words = ["--data", str(data["hlf"]), "--output", str(tmp_path / "out"), "--checkpoints", str(tmp_path / "ckpt")]
    train.main([*words, "--epochs", "1"])
    first = json.loads((tmp_path / "out/history.json").read_text())["epochs"]
    train.main([*words, "--epochs", "2"])
    second = json.loads((tmp_path / "out/history.json").read_text())["epochs"]
    assert second[:1] == first
    assert [epoch["epoch"] for epoch in second] == [1, 2]
    assert "goes on after epoch 1 of 2" in capsys.readouterr().out
    words[1] = str(data["small"])
    with pytest.raises(SystemExit) as ended:
        train.main([*words, "--model", "inclusive", "--batch-size", "50"])
    assert ended.value.code == 2
    assert "of another model" in capsys.readouterr().err


WORDS = ("--model", "inclusive", "--fast", "--batch-size", "25", "--schedule", "constant")


def losses(log: str) -> list[str]:
    """What a worker printed of its epochs' losses."""
    return [part.split(" - lr")[0].split(" - loss")[1] for part in log.splitlines() if " - val_loss: " in part]


def test_two_workers_print_equal_losses_and_after_one_is_killed_go_on_and_end_with_equal_weights(
    data, example, local_place
):
    place = local_place
    job = place.start_run(
        example / "train.py", "-w", "2", "--restarts", "1", "--name", "trains", "--", "--data", data["small"],
        "--epochs", "4", *WORDS,
    )  # fmt: skip
    job.prints("worker-1 | Epoch 3/4", timeout_s=150)
    os.kill(script_of(place, index=1), signal.SIGKILL)
    done = job.done(200)
    assert done.code == 0, done.err + done.out[-3000:]
    assert "restart 1 of 1: worker-1 was killed by SIGKILL" in done.err
    logs = [(place.runs / f"trains/logs/worker-{n}.log").read_text() for n in (0, 1)]
    assert losses(logs[0]) == losses(logs[1])
    assert len(losses(logs[0])) >= 4
    outputs = [place.runs / f"trains/files/worker-{n}" for n in (0, 1)]
    histories = [json.loads((output / "history.json").read_text()) for output in outputs]
    for history in histories:
        assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2, 3, 4]
        assert history["workers"] == 2
        assert history["epochs"][0]["learning_rate"] == pytest.approx(0.002), "not scaled with the workers"
    measured = [[(e["loss"], e["val_loss"], e["val_accuracy"]) for e in history["epochs"]] for history in histories]
    assert measured[0] == measured[1]
    ours, theirs = (models.load_model(output / "model.keras") for output in outputs)
    assert ours.count_params() == 12_353
    assert all(np.array_equal(a, b) for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True))
    assert exact(ours, data["small"]) == pytest.approx(histories[0]["epochs"][-1]["val_accuracy"], abs=1e-6)


def script_of(place, index: int) -> int:
    """The process of the training script of a worker."""
    marks = {f"XDG_STATE_HOME={place.env['XDG_STATE_HOME']}".encode(), f"TFSPAWNER_INDEX={index}".encode()}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if marks <= set((folder / "environ").read_bytes().split(b"\0")) and any(
                w.endswith(b"train.py") for w in command
            ):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"no train.py of worker {index} is running")
