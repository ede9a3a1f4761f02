"""What several files of tests on the cluster begin with."""

from __future__ import annotations

import pytest


@pytest.fixture
def launched(cluster_place, gate_code):
    """A job called held, of one worker that waits at its gate."""
    script = cluster_place.script(gate_code)
    done = cluster_place.run(script, "--name", "held", "-w", "1", "--detach", "--env", f"GATE={cluster_place.gate}")
    assert done.code == 0, done.err
    cluster_place.start("logs", "--on", "kubernetes", "-f", "held").prints("worker-0 | at the gate")
    return cluster_place
