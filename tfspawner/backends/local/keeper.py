"""Stands above a local agent and does nothing: should that be killed, it ends what the agent's script has started.

Whatever an agent leaves behind becomes this process's child, also a daemon that hides from its parents and has an empty
environment. Should this process be killed, the agent is told to end, and ends all itself. It is a program of its own, called
with a file to write the agent's number into and the agent's command, and imports little: there is one for each replica.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(told: int, *command: str) -> int:
    """Runs the agent's command, writes its number into the open file `told`, and returns its exit status."""
    prctl = getattr(ctypes.CDLL(None), "prctl", lambda *_: 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    agent = os.fork()
    if agent == 0:
        os.close(told)
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        os.execv(command[0], command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(agent, number))
    os.write(told, str(agent).encode())
    os.closerange(3, 1024)  # the agent's socket, too: who connects to it is to be refused once the agent is gone
    status = os.waitpid(agent, 0)[1]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    end_what_is_left()
    return os.waitstatus_to_exitcode(status) & 0xFF


def end_what_is_left() -> None:
    """Ends the processes that the agent left behind."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return  # nothing: so it is nearly always
    # By their folder: the package itself would bring much along.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from replica.processes import KILL_WITHIN_S, end_descendants, reap  # type: ignore[import-not-found]

    end_descendants(os.getpid(), KILL_WITHIN_S)
    reap()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
