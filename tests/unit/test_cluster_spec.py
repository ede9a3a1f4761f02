"""TF_CONFIG, for any job."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfspawner.agent import tf_config
from tfspawner.cluster_spec import ClusterSpec
from tfspawner.errors import ConfigurationError

COUNTS = st.fixed_dictionaries(
    {"chief": st.integers(0, 1), "worker": st.integers(1, 20), "ps": st.integers(0, 5), "evaluator": st.integers(0, 1)}
)


def addresses(counts):
    return {role: [f"j-{role}-{i}.j:2222" for i in range(count)] for role, count in counts.items() if count}


@given(COUNTS)
def test_the_training_replicas_agree_on_the_cluster_and_each_knows_itself(counts):
    cluster = addresses(counts)
    seen = set()
    for role, hosts in cluster.items():
        for index in range(len(hosts)):
            text = tf_config(cluster, role, index)
            config = json.loads(text)
            assert " " not in text
            assert config["task"] == {"type": role, "index": index}
            assert type(config["task"]["index"]) is int
            if role == "evaluator":
                assert config["cluster"] == {"evaluator": hosts}
            else:
                assert "evaluator" not in config["cluster"]
                assert config["cluster"][role][index] == hosts[index]
                seen.add(json.dumps(config["cluster"]))
    assert len(seen) == 1


def test_replicas_are_named_by_role_and_index():
    cluster = addresses({"chief": 1, "worker": 2})
    assert ClusterSpec(cluster=cluster, agents=cluster).replicas == ["chief-0", "worker-0", "worker-1"]


def test_a_tf_config_that_linux_cannot_pass_is_refused_with_its_size():
    cluster = addresses({"worker": 2000})
    long = {"worker": ["x" * 60 + host for host in cluster["worker"]]}
    ClusterSpec(cluster=cluster, agents=cluster)
    with pytest.raises(ConfigurationError, match=r"2000 replicas would take 1\d\d,\d\d\d bytes; Linux allows 131,071"):
        ClusterSpec(cluster=long, agents=cluster)
