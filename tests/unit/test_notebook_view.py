"""What a notebook shows, without a notebook."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tfspawner.base.cause import Cause
from tfspawner.errors import ConfigurationError, JobFailed
from tfspawner.follow.outcome import Outcome
from tfspawner.follow.state import JobState, ReplicaState
from tfspawner.views.notebook import NotebookView

HOSTILE = "</pre><script>alert(1)</script>"
EPOCHS = b"".join(b"Epoch %d/3\n 1/2 [=>..] - loss: 9.0\r2/2 [====] - loss: %.1f\n" % (n, 3 / n) for n in (1, 2))


@pytest.fixture
def pages() -> list[str]:
    return []


@pytest.fixture
def view(pages) -> NotebookView:
    return NotebookView(lambda formats: pages.append(formats["text/html"]), "train")


def state(count: int = 2, **of_each) -> JobState:
    lines = [ReplicaState(replica=f"worker-{n}", **{"state": "running", **of_each}) for n in range(count)]
    return JobState(job="digits", phase="running", replicas={line.replica: line for line in lines})


@pytest.mark.parametrize("module", [[], ["-m", "IPython"]], ids=["Python", "IPython on a terminal"])
def test_outside_a_kernel_nothing_is_shown(module):
    asked = "from tfspawner.views.choice import in_kernel; print(in_kernel())"
    done = subprocess.run([sys.executable, *module, "-c", asked], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"


def test_pages_come_once_a_second_and_curves_from_the_second_epoch_on(pages, view):
    for _ in range(50):
        view.show(state())
    assert len(pages) == 1
    for cut in range(0, len(EPOCHS), 7):
        view.log("worker-0", EPOCHS[cut : cut + 7])
    view.next_at = time.monotonic()
    view.show(state())
    assert len(pages) == 2
    assert "loss, worker-0: 1.5" in pages[1]
    assert "9.0" not in pages[1]


def test_the_output_is_shown_until_there_are_curves(pages, view):
    view.log("worker-0", b"reading\n")
    view.finish()
    assert "worker-0 | reading" in pages[-1]
    view.log("worker-0", EPOCHS)
    view.finish()
    assert "reading" not in pages[-1]


def test_a_page_lets_nothing_in(pages, tmp_path):
    view = NotebookView(lambda formats: pages.append(formats["text/html"]), HOSTILE)
    view.note(HOSTILE)
    view.log("worker-0", HOSTILE.encode() + b"\n")
    view.show(state(node=HOSTILE, message=HOSTILE))
    file = {"path": HOSTILE, "size": 1}
    error = JobFailed(f"worker-0 {HOSTILE}", hint=HOSTILE)
    error.lines = [f"worker-0 | {HOSTILE}\x1b[31m\udc80"]
    error.outcome = Outcome(job=HOSTILE, result="failed", folder=tmp_path / HOSTILE, cause=None)
    error.outcome.collected.append(type("Collected", (), {"replica": "worker-0", "files": [file]}))
    view.end(error=error)
    assert pages[-1].count("&lt;script&gt;alert(1)") >= 8
    assert not any("<script" in page or "\x1b" in page for page in pages)
    "".join(pages).encode()


def test_a_failure_is_shown_with_its_last_lines_and_the_next_step(pages, view):
    error = JobFailed("worker-1 ended with exit code 1", hint="look there")
    error.about, error.lines = "worker-1's last lines:", ["worker-1 | ValueError: shapes"]
    view.end(error=error)
    for words in ('badge failed">', error.message, "next: look there", "last lines:", "worker-1 | ValueError: shapes"):
        assert words in pages[-1]


def test_a_job_that_was_waited_for_is_told_as_run_tells_it(pages, view):
    ended = state()
    ended.result = "failed"
    ended.cause = Cause.of({"replica": "worker-1", "message": "was killed", "kind": "lost"})
    view.end(ended)
    assert "worker-1 was killed" in pages[-1]
    assert "next: --restarts 1" in pages[-1]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ConfigurationError("no"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (ZeroDivisionError("a bug"), "failed"),
    ],
)
def test_whatever_ends_it_before_it_begins_is_shown(pages, view, error, word):
    view.end(error=error)
    assert f'badge {word}">' in pages[-1]


def test_of_many_replicas_the_first_have_a_row(pages, view):
    view.show(state(1000))
    view.finish()
    assert pages[-1].count("<tr>") == 21
    assert "1,000 replicas: 1,000 running" in pages[-1]
    assert len(pages[-1]) < 20_000
