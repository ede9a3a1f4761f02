"""The parent of a local agent: it waits, and if the agent is killed, it ends what the agent's script has started.

Whatever an agent leaves behind becomes this process's child, even a daemon that detached itself and cleared its
environment. If this process is killed, the agent gets SIGTERM and ends everything itself. This is a program of its
own. Its arguments are a file descriptor, to which it writes the agent's pid, and the agent's command. It imports
little, because there is one for each replica.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(number_file: int, *command: str) -> int:
    """Runs the agent's command, writes its pid to the open file, and returns its exit status."""
    prctl = getattr(ctypes.CDLL(None), "prctl", lambda *_: 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    agent = os.fork()
    if agent == 0:
        os.close(number_file)
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        os.execv(command[0], command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(agent, number))
    os.write(number_file, str(agent).encode())
    os.closerange(3, 1024)  # with the agent's socket: connections must be refused once the agent is gone
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
        return  # nothing is left, as nearly always
    # Import only replica/: the whole package would take too long.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from replica.processes import KILL_WITHIN_S, end_descendants, reap  # type: ignore[import-not-found]

    end_descendants(os.getpid(), KILL_WITHIN_S)
    reap()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
