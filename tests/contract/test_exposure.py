"""What a running job opens and leaves readable: its agents' sockets, and the local backend's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

LISTENING = """
import json, os, re
agent = os.getppid()
own = set()
try:
    for entry in os.scandir(f"/proc/{agent}/fd"):
        try:
            own.update(re.findall(r"socket:\\[(\\d+)\\]", os.readlink(entry.path)))
        except OSError:
            continue  # closed meanwhile
except PermissionError:
    own = None  # in a pod all sockets are the agent's
listening = []
for table in ("tcp", "tcp6", "udp", "udp6"):
    for line in open(f"/proc/net/{table}").read().splitlines()[1:]:
        _, local, _, state, *rest = line.split()
        if (own is None or rest[5] in own) and (state == "0A" or table.startswith("udp")):
            host, port = local.split(":")
            listening.append([table, host, int(port, 16)])
print("listening", json.dumps(listening), flush=True)
"""


def test_an_agent_listens_on_its_own_port_alone_and_on_this_machine_on_loopback(place, gate_code):
    script = place.script(LISTENING + gate_code)
    running = place.start_run(script, "--name", "open", "--env", f"GATE={place.gate}")
    running.prints("worker-0 | at the gate", "worker-1 | at the gate")
    found = {}
    for index in (0, 1):
        log = place.of("logs", "open", "--replica", f"worker-{index}").out
        found[f"worker-{index}"] = json.loads(log.splitlines()[0].removeprefix("listening "))
    if place.on == "local":
        agents = json.loads((jobs_folder(place) / "open/meta.json").read_text())["agents"]
        loopback = "0100007F"
        assert found == {name: [["tcp", loopback, int(address.split(":")[1])]] for name, address in agents.items()}
    else:
        assert [[port for _, _, port in sockets] for sockets in found.values()] == [[7117], [7117]]
    place.open_gate("open")
    assert running.done().code == 0


def jobs_folder(place) -> Path:
    return Path(place.env["XDG_STATE_HOME"]) / "tf-spawner/jobs"


@pytest.mark.parametrize("backend", ["local"], indirect=True, scope="module")
def test_a_local_jobs_folder_and_token_are_its_users_alone(place):
    done = place.run(place.script("print('hi')"), "--name", "private", "--keep", "--env", "PASSWORD=canary-value")
    assert done.code == 0, done.err
    folder = jobs_folder(place) / "private"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    token = (folder / "token").read_text()
    for path in (*folder.rglob("*"), *place.runs.rglob("*")):
        text = path.read_bytes() if path.is_file() else b""
        assert b"canary-value" not in text, path
        assert path.name == "token" or token.encode() not in text, path
