"""`tf-spawner doctor` on a real cluster: with the least Role, with none, as an administrator, and where nobody answers."""

from __future__ import annotations

import json
import os

import yaml


def findings(place, *words: str, code: int = 0, **env: str) -> dict[str, list[str]]:
    """What doctor tells, by level."""
    place.env.update(env)
    done = place.of("doctor", *words, "-o", "json")
    assert done.code == code, done.out + done.err
    told: dict[str, list[str]] = {"ok": [], "note": [], "problem": []}
    for finding in done.json:
        told[finding["level"]].append(finding["text"])
    return told


def test_with_the_least_role_all_is_well_and_what_cannot_be_seen_is_said(cluster_place):
    told = findings(cluster_place)
    assert "you may do all that tf-spawner needs" in told["ok"]
    assert any("nodes" in text and "may not" in text for text in told["note"])
    assert told["problem"] == []


def test_without_a_right_that_is_the_problem(cluster_place):
    place = cluster_place
    place.kubectl("-n", place.namespace, "delete", "rolebinding", "--all")
    told = findings(place, code=3)
    assert any(text.startswith("you may not ") and "create jobs" in text for text in told["problem"])


def test_an_administrator_is_told_of_room_and_gpus(cluster_place):
    place = cluster_place
    told = findings(place, "-n", place.namespace, KUBECONFIG=os.environ["KUBECONFIG"])
    nodes = json.loads(place.kubectl("get", "nodes", "-o", "json"))["items"]
    is_ready = {"type": "Ready", "status": "True"}.items()
    ready = [node for node in nodes if any(is_ready <= c.items() for c in node["status"]["conditions"])]
    assert any(
        text.startswith(f"{len(ready)} node{'s are' if len(ready) > 1 else ' is'} ready; free: ") for text in told["ok"]
    )
    assert "Pod Security here: restricted; tf-spawner's pods fit the strictest" in told["ok"]
    has_gpus = any(int(node["status"]["allocatable"].get("nvidia.com/gpu", 0)) for node in ready)
    assert any("GPUs: " in text for text in told["ok"]) == has_gpus


def test_a_server_that_does_not_answer_is_the_problem(cluster_place):
    place = cluster_place
    path = place.folder / "kubeconfig"
    config = yaml.safe_load(path.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path.write_text(yaml.safe_dump(config))
    told = findings(place, code=3)
    assert any("127.0.0.1:1" in text for text in told["problem"])
