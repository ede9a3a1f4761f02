"""Renders the plan as Kubernetes manifests, from the Jinja templates in templates/."""

from __future__ import annotations

import base64
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateNotFound
from jinja2.loaders import split_template_path
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tfspawner.backends.gpu_types import as_label
from tfspawner.base.fields import text, texts
from tfspawner.base.names import brief
from tfspawner.base.templating import templates_dir
from tfspawner.base.userfile import LOADER, brief_line, load_yaml, no_json, read_bytes
from tfspawner.errors import ConfigurationError
from tfspawner.plan.egress import destinations
from tfspawner.plan.plan import CONFIGMAP_BYTES, Plan
from tfspawner.plan.spec import DEFAULT_IMAGE, DEFAULT_PORT
from tfspawner.replica.protocol import EXITS_OF_LOST, PORT, TOKEN

from .capacity import GPU, require_nodes
from .podfile import read_pod

MANAGED_BY = "app.kubernetes.io/managed-by"
ID = "tf-spawner/id"
SECRET = "secret.yaml"
JOB_LABEL = "tf-spawner/job"
ROLE_LABEL = "tf-spawner/role"
DEFAULT_TTL_S = 24 * 3600
RESERVED_PATHS = ("/", "/work", "/tmp", "/tf-spawner", "/script", "/dev/shm")
CONTAINER_NAMES = ("tensorflow", "worker")

Manifest = dict[str, Any]
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def render(plan: Plan) -> list[Manifest]:
    """All manifests of the job, in the order in which they are created; the first owns the others."""
    environment = template_environment(plan.spec.template_dir)
    common = {"job": plan.job, "labels": labels(plan), "port": port(plan), "agent_port": PORT}
    jobs = [_job(plan, environment, common, role) for role in plan.spec.roles]
    others = [
        _manifest(environment, "service.yaml", **common, role=next(iter(plan.spec.roles))),
        _manifest(environment, "configmap.yaml", **common, **_configmap_files(plan)),
        _manifest(
            environment, SECRET, **common, id=plan.id, values={**plan.spec.env, **plan.hidden, TOKEN: plan.token}
        ),
        _manifest(environment, "networkpolicy.yaml", **common, egress=_egress(plan)),
    ]
    manifests = [*jobs, *others]
    if plan.spec.template_dir or plan.spec.pod_file:
        _refuse_secrets(plan, manifests)
    for manifest in manifests:
        if plan.spec.namespace:
            manifest["metadata"]["namespace"] = plan.spec.namespace
    return manifests


def _refuse_secrets(plan: Plan, manifests: list[Manifest]) -> None:
    """Raises ConfigurationError if the user's templates or --pod-file put a secret anywhere but into the Secret."""
    plain = replace(plan, spec=replace(plan.spec, template_dir=None, pod_file=None))
    users = {"--template-dir": plan.spec.template_dir, "--pod-file": plan.spec.pod_file}
    flags = " and ".join(flag for flag, path in users.items() if path)
    usual = {words for manifest in render(plain) for _, words in _public_texts(manifest)}
    for manifest in manifests:
        for place, words in _public_texts(manifest):
            if words not in usual and (hit := plan.known.find(words.encode(errors="replace"))):
                where = f"{manifest['kind']} {manifest['metadata']['name']}: {place}"
                raise ConfigurationError(
                    f"{flags}: in {brief_line(plan.known.mask(where))} stands the value of the variable {hit[0]}, "
                    "which is secret",
                    hint="pods have it in their environment: leave it out there",
                )


def _public_texts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(place, text) of all texts of a manifest but the Secret's values."""
    hidden = ("stringData.", "data.") if manifest["kind"] == "Secret" else ()
    return ((place, text) for place, text in _texts_in(manifest) if not place.startswith(hidden))


