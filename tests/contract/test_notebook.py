"""A job in a notebook: a real kernel runs the cells, and what it publishes is looked at."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

DIGITS = Path(__file__).resolve().parents[2] / "examples/digits"
CURVES = """
    import os, sys, time
    for epoch in (1, 2):
        print(f"Epoch {epoch}/9\\n5/5 - 0s - loss: {2 / epoch}", flush=True)
    while True: time.sleep(0.1)
"""


class Watched(NotebookClient):
    """A notebook's client that keeps the pages of each display as they come: {display: [page]}."""

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self.pages: dict[str, list[str]] = {}

    def process_message(self, message: dict[str, Any], *words: Any) -> Any:
        keep(message, self.pages)
        return super().process_message(message, *words)


def keep(message: dict[str, Any], pages: dict[str, list[str]]) -> None:
    content = message["content"]
    display = content.get("transient", {}).get("display_id")
    if display:
        assert (display in pages) == (message["header"]["msg_type"] == "update_display_data")
        pages.setdefault(display, []).append(content["data"]["text/html"])


@pytest.fixture
def kernel(local_place) -> Iterator[KernelManager]:
    """A kernel of this Python's, in the folder of the place."""
    manager = KernelManager()
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel(cwd=str(local_place.folder), env=local_place.env)
    try:
        yield manager
    finally:
        manager.shutdown_kernel(now=True)


def test_the_notebook_of_the_digits_trains_and_shows_it(local_place, kernel):
    shutil.copytree(
        DIGITS, local_place.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs", "__pycache__")
    )
    notebook = nbformat.read(local_place.folder / "digits.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    client = Watched(notebook, km=kernel, timeout=400)
    client.execute()
    kernel.shutdown_kernel(now=True)
    ran, waited = client.pages.values()
    assert len(set(ran)) > 3
    assert "preparing" in ran[0]
    for page in (ran[-1], waited[-1]):
        assert page.count('<path class="s') == 2  # loss and accuracy
    assert "worker-1/model.keras" in ran[-1]
    printed = "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)
    assert float(re.search(r"test accuracy (\S+)", printed)[1]) > 0.7
    compared = next(output.data["text/plain"] for output in notebook.cells[-1].outputs if "data" in output)
    assert compared.count("succeeded") == 2
    assert local_place.leftovers() == []


def test_interrupting_the_kernel_removes_the_job(local_place, kernel):
    script = local_place.script(CURVES)
    pages: dict[str, list[str]] = {}
    interrupted = []

    def look(message: dict[str, Any]) -> None:
        keep(message, pages)
        newest = next((of[-1] for of in pages.values()), "")
        if '<path class="s' in newest and not interrupted:
            interrupted.append(newest)
            kernel.interrupt_kernel()

    client = kernel.client()
    client.start_channels()
    try:
        client.wait_for_ready(60)
        cell = f"import tfspawner\ntfspawner.run(tfspawner.JobSpec(script={str(script)!r}, workers=1, name='long'))"
        reply = client.execute_interactive(cell, output_hook=look, timeout=180)
    finally:
        client.stop_channels()
    kernel.shutdown_kernel(now=True)
    assert "</strong> running" in interrupted[0]
    assert reply["content"]["ename"] == "Interrupted"
    (shown,) = pages.values()
    assert '<span class="badge interrupted">' in shown[-1]
    assert "job long is removed" in shown[-1]
    assert local_place.leftovers() == []
