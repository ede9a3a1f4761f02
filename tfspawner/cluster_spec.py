"""The cluster spec: which replica has which address, for TensorFlow and for the agents."""

from __future__ import annotations

from dataclasses import dataclass

from .agent import tf_config
from .errors import ConfigurationError
from .spec import MAX_ENV_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """Addresses "host:port" per role and index; both mappings have the same roles in the same order."""

    cluster: dict[str, list[str]]
    agents: dict[str, list[str]]

    def __post_init__(self) -> None:
        for role in self.cluster:
            size = len("TF_CONFIG=") + len(tf_config(self.cluster, role, 0)) + 8  # a larger index
            if size > MAX_ENV_BYTES:
                count = sum(map(len, self.cluster.values()))
                raise ConfigurationError(
                    f"TF_CONFIG for {count} replicas would take {size:,} bytes; Linux allows {MAX_ENV_BYTES:,}",
                    hint="give a shorter --name: it stands in every address; or fewer replicas",
                )

    @property
    def replicas(self) -> list[str]:
        """Their names, role-index; the first coordinates."""
        return [f"{role}-{index}" for role, hosts in self.cluster.items() for index in range(len(hosts))]