def _texts_in(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(place, text) of all texts and keys in a manifest, like ("metadata.name", "job")."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{place}.{key}".lstrip("."), str(key)
            yield from _texts_in(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts_in(inner, f"{place}[{number}]")
    elif value is not None and not isinstance(value, bool):
        yield place, str(value)


def _egress(plan: Plan) -> list[Manifest] | None:
    """The destinations that --egress allows; None if the option is not given."""
    return [asdict(destination) for destination in destinations(plan.spec.egress)] if plan.spec.egress else None


def redacted(manifests: list[Manifest]) -> list[Manifest]:
    """The same manifests, with each Secret's values replaced by their length."""
    return [_redacted(manifest) if manifest["kind"] == "Secret" else manifest for manifest in manifests]


def _redacted(secret: Manifest) -> Manifest:
    hidden: Manifest = {
        field: {key: f"<redacted: {len(str(value))} characters>" for key, value in (secret.get(field) or {}).items()}
        for field in ("stringData", "data")
        if field in secret
    }
    return {**secret, **hidden}


def to_yaml(manifests: list[Manifest]) -> str:
    """The manifests as one YAML stream, for people and for kubectl."""
    dumped = (yaml.dump(m, Dumper=_ReadableDumper, sort_keys=False, allow_unicode=True, width=120) for m in manifests)
    return "---\n".join(dumped)


class _ReadableDumper(_Dumper):  # type: ignore[misc, valid-type]
    """Writes a text of several lines as a YAML block."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_ReadableDumper.add_representer(str, _represent_text)


def role_manifest(namespace: str | None, user: str | None = None) -> str:
    """The smallest Role that a user of tf-spawner needs, as YAML with comments; with a RoleBinding if user is given."""
    return template_environment(None).get_template("role.yaml").render(namespace=namespace, user=user) + "\n"


def labels(plan: Plan) -> dict[str, str]:
    """The labels that every object of the job has."""
    common = {MANAGED_BY: "tf-spawner", JOB_LABEL: plan.job}
    if plan.spec.tag:
        common["tf-spawner/tag"] = plan.spec.tag
    return common


def _pod_labels(plan: Plan) -> dict[str, str]:
    """The labels that pods are found by. There may be a thousand pods, so they have no others."""
    return {key: value for key, value in labels(plan).items() if key != MANAGED_BY}


def port(plan: Plan) -> int:
    """TensorFlow's port in every pod."""
    return plan.spec.port or DEFAULT_PORT


def travels_in_configmap(plan: Plan) -> bool:
    """Whether the code goes into the ConfigMap; if it is too large or holds a secret, it is uploaded instead."""
    if plan.code.secrets or not plan.code.is_searched:
        return False  # people who may read ConfigMaps may not all read Secrets
    return sum(map(len, plan.files.values())) + plan.code.size_bytes <= CONFIGMAP_BYTES


def template_environment(override: Path | None) -> ImmutableSandboxedEnvironment:
    """Jinja in its sandbox: a template sees its values and nothing else."""
    folders = [override, templates_dir()] if override else [templates_dir()]
    environment = ImmutableSandboxedEnvironment(
        loader=_BoundedLoader(folders), undefined=StrictUndefined, autoescape=False
    )
    environment.filters["tojson"] = to_yaml_string
    return environment


class _BoundedLoader(FileSystemLoader):
    """Refuses a template that is a device, a pipe or a huge file."""

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        for folder in map(Path, self.searchpath):
            with suppress(TemplateNotFound):
                path = folder.joinpath(*split_template_path(template))
                if os.path.lexists(path):
                    read_bytes(path, "the template")
                    break
        return super().get_source(environment, template)


def to_yaml_string(value: object) -> str:
    """A value as JSON that YAML reads the same way: YAML does not know JSON's surrogate pairs."""
    text = json.dumps(value)
    pair = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})")

    def join(match: re.Match[str]) -> str:
        code = 0x10000 + ((int(match[2], 16) - 0xD800) << 10) + (int(match[3], 16) - 0xDC00)
        return f"{match[1]}\\U{code:08x}"

    return pair.sub(join, text).replace("\x7f", "\\x7f")


