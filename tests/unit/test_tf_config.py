"""TF_CONFIG, for any job."""

import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfspawner.errors import ConfigurationError
from tfspawner.plan.limits import MAX_ENV_BYTES, MAX_REPLICAS
from tfspawner.replica.connections import reach
from tfspawner.replica.job import tf_config
from tfspawner.replica.main import listen_on
from tfspawner.replica.protocol import address, split_address

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


@pytest.mark.parametrize("roles", [{"worker": MAX_REPLICAS}, {"chief": 1, "worker": 1, "ps": MAX_REPLICAS - 2}])
def test_the_tf_config_of_the_most_replicas_can_be_passed_on(roles):
    cluster = {role: ["255.255.255.255:65535"] * count for role, count in roles.items()}
    assert all(
        len("TF_CONFIG=" + tf_config(cluster, role, count - 1)) <= MAX_ENV_BYTES for role, count in roles.items()
    )


def test_more_replicas_than_a_tf_config_can_name_are_refused(make_fixed_plan):
    make_fixed_plan("j", workers=5000)
    with pytest.raises(ConfigurationError, match="5,401 replicas are asked for, and 5,400 are possible: TF_CONFIG"):
        make_fixed_plan("j", workers=5400, chief=True)


@pytest.mark.parametrize(("host", "written"), [("10.1.2.3", "10.1.2.3:2222"), ("fd00::7", "[fd00::7]:2222")])
def test_an_address_is_written_as_tensorflow_reads_it(host, written):
    assert address(host, 2222) == written
    assert split_address(written) == (host, 2222)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(
    not socket.has_dualstack_ipv6(), reason="this machine has no IPv6"))])  # fmt: skip
def test_an_agent_is_reached_over_ipv4_and_ipv6_until_it_ends(host):
    with listen_on(0) as listener:
        agent = address(host, listener.getsockname()[1])
        assert reach(agent) is None
    assert "refused" in reach(agent)
