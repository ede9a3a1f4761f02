"""Brings every replica's log to its end."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping

from tfspawner.backends.base import Backend
from tfspawner.backends.client import AgentClient
from tfspawner.base.threads import each
from tfspawner.errors import AgentUnreachable
from tfspawner.record.writing import Record

from .agents import PARALLEL
from .state import JobState, View


def complete_logs(
    backend: Backend, state: JobState, agents: Mapping[str, AgentClient], record: Record, view: View
) -> tuple[list[str], dict[str, str]]:
    """Brings the rest of every replica's log, from its agent or else from the backend, and shows it.

    Returns the replicas of which no log could be had; and why a log is not whole, for each agent that broke off.
    """
    showing = threading.Lock()
    broken: dict[str, str] = {}

    def complete(replica: str) -> bool:
        try:
            if replica in agents:
                for fresh in _log_from_agent(agents[replica], record):
                    with showing:
                        view.log(replica, fresh)
                return True
        except AgentUnreachable as error:
            broken[replica] = error.message
        data = backend.last_output(state.job, replica)
        record.replace_log(replica, data or b"")
        return data is not None or record.log_path(replica).exists()

    had = dict(zip(state.replicas, each(complete, state.replicas, PARALLEL), strict=True))
    return [replica for replica, was_had in had.items() if not was_had], broken


def _log_from_agent(agent: AgentClient, record: Record) -> Iterator[bytes]:
    """Adds the rest of a log to the record; yields what is new."""
    free = shutil.disk_usage(record.folder).free
    for offset, data in agent.rest_of_log(record.log_end(agent.replica), free, tries=5):
        yield record.append_log(agent.replica, offset, data)
