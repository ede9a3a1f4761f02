"""The command line, as a process: what is printed, and the exit code."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from terminal import Unread

from tfspawner import __version__
from tfspawner.cli.hints import place_words, placed


@pytest.fixture
def tf_spawner(tmp_path):
    """Calls the command line in a folder, with state and kubeconfig of its own."""
    (tmp_path / "train.py").write_text("print('trained')\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KUBE", "TFSPAWNER"))}
    env.update(XDG_STATE_HOME=str(tmp_path / "state"), KUBECONFIG=str(tmp_path / "none"))

    def call(*args: str, **more_env: str):
        return subprocess.run(
            [sys.executable, "-m", "tfspawner", *args],
            cwd=tmp_path,
            env={**env, **more_env},
            capture_output=True,
            text=True,
        )

    return call


@pytest.fixture
def tf_spawner_sh(tmp_path):
    """Calls the command line by a shell, which redirects."""
    (tmp_path / "train.py").write_text("print('trained')\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KUBE", "TFSPAWNER"))}
    env.update(XDG_STATE_HOME=str(tmp_path / "state"), KUBECONFIG=str(tmp_path / "none"))

    def call(words: str, redirection: str, before: str = ""):
        command = f"{before} exec {shlex.quote(sys.executable)} -m tfspawner {words} {redirection}"
        return subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    return call


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("run", "nope.py"), 2, "script nope.py does not exist"),
        (("run",), 2, "no training script is named"),
        (("run", "train.py", "-w", "0"), 2, "workers is 0"),
        (("run", "train.py", "--memory", "1Gi"), 2, "--memory would do nothing on this machine"),
        (("run", "train.py", "--on", "kubernetes", "--memory", "lots"), 2, "memory is 'lots'"),
        (("run", "train.py", "--epochs", "3"), 2, "options of the training script stand behind --"),
        (("run", "train.py", "--timeout", "soon"), 2, "'soon' is not a duration"),
        (("run", "train.py", "-e", "none.env"), 2, "env-file none.env: No such file"),
        (("run", "train.py", "--env", "A"), 2, "--env is not KEY=VALUE"),
        (("run", "-f", "none.yaml"), 2, "-f none.yaml: No such file"),
        (("run", "train.py", "--on", "kubernetes"), 2, "no usable kubeconfig"),
        (("run", "train.py", "--on", "kubernetes", "--context", "c"), 2, "no usable kubeconfig"),
        (("delete",), 2, "name the jobs to delete, or give --all"),
        (("status", "nope", "--on", "local"), 3, "there is no job 'nope' on this machine"),
        (("status", "nope"), 3, "there is no job 'nope' on this machine, and there is no cluster to ask"),
        (("logs", "../x"), 3, "'../x' is not a job's name"),
        (("bogus",), 2, "No such command 'bogus'"),
    ],
)
def test_a_mistake_is_told_in_one_message_with_its_exit_code(tf_spawner, tmp_path, args, code, words):
    done = tf_spawner(*args)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (code, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.py"]


@pytest.mark.parametrize("name", ["/tmp", ".", "..", "", "precious"])
def test_delete_touches_no_folder_that_is_no_job(tf_spawner, tmp_path, name):
    (tmp_path / "precious").mkdir()
    done = tf_spawner("delete", name, "--on", "local")
    assert done.returncode == 3
    assert (tmp_path / "precious").is_dir()


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


def test_help_imports_nothing_heavy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tfspawner", "--help"], capture_output=True, text=True
    )
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "click" in imported
    assert not imported & {"kubernetes", "tensorflow", "rich", "jinja2", "yaml", "urllib3", "pathspec"}


def test_render_needs_no_cluster_and_shows_no_secret(tf_spawner):
    done = tf_spawner("render", "train.py", "--env", "KEY=canary-value")
    assert done.returncode == 0
    assert "kind: NetworkPolicy" in done.stdout
    assert "canary-value" not in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(tf_spawner, shell):
    assert "_TF_SPAWNER_COMPLETE" in tf_spawner("completion", shell).stdout


def test_completion_knows_the_commands(tf_spawner):
    done = tf_spawner(_TF_SPAWNER_COMPLETE="bash_complete", COMP_WORDS="tf-spawner sta", COMP_CWORD="1")
    assert done.stdout == "plain,status\n"


def test_the_version(tf_spawner):
    assert tf_spawner("--version").stdout == f"tf-spawner, version {__version__}\n"


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
    ("words", "redirection", "code", "shown"),
    [
        ("list", ">&-", 0, "no jobs"),
        ("list", "2>&-", 0, ""),
        ("list", "<&- >&- 2>&-", 0, ""),
        ("list", "2>/dev/full", 0, ""),
        ("render train.py", ">/dev/full", 1, "error: output cannot be written: No space left on device\n"),
        ("render train.py", ">&-", 0, ""),
        ("render train.py", ">/dev/full 2>/dev/full", 1, ""),
        ("list -o json", ">/dev/full", 1, "error: output cannot be written: No space left on device\n"),
        ("--version", ">/dev/full", 1, "error: output cannot be written: No space left on device\n"),
        ("--help", ">/dev/full", 1, "error: output cannot be written: No space left on device\n"),
    ],
)
def test_a_stream_that_cannot_be_written_ends_in_one_line_and_no_traceback(
    tf_spawner_sh, words, redirection, code, shown
):
    done = tf_spawner_sh(words, redirection)
    assert (done.returncode, done.stderr.count("\n") <= 1) == (code, True), done.stderr
    assert shown in done.stderr
    assert "Traceback" not in done.stderr


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


def test_a_name_that_the_encoding_lacks_is_shown_all_the_same(tf_spawner, tmp_path):
    assert tf_spawner("run", "train.py", "-w", "1", "--out", "rüns", "--name", "j").returncode == 0
    done = tf_spawner("compare", "rüns/j", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "succeeded" in done.stdout


def test_a_working_folder_that_is_gone_is_told_in_one_line(tf_spawner_sh, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    done = tf_spawner_sh(f"run {tmp_path}/train.py", "", before=f"cd {gone} && rmdir {gone} &&")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: the working folder does not exist any more\n")


def test_files_of_init_that_do_not_fit_are_named(tf_spawner, tmp_path):
    (tmp_path / "first").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(tmp_path / "first")], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        (tmp_path / "first/filler").write_bytes(b"x" * 4096)
        done = tf_spawner("init", "first")
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "first")], check=True)
    assert done.returncode == 2
    assert "first/train.py cannot be written: No space left on device" in done.stderr


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


def test_a_sweep_of_which_no_job_has_ended_is_named_by_its_record(tf_spawner, tmp_path):
    (tmp_path / "runs/sw").mkdir(parents=True)
    (tmp_path / "runs/sw/sweep.json").write_text(json.dumps({"name": "sw", "points": []}))
    done = tf_spawner("compare", "sw")
    assert "runs/sw" in done.stderr


@pytest.mark.parametrize(
    ("argv", "text", "shown"),
    [
        (["run", "t.py", "-n", "a b", "--context=c"], "tf-spawner fetch j, or tf-spawner delete j",
         "tf-spawner fetch j -n 'a b' --context=c, or tf-spawner delete j -n 'a b' --context=c"),
        (["run", "t.py", "--", "-n", "x"], "tf-spawner fetch j", "tf-spawner fetch j"),
        (["logs", "-n", "x"], "make room, then: tf-spawner fetch", "make room, then: tf-spawner fetch -n x"),
        (["run", "-n", "x"], "follow it: tf-spawner logs -f j-1\nor tf-spawner data check", "follow it: tf-spawner logs -f j-1 -n x\nor tf-spawner data check"),
    ],
)  # fmt: skip
def test_the_commands_told_find_the_job_where_this_one_put_it(argv, text, shown):
    assert placed(text, place_words(argv)) == shown
