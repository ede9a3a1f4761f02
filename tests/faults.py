"""The fault matrix: what goes wrong, what happens then, and the tests that inject it.

pytest --faults            runs those tests, and prints the table with what came of each row
python tests/faults.py     writes the table into README.md
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- faults: written by tests/faults.py -->\n", "<!-- end of faults -->\n"

# (what goes wrong, what happens then, the tests: file::name, without parameters)
FAULTS: list[tuple[str, str, tuple[str, ...]]] = [
    ("a worker is out of memory", "named with its limit; its peers are shown as stopped",
     ("cluster/test_cluster_losses.py::test_a_replica_that_takes_more_memory_than_its_limit_is_called_out_of_memory",)),
    ("the same, with --restarts", "all start again, as if it was killed",
     ("cluster/test_cluster_restarts.py::test_after_a_replica_was_out_of_memory_all_start_again",)),
    ("a worker is killed", "all start again from the last checkpoint, as often as --restarts says; as many steps, equal weights",
     ("contract/test_restarts.py::test_a_killed_replica_starts_the_whole_gang_again_from_the_last_checkpoint",
      "contract/test_restarts.py::test_after_the_last_restart_the_failure_is_told_as_without",
      "contract/test_restart_training.py::test_after_a_worker_was_killed_all_end_with_as_many_steps_and_the_same_weights")),
    ("the chief freezes", "the same", ("contract/test_restart_training.py::test_after_the_chief_was_frozen_too",)),
    ("a pod is deleted, killed whole, or evicted as when its node is drained, the coordinator's too", "that pod alone is replaced; its checkpoints are on another",
     ("cluster/test_cluster_restarts.py::test_a_lost_pod_alone_is_replaced_and_training_goes_on_from_the_checkpoint",)),
    ("a pod is deleted, without --restarts", "named as lost; the job ends",
     ("cluster/test_cluster_losses.py::test_a_pod_deleted_while_it_runs_is_named_as_lost_and_ends_the_job",)),
    ("the launcher of a sweep is killed", "the same command takes over the jobs that still run, and repeats nothing",
     ("contract/test_sweep.py::test_where_the_launcher_is_killed_the_next_one_takes_over_what_still_runs",
      "contract/test_sweep.py::test_what_is_done_is_not_done_again")),
    ("a replica is lost, and no launcher is there", "the restart needs none",
     ("contract/test_restarts.py::test_restarts_need_no_client",)),
    ("an agent is frozen or killed", "named; its script does not live on",
     ("contract/test_surprises.py::test_a_frozen_or_killed_agent_is_named_and_its_script_does_not_live_on",)),
    ("a script blocks or freezes, and all wait", "--stall-timeout names who stopped first; every replica's stacks are in its log; restarts",
     ("contract/test_restarts.py::test_a_gang_that_stands_still_ends_and_the_stacks_are_in_the_logs",
      "contract/test_restarts.py::test_a_stalled_gang_is_restarted")),
    ("others put Jobs, pods or Secrets with a job's labels, name or id into the namespace", "left out, named by list -v; never asked, never deleted",
     ("cluster/test_cluster_foreign.py::",)),
    ("a script fails on one worker", "the gang ends within 10 s; its exception and last lines are shown",
     ("contract/test_failures.py::test_a_failing_replica_ends_the_gang_within_10_s_and_is_named_with_its_last_lines",)),
    ("a worker has fewer batches", "its peers' failure is told as that of a lost peer",
     ("contract/test_surprises.py::test_a_replica_whose_peer_ended_early_has_failed_and_so_has_the_job",)),
    ("a script with a known mistake", "told before anything is created", ("unit/test_script.py::",)),
    ("a script fails in a known way", "its class, and one next step", ("unit/test_outcomes.py::",)),
    ("TensorFlow sees none of the GPUs it was given", "the job ends before training, with what is missing: CUDA build, driver, libraries",
     ("cluster/test_alone_gpus.py::test_a_tensorflow_for_cpus_ends_the_job_at_once_with_an_image_for_gpus",
      "cluster/test_alone_gpus.py::test_a_node_without_a_driver_ends_the_job_at_once", "unit/test_gpu.py::")),
    ("a GPU is lost while it trains, or none can be measured", "said in the replica's log and in the table",
     ("contract/test_local_gpus.py::test_what_is_measured_is_live_and_recorded_and_a_lost_gpu_is_said", "unit/test_usage.py::")),
    ("no node offers the GPUs of --gpu-type", "refused before anything is created, with what the nodes offer",
     ("cluster/test_alone_gpus.py::test_a_part_of_the_products_name_finds_the_nodes_and_another_product_is_refused_before_anything_is_made",)),
    ("a peer never comes, or cannot be reached", "who is missing is named at --start-timeout",
     ("unit/test_gang.py::test_who_did_not_come_in_time_is_named", "unit/test_gang.py::test_who_cannot_reach_a_peer_in_time_is_named_with_it")),
    ("a script ignores SIGTERM, or leaves processes behind", "killed after 3 s; nothing outlives the job",
     ("contract/test_failures.py::test_a_script_that_ignores_sigterm_is_killed",
      "contract/test_failures.py::test_processes_that_the_script_leaves_behind_do_not_outlive_the_job")),
    ("training takes too long", "exit code 124, nothing left",
     ("contract/test_failures.py::test_a_job_over_its_time_out_ends_with_124_and_leaves_nothing",)),
    ("a shard is cut or damaged", "named with byte and record",
     ("data/test_dataset.py::test_a_local_file_cut_inside_a_records_header_is_refused_at_once",
      "data/test_dataset.py::test_damage_on_s3_names_shard_byte_and_record")),
    ("S3 has a wrong key, endpoint or bucket, or is away", "one error within 15 s, without the secret; waited for",
     ("data/test_s3.py::test_what_is_wrong_is_named_soon_and_without_the_secret", "data/test_s3.py::test_reading_goes_on_when_the_server_was_away")),
    ("a verb is forbidden", "named, with the Role that allows it",
     ("cluster/test_cluster_refusals.py::test_a_verb_that_is_forbidden_is_named_with_the_role_that_allows_it",)),
    ("a login is over", "told at once",
     ("cluster/test_cluster_refusals.py::test_a_token_that_the_api_server_does_not_know_is_told",)),
    ("a quota or LimitRange is in the way", "told with its numbers, nothing left",
     ("cluster/test_cluster_refusals.py::test_a_quota_too_small_for_the_pods_is_told_with_its_numbers",
      "cluster/test_cluster_refusals.py::test_a_limit_range_is_told_with_its_bound", "unit/test_preflight.py::test_a_quota_is_held_against_all_pods_of_the_job")),
    ("Pod Security refuses the pods", "told before they are started",
     ("cluster/test_cluster_refusals.py::test_pod_security_refuses_a_pod_file_on_the_hosts_network",)),
    ("an admission webhook refuses, or does not answer", "told with its own words; asked again for a while; nothing left",
     ("cluster/test_cluster_admission.py::test_an_admission_webhook_that_refuses_is_told_with_its_own_words",
      "cluster/test_cluster_admission.py::test_an_admission_webhook_that_does_not_answer_is_told",
      "cluster/test_cluster_admission.py::test_an_admission_webhook_that_is_away_for_a_moment_ends_no_launch")),
    ("an image cannot be pulled", "named with why, and the pull secret that is missing",
     ("cluster/test_cluster_refusals.py::test_an_image_that_cannot_be_pulled_is_named_with_the_pull_secret_that_is_missing",)),
    ("pods fit on no node", "told with the scheduler's numbers; by check with the room on each kind of node",
     ("cluster/test_cluster_refusals.py::test_a_pod_that_fits_on_no_node_is_told_with_the_numbers",
      "unit/test_preflight.py::test_why_nodes_are_none_for_these_pods_is_told")),
    ("two jobs each hold half of the room", "one gives all back, waits and tries again (--start-tries)",
     ("cluster/test_alone_room.py::test_a_job_with_half_of_its_pods_gives_them_back_and_runs_when_there_is_room",)),
    ("a secret, claim or service account is missing", "named",
     ("cluster/test_cluster_refusals.py::test_a_secret_that_a_pod_file_names_and_is_not_there_is_named",
      "cluster/test_cluster_refusals.py::test_a_claim_that_is_not_there_is_named",
      "cluster/test_cluster_refusals.py::test_a_service_account_that_is_not_there_is_named")),
    ("the API server is away for 30 s", "training and run go on; the record is complete",
     ("cluster/test_alone_away.py::test_a_run_goes_on_though_the_api_server_is_away_for_30_s",)),
    ("requests are refused with 429 or 500, or lost", "tried again; nothing is made twice",
     ("cluster/test_cluster_channel.py::test_every_second_request_is_refused_or_lost",)),
    ("streams are cut, watches expire", "followed on from the last byte; none lost, none twice",
     ("cluster/test_cluster_channel.py::test_every_stream_is_cut_again_and_again", "cluster/test_cluster_channel.py::test_watches_expire")),
    ("cut streams, an API server restarted, logs rotated and a restart, all in one run", "each replica's lines are whole, once, in order",
     ("cluster/test_alone_logs.py::test_numbered_lines_through_cut_streams_a_restart_of_the_api_server_rotation_and_a_restart_in_place",)),
    ("the laptop sleeps; its clock is an hour off", "the record is complete",
     ("cluster/test_cluster_channel.py::test_the_laptop_sleeps_while_the_job_ends",
      "cluster/test_cluster_channel.py::test_the_launchers_clock_is_an_hour_off")),
    ("the launcher is killed at any step of a launch", "list shows what is left, delete removes it",
     ("contract/test_interrupted_launch.py::test_at_whatever_step_it_is_stopped_list_shows_what_is_left_and_delete_removes_it",)),
    ("the launcher is killed at any request of a run", "the same; a new run of that name works",
     ("cluster/test_cluster_killed.py::test_at_whatever_request_it_is_killed_list_delete_and_a_new_run_work_and_nothing_remains",)),
    ("the launcher is killed while it collects", "no half file has a name; fetch goes on",
     ("contract/test_interrupted_collecting.py::test_before_whatever_step_of_collecting_it_is_killed_no_half_file_has_a_name_and_fetch_goes_on",)),
    ("the launcher is killed while it clears up", "the next fetch knows that all is here, and removes the rest",
     ("contract/test_gone.py::test_where_a_launcher_was_killed_while_it_cleared_up_the_next_fetch_knows_that_all_is_here",)),
    ("the disk here is full", "told with what is needed and free; nothing half; the job is kept, whatever its result",
     ("unit/test_collect_stream.py::test_a_disk_that_fills_meanwhile_is_told_and_once_there_is_room_the_files_come",
      "contract/test_nothing_lost.py::test_a_job_whose_files_do_not_fit_here_is_kept_and_its_own_exit_code_stands_beside_5")),
    ("Ctrl-C in the midst of training", "logs, files and checkpoints come back as of a failed run; a second one does not wait",
     ("contract/test_nothing_lost.py::test_ctrl_c_in_epoch_6_of_30_brings_back_what_a_failed_run_would",
      "contract/test_nothing_lost.py::test_a_second_ctrl_c_does_not_wait_and_says_what_is_given_up_and_how_to_go_on")),
    ("the disk where replicas run is full", "told with free and needed; lost output is counted, and the script goes on where it can",
     ("contract/test_full_disk.py::",)),
    ("a script leaves a daemon that hides", "it ends with the script, also where the agent was killed",
     ("contract/test_gone.py::test_a_daemon_with_an_empty_environment_does_not_outlive_its_script",
      "contract/test_gone.py::test_a_daemon_with_an_empty_environment_does_not_outlive_a_job_that_is_ended")),
    ("an output folder cannot be removed", "delete names it and why, and a later one removes it",
     ("contract/test_gone.py::test_delete_says_what_it_could_not_remove_and_why_and_a_later_one_removes_it",)),
    ("a pod lies about its files", "nothing is written outside the folder, and nothing half under a name",
     ("unit/test_collect.py::", "unit/test_collect_manifest.py::", "unit/test_collect_stream.py::")),
    ("an agent lies, or something else answers in its place", "refused, or given up in words that name the replica; other jobs are shown",
     ("unit/test_false_agents.py::", "fuzz/test_answers.py::", "fuzz/test_posted.py::")),
    ("values inject YAML, Jinja or Python", "refused, or taken as text",
     ("unit/test_security.py::test_a_value_is_refused_or_stands_alone_where_it_belongs",
      "unit/test_security.py::test_a_template_reaches_neither_python_nor_other_files")),
    ("a script prints a secret", "*** in every log and record", ("contract/test_secrets.py::",)),
    ("a stranger speaks to an agent", "401, and nothing learned",
     ("unit/test_security.py::test_every_method_and_path_asks_for_the_token_and_tells_a_stranger_the_same",)),
]  # fmt: skip


def covers(test: str, node_id: str) -> bool:
    """Whether a test of FAULTS is this one: tests/contract/test_x.py::test_y[local]."""
    path = node_id.removeprefix("tests/")
    return path.startswith(test) if test.endswith("::") else path.split("[")[0] == test


def count(tests: tuple[str, ...], ended: Mapping[str, list[str]]) -> list[dict[str, int]]:
    """Of each of a row's tests: how many of its parameters passed, failed, were skipped, met an error."""
    return [{kind: sum(covers(test, node) for node in nodes) for kind, nodes in ended.items()} for test in tests]


def verdict(counts: list[dict[str, int]]) -> str:
    """What came of a row: its every test has to pass, with every parameter."""
    if any(test["failed"] or test["error"] for test in counts):
        return "FAIL"
    if all(test["passed"] and not test["skipped"] for test in counts):
        return "pass"
    return "part" if any(test["passed"] for test in counts) else "not run"


def table() -> str:
    rows = [f"| {fault} | {then} | {_files(tests)} |\n" for fault, then, tests in FAULTS]
    return "| what goes wrong | what happens | tests |\n|---|---|---|\n" + "".join(rows)


def _files(tests: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in sorted({test.split("::")[0] for test in tests}))


def with_table(text: str) -> str:
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
