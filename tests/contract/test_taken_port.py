"""A script that ends its agent, takes over the port and answers in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

import tfspawner

# Forks out of the agent's reach, kills it, listens where it did, and sends a stream's frames that lead out of the run.
TAKES_OVER = """
import json, os, signal, socket, sys, time
folder, replica = os.path.split(os.path.dirname(os.environ["TFSPAWNER_OUTPUT"]))
agent = os.getppid()
print("taking over", flush=True)
if os.fork():
    time.sleep(600)
os.setsid()
if os.fork():
    os._exit(0)
host, port = json.load(open(folder + "/meta.json"))["agents"][replica].split(":")
os.environ.clear()
sys.path.insert(0, AGENT)
KNOWS
os.kill(agent, signal.SIGKILL)
while True:
    try:
        listener = socket.create_server((host, int(port)))
        break
    except OSError:
        time.sleep(0.01)
frames = "".join(json.dumps({"replica": name, "offset": 0, "size": 4}) + "\\nevil" for name in NAMES) + '{"end": true}\\n'
deadline = time.time() + 20
listener.settimeout(1)
while time.time() < deadline:
    try:
        connection = listener.accept()[0]
    except OSError:
        continue
    asked = connection.recv(65536).decode()
    proof = show(asked)
    connection.sendall(f"HTTP/1.1 200 OK\\r\\n{proof}Content-Length: {len(frames)}\\r\\n\\r\\n{frames}".encode())
    connection.close()
"""
STRANGER = "def show(asked): return ''"
# On this machine a script is its user's, and may read what belongs to that user: the job's token, too.
KNOWS_TOKEN = """
from replica.proofs import Key
from replica.protocol import PROOF_HEADER
token = open(folder + "/token").read()
def show(asked):
    header = asked.partition(PROOF_HEADER + ": ")[2].split("\\r")[0]
    return f"{PROOF_HEADER}: {Key(token).answer(header, replica, 200)}\\r\\n"
"""


@pytest.mark.parametrize("knows", [STRANGER, KNOWS_TOKEN], ids=["stranger", "knows the token"])
def test_a_port_that_the_script_takes_over_is_not_listened_to(local_place, knows):
    place = local_place
    names = ["../../x", str(place.folder / "y"), "worker-0", "worker-1", "\x1b[2J"]
    script = place.script(
        f"NAMES, AGENT = {names!r}, {str(Path(tfspawner.__file__).parent)!r}" + TAKES_OVER.replace("KNOWS", knows)
    )
    done = place.run(script, "-w", "1", "--name", "taken")
    assert done.code == 125, done.err
    assert "error: worker-0 was lost: its agent" in done.err
    logs = {path.relative_to(place.folder).as_posix(): path.read_bytes() for path in place.folder.rglob("*.log")}
    assert logs.keys() <= {"runs/taken/logs/worker-0.log"}, "no log beside the run's; none where nothing came in time"
    assert b"evil" not in done.stdout + b"".join(logs.values())
    assert place.jobs() == []
