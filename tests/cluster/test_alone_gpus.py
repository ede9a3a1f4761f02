"""--gpus on a node that offers GPUs and has none: what TensorFlow lacks is told before training begins.

Alone, since other pods are not to take the GPUs, nor the kubelet their room.

A stand-in for the node's device plugin: the node's status says that there are GPUs. What a CUDA build of TensorFlow
says of itself is a stand-in, too; the build for CPUs is the image's own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

NODE, GPU, PRODUCT, A100 = "testnode", "nvidia.com/gpu", "nvidia.com/gpu.product", "NVIDIA-A100-SXM4-40GB"
GPUS = ("-w", "1", "--gpus", "1", "--start-timeout", "2m")  # so long may the scheduler take to hear of the node's GPUs
UNMEASURED = "worker-0 | [tf-spawner] no GPU is measured here: NVML Shared Library Not Found\n"
TRAINS = "import time\nimport tensorflow\nprint('trains', flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def gpus(cluster_place) -> Iterator[None]:
    """Two A100 that the node says it has, under the label that GPU feature discovery sets."""
    place = cluster_place
    if f"node/{NODE}" not in place.kubectl("get", "nodes", "-o", "name").split():
        pytest.skip("needs the test cluster's node, whose status may be changed")

    def offer(count: str | None, product: str | None) -> None:
        status = {"status": {kind: {GPU: count} for kind in ("capacity", "allocatable")}}
        labels = {"metadata": {"labels": {PRODUCT: product}}}
        place.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", json.dumps(status))
        place.kubectl("patch", "node", NODE, "--type=merge", "-p", json.dumps(labels))

    offer("2", A100)
    yield
    offer(None, None)


def assert_ended(place, done, *words: str) -> None:
    assert done.code == 125, done.err
    error = done.err[done.err.index("error: worker-") :]
    for word in ("was given GPUs, and its TensorFlow sees none: ", *words):
        assert word in error, done.err
    assert "hint: " in error
    assert "trains" not in done.out
    assert place.leftovers() == []


def test_a_tensorflow_for_cpus_ends_the_job_at_once_with_an_image_for_gpus(cluster_place, gpus):
    done = cluster_place.run(cluster_place.script(TRAINS), *GPUS, "--restarts", "1")
    assert_ended(cluster_place, done, "it is built without CUDA\n", "-i tensorflow/tensorflow:2.21.0-gpu")
    assert "restart 1" not in done.err
    assert done.seconds < 90


def test_a_node_without_a_driver_ends_the_job_at_once(cluster_place, gpus):
    script = cluster_place.script(TRAINS)
    package = script.parent / "stand-in/tensorflow"
    (package / "python/platform").mkdir(parents=True)
    (package / "__init__.py").write_text("class config:\n    list_physical_devices = dict().get\n")
    (package / "python/platform/build_info.py").write_text("build_info = {'is_cuda_build': True}\n")
    done = cluster_place.run(script, *GPUS, "--env", "PYTHONPATH=/work/code/stand-in")
    assert_ended(cluster_place, done, "there is no NVIDIA driver (libcuda.so.1)\n", "device plugin")


@pytest.mark.parametrize("text", ["", "# tensorflow reads what torch trains on\n"])
def test_a_script_that_may_not_want_tensorflows_gpus_is_not_kept_from_running(cluster_place, gpus, text):
    script = cluster_place.script(text + "print('trains')")
    done = cluster_place.run(script, *GPUS)
    assert done.code == 0, done.err
    assert sorted(done.out.splitlines(keepends=True)) == [UNMEASURED, "worker-0 | trains\n"]


def test_a_part_of_the_products_name_finds_the_nodes_and_another_product_is_refused_before_anything_is_made(
    cluster_place, gpus
):
    place = cluster_place
    script, admin = place.script("print('runs')"), ("--kubeconfig", os.environ["KUBECONFIG"], "-n", place.namespace)
    done = place.run(script, "-w", "1", "--gpus", "1", "--gpu-type", "a100", *admin, "--name", "typed", "--detach")
    assert done.code == 0, done.err
    job = json.loads(place.kubectl("-n", place.namespace, "get", "job", "typed-worker", "-o", "json"))
    (term,) = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert term == {"matchExpressions": [{"key": PRODUCT, "operator": "In", "values": [A100]}]}
    assert place.of("wait", "typed").code == 0
    offered = f"2 {A100} on 1 node (1 free)"
    refused = place.run(script, "-w", "1", "--gpus", "1", "--gpu-type", "H100", *admin)
    assert refused.code == 2
    assert f"error: --gpu-type H100: no node offers such GPUs; there are {offered}" in refused.err
    told = place.tf("check", script, *place.target, *admin, "-w", "2", "--gpus", "1", "--gpu-type", "A100-40GB").err
    assert "1 of 2 pods fit now, each asking for 1 nvidia.com/gpu (" in told
    assert f"; GPUs there: {offered}" in told
    place.of("delete", "typed")
    assert place.leftovers() == []


def test_who_may_not_list_nodes_gives_the_whole_label_and_is_told_so(cluster_place, gpus):
    place = cluster_place
    script = place.script("print('runs')")
    done = place.run(script, "-w", "1", "--gpus", "1", "--gpu-type", A100)
    assert (done.code, "runs" in done.out) == (0, True), done.err
    told = place.of("check", script, "-w", "1", "--gpus", "1", "--gpu-type", "A100").err
    assert f"you may not list nodes and pods: the nodes' label has to be {PRODUCT}=A100" in told
    place.kubectl("-n", place.namespace, "create", "rolebinding", "all", "--clusterrole=cluster-admin",
                  f"--serviceaccount={place.namespace}:user")  # fmt: skip
    assert place.of("check", script, "-w", "1").code == 0, "a right in the namespace shows no nodes"
