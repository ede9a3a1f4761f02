"""From a spec to a plan: all checks that are possible before anything is created."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfspawner.backends.base import Backend
from tfspawner.backends.choice import backend_for
from tfspawner.base.userfile import MOST_BYTES, TooLarge, named, read_bytes
from tfspawner.errors import ConfigurationError
from tfspawner.plan.code import Code
from tfspawner.plan.plan import Plan, job_name, make_plan, plan_like
from tfspawner.plan.script.findings import Finding, findings
from tfspawner.plan.secrecy import Known, code_warnings, known_of
from tfspawner.plan.spec import JobSpec
from tfspawner.replica.packing import packed, packed_nvml, sources

from .packing import mentions, pack


def prepare(spec: JobSpec, *, check: bool = True, at_once: int = 1) -> tuple[Backend, Plan]:
    """Checks a spec and makes its plan, before anything is created; at_once: how many such jobs will run at once."""
    warnings = read_script(spec)
    name = new_name(spec)
    backend = backend_for(spec.on, namespace=spec.namespace, context=spec.context, kubeconfig=spec.kubeconfig)
    warnings += backend.check(spec) if check else []
    needed = needs_tf_keras(spec)
    wheels: tuple[Path, ...] = ()
    if needed:
        wheels, keras_warnings = backend.provide_tf_keras(spec)
        warnings += keras_warnings
    gpus, gpu_warnings = backend.gpus(spec, at_once) if check and spec.gpus else ({}, [])
    warnings += gpu_warnings
    known = secrets_of(spec)
    code = pack(
        spec.folder,
        out=spec.out,
        is_named=spec.workdir is not None,
        wheels=wheels,
        env_files=spec.env_files,
        known=known,
        script=spec.script_path.relative_to(spec.folder).as_posix(),
    )
    plan = planned(
        spec,
        name,
        backend.reserve(spec, name),
        code,
        known=known,
        needs_tf_keras=needed,
        speaks_of_s3=_speaks_of_s3(spec),
        needs_gpus=_needs_gpus(spec),
        gpus=gpus,
        nvml=packed_nvml() if spec.gpus and spec.on == "kubernetes" else None,
    )
    warnings += [*plan.warnings, *code_warnings(code.secrets), *(backend.preflight(plan) if check else [])]
    return backend, replace(plan, warnings=tuple(warnings), notes=(code.left_out,) if code.left_out else ())


def new_name(spec: JobSpec) -> str:
    """The job's name; with a random ending if the user gave none."""
    return job_name(spec, "".join(secrets.choice("bcdfghjkmnpqrstvwxz23456789") for _ in range(5)))


def secrets_of(spec: JobSpec) -> Known:
    """The job's secrets; reads the pod file. Raises ConfigurationError as known_of() does."""
    pod_file = read_bytes(spec.pod_file, "--pod-file") if spec.pod_file else b""
    return known_of(spec, "\n".join(sources().values()), pod_file)


def planned(
    spec: JobSpec,
    job: str,
    coordinator_address: str,
    code: Code,
    warnings: tuple[str, ...] = (),
    *,
    known: Known | None = None,
    **facts: Any,
) -> Plan:
    """make_plan() with the files that it needs, read here, and a new token."""
    return make_plan(
        spec,
        job,
        coordinator_address,
        code,
        warnings,
        known=known or secrets_of(spec),
        token=new_token(),
        agent=packed(),
        command=_command_of(spec),
        **facts,
    )


def planned_like(plan: Plan, spec: JobSpec, coordinator_address: str, slot: int = 0) -> Plan:
    """plan_like(), with a token of its own."""
    return plan_like(plan, spec, coordinator_address, token=new_token(), command=_command_of(spec), slot=slot)


def new_token() -> str:
    """A job's token: 192 random bits."""
    return secrets.token_urlsafe(24)


def _command_of(spec: JobSpec) -> bytes | None:
    return read_bytes(spec.command_file, "the command file") if spec.command_file else None


def read_script(spec: JobSpec) -> list[str]:
    """Warnings of what in the script will not work; raises ConfigurationError if it is not Python."""
    try:
        text = read_bytes(spec.script, "the script")
    except TooLarge:
        return [f"{spec.script.name} has more than {MOST_BYTES:,} bytes, and was not read for what will not work"]
    folders = {path.parent.name for path in spec.script_path.parent.glob("*/*.py")}
    problems = findings(
        text,
        spec.script.name,
        workers=spec.workers + spec.has_chief,
        gpus=spec.gpus,
        image=spec.image,
        legacy_keras=gets_legacy_keras(spec),
        on=spec.on,
        restarts=spec.restarts,
        local_modules=frozenset({path.stem for path in spec.script_path.parent.glob("*.py")} | folders),
        mounts=tuple(volume.split(":")[1] for volume in spec.volumes if ":" in volume),
        collect=spec.collect,
    )
    wrong = next((finding for finding in problems if finding.is_error), None)
    if wrong and not spec.command_file:  # a command file may run it by other means
        raise ConfigurationError(f"{named(spec.script)} {wrong.message}", hint=wrong.hint)
    return [f"{_place(spec, finding)}: {finding.message}; {finding.hint}" for finding in problems]


def _place(spec: JobSpec, finding: Finding) -> str:
    return f"{spec.script.name}, line {finding.line}" if finding.line else spec.script.name


def _speaks_of_s3(spec: JobSpec) -> bool:
    """Whether the code, the arguments or the variables contain s3://, so that TensorFlow must be able to read it."""
    return any("s3://" in word for word in (*spec.args, *spec.env.values())) or bool(
        mentions(spec.folder, "s3://", out=spec.out)
    )


def _needs_gpus(spec: JobSpec) -> bool:
    """Whether each replica's TensorFlow must see a GPU.

    Not with a command file, which may prepare another environment; nor beside JAX or PyTorch, where TensorFlow may only
    read the data.
    """
    if not spec.gpus or spec.command_file:
        return False
    tensorflow, *others = (mentions(spec.folder, word, out=spec.out) for word in ("tensorflow", "jax", "torch"))
    return bool(tensorflow) and not any(others)


def needs_tf_keras(spec: JobSpec) -> bool:
    """Whether the job trains with Keras on several replicas, so that tf-keras must be there."""
    return gets_legacy_keras(spec) and bool(mentions(spec.folder, "keras", out=spec.out))


def gets_legacy_keras(spec: JobSpec) -> bool:
    """Whether the replicas run with TF_USE_LEGACY_KERAS=1."""
    return spec.legacy_keras and len(spec.replicas) > 1 and spec.env.get("TF_USE_LEGACY_KERAS", "1") == "1"
