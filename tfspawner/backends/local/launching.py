"""Creates a local job's folder and starts its replicas."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfspawner.base.names import ID_FILE
from tfspawner.errors import ClusterError, Command, ConfigurationError, Hint
from tfspawner.replica import protocol
from tfspawner.replica.notes import NO_ROOM
from tfspawner.replica.packing import STARTER

from .ports import HOST
from .processes import OUTPUT

if TYPE_CHECKING:
    from tfspawner.plan.plan import Plan

KEEPER = Path(__file__).with_name("keeper.py")
FULL_BYTES = 1 << 16  # with less free space nothing can be written
VISIBLE = "CUDA_VISIBLE_DEVICES"


def address(listener: socket.socket) -> str:
    """Where an agent on this machine listens, as other replicas write it: host:port."""
    return protocol.address(*listener.getsockname()[:2])


def name_in_use(job: str) -> ConfigurationError:
    """The error for a name that another job on this machine already has."""
    return ConfigurationError(
        f"the name {job!r} is in use by another job on this machine",
        hint=Hint("choose another --name, or remove that job: ", Command("delete", job, "--on", "local")),
    )


def unwritable(plan: Plan, folder: Path, error: OSError) -> ClusterError:
    """The error if the job's folder cannot be created or filled; call it before the folder is removed."""
    if error.errno not in NO_ROOM:
        return ClusterError(
            f"job {plan.job} cannot be started in {folder}: {error.strerror}",
            hint="set XDG_STATE_HOME to a folder of yours",
        )
    needed = plan.code.size_bytes + sum(map(len, plan.files.values()))
    return ClusterError(
        f"the state folder is full: job {plan.job} takes at least {needed:,} bytes there, and "
        f"{shutil.disk_usage(next(p for p in folder.parents if p.exists())).free:,} are free at {folder.parent}",
        hint="make room, or set XDG_STATE_HOME to a folder on another disk",
    )


def share(plan: Plan, replica: str) -> str:
    """A replica's own GPUs as CUDA_VISIBLE_DEVICES names them; "-1" for none."""
    replicas = plan.spec.gpu_replicas
    if replica not in replicas:
        return "-1"
    first = (plan.slot * len(replicas) + replicas.index(replica)) * plan.spec.gpus
    return ",".join(plan.gpus[VISIBLE][first : first + plan.spec.gpus])


def write_json(path: Path, value: Any) -> None:
    """Writes a file of the job's folder as JSON, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.replace(path)


def write_job(plan: Plan, folder: Path, listeners: Mapping[str, socket.socket]) -> None:
    """Writes the files that the agents read into the job's folder."""
    (folder / ID_FILE).write_text(plan.id)
    for name, data in plan.files.items():
        (folder / name).write_bytes(data)
    with open(folder / "code.tar.gz", "wb") as archive:
        shutil.copyfileobj(plan.code.open(), archive)
    descriptor = os.open(folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(plan.token)
    agents = {replica: address(listener) for replica, listener in listeners.items()}
    write_json(
        folder / "meta.json",
        {"id": plan.id, "created": time.time(), "tag": plan.spec.tag or "", "agents": agents},
    )


def start_replica(
    plan: Plan, folder: Path, replica: str, port: int, listener: socket.socket
) -> tuple[subprocess.Popen[bytes], int]:
    """Starts a replica's keeper, which starts its agent.

    Returns the keeper's process, and a descriptor from which the agent's pid can be read.
    """
    role, _, index = replica.rpartition("-")
    root = folder / replica
    root.mkdir()
    env = {
        **os.environ,
        **plan.spec.env,
        **plan.hidden,
        OUTPUT: str(root / "output"),
    }
    if plan.spec.gpus:
        env[VISIBLE] = share(plan, replica)
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as NVML numbers them
    command = [
        sys.executable,
        str(folder / STARTER),
        "--config",
        str(folder),
        "--role",
        role,
        "--index",
        index,
        "--root",
        str(root),
        "--host",
        HOST,
        "--port",
        str(port),
        "--fd",
        str(listener.fileno()),
    ]
    number, number_out = os.pipe()
    token, token_in = os.pipe()
    os.write(token_in, plan.token.encode())
    os.close(token_in)
    command = [sys.executable, "-I", "-S", str(KEEPER), str(number_out), *command, "--token-fd", str(token)]
    with listener, open(root / "agent.log", "wb") as output, open(number_out, "wb"), open(token, "rb"):
        process = subprocess.Popen(
            command,
            env=env,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            pass_fds=[listener.fileno(), number_out, token],
            start_new_session=True,
        )
    return process, number
