"""The job, as each replica sees it."""

from __future__ import annotations

import json
from typing import Any


def tf_config(cluster: dict[str, list[str]], role: str, index: int) -> str:
    """The value of TF_CONFIG for one replica, as TensorFlow's TFConfigClusterResolver reads it.

    The evaluator stands outside the training cluster, in one of its own: the others must not wait for it.
    """
    if role == "evaluator":
        visible = {role: cluster[role]}
    else:
        visible = {name: hosts for name, hosts in cluster.items() if name != "evaluator"}
    return json.dumps({"cluster": visible, "task": {"type": role, "index": index}}, separators=(",", ":"))


class Job:
    """The job's constants, from job.json."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.name: str = config["job"]
        self.roles: dict[str, int] = config["roles"]
        self.replicas = [f"{role}-{index}" for role, count in self.roles.items() for index in range(count)]
        self.coordinator = self.replicas[0]
        self.coordinator_address: str = config.get("coordinator_address", "")
        self.code_sha256: str = config.get("code_sha256", "")
        self.script: str = config.get("script", "")
        self.args: list[str] = config.get("args", [])
        self.command_file: bool = config.get("command_file", False)
        self.command: str | None = config.get("command")  # the command file's text, where it holds a secret
        self.original_script_path: bool = config.get("original_script_path", False)
        self.legacy_keras: bool = config.get("legacy_keras", False)
        self.needs_tf_keras: bool = config.get("needs_tf_keras", False)
        self.needs_gpus: bool = config.get("needs_gpus", False)
        self.speaks_of_s3: bool = config.get("speaks_of_s3", False)
        self.secret_names: list[str] = config.get("secret_names", [])  # of variables whose values are masked
        self.gpus: int = config.get("gpus", 0)
        self.collect: list[str] = config.get("collect", [])
        self.artifacts: str | None = config.get("artifacts")
        self.start_timeout_s: float = config.get("start_timeout_s", 600.0)
        self.timeout_s: float | None = config.get("timeout_s")
        self.stall_timeout_s: float | None = config.get("stall_timeout_s")
        self.hold_s: float = config.get("hold_s", 0.0)
        self.restarts: int = config.get("restarts", 0)
        self.restart_on: list[str] = config.get("restart_on", [])
        self.replaces_lost: bool = config.get("replaces_lost", False)