def _manifest(environment: ImmutableSandboxedEnvironment, template: str, **values: object) -> Manifest:
    try:
        text = environment.get_template(template).render(**values)
        documents = [document for document in load_yaml(text, LOADER, "what it gives") if document]
    except ConfigurationError as error:
        raise ConfigurationError(f"template {template}: {error.message}") from None
    except Exception as error:  # a template is the user's program: anything can go wrong
        detail = "" if template == SECRET else f": {brief_line(str(error))}"  # the error's text may hold a secret
        raise ConfigurationError(f"template {template}: {type(error).__name__}{detail}") from None
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ConfigurationError(f"template {template} must give one manifest, and gives {len(documents)} documents")
    if reason := no_json(documents[0]):
        raise ConfigurationError(f"template {template}: {reason}")
    metadata = documents[0].get("metadata")
    if "kind" not in documents[0] or not isinstance(metadata, dict) or "name" not in metadata:
        raise ConfigurationError(f"template {template} gives a manifest without kind or metadata.name")
    return documents[0]


def _job(plan: Plan, environment: ImmutableSandboxedEnvironment, common: dict[str, Any], role: str) -> Manifest:
    spec = plan.spec
    pairs = [_volume(text, number) for number, text in enumerate(spec.volumes)]
    resources = {"cpu": spec.cpu, "memory": spec.memory, GPU: spec.gpus if role != "ps" else 0}
    manifest = _manifest(
        environment,
        "job.yaml",
        **common,
        role=role,
        count=spec.roles[role],
        image=spec.image or DEFAULT_IMAGE,
        gpus=resources[GPU],
        resources={key: str(value) for key, value in resources.items() if value},
        restarts=spec.restarts,
        exits_of_lost=EXITS_OF_LOST,
        id=plan.id,
        pod_labels=_pod_labels(plan),
        node_selector=dict(spec.node_selector),
        tolerations=[_toleration(text) for text in spec.tolerations],
        service_account=spec.service_account,
        image_pull_secrets=[{"name": name} for name in spec.image_pull_secrets],
        ttl_s=DEFAULT_TTL_S if spec.ttl_s is None else spec.ttl_s,
        active_deadline_s=_active_deadline_s(plan),
        volumes=[volume for volume, _ in pairs],
        volume_mounts=[mount for _, mount in pairs],
    )
    metadata = manifest["metadata"]
    ours = {**common["labels"], ROLE_LABEL: role}
    if not (
        ours.items() <= texts(metadata, "labels").items()
        and text(metadata, "annotations", ID) == plan.id
        and metadata["name"] == f"{plan.job}-{role}"
    ):
        raise ConfigurationError(
            f"template job.yaml must keep the Job's name, tf-spawner's labels and its annotation {ID}",
            hint="without them the job would not be found again",
        )
    if spec.queue:
        manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = spec.queue
    if spec.pod_file:
        pod = read_pod(spec.pod_file)
        try:
            manifest["spec"]["template"] = merge_pod(manifest["spec"]["template"], pod, plan)
        except (KeyError, TypeError, IndexError) as error:
            raise ConfigurationError(
                f"template job.yaml: --pod-file does not fit into it: {error!r}",
                hint="it needs spec.template with metadata, and spec.containers with env, envFrom, volumeMounts",
            ) from None
    if spec.gpu_type and role != "ps":
        require_nodes(manifest["spec"]["template"]["spec"], plan.gpus or as_label(spec.gpu_type))
    return manifest


def _active_deadline_s(plan: Plan) -> int | None:
    """A safety net behind the agents' own time-outs, for a job without a client and without a coordinator."""
    if plan.spec.timeout_s is None:
        return None
    config = json.loads(plan.files["job.json"])
    return int(config["start_timeout_s"] + plan.spec.timeout_s + plan.spec.hold_s) + 60


def _configmap_files(plan: Plan) -> dict[str, dict[str, str]]:
    """The ConfigMap's files: text as text, others in base64, because the API server would damage what is not UTF-8."""
    files = dict(plan.files)
    if travels_in_configmap(plan):
        files["code.tar.gz"] = plan.code.open().read()
    size = sum(map(len, files.values()))
    if size > CONFIGMAP_BYTES:
        raise ConfigurationError(
            f"the job's description takes {size:,} bytes; a ConfigMap holds {CONFIGMAP_BYTES:,}",
            hint="use a smaller --command file",
        )
    texts = {name: data.decode() for name, data in files.items() if name.endswith((".py", ".json"))}
    binaries = {name: base64.b64encode(data).decode() for name, data in files.items() if name not in texts}
    return {"texts": texts, "binaries": binaries}


