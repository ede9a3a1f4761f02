"""The launcher is killed while it collects: no half file has a name, and the next fetch brings all that is missing."""

from __future__ import annotations

import hashlib
import itertools
import signal
from pathlib import Path

# Python loads this before tf-spawner: an audit hook (PEP 578) that ends the process, as SIGKILL does, before the
# N-th step that changes a file, counted from the first into the folder of the files.
SITECUSTOMIZE = """
import os, signal, sys
left, begun = int(os.environ["KILL_AT"]), False

def is_step(event, arguments):
    global begun
    begun = begun or (event == "os.mkdir" and "files" in str(arguments[0]))
    if event == "open":
        return begun and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return begun and event in ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree")

def hook(event, arguments):
    global left
    if is_step(event, arguments):
        left -= 1
        if not left:
            signal.raise_signal(signal.SIGKILL)

sys.addaudithook(hook)
"""
FILES = {"model": b"m" * 100_000, "deep/weights": b"w" * 3000}
SCRIPT = """
import os
out = os.environ["TFSPAWNER_OUTPUT"]
os.mkdir(out + "/deep")
os.mkdir(out + "/assets")
for name, letter, size in (("model", "m", 100_000), ("deep/weights", "w", 3000)):
    open(f"{out}/{name}", "w").write(letter * size)
"""


def whole_files(run: Path) -> dict[str, bytes]:
    """What lies under the replica's own names."""
    folder = run / "files/worker-0"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_before_whatever_step_of_collecting_it_is_killed_no_half_file_has_a_name_and_fetch_goes_on(local_place):
    place = local_place
    hooks = place.folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(SITECUSTOMIZE)
    place.run(place.script(SCRIPT), "-w", "1", "--name", "held", "--detach")
    assert place.of("wait", "held").code == 0
    env, cut = place.env, []
    for step in itertools.count(1):
        place.env = {**env, "PYTHONPATH": f"{hooks}:{env.get('PYTHONPATH', '')}", "KILL_AT": str(step)}
        done = place.of("fetch", "held", "--keep", "--out", place.folder / f"runs-{step}")
        place.env = env
        if done.code == 0:
            break  # it has fewer steps
        assert done.code == -signal.SIGKILL, f"before step {step}: {done.err}"
        cut.append(step)
        came = whole_files(place.folder / f"runs-{step}/held")
        assert came.items() <= FILES.items(), f"before step {step}"
    assert len(cut) >= 10  # the probe, two parts, two names, the parts' folder, the report
    again = [place.start("fetch", *place.target, "held", "--keep", "--out", place.folder / f"runs-{s}") for s in cut]
    for step, running in zip(cut, again, strict=True):
        done = running.done()
        assert done.code == 0, f"after step {step}: {done.err}"
        run = place.folder / f"runs-{step}/held"
        assert whole_files(run) == FILES
        assert sorted(path.name for path in (run / "files").iterdir()) == ["worker-0"]
        assert (run / "files/worker-0/assets").is_dir()


def test_killed_in_the_middle_of_a_large_file_the_next_fetch_keeps_what_came(local_place, wait_until):
    place = local_place
    script = place.script("""
        import os
        with open(os.environ["TFSPAWNER_OUTPUT"] + "/large", "wb") as file:
            for part in range(256):
                file.write(bytes([part]) * (1 << 20))
    """)
    place.run(script, "-w", "1", "--name", "large", "--detach")
    assert place.of("wait", "large").code == 0
    files = place.runs / "large/files"

    def part_size() -> int:
        return sum(path.stat().st_size for path in files.glob(".parts/worker-0/*") if path.name != "case")

    fetching = place.start("fetch", *place.target, "large", "--out", place.runs)
    wait_until(part_size, "the first bytes")
    fetching.send(signal.SIGKILL)
    assert fetching.done().code == -signal.SIGKILL
    assert not (files / "worker-0/large").exists()
    assert part_size()
    done = place.of("fetch", "large", "--out", place.runs)
    assert done.code == 0, done.err
    with (files / "worker-0/large").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    expected = hashlib.sha256()
    for part in range(256):
        expected.update(bytes([part]) * (1 << 20))
    assert found == expected.hexdigest()
    assert [path.name for path in files.iterdir()] == ["worker-0"]
