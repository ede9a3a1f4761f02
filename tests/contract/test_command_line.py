"""The command line, as a process that runs jobs on this machine: what is printed, and the exit code."""

import json
import os
import re
import sys

import pytest
from terminal import Unread


def test_a_job_runs_and_its_arguments_reach_the_script(tf_spawner, tmp_path):
    (tmp_path / "train.py").write_text("import sys; print(sys.argv[1:])")
    done = tf_spawner("run", "train.py", "-w", "1", "--name", "j", "--", "--epochs", "3", "-x")
    assert done.stdout == "worker-0 | ['--epochs', '3', '-x']\n"
    assert done.returncode == 0
    assert (tmp_path / "runs/j/logs/worker-0.log").read_text() == "['--epochs', '3', '-x']\n"


def test_a_failure_ends_with_125_and_the_last_lines(tf_spawner, tmp_path):
    (tmp_path / "train.py").write_text("raise ValueError('no data in shard 7')")
    done = tf_spawner("run", "train.py", "-w", "1")
    assert done.returncode == 125
    assert "worker-0 | ValueError: no data in shard 7" in done.stderr
    assert done.stderr.rstrip().endswith("error: worker-0 ended with exit code 1: ValueError: no data in shard 7")


def test_an_image_in_the_environment_does_no_harm_here(tf_spawner):
    assert tf_spawner("run", "train.py", "-w", "1", TFSPAWNER_IMAGE="some/image:1").returncode == 0


def test_init_writes_what_runs_and_nothing_over_what_is_there(tf_spawner, tmp_path):
    assert tf_spawner("init", "first").stdout.split() == ["first/train.py", "first/job.yaml"]
    done = tf_spawner("run", "-f", "first/job.yaml", "--name", "first")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/first/files/worker-1/model.keras").exists()
    (tmp_path / "first/train.py").write_text("mine")
    (tmp_path / "first/job.yaml").unlink()
    done = tf_spawner("init", "first")
    assert (done.returncode, (tmp_path / "first/train.py").read_text()) == (2, "mine")
    assert not (tmp_path / "first/job.yaml").exists()


def test_doctor_tells_of_this_machine_and_the_data(tf_spawner, tmp_path):
    (tmp_path / "shard").write_bytes(b"12345")
    done = tf_spawner("doctor", "--on", "local", "--data", "shard")
    assert done.returncode == 0
    assert "TensorFlow 2." in done.stdout
    assert "shard: 1 files, 5 B" in done.stdout
    done = tf_spawner("doctor", "--on", "local", "--data", "missing")
    assert (done.returncode, done.stdout.count("problem")) == (3, 1)


def test_a_failed_run_is_told_in_json_as_well(tf_spawner, tmp_path):
    (tmp_path / "train.py").write_text("import sys; sys.exit(3)")
    done = tf_spawner("run", "train.py", "-w", "1", "--name", "bad", "-o", "json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["result"], told["error"]) == (125, "failed", "worker-0 ended with exit code 3")
    done = tf_spawner("run", "missing.py", "-o", "json")
    assert done.returncode == 2


@pytest.mark.parametrize(
    "redirection", [">&-", "2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full", "<&- >&- 2>&-"]
)
@pytest.mark.parametrize("code", [0, 3])
def test_a_run_whose_output_nobody_can_take_brings_all_home(tf_spawner_sh, tmp_path, redirection, code):
    (tmp_path / "train.py").write_text(
        "import os, sys\nopen(os.environ['TFSPAWNER_OUTPUT'] + '/model', 'w').write('whole')\n"
        f"print('log')\nsys.exit({code})"
    )
    done = tf_spawner_sh("run train.py -w 1 --name j", redirection)
    assert done.returncode == (125 if code else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "runs/j/files/worker-0/model").read_text() == "whole"
    assert (tmp_path / "runs/j/logs/worker-0.log").read_text() == "log\n"
    assert list((tmp_path / "state/tf-spawner/jobs").iterdir()) == []


def test_where_python_speaks_ascii_a_job_is_made_and_runs(tf_spawner):
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for words in (("init", "first"), ("check", "train.py"), ("run", "train.py", "-w", "1"), ("completion", "bash")):
        done = tf_spawner(*words, **ascii_alone)
        assert done.returncode == 0, done.stderr


def test_a_name_that_the_encoding_lacks_is_shown_all_the_same(tf_spawner, tmp_path):
    assert tf_spawner("run", "train.py", "-w", "1", "--out", "rüns", "--name", "j").returncode == 0
    done = tf_spawner("compare", "rüns/j", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "succeeded" in done.stdout


@pytest.fixture
def job_that_holds(tf_spawner):
    name = tf_spawner("run", "train.py", "-w", "1", "--detach", "--name", "held").stdout.strip()
    assert tf_spawner("wait", name).returncode == 0
    yield name
    tf_spawner("delete", "--all", "-y")


@pytest.mark.parametrize("words", [["held"], ["--all"]])
def test_delete_asks_at_a_terminal_before_unfetched_files_are_lost(tf_spawner, tmp_path, job_that_holds, words):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KUBE", "TFSPAWNER"))}
    env.update(XDG_STATE_HOME=str(tmp_path / "state"), KUBECONFIG=str(tmp_path / "none"))

    def delete(answer: bytes) -> tuple[str, int]:
        terminal = Unread([sys.executable, "-m", "tfspawner", "delete", *words], env, tmp_path)
        try:
            os.write(terminal.master, answer)
            code = terminal.done()
        finally:
            terminal.end()
        return bytes(terminal.sent).decode(), code

    shown, code = delete(b"n\n")
    assert code == 1, shown
    assert "held (local, succeeded, to be fetched)" in shown
    assert "delete this job? [y/N]" in shown
    assert "nothing deleted" in shown
    assert "held" in tf_spawner("list").stdout
    shown, code = delete(b"y\n")
    assert code == 0, shown
    assert "held is deleted; its files were not fetched and are lost" in shown


def test_delete_by_a_script_does_not_ask_for_jobs_that_it_names(tf_spawner, job_that_holds):
    done = tf_spawner("delete", "held")
    assert done.stdout == "held is deleted; its files were not fetched and are lost\n"


def test_a_wait_that_is_over_says_how_the_job_is(tf_spawner, tmp_path):
    (tmp_path / "train.py").write_text("import time; time.sleep(600)")
    tf_spawner("run", "train.py", "-w", "1", "--detach", "--name", "here")
    try:
        done = tf_spawner("wait", "here", "--timeout", "2s")
        assert done.returncode == 124
        assert "error: here is still running after 2s" in done.stderr
        fetched = tf_spawner("fetch", "here")
        assert re.search(r"\nhere still runs \(\d+s\); files so far:\n", fetched.stderr), fetched.stderr
    finally:
        tf_spawner("delete", "here")
