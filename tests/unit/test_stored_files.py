"""What --artifacts puts into a bucket: the replica's files and its log, whatever the script put in the log's place."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tfspawner.replica.agent import Agent
from tfspawner.replica.log import Log


@pytest.mark.parametrize("how", ["as it was", "none", "fifo", "other"])
def test_a_log_that_the_script_meddled_with_is_put_whole_with_all_else(tmp_path, how):
    log = Log(tmp_path / "log")
    log.write(b"trained\n")
    if how != "as it was":
        log.path.unlink()
    if how == "fifo":
        os.mkfifo(log.path)
    if how == "other":
        log.path.write_text("another file")
    model = ("model", "/model", 7, "0" * 64)
    agent = SimpleNamespace(replica="worker-0", log=log, files=SimpleNamespace(paths=lambda: [model]))
    files, (name, path, size, sha256) = Agent.stored_files(agent)
    assert files == ("files/worker-0/model", *model[1:])
    assert (name, Path(path).read_bytes(), size) == ("logs/worker-0.log", b"trained\n", 8)
    assert sha256 == hashlib.sha256(b"trained\n").hexdigest()
