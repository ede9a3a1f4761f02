"""The Python API, as a notebook uses it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

API = """
import json, os, sys
import tfspawner

script, on, out, namespace = sys.argv[1:]
target = {"on": on, "namespace": namespace or None}
image = os.environ.get("TFSPAWNER_IMAGE")
more = {"namespace": namespace, "image": image} if on == "kubernetes" else {}

outcome = tfspawner.run(tfspawner.JobSpec(script=script, workers=2, on=on, out=out, name="whole", **more))
told = {"result": outcome.result, "model": outcome.file("model").read_text()}

launched = tfspawner.launch(tfspawner.JobSpec(script=script, workers=2, on=on, name="later", **more))
job = tfspawner.attach(launched.name, **target)
told["waited"] = job.wait().result
told["states"] = [line.state for line in job.status().replicas.values()]
told["log"] = job.logs("worker-1")["worker-1"].decode()
told["fetched"] = job.fetch(out).file("model").read_text()
job.delete()
try:
    tfspawner.attach(launched.name, **target)
except tfspawner.SpawnerError as error:
    told["gone"] = error.message
try:
    tfspawner.run(tfspawner.JobSpec(script=script, args=["fail"], workers=1, on=on, out=out, name="bad", **more))
except tfspawner.SpawnerError as error:
    told["failed"] = [error.exit_code, error.message]
print(json.dumps(told))
"""


@pytest.fixture
def told(place):
    script = place.script("""
        import os, sys
        print("trained", flush=True)
        open(os.environ["TFSPAWNER_OUTPUT"] + "/model", "w").write("weights")
        sys.exit(4 if "fail" in sys.argv else 0)
    """)
    command = [sys.executable, "-c", API, str(script), place.on, str(place.runs), place.namespace]
    done = subprocess.run(command, env=place.env, cwd=place.folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_job_is_run_launched_attached_waited_for_fetched_and_deleted_from_python(place, told):
    assert told["result"] == told["waited"] == "succeeded"
    assert told["model"] == told["fetched"] == "weights"
    assert told["states"] == ["succeeded", "succeeded"]
    assert told["log"] == "trained\n"
    assert "there is no job 'later'" in told["gone"]
    assert told["failed"] == [125, "worker-0 ended with exit code 4"]
    assert place.leftovers() == []