# ---- --volume, --toleration and --pod-file ------------------------------------------------------


def _volume(text: str, number: int) -> tuple[Manifest, Manifest]:
    """`claim:/path`, `/host/path:/path` or either with `:ro`, as a volume and its mount."""
    source, _, rest = text.partition(":")
    path, _, mode = rest.partition(":")
    if not source or not path.startswith("/") or mode not in ("", "ro", "rw"):
        raise ConfigurationError(
            f"--volume {brief(text)} is not CLAIM:/PATH or /HOST/PATH:/PATH", hint="for example --volume /eos:/eos:ro"
        )
    if "/" + posixpath.normpath(path).strip("/") in RESERVED_PATHS:
        raise ConfigurationError(
            f"--volume {brief(text)}: {path} is tf-spawner's own", hint="mount it elsewhere, such as /data"
        )
    name = f"volume-{number}"
    kind: Manifest = (
        {"hostPath": {"path": source}} if source.startswith("/") else {"persistentVolumeClaim": {"claimName": source}}
    )
    return {"name": name, **kind}, {"name": name, "mountPath": path, "readOnly": mode == "ro"}


def _toleration(text: str) -> Manifest:
    """`key`, `key=value` or either with `:effect`, in kubectl's notation for taints."""
    match = re.fullmatch(
        r"([A-Za-z0-9./_-]+)(?:=([A-Za-z0-9._-]*))?(?::(NoSchedule|PreferNoSchedule|NoExecute))?", text
    )
    if not match:
        raise ConfigurationError(
            f"--toleration {brief(text)} is not KEY[=VALUE][:EFFECT]",
            hint="for example --toleration nvidia.com/gpu:NoSchedule",
        )
    toleration = {"key": match[1], "operator": "Exists" if match[2] is None else "Equal"}
    if match[2] is not None:
        toleration["value"] = match[2]
    if match[3]:
        toleration["effect"] = match[3]
    return toleration


def merge_pod(template: Manifest, pod: Manifest, plan: Plan) -> Manifest:
    """Makes a Job's pod template of the user's Pod: keeps all of it, and adds what a replica needs.

    The container called tensorflow or worker, or else the first, becomes the replica. It keeps its image and
    resources unless flags name others; its command is replaced by the agent's.
    """
    base, ours = _given(pod["spec"]), template["spec"]
    chosen, mine = _replica_container(base["containers"]), ours["containers"][0]
    container = _given(chosen)
    merged = {**mine, **{k: v for k, v in container.items() if k not in ("command", "args", "workingDir", "name")}}
    for key in ("env", "envFrom", "volumeMounts"):
        merged[key] = [*container.get(key, []), *mine[key]]
    if plan.spec.image:
        merged["image"] = plan.spec.image
    if "resources" in mine:
        merged["resources"] = mine["resources"]
    sidecars = [other for other in base["containers"] if other is not chosen]
    spec = {
        **ours,
        **{k: v for k, v in base.items() if k not in ("containers", "restartPolicy", "subdomain", "hostname")},
    }
    spec["containers"] = [merged, *sidecars]
    for key in ("volumes", "tolerations", "imagePullSecrets"):
        both = [*base.get(key, []), *ours.get(key, [])]
        if both:
            spec[key] = both
    spec["nodeSelector"] = {**base.get("nodeSelector", {}), **ours.get("nodeSelector", {})}
    metadata = pod.get("metadata") or {}
    return {
        "metadata": {
            key: {**(metadata.get(key) or {}), **template["metadata"].get(key, {})} for key in ("labels", "annotations")
        },
        "spec": spec,
    }


def _given(mapping: Manifest) -> Manifest:
    """The mapping without keys whose value is null."""
    return {key: value for key, value in mapping.items() if value is not None}


def _replica_container(containers: list[Manifest]) -> Manifest:
    return next((c for c in containers if c.get("name") in CONTAINER_NAMES), containers[0])
