"""Which worker reads what: every byte once, in shares as equal as they can be."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfspawner.data.filesystems import File
from tfspawner.data.sharding import divide, shuffled, worker_from
from tfspawner.errors import ConfigurationError


def files_of(*sizes: int) -> list[File]:
    return [File(f"part-{number:03}", size) for number, size in enumerate(sizes)]


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=50), st.integers(1, 40))
def test_shares_are_balanced_and_cover_every_byte_once(sizes, workers):
    files = files_of(*sizes)
    shares = divide(files, workers)
    assert len(shares) == workers
    covered = [(part.file, part.start, part.end) for share in shares for part in share]
    for file in files:
        stretches = sorted((start, end) for found, start, end in covered if found == file)
        assert [start for start, _ in stretches] == [0, *(end for _, end in stretches[:-1])]
        assert stretches[-1][1] == file.size
    fair = sum(sizes) / workers
    assert all(abs(sum(part.size for part in share) - fair) <= 0.04 * fair + 1 for share in shares)


def test_files_that_fit_are_not_split():
    files = files_of(*(1000 + number % 3 for number in range(200)))
    for share in divide(files, 10):
        assert all(part.size == part.file.size for part in share)


@pytest.mark.parametrize(
    ("sizes", "ends"),
    [((49, 51), [49, 51]), ((51, 49), [51, 49]), ((48, 52), [48, 2, 50]), ((52, 48), [50, 2, 48])],
)
def test_a_file_is_split_only_if_its_edge_is_more_than_2_percent_of_a_share_away(sizes, ends):
    assert [part.size for share in divide(files_of(*sizes), 2) for part in share] == ends


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.integers(1, 8))
def test_what_cannot_be_split_goes_whole_to_one(sizes, workers):
    files = files_of(*sizes)
    shares = divide(files, workers, splittable=False)
    assert sorted(part.file for share in shares for part in share) == files
    totals = [sum(part.size for part in share) for share in shares]
    assert max(totals) - min(totals) <= max(sizes)


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ((1, 1, 2), [[2], [1, 1]]),
        ((1, 2, 3, 4, 5, 5), [[1, 4, 5], [2, 3, 5]]),
        ((10, 1, 1, 1, 1), [[10], [1, 1, 1, 1]]),
    ],
)
def test_the_largest_file_is_given_away_first_and_each_share_keeps_the_files_order(sizes, shares):
    found = divide(files_of(*sizes), len(shares), splittable=False)
    assert [[part.size for part in share] for share in found] == shares


def test_the_order_follows_from_seed_and_epoch():
    files = [File(f"part-{number}", 1) for number in range(20)]
    assert shuffled(files, 1, 0) == shuffled(list(reversed(files)), 1, 0)
    assert len({tuple(shuffled(files, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


CLUSTER = {"chief": ["c:1"], "worker": ["a:1", "b:1"], "ps": ["p:1"]}
WORKERS = {"worker": ["a:1", "b:1", "c:1"]}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, (0, 1)),
        ({"cluster": CLUSTER, "task": {"type": "chief", "index": 0}}, (0, 3)),
        ({"cluster": CLUSTER, "task": {"type": "worker", "index": 0}}, (1, 3)),
        ({"cluster": CLUSTER, "task": {"type": "worker", "index": 1}}, (2, 3)),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": 0}}, (0, 3)),
        ({"cluster": WORKERS, "task": {"type": "worker", "index": 2}}, (2, 3)),
        ({"cluster": {"evaluator": ["e:1"]}, "task": {"type": "evaluator", "index": 0}}, (0, 1)),
    ],
)
def test_a_workers_number_comes_from_tf_config(config, expected):
    assert worker_from({"TF_CONFIG": json.dumps(config)} if config else {}) == expected


@pytest.mark.parametrize(
    "text", ["{", "{}", "[]", '{"cluster": {"worker": 3}, "task": {"type": "worker", "index": 0}}']
)
def test_a_tf_config_that_is_none_is_told(text):
    with pytest.raises(ConfigurationError, match="TF_CONFIG is"):
        worker_from({"TF_CONFIG": text})
