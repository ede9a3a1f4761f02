"""What runs in the replicas: the script's folder of any size, and command files."""

from __future__ import annotations

import hashlib
import random

import pytest

PRINTS_ITS_DATA = """
import hashlib
with open("weights.bin", "rb") as file:
    print(hashlib.sha256(file.read()).hexdigest())
"""


@pytest.mark.parametrize("detach", [False, True], ids=["followed", "detached"])
def test_a_folder_over_a_configmaps_size_travels_whole(place, detach):
    script = place.script(PRINTS_ITS_DATA)
    weights = random.Random(5).randbytes(5 * 1024 * 1024)
    (script.parent / "weights.bin").write_bytes(weights)
    done = place.run(script, "--name", "large", *(["--detach"] if detach else []))
    assert done.code == 0, done.err
    if detach:
        assert place.of("wait", "large").code == 0
        assert place.of("fetch", "large", "--out", place.runs).code == 0
    for replica in ("worker-0", "worker-1"):
        log = (place.runs / f"large/logs/{replica}.log").read_text()
        assert log == hashlib.sha256(weights).hexdigest() + "\n"


def test_a_command_file_is_a_shell_script_with_comments_and_all(place):
    script = place.script("import sys\nprint('the script got', sys.argv[1:])")
    command = place.folder / "command"
    command.write_text(
        "# prepares, then trains\n"
        "\n"
        'greeting="hello from $TFSPAWNER_ROLE"  # quotes; and a comment\n'
        "for word in one 'two words'; do\n"
        '  echo "$greeting: $word" \\\n'
        "    | tr a-z A-Z\n"
        "done\n"
        "[[ $GIVEN == 'by env' ]] && echo 'it is bash'\n"
        "python3 train.py \"$@\" '#no comment'\n"
    )
    done = place.run(script, "-w", "1", "-c", command, "--name", "shell", "--env", "GIVEN=by env", "--", "-x", "a b")
    assert done.code == 0, done.err
    assert (place.runs / "shell/logs/worker-0.log").read_text().splitlines() == [
        "HELLO FROM WORKER: ONE",
        "HELLO FROM WORKER: TWO WORDS",
        "it is bash",
        "the script got ['-x', 'a b', '#no comment']",
    ]


def test_a_command_file_stops_at_its_first_failing_command(place):
    script = place.script("print('never')")
    command = place.folder / "command"
    command.write_text("echo before\nls /there/is/no/such/folder\necho after\n")
    done = place.run(script, "-w", "1", "-c", command)
    assert done.code == 125
    assert "worker-0 ended with exit code 2" in done.err
    assert "worker-0 | before\n" in done.out
    assert "after" not in done.out


def test_a_command_file_with_a_shebang_runs_by_that_interpreter(place):
    script = place.script("print('the script')")
    command = place.folder / "command"
    command.write_text("#!/usr/bin/env python3\nimport sys\nprint('python', sys.argv[1:])\n")
    done = place.run(script, "-w", "1", "-c", command, "--", "--epochs", "2")
    assert done.code == 0, done.err
    assert done.out == "worker-0 | python ['--epochs', '2']\n"


def test_a_script_below_the_workdir_runs_with_the_workdir_as_its_working_folder(place):
    script = place.script(
        "import os, sys\nsys.path.insert(0, '.')\nimport helper\nprint(helper.WORD, os.path.exists('steps/train.py'))"
    )
    folder = script.parent
    (folder / "steps").mkdir()
    (folder / "helper.py").write_text("WORD = 'imported'")
    script.rename(folder / "steps/train.py")
    done = place.run(folder / "steps/train.py", "-w", "1", "--workdir", folder)
    assert done.code == 0, done.err
    assert done.out == "worker-0 | imported True\n"
