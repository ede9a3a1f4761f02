"""Names that no file and no job can have, given to each command: one clear line, and nothing that reads on."""

import pytest

from tfspawner.cli import main as cli

WORDS = (
    "report", "status", "logs", "fetch", "wait", "top", "attach", "delete", "compare", "rerun", "tensorboard", "init", "run", "run -f",
    "check", "report x --out", "compare x --out", "rerun x --out", "tensorboard x --out", "fetch x --on local --out", "render",
    "data ls", "data head", "data check", "data stats", "data check file --done", "data check file --manifest",
    "data cp file", "data convert file", "list --on kubernetes --kubeconfig",
)  # fmt: skip


@pytest.mark.parametrize("name", ["a" * 300, "a" * 5000, "a/" * 2500 + "a"], ids=["300", "5000", "a path of 5000"])
@pytest.mark.parametrize("words", WORDS)
def test_a_name_that_is_too_long_is_one_clear_line(words, name, monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"no record")
    monkeypatch.setenv("KUBECONFIG", "/dev/null")
    with pytest.raises(SystemExit) as ended:
        cli.main([*words.split(), name])
    told = capfd.readouterr().err
    assert ended.value.code in (2, 3, 4), told
    lines = [line for line in told.splitlines() if not line.startswith("hint: ")]
    assert "Traceback" not in told
    assert len(lines) == 1, told
    assert lines[0].startswith("error: ")
    assert max(map(len, told.splitlines())) < 500
