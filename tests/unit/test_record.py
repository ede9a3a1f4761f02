"""A run's folder belongs to one job and one writer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfspawner.errors import ArtifactError, ConfigurationError
from tfspawner.record.writing import Record


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs/job"


def test_a_log_is_appended_to_once(folder):
    record = Record(folder, "1")
    assert record.append_log("w", 0, b"abc") == b"abc"
    assert record.append_log("w", 1, b"bcdef") == b"def"
    assert record.append_log("w", 0, b"abc") == b""
    assert record.log_path("w").read_bytes() == b"abcdef"
    with pytest.raises(ArtifactError, match="bytes 6 to 9 are missing"):
        record.append_log("w", 9, b"x")


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 100), st.booleans())))
def test_whatever_pieces_come_a_log_is_what_was_printed_and_shown_once(tmp_path_factory, printed, pieces):
    """Each piece: where it begins, its length, and whether it is another launcher's that goes on with the record."""
    folder = tmp_path_factory.mktemp("log") / "job"
    record, shown = Record(folder, "1"), b""
    for start, length, again in [*pieces, (0, len(printed), False)]:
        if again:
            record.close()
            record = Record(folder, "1")
        if start > len(shown):
            with pytest.raises(ArtifactError, match=f"bytes {len(shown)} to {start} are missing"):
                record.append_log("w", start, printed[start : start + length])
            continue
        shown += record.append_log("w", start, printed[start : start + length])
        assert record.log_path("w").read_bytes() == shown == printed[: len(shown)]
    record.close()
    assert shown == printed


def test_the_same_job_goes_on_with_its_record(folder):
    record = Record(folder, "1")
    record.append_log("w", 0, b"abc")
    record.close()
    again = Record(folder, "1")
    assert again.log_end("w") == 3


def test_a_former_jobs_record_is_set_aside(folder):
    for number in ("1", "2", "3"):
        record = Record(folder, number)
        record.append_log("w", 0, number.encode())
        record.close()
    assert (folder / "logs/w.log").read_bytes() == b"3"
    assert (folder.with_name("job.1") / "logs/w.log").read_bytes() == b"1"
    assert (folder.with_name("job.2") / "logs/w.log").read_bytes() == b"2"


def test_what_was_not_launched_leaves_no_record_and_the_former_one_where_it_was(folder):
    Record(folder, "1").discard()
    assert not folder.exists()
    record = Record(folder, "1")
    record.append_log("w", 0, b"1")
    record.close()
    Record(folder, "2").discard()
    assert (folder / "logs/w.log").read_bytes() == b"1"
    assert [path.name for path in folder.parent.iterdir()] == ["job"]


def test_two_cannot_write_at_once(folder):
    first = Record(folder, "1")
    with pytest.raises(ConfigurationError, match="another tf-spawner is writing"):
        Record(folder, "1")
    first.close()
    Record(folder, "1")


def test_events_are_lines_of_json_with_their_time(folder):
    record = Record(folder, "1")
    record.event("phase", phase="running", message="")
    line = json.loads((folder / "events.jsonl").read_text())
    assert line.pop("time") > 1e9
    assert line == {"event": "phase", "phase": "running"}


def test_the_last_lines_leave_out_bars(folder):
    record = Record(folder, "1")
    record.append_log("w", 0, b"Epoch 1/2\n 1/9 [>...] - ETA: 1s - loss: 1\r 9/9 [===] - 1s - loss: 0.5\nboom\n")
    assert record.last_lines("w", 5) == ["Epoch 1/2", " 9/9 [===] - 1s - loss: 0.5", "boom"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        Record(tmp_path / "file/job", "1")


def test_another_pods_log_goes_on_behind_the_formers_also_for_who_comes_later(tmp_path):
    record = Record(tmp_path / "j", "id")
    first, second = 1_700_000_000 << 32, 1_700_000_020 << 32
    assert record.append_log("worker-0", first, b"one\n") == b"one\n"
    assert record.append_log("worker-0", first + 2, b"e\ntwo") == b"two"
    assert record.append_log("worker-0", second, b"three") == b"three"
    assert record.log_end("worker-0") == second + 5
    record.close()
    again = Record(tmp_path / "j", "id")
    assert again.append_log("worker-0", second, b"three, four") == b", four"
    assert again.append_log("worker-0", first, b"one\ntwo and more") == b""
    assert again.log_path("worker-0").read_bytes() == b"one\ntwothree, four"
    again.close()
