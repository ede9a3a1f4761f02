"""What travels to the replicas: modules that need Python 3.9 alone, in one zip file that is the same each time."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tfspawner import replica
from tfspawner.replica.job import Job
from tfspawner.replica.packing import STAYS, packed, sources
from tfspawner.replica.script import S3_MODULES

FOLDER = Path(replica.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py"))
# What a module may import beside the standard library and its neighbours.
BESIDE = {
    "usage": {"pynvml"},  # where it is installed, or travels along
    "gfile": {"tensorflow"},
    "gpu": {"tensorflow"},
    "sitecustomize": {"tfspawner_s3"},  # the modules for s3://, as a script finds them
    "starter": {"replica"},  # the zip file's package
}
PROGRAMS = ("gpu", "sitecustomize", "starter")  # each runs by itself, as a file


def imports(name: str) -> tuple[set[str], set[str]]:
    """(the neighbours that a module imports, the top-level names of all else), wherever in it and for typing too."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text(), feature_version=(3, 9))
    near: set[str] = set()
    far: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"{name} imports from outside of the folder"
            near |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            far.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            far |= {alias.name.split(".")[0] for alias in node.names}
    return near, far


@pytest.mark.parametrize("name", MODULES)
def test_what_runs_in_replicas_needs_the_standard_library_of_python_3_9_and_its_neighbours_alone(name):
    near, far = imports(name)
    assert far <= sys.stdlib_module_names | BESIDE.get(name, set())
    assert near <= set(MODULES) - {Path(stays).stem for stays in STAYS}
    assert not (near and name in PROGRAMS)


def test_no_import_leads_round_in_a_circle():
    order = TopologicalSorter({name: imports(name)[0] for name in MODULES})
    assert set(order.static_order()) >= set(MODULES)  # it raises CycleError, which names one


def test_what_a_script_gets_for_s3_lacks_no_neighbour():
    names = {Path(name).stem for name in S3_MODULES}
    assert {near for name in names for near in imports(name)[0]} <= names


def test_the_zip_file_is_the_same_each_time_and_holds_all_that_travels():
    first = dict(packed())
    packed.cache_clear()
    assert packed() == first
    assert sources().keys() == {f"{name}.py" for name in MODULES} - set(STAYS)


def test_a_jobs_description_has_a_field_for_all_that_its_agent_reads(make_fixed_plan):
    config = json.loads(make_fixed_plan("j", artifacts="s3://bucket/x").files["job.json"])
    known = set(vars(Job({"job": "j", "roles": {"worker": 1}})))
    assert set(config) - {"job"} <= known
    assert known - set(config) == {"name", "replicas", "coordinator", "command"}  # the last comes in the Secret


def test_a_traceback_out_of_the_zip_file_shows_the_line(tmp_path):
    for name, data in packed().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "job.json").write_text("{")
    words = ["--role", "worker", "--root", tmp_path / "root", "--host", "127.0.0.1", "--port", "1"]
    done = subprocess.run([sys.executable, tmp_path / "agent.py", *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert f'File "{tmp_path}/replica.zip/replica/main.py", line ' in done.stderr
    assert 'json.loads((args.config / "job.json").read_text())' in done.stderr


def test_no_module_of_the_zip_file_is_compiled_twice(tmp_path):
    """Python's own importer of zip files does so, and an agent would start the later."""
    for name, data in packed().items():
        (tmp_path / name).write_bytes(data)
    program = f"""
import builtins, collections, runpy, sys
compiled, compile_it = collections.Counter(), builtins.compile
builtins.compile = lambda source, name, *more, **options: compiled.update([name]) or compile_it(source, name, *more, **options)
sys.argv = ["agent.py", "--help"]
try:
    runpy.run_path({str(tmp_path / "agent.py")!r}, run_name="__main__")
except SystemExit:
    print({{count for name, count in compiled.items() if "replica.zip" in str(name)}}, len(compiled))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith("{1} "), done.stderr
