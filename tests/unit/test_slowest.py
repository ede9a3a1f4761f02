"""Who came last and who took longest, from what a record has measured alone."""

import pytest

from tfspawner.record.learning import read_log
from tfspawner.record.slowest import Took, pace, slowest_in_training, slowest_to_start, took, trained, used


def seen(*changes: tuple[float, str, str]) -> list[dict]:
    events = [{"time": at, "event": "pod" if state in ("pending", "starting", "here") else "replica", "replica": replica,
               "state": "running" if state == "here" else state} for at, replica, state in changes]  # fmt: skip
    return [{"time": 0.0, "event": "launched"}, *events]


def phase(at: float) -> dict:
    return {"time": at, "event": "phase", "phase": "running"}


LATE = seen((0.1, "worker-0", "starting"), (0.1, "worker-1", "pending"), (1.1, "worker-0", "here"), (9.1, "worker-1", "starting"),
            (12.1, "worker-1", "here"), (12.1, "worker-0", "ready"))  # fmt: skip


def test_who_came_last_is_told_with_what_it_did_meanwhile():
    told = "To start: worker-1 came last, 11.0 s after the first (9.0 s waiting for a node, 3.0 s for its container to start)."
    assert slowest_to_start([*LATE, phase(12.2)]) == told


def test_getting_the_code_is_a_wait_too():
    events = seen((0, "worker-0", "here"), (0, "worker-1", "here"), (1, "worker-0", "getting the code"), (1, "worker-1", "getting the code"),
                  (1.5, "worker-0", "ready"))  # fmt: skip
    assert "worker-1 came last, 6.5 s after the first (7.0 s getting the code)" in slowest_to_start([*events, phase(8)])


def test_those_who_came_together_are_not_put_in_an_order():
    together = seen((0.1, "worker-0", "here"), (0.6, "worker-1", "here"))
    assert slowest_to_start([*together, phase(1)]) == "To start: all 2 were there within 1 s."


@pytest.mark.parametrize(
    "events",
    [[], LATE, [*seen((0.1, "worker-0", "here")), phase(1)], [*LATE, {"time": 13.0, "event": "given back"}, phase(20)]],
    ids=["nothing", "never ran", "one replica", "another try, of which nothing is known"],
)
def test_a_start_that_was_not_measured_is_not_told(events):
    assert slowest_to_start(events) == ""


def test_a_restart_does_not_count_as_the_start():
    again = [{"time": 60.0, "event": "replica", "replica": "worker-0", "state": "getting the code"}, phase(99.0)]
    assert slowest_to_start([*LATE, phase(12.2), *again]) == slowest_to_start([*LATE, phase(12.2)])


@pytest.mark.parametrize(
    ("line", "seconds", "within"),
    [
        ("22/22 - 1s - loss: 1.8739 - 938ms/epoch - 43ms/step", 0.938, 0.0005),
        ("22/22 - 12s - loss: 1.8739 - 12s/epoch - 545ms/step", 11.99, 0.011),
        ("1563/1563 - 12s - 8ms/step - loss: 0.2", 12, 0.5),
        ("100/100 [====] - 1s 5ms/step - loss: 0.2", 0.5, 0.05),
        ("2/2 [====] - 0s 700us/step - loss: 0.2", 0.0014, 1e-6),
        ("4/4 - 8s - 2s/step", 8, 0.5),
    ],
)
def test_an_epochs_time_is_what_keras_tells_most_exactly(line, seconds, within):
    found = took(line, int(line.split("/")[0]))
    assert (found.seconds, found.within) == pytest.approx((seconds, within))


@pytest.mark.parametrize("line", ["22/22 - loss: 1.8 - top_5s: 0.1", "2/2 [==] - ETA: later"])
def test_what_is_no_time_is_not_taken_for_one(line):
    assert took(line, 2) is None


def test_the_first_epoch_and_times_that_are_hardly_known_do_not_count():
    assert pace({1: Took(9.0, 0.5), 2: Took(2.0, 0.1), 3: Took(4.0, 0.1)}) == Took(3.0, 0.1)
    assert pace({1: Took(9.0, 0.5)}) is None
    assert pace({1: Took(1.0, 0.5), 2: Took(1.0, 0.5)}) is None
    assert pace({}) is None


def test_the_slowest_in_training_is_named_with_how_much_longer_it_took():
    told = slowest_in_training(
        {"worker-0": Took(0.4, 0.001), "worker-2": Took(0.7, 0.001), "evaluator-0": Took(99, 1)}, {}
    )
    assert told == "In training: worker-2 took 700 ms for an epoch, 75 % longer than the fastest, worker-0 (400 ms)."


def test_a_difference_that_the_digits_leave_open_is_none():
    assert "all 2 took the same" in slowest_in_training({"worker-0": Took(11.6, 0.5), "worker-1": Took(12.4, 0.5)}, {})
    assert "all 2 took the same" in slowest_in_training(
        {"worker-0": Took(1.00, 0.001), "worker-1": Took(1.04, 0.001)}, {}
    )
    assert slowest_in_training({"worker-0": Took(1.0, 0.1)}, {}) == ""


def test_where_keras_tells_no_times_the_whole_training_since_the_last_restart_counts():
    run = [
        (0, "worker-0", "running"),
        (0, "worker-1", "running"),
        (30, "worker-0", "succeeded"),
        (44, "worker-1", "succeeded"),
    ]
    told = "In training: worker-1 took 44 s in all, 47 % longer than the fastest, worker-0 (30 s)."
    assert slowest_in_training({}, trained(seen(*run))) == told
    again = [
        (50, "worker-0", "running"),
        (50, "worker-1", "running"),
        (60, "worker-0", "succeeded"),
        (60.5, "worker-1", "succeeded"),
    ]
    assert "all 2 took the same in all" in slowest_in_training(
        {}, trained([*seen(*run), {"event": "restart"}, *seen(*again)])
    )
    stopped = [
        (0, "worker-0", "running"),
        (0, "worker-1", "running"),
        (9, "worker-0", "failed"),
        (44, "worker-1", "succeeded"),
    ]
    assert slowest_in_training({}, trained(seen(*stopped))) == ""
    short = [
        (0, "worker-0", "running"),
        (0, "worker-1", "running"),
        (1, "worker-0", "succeeded"),
        (1.5, "worker-1", "succeeded"),
    ]
    assert trained(seen(*short)) == {}


def test_a_log_tells_the_time_of_each_epoch_and_none_of_an_evaluation(tmp_path):
    log = tmp_path / "worker-0.log"
    log.write_text("Epoch 1/2\n2/2 - 3s - loss: 1.0 - 3s/epoch - 2s/step\nEpoch 2/2\n1/2 [=>..] - ETA: 1s\r2/2 - 1s - 900ms/epoch\n"
                   "1/1 [==] - 5s 5s/step - loss: 1.0\n")  # fmt: skip
    assert {epoch: found.seconds for epoch, found in read_log(log).took.items()} == {1: 3.0, 2: 0.9}


def test_what_was_used_is_the_mean_of_processors_and_the_most_memory():
    events = [
        {"event": "usage", "replica": "worker-0", "cpu": cpu, "memory": size} for cpu, size in ((1.0, 5), (2.0, 3))
    ]
    assert used(events) == {"worker-0": (1.5, 5)}
