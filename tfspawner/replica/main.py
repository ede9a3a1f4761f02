"""Runs an agent, from its command line to its exit code."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
from pathlib import Path

from .agent import Agent
from .job import Job
from .processes import adopt_orphans, take_token
from .protocol import PORT, TOKEN


def listen_on(port: int) -> socket.socket:
    """A listening socket for IPv4 and, if available, IPv6."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def main(here: str, argv: list[str] | None = None) -> int:
    """Runs a replica's agent to its end; here: the folder of the job's files, unless --config names another."""
    parser = argparse.ArgumentParser(prog="agent.py", description="the first process of a replica")
    parser.add_argument("--config", type=Path, default=Path(here))
    parser.add_argument("--role", required=True)
    parser.add_argument("--index", type=int, default=int(os.environ.get("JOB_COMPLETION_INDEX", 0)))
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--host", required=True, help="the address at which the other replicas find this one")
    parser.add_argument("--port", type=int, required=True, help="TensorFlow's, there")
    parser.add_argument("--fd", type=int, help=f"a socket for the agent, already bound; else it takes port {PORT}")
    parser.add_argument("--token-fd", type=int, help=f"a pipe with the job's token; else {TOKEN} has it")
    args = parser.parse_args(argv)
    adopt_orphans()
    hidden = json.loads(os.environ.pop("TFSPAWNER_HIDDEN", "{}"))  # the secret parts of job.json and the command file
    job = Job({**json.loads((args.config / "job.json").read_text()), **hidden})
    listener = listen_on(PORT) if args.fd is None else socket.socket(fileno=args.fd)
    agent = Agent(
        job,
        args.role,
        args.index,
        args.host,
        args.port,
        listener.getsockname()[1],
        take_token(args.token_fd),
        args.root,
        args.config,
    )
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # an ignored one would keep exit codes from us
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, agent.terminate)
    return agent.main(listener)
