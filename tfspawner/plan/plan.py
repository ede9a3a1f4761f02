"""The plan: everything that launching a job will make, known before anything is made."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tfspawner.errors import ConfigurationError

from .code import Code
from .limits import MAX_SECRET_BYTES
from .secrecy import Known, hidden
from .spec import JobSpec

MAX_NAME = 63  # a DNS label: the longest pod host name, <job>-<role>-<index>
CONFIGMAP_BYTES = 1024 * 1024  # etcd's and the API server's bound for a ConfigMap's data
DEFAULT_START_TIMEOUT_S = 600.0


def id_of(token: str) -> str:
    """A job's id. It does not reveal the token, but shows whether a token belongs to another job."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One job, ready to be launched by a backend."""

    job: str
    spec: JobSpec
    code: Code
    token: str = field(repr=False)
    files: Mapping[str, bytes]  # what travels to every replica: the agent, job.json, and command
    hidden: Mapping[str, str] = field(default_factory=dict, repr=False)  # variables beside the user's, for the agents
    known: Known = field(default_factory=lambda: Known({}), repr=False)
    gpus: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # which ones, as the backend's gpus() found
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # of what is as it should be, and may surprise
    slot: int = 0  # its number among the jobs at once, which share this machine's GPUs out

    @property
    def id(self) -> str:
        """The job's id, different for every job of the same name."""
        return id_of(self.token)


def job_name(spec: JobSpec, ending: str = "") -> str:
    """--name, or the script's own name with this ending; checked to fit a DNS label in every replica."""
    longest = max(len(f"-{role}-{count - 1}") for role, count in spec.roles.items())
    if spec.name:
        if len(spec.name) + longest > MAX_NAME:
            raise ConfigurationError(
                f"name is {spec.name!r}, {len(spec.name)} characters; with {len(spec.replicas)} replicas "
                f"at most {MAX_NAME - longest} make a host name",
                hint="give a shorter --name",
            )
        return spec.name
    stem = re.sub(r"[^a-z0-9]+", "-", spec.script.stem.lower()).strip("-")
    if stem in ("train", "main", "training-script") and spec.script_path.parent.name:
        stem = re.sub(r"[^a-z0-9]+", "-", spec.script_path.parent.name.lower()).strip("-")
    stem = stem if stem[:1].isalpha() else f"job-{stem}".rstrip("-")
    return f"{stem[:24].rstrip('-')}-{ending}"


def make_plan(
    spec: JobSpec,
    job: str,
    coordinator_address: str,
    code: Code,
    warnings: tuple[str, ...] = (),
    *,
    known: Known,
    token: str,
    agent: Mapping[str, bytes],
    command: bytes | None = None,
    needs_tf_keras: bool = False,
    speaks_of_s3: bool = False,
    needs_gpus: bool = False,
    gpus: Mapping[str, tuple[str, ...]] | None = None,
    nvml: bytes | None = None,
) -> Plan:
    """Plans what launching makes, from values read and drawn before: no I/O, no randomness.

    Args:
        known: the job's secrets.
        token: the secret that the launcher and the agents prove to each other that they know.
        agent: the files of the agent, which every replica runs.
        command: the user's command file.
        needs_tf_keras, speaks_of_s3, needs_gpus: what the replicas' TensorFlow must have.
        gpus: which ones, as the backend found them.
        nvml: nvidia-ml-py as a zip file, for images that lack it.

    Raises ConfigurationError if one secret or all of them are too large for the Secret.
    """
    masked, secret_texts, secret_warnings = hidden(spec, known, command)
    _check_secret(spec, secret_texts)
    config = {
        **_job_json(spec, job, coordinator_address, code),
        "needs_tf_keras": needs_tf_keras,
        "needs_gpus": needs_gpus,
        "speaks_of_s3": speaks_of_s3,
        "secret_names": known.names,  # what the agents mask in the output
        **masked,
    }
    files = {**agent, "job.json": json.dumps(config, separators=(",", ":")).encode()}
    if nvml:
        files["pynvml.zip"] = nvml
    if command is not None:
        files["command"] = known.mask_bytes(command)
    return Plan(
        job=job,
        spec=spec,
        code=code,
        token=token,
        files=files,
        hidden=secret_texts,
        known=known,
        gpus=gpus or {},
        warnings=(*warnings, *secret_warnings),
    )


def _job_json(spec: JobSpec, job: str, coordinator_address: str, code: Code) -> dict[str, Any]:
    """The part of job.json that follows from the options alone."""
    return {
        "job": job,
        "roles": spec.roles,
        "coordinator_address": coordinator_address,
        "script": spec.script_path.relative_to(spec.folder).as_posix(),
        "args": list(spec.args),
        "gpus": spec.gpus,
        "command_file": spec.command_file is not None,
        "original_script_path": spec.on == "kubernetes",
        "code_sha256": code.sha256,
        "collect": list(spec.collect),
        "artifacts": spec.artifacts,
        "start_timeout_s": DEFAULT_START_TIMEOUT_S if spec.start_timeout_s is None else spec.start_timeout_s,
        "timeout_s": spec.timeout_s,
        "stall_timeout_s": spec.stall_timeout_s,
        "restarts": spec.restarts,
        "restart_on": list(spec.restart_on),
        "replaces_lost": spec.on == "kubernetes" and spec.restarts > 0,
        "hold_s": spec.hold_s,
        "legacy_keras": spec.legacy_keras and len(spec.replicas) > 1,
    }


def _check_secret(spec: JobSpec, secret_texts: Mapping[str, str]) -> None:
    size = sum(len(value.encode()) for value in (*spec.env.values(), *secret_texts.values()))
    if spec.on == "kubernetes" and size > MAX_SECRET_BYTES:
        raise ConfigurationError("the variables, with what holds one of them, are more than a Secret holds, 1 MiB")


def plan_like(
    plan: Plan, spec: JobSpec, coordinator_address: str, *, token: str, command: bytes | None = None, slot: int = 0
) -> Plan:
    """The plan of another job with the same code and replicas: its name, arguments and token are its own."""
    config = json.loads(plan.files["job.json"])
    masked, secret_texts, _ = hidden(spec, plan.known, command)
    job = job_name(spec)
    config.update(job=job, coordinator_address=coordinator_address, **{"args": list(spec.args), **masked})
    files = {**plan.files, "job.json": json.dumps(config, separators=(",", ":")).encode()}
    return replace(
        plan, job=job, spec=spec, token=token, files=files, hidden=secret_texts, warnings=(), notes=(), slot=slot
    )
