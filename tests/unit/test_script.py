"""What is found in scripts: a corpus of faulty ones and of right ones, each in the words of a person who wrote it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfspawner.errors import ConfigurationError
from tfspawner.jobs.prepare import read_script
from tfspawner.plan.script.findings import Finding, findings
from tfspawner.plan.spec import JobSpec

CORPUS = Path(__file__).parents[1] / "scripts"
FAULTY = sorted((CORPUS / "faulty").glob("*.py"))
EXAMPLE = CORPUS.parents[1] / "examples" / "digits" / "train.py"
CLEAN = [*sorted((CORPUS / "clean").glob("*.py")), EXAMPLE]
JOB: dict[str, Any] = {"workers": 2, "gpus": 0, "image": None, "legacy_keras": True, "on": "local"}


def text_of(path: Path) -> str:
    return path.read_text(errors="replace")


def job_of(path: Path) -> dict[str, Any]:
    """The job that a script's `# with:` line asks for, two workers on this machine without one."""
    said = re.search(r"# with: (.*)", text_of(path))
    words = dict(word.split("=", 1) for word in said[1].split()) if said else {}
    job = {**JOB, **{key: int(value) if value.isdigit() else value for key, value in words.items()}}
    job["local_modules"] = frozenset(job.pop("local", "").split(",")) - {""}
    job["collect"] = tuple(filter(None, [job.pop("collect", "")]))
    return job


def expected(path: Path) -> set[str]:
    said = re.search(r"# expect: ([a-z0-9, -]+)", text_of(path))
    assert said, f"{path.name} does not say what is expected"
    return set(said[1].strip().split(", "))


def found(path: Path) -> list[Finding]:
    return findings(path.read_bytes(), path.name, **job_of(path))


@pytest.mark.parametrize("path", FAULTY, ids=lambda path: path.stem)
def test_a_faulty_script_is_told_what_is_wrong_and_nothing_else(path):
    told = found(path)
    assert {finding.kind for finding in told} == expected(path), told


@pytest.mark.parametrize("path", CLEAN, ids=lambda path: path.stem)
def test_a_right_script_is_told_nothing(path):
    assert found(path) == []


def test_recall_and_false_alarms_over_the_whole_corpus():
    wanted = [(path, kind) for path in FAULTY for kind in expected(path)]
    seen = [(path, finding.kind) for path in [*FAULTY, *CLEAN] for finding in found(path)]
    hits = sum(want in seen for want in wanted)
    false = {path for path, kind in seen if (path, kind) not in wanted}
    print(f"recall {hits}/{len(wanted)}, false alarms {len(false)}/{len(CLEAN)}")
    assert min(len(FAULTY), len(CLEAN)) >= 24
    assert hits / len(wanted) >= 0.95
    assert not false


@pytest.mark.parametrize("path", FAULTY, ids=lambda path: path.stem)
def test_only_what_is_sure_to_fail_is_an_error(path):
    assert {finding.is_error for finding in found(path)} == {"syntax" in expected(path)}


def test_a_syntax_error_is_told_with_its_line_and_column():
    [finding] = findings("import os\nx = (1,\ny = 2\n", "train.py", **JOB)
    assert finding.line == 2
    assert re.match(r"is not valid Python: .* \(line 2, column 5\)", finding.message)


@pytest.mark.parametrize("source", ["x = '\udc80'", "x = 1\0", "(" * 5000 + ")" * 5000])
def test_what_python_cannot_compile_is_an_error(source):
    [finding] = findings(source, "train.py", **JOB)
    assert finding.kind == "syntax"
    assert finding.is_error


def test_a_script_in_another_coding_that_it_names_is_read():
    assert findings("# -*- coding: latin-1 -*-\nx = 'für'\n".encode("latin-1"), "train.py", **JOB) == []


def test_a_mounted_place_is_shared():
    source = (CORPUS / "faulty" / "shared_eos.py").read_text().replace("/eos/user/a/alice", "/models")
    job = {**JOB, "on": "kubernetes"}
    assert [finding.kind for finding in findings(source, "train.py", **job)] == ["left-behind"]
    assert [finding.kind for finding in findings(source, "train.py", **job, mounts=("/models",))] == ["shared-path"]


@pytest.mark.parametrize(("workers", "legacy_keras", "count"), [(2, True, 1), (1, True, 0), (2, False, 1)])
def test_a_job_is_warned_of_keras_3_where_several_workers_train(tmp_path, workers, legacy_keras, count):
    script = tmp_path / "train.py"
    script.write_bytes((CORPUS / "faulty" / "keras3_package.py").read_bytes())
    warnings = read_script(JobSpec(script=script, workers=workers, legacy_keras=legacy_keras))
    assert len([warning for warning in warnings if "imports keras itself" in warning]) == count


WORDS = (CORPUS / "clean" / "either_strategy.py").read_text().split("\n")


@given(st.text() | st.binary() | st.lists(st.sampled_from(WORDS)).map("\n".join))
def test_reading_never_raises(source):
    findings(source, "train.py", **{**JOB, "on": "kubernetes", "gpus": 1}, restarts=1, s3_plugin=False)


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="needs a file of /proc that never ends")
def test_a_script_that_never_ends_is_refused():
    with pytest.raises(ConfigurationError, match="the script /proc/kmsg cannot be read"):
        read_script(JobSpec(script=Path("/proc/kmsg")))
