"""--gpus on a node that offers GPUs and has none: what TensorFlow lacks is told before training begins.

A stand-in for the node's device plugin: the node's status says that there are GPUs. What a CUDA build of TensorFlow
says of itself is a stand-in, too; the build for CPUs is the image's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

NODE, GPU = "testnode", "nvidia.com/gpu"
TRAINS = "import time\nimport tensorflow\nprint('trains', flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def gpus(cluster_place) -> Iterator[None]:
    """Two GPUs that the node says it has."""
    if f"node/{NODE}" not in cluster_place.kubectl("get", "nodes", "-o", "name").split():
        pytest.skip("needs the test cluster's node, whose status may be changed")

    def offer(count: str | None) -> None:
        status = {kind: {GPU: count} for kind in ("capacity", "allocatable")}
        patch = json.dumps({"status": status})
        cluster_place.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", patch)

    offer("2")
    yield
    offer(None)


def assert_ended(place, done, *words: str) -> None:
    assert done.code == 125, done.err
    error = done.err[done.err.index("error: worker-") :]
    for word in ("was given GPUs, and its TensorFlow sees none: ", *words):
        assert word in error, done.err
    assert "hint: " in error
    assert "trains" not in done.out
    assert place.leftovers() == []


def test_a_tensorflow_for_cpus_ends_the_job_at_once_with_an_image_for_gpus(cluster_place, gpus):
    done = cluster_place.run(cluster_place.script(TRAINS), "-w", "1", "--gpus", "1", "--restarts", "1")
    assert_ended(cluster_place, done, "it is built without CUDA\n", "-i tensorflow/tensorflow:2.21.0-gpu")
    assert "restart 1" not in done.err
    assert done.seconds < 60


def test_a_node_without_a_driver_ends_the_job_at_once(cluster_place, gpus):
    script = cluster_place.script(TRAINS)
    package = script.parent / "stand-in/tensorflow"
    (package / "python/platform").mkdir(parents=True)
    (package / "__init__.py").write_text("class config:\n    list_physical_devices = dict().get\n")
    (package / "python/platform/build_info.py").write_text("build_info = {'is_cuda_build': True}\n")
    done = cluster_place.run(script, "-w", "1", "--gpus", "1", "--env", "PYTHONPATH=/work/code/stand-in")
    assert_ended(cluster_place, done, "there is no NVIDIA driver (libcuda.so.1)\n", "device plugin")


@pytest.mark.parametrize("text", ["", "# tensorflow reads what torch trains on\n"])
def test_a_script_that_may_not_want_tensorflows_gpus_is_not_kept_from_running(cluster_place, gpus, text):
    script = cluster_place.script(text + "print('trains')")
    done = cluster_place.run(script, "-w", "1", "--gpus", "1")
    assert done.code == 0, done.err
    assert done.out == "worker-0 | trains\n"
