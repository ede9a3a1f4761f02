"""What is built from outside is pinned: actions by commit, the image's base by digest, packages by hash."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").iterdir())
LOCKS = sorted(path.stem for path in (ROOT / "requirements").glob("*.txt"))
LOCKED = {  # each lock of the image and the wheel: which extras of setup.cfg, and which .in files
    "cpu": (("data", "train", "gpu", "tensorboard"), ("image.in",)),
    "gpu": (("data", "gpu", "tensorboard"), ("image.in", "gpu.in")),
    "wheel": ((), ()),
}
NOT_IN_IMAGE = {"eos", "test", "dev"}


def workflow_of(name: str):
    return yaml.load((ROOT / ".github/workflows" / name).read_text(), yaml.BaseLoader)  # "on" is no boolean here


def locked(name: str) -> list[tuple[Requirement, list[str]]]:
    """A lock's requirements, each with its hashes. Anything else in the file is an error here."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ").splitlines()
    entries = [line.split(" --hash=") for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return [(Requirement(text.strip()), [value.strip() for value in hashes]) for text, *hashes in entries]


def asked(name: str) -> list[Requirement]:
    """What setup.cfg and the .in files want a lock to hold."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    texts = [
        setup["options"]["install_requires"],
        *(setup["options.extras_require"][extra] for extra in LOCKED[name][0]),
    ]
    texts += [(ROOT / "requirements" / file).read_text() for file in LOCKED[name][1]]
    lines = "\n".join(texts).splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_commit_and_names_its_version(path):
    uses = re.findall(r"uses: *(.*)", path.read_text())
    assert uses
    for used in uses:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_rights_but_to_read_and_leaves_no_credentials_behind(path):
    workflow = workflow_of(path.name)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    assert "pull_request_target" not in workflow["on"]
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] == "false"
            assert "${{" not in step.get("run", ""), (
                "what a branch or a tag is called would become a part of the script"
            )


def test_only_the_job_that_publishes_can_speak_for_the_project_and_it_builds_nothing():
    jobs = workflow_of("release.yaml")["jobs"]
    assert [name for name, job in jobs.items() if "id-token" in job["permissions"]] == ["publish"]
    assert jobs["build"]["permissions"] == {"contents": "read"}
    publish = jobs["publish"]
    assert publish["environment"] == "pypi"
    assert not [step for step in publish["steps"] if "run" in step or "checkout" in step["uses"]]
    assert "secrets." not in (ROOT / ".github/workflows/release.yaml").read_text()


def test_the_image_has_a_base_with_a_digest_and_installs_by_hash_alone():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    bases = re.findall(r"^FROM (.*)$", text, re.M)
    assert bases
    for base in bases:
        assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}( AS build)?", base)
    assert len({base.removesuffix(" AS build") for base in bases}) == 1
    installs = re.findall(r"pip (?:install|wheel) ([^&\n]*)", text)
    assert len(installs) == 5
    for install in installs:
        words = install.split()
        assert "--no-deps" in words
        built_here = words[-1] == "/src" and "--no-build-isolation" in words
        assert "--require-hashes" in words or built_here or words == ["--no-deps", "--no-index", "/wheels/*.whl"]


def test_what_has_no_wheel_is_built_in_a_stage_of_its_own_of_locked_source_by_locked_tools():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    build, image = re.split(r"^FROM .*$", text, flags=re.M)[1:]
    (wheel,) = re.findall(r"pip wheel ([^&\n]*)", build)
    assert {"--require-hashes", "--no-deps", "--no-build-isolation"} < set(wheel.split())
    assert "COPY --from=build /wheels /wheels" in image
    assert "apt-get" not in image
    (source,) = [found for found, _ in locked("source")]
    assert [found for found in asked("cpu") if canonicalize_name(found.name) == source.name] == [source]
    assert {found.name for found, _ in locked("build")} == {"cython", "setuptools"}


def test_the_test_clusters_image_is_built_of_all_that_the_dockerfile_copies():
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    sources = {source.split("/")[0] for line in copied for source in line.split()}
    (handed,) = re.findall(r"^cp -r (.*)$", (ROOT / ".ci/image").read_text(), re.M)
    assert sources
    assert sources <= set(handed.split())


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_requirement_has_one_version_and_hashes_and_comes_from_no_named_place(name):
    entries = locked(name)
    assert entries
    for requirement, hashes in entries:
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier))
        assert requirement.url is None
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes)
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert not re.search(r"://|index|find-links|trusted-host", text.lower())


@pytest.mark.parametrize("name", LOCKED)
def test_a_lock_holds_what_setup_cfg_asks_for(name):
    both = locked(name) + (locked("source") if name in ("cpu", "gpu") else [])
    versions = {canonicalize_name(found.name): str(found.specifier)[2:] for found, _ in both}
    for wanted in asked(name):
        version = versions.get(canonicalize_name(wanted.name))
        assert version, f"make lock: {name}.txt lacks {wanted}"
        assert wanted.specifier.contains(version), f"make lock: {name}.txt has {wanted.name} {version}, not {wanted}"


def test_each_extra_is_locked_or_known_not_to_be_in_the_image():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert {extra for extras, _ in LOCKED.values() for extra in extras} | NOT_IN_IMAGE == set(
        setup["options.extras_require"]
    )


def test_the_images_for_cpus_and_for_gpus_differ_in_tensorflow_alone():
    cpu, gpu = ({(found.name, str(found.specifier)) for found, _ in locked(name)} for name in ("cpu", "gpu"))
    assert {name for name, _ in cpu - gpu} == {"tensorflow-cpu"}
    assert {name for name, _ in gpu - cpu if not name.startswith("nvidia-")} == {"tensorflow"}


def test_tf_keras_comes_without_the_second_tensorflow_that_it_asks_for():
    assert [found.name for found, _ in locked("tf-keras")] == ["tf-keras"]
    for name in ("cpu", "gpu"):
        assert len([found for found, _ in locked(name) if found.name in ("tensorflow", "tensorflow-cpu")]) == 1


def test_what_is_pinned_is_kept_new():
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    assert {(update["package-ecosystem"], update["directory"]) for update in updates} == {
        ("github-actions", "/"), ("docker", "/"), ("pip", "/requirements"),
    }  # fmt: skip
