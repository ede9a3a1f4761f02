"""The command line, as a process: what is printed, and the exit code."""

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tfspawner import __version__
from tfspawner.cli.hints import PlacedCommand
from tfspawner.cli.job_command import JobCommand, run_arguments
from tfspawner.cli.main import call, cli
from tfspawner.errors import ArtifactError, Command, Hint, JobFailed


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


def test_a_sweep_of_which_no_job_has_ended_is_named_by_its_record(tf_spawner, tmp_path):
    (tmp_path / "runs/sw").mkdir(parents=True)
    (tmp_path / "runs/sw/sweep.json").write_text(json.dumps({"name": "sw", "points": []}))
    done = tf_spawner("compare", "sw")
    assert "runs/sw" in done.stderr


FETCH_OR_DELETE = Hint(Command("fetch", "j"), ", or ", Command("delete", "j"))


@pytest.mark.parametrize(
    ("argv", "hint", "shown"),
    [
        (["-n", "a b", "--context=c"], FETCH_OR_DELETE,
         "tf-spawner fetch j -n 'a b' --context c, or tf-spawner delete j -n 'a b' --context c"),
        (["--kubeconfig", "k", "-nphysics"], FETCH_OR_DELETE,
         "tf-spawner fetch j -n physics --kubeconfig k, or tf-spawner delete j -n physics --kubeconfig k"),
        (["--", "-n", "x"], Hint(Command("fetch", "j")), "tf-spawner fetch j"),
        (["--namespace", "x"], Hint("make room, then: ", Command("fetch")), "make room, then: tf-spawner fetch -n x"),
        (["-n", "x"], Hint("follow it: ", Command("logs", "-f", "j-1"), "\nor tf-spawner data check"),
         "follow it: tf-spawner logs -f j-1 -n x\nor tf-spawner data check"),
        (["-n", "x"], "tf-spawner fetch j", "tf-spawner fetch j"),
    ],
)  # fmt: skip
def test_the_commands_told_find_the_job_where_this_one_put_it(argv, hint, shown):
    @click.command(cls=JobCommand)
    @run_arguments
    def fails(**options):
        error = JobFailed("it failed", hint=hint)
        error.missing = ArtifactError("nor is all here", hint=hint)
        raise error

    raised = CliRunner().invoke(fails, ["t.py", *argv]).exception
    assert raised.hint == shown
    assert raised.missing.hint == shown


def test_a_job_that_is_not_there_is_looked_for_where_the_command_line_looked(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert call(["logs", "nope", "--on", "local", "--kubeconfig", "a b", "-n", "x"]) == 3
    assert capsys.readouterr().err.endswith("\nhint: tf-spawner list -n x --kubeconfig 'a b'\n")


def test_each_command_that_is_told_where_jobs_are_tells_it_on():
    told = {name for name, command in cli.commands.items() if "kubeconfig" in {param.name for param in command.params}}
    assert told >= {"run", "rerun", "list", "logs", "fetch", "delete"}
    assert [name for name in told if not isinstance(cli.commands[name], PlacedCommand)] == []
