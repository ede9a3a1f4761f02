"""Chooses the backend to launch a job on, and finds the backend that has a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfspawner.errors import Command, ConfigurationError, Hint, NotFoundError
from tfspawner.plan.checks import is_name

from .base import Backend


def backend_for(
    on: str, *, namespace: str | None = None, context: str | None = None, kubeconfig: Path | None = None
) -> Backend:
    """The backend of that name."""
    if on == "local":
        from .local.backend import LocalBackend

        return LocalBackend()
    if on != "kubernetes":
        raise ConfigurationError(f"there is no backend {on!r}; they are 'local' and 'kubernetes'")
    from .kubernetes.backend import KubernetesBackend

    return KubernetesBackend(namespace=namespace, context=context, kubeconfig=kubeconfig)


def backend_of(job: str, on: str | None, **target: Any) -> Backend:
    """The backend that has the job: the one given, else this machine, else the cluster. Raises NotFoundError."""
    if not is_name(job):
        raise NotFoundError(f"{job!r} is not a job's name", hint=Hint(Command("list")))
    if on:
        backend = backend_for(on, **target)
        backend.find(job)
        return backend
    try:
        return backend_of(job, "local")
    except NotFoundError as error:
        missing = error
    try:
        return backend_of(job, "kubernetes", **target)
    except NotFoundError as error:
        raise NotFoundError(f"{missing.message}, nor in namespace {error.namespace}", hint=error.hint) from None
    except ConfigurationError as error:
        if any(target.values()):
            raise
        raise NotFoundError(
            f"{missing.message}, and there is no cluster to ask: {error.message}", hint=error.hint
        ) from None
