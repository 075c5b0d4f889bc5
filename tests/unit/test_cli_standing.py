"""What a person reads of a job: waiting, running, ended, rerun; against the fake gateway and by value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from divbase_cli.failure import ExitCode
from divbase_cli.standing import bar, cpu_efficiency, hints, short_wait, standing
from divbase_client.models import JobDetail

from tests.fakes.gateway_server import KEY, FakeGateway, job, running_gateway
from tests.unit.test_cli_commands import Shell

NOW = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
ATTEMPT = {
    "number": 1,
    "cluster": "c",
    "slurm_job_id": "4711",
    "slurm_name": "divbase-vole-job1-x",
    "slurm_state": "COMPLETED",
    "slurm_reason": None,
    "exit_code": 0,
    "node": "c1",
    "cores": 2,
    "memory_mb": 8192,
    "minutes": 120,
    "submitted_at": None,
    "started_at": None,
    "ended_at": None,
    "elapsed_s": 100.0,
    "cpu_s": 150.0,
    "max_rss_bytes": 1024**3,
    "alloc_cpus": 2,
    "outcome": "succeeded",
}


def detail(state: str, **fields: Any) -> JobDetail:
    return JobDetail.model_validate({**job("job1", state), "observed_at": NOW, **fields})


def facts(state: str, **fields: Any) -> dict[str, object]:
    return dict(standing(detail(state, **fields), NOW))


def ended(**fields: Any) -> JobDetail:
    return detail("SUCCEEDED", attempts=[{**ATTEMPT, **fields}])


# --- shards that are jobs of their own -----------------------------------------------------------------------------

SHARD = {
    "number": 1,
    "job": "job1-1",
    "name": "shard 1 of 2: chr21:1-500",
    "state": "SUCCEEDED",
    "reason": None,
    "message": None,
    "stuck": None,
    "waiting": None,
    "attempt": 1,
    "slurm_job_id": "12_1",
    "slurm_state": "COMPLETED",
    "node": "c1",
    "started_at": "2024-05-01T12:00:00Z",
    "ended_at": "2024-05-01T12:01:01Z",
    "elapsed_s": 61.0,
}
WAITS = {**SHARD, "number": 2, "job": "job1-2", "name": "shard 2 of 2: chr22", "state": "QUEUED", "node": None,
         "slurm_job_id": "12_2", "slurm_state": "PENDING", "waiting": "It waits for free cores or memory.",
         "elapsed_s": None}  # fmt: skip
SPREAD = {
    "waiting": "Shards: 1 of 2 done, 1 waiting.",
    "progress": {"stage": "shards", "done": 500, "total": 1000},
    "shards": [SHARD, WAITS],
}


def test_a_query_that_waits_for_its_shards_says_how_far_they_are() -> None:
    """Guards: done, running and waiting, and the share of all the work; not what the job that joins them asks for."""
    found = facts("SPREAD", **SPREAD)
    assert found["Shards"] == "1 of 2 done, 1 waiting"
    assert found["Done"] == "[##########..........] 50 %"
    assert "Asks for" not in found


# --- waiting -----------------------------------------------------------------------------------------------------

QUEUED = {
    "waiting": "Jobs of higher priority come first.",
    "queue_place": 3,
    "queue_length": 12,
    "partition": "main",
    "expected_start": NOW + timedelta(hours=2, minutes=10),
    "cores": 2,
    "memory_mb": 4096,
    "minutes": 90,
}


def test_a_waiting_job_says_where_why_and_how_long() -> None:
    """Guards: place, reason, the scheduler's guess and what it asks for are all there."""
    found = facts("QUEUED", **QUEUED)
    assert found["In the queue"] == "3 of 12 DivBase jobs waiting in partition main"
    assert found["Waits because"] == "Jobs of higher priority come first."
    assert str(found["Expected start"]).startswith("in 2 h 10 min (2024-05-01 ")
    assert found["Asks for"] == "2 cores, 4G of memory, 1h30m"
    assert found["Last heard of"] == "0 s ago"


def test_what_is_not_known_of_a_waiting_job_is_left_out() -> None:
    """Guards: no place before the first look, no guess where the scheduler gives none, no partition of the embedded."""
    assert "In the queue" not in facts("ACCEPTED", waiting="DivBase has accepted it.")
    quiet = facts("QUEUED", **{**QUEUED, "partition": None, "expected_start": None})
    assert quiet["In the queue"] == "3 of 12 DivBase jobs waiting"
    assert "Expected start" not in quiet


def test_an_old_look_says_so() -> None:
    """Guards: nobody takes twelve minutes old news for new."""
    assert facts("QUEUED", observed_at=NOW - timedelta(minutes=12))["Last heard of"] == (
        "12 min 0 s ago; the cluster may not answer"
    )


def test_a_start_that_is_overdue_may_come_any_moment() -> None:
    """Guards: no start in minus three minutes."""
    late = facts("QUEUED", **{**QUEUED, "expected_start": NOW - timedelta(minutes=3)})
    assert str(late["Expected start"]).startswith("any moment (")


def test_a_stuck_job_says_so_in_short_too() -> None:
    """Guards: in a listing it is told apart from one that only waits."""
    assert short_wait(detail("QUEUED", **QUEUED)) == "3 of 12: Jobs of higher priority come first"
    stuck = {**QUEUED, "stuck": "Held.", "waiting": "The cluster's administrator holds it."}
    assert short_wait(detail("QUEUED", **stuck)) == "stuck: The cluster's administrator holds it"
    assert facts("QUEUED", **stuck)["Stuck"] == "it will not start by itself"


# --- running and ended -------------------------------------------------------------------------------------------


def test_a_running_job_says_where_and_how_far() -> None:
    """Guards: node, time of its limit, and the share of its stage."""
    found = facts("RUNNING", node="c2", started_at=NOW - timedelta(minutes=30), minutes=60)
    assert found["Node"] == "c2"
    assert found["Elapsed"] == "[##########..........] 50 % 30 min 0 s of 1 h 0 min"
    assert found["Stage"] == "running [##########..........] 50 % 50 B of 100 B"


@pytest.mark.parametrize(("share", "full"), [(-1.0, 0), (0.0, 0), (0.999, 19), (1.0, 20), (7.0, 20)])
def test_a_bar_is_as_long_as_it_is(share: float, full: int) -> None:
    """Guards: a job over its limit, or a clock that is behind, breaks no line."""
    assert bar(share).count("#") == full
    assert bar(share).index("]") == 21


def test_an_ended_job_says_what_it_used_of_what_it_asked_for() -> None:
    """Guards: CPU efficiency by the cores that it was given, memory by what it asked for."""
    found = dict(standing(ended(), NOW))
    assert found["Elapsed"] == "1 min 40 s of 2 h 0 min"
    assert found["CPU time"] == "2 min 30 s, 75 % of 2 cores"
    assert found["Memory"] == "1.1 GB of 8G, 12 % at most"


def test_cpu_efficiency_counts_the_cores_that_were_given() -> None:
    """Guards: SLURM may give whole processors where one was asked for; nothing is divided by nothing."""
    assert cpu_efficiency(ended(alloc_cpus=4).attempts[0]) == 0.375
    assert cpu_efficiency(ended(alloc_cpus=None).attempts[0]) == 0.75
    assert cpu_efficiency(ended(elapsed_s=0.0).attempts[0]) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ["It used 12 % of its memory", "It took 1 % of its time limit"]),
        ({"memory_mb": 1024, "minutes": 10}, ["It nearly used up its memory"]),
        ({"memory_mb": 2048, "minutes": 2}, []),
        ({"memory_mb": 2048, "elapsed_s": 7000.0}, ["It nearly ran into its time limit"]),
        ({"memory_mb": 1024, "minutes": 10, "outcome": "out_of_memory"}, []),
    ],
)
def test_hints_only_where_it_was_grossly_off(fields: dict[str, Any], words: list[str]) -> None:
    """Guards: small jobs are left in peace, and who ran out is told by the failure already."""
    one = ended(**fields)
    found = hints(one, one.attempts[0])
    assert len(found) == len(words)
    assert all(hint.startswith(word) for hint, word in zip(found, words, strict=True))


# --- the commands ------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway() as one:
        yield one


@pytest.fixture
def shell(gateway: FakeGateway, tmp_path: Path) -> Shell:
    made = Shell(
        {
            "DIVBASE_CONFIG": str(tmp_path / "home" / "config.toml"),
            "DIVBASE_URL": gateway.url,
            "DIVBASE_API_KEY": KEY,
            "DIVBASE_PROJECT": "vole",
        }
    )
    made("query", "run", "--all-samples")
    return made


def test_show_of_a_waiting_job(shell: Shell, gateway: FakeGateway) -> None:
    """Guards: the facts of its phase are printed, as JSON all fields."""
    gateway.job_states["job1"] = ["QUEUED", "QUEUED"]
    gateway.job_fields = {**QUEUED, "expected_start": QUEUED["expected_start"].isoformat()}  # type: ignore[attr-defined]
    shown = shell("jobs", "show", "job1").stdout
    assert "In the queue:   3 of 12 DivBase jobs waiting in partition main\n" in shown
    assert "the cluster may not answer" in shown  # the fake looked in 2024
    assert shell.json("jobs", "show", "job1")["queue_place"] == 3
    assert "3 of 12: Jobs of higher priority come first" in shell("jobs", "ls").stdout


def test_show_of_a_running_job_has_the_tail_of_its_log(shell: Shell, gateway: FakeGateway) -> None:
    """Guards: the last lines that it said, without another command."""
    gateway.job_states["job1"] = ["RUNNING"]
    gateway.job_fields = {"started_at": datetime.now(UTC).isoformat(), "node": "c1"}
    assert shell("jobs", "show", "job1").stdout.endswith("Log so far:\nline one\nline two\n")


def test_show_of_an_ended_job_has_its_attempts(shell: Shell, gateway: FakeGateway) -> None:
    """Guards: SLURM's id, state and exit code, what was asked for and how it ended, one line an attempt."""
    gateway.job_states["job1"] = ["FAILED"]
    gateway.job_fields = {"attempts": [{**ATTEMPT, "slurm_state": "FAILED", "exit_code": 7, "outcome": "disk_full"}]}
    last = shell("jobs", "show", "job1").stdout.splitlines()[-1].split("\t")
    assert last == ["1", "4711", "FAILED", "7", "c1", "8G 2h", "1 min 40 s", "2 min 30 s", "1.1 GB", "disk_full"]


def test_show_of_a_query_that_is_spread_has_its_shards(shell: Shell, gateway: FakeGateway) -> None:
    """Guards: each with its job, state, ids, node, time and regions, and why it waits; the line above counts them."""
    gateway.job_states["job1"] = ["SPREAD"]
    gateway.job_fields = SPREAD
    lines = shell("jobs", "show", "job1").stdout.splitlines()
    assert "State:         SPREAD shards 50 % (Shards: 1 of 2 done, 1 waiting)" in lines
    first, second = (line.split("\t") for line in lines[-2:])
    assert first == ["job1-1", "SUCCEEDED", "12_1 COMPLETED", "c1", "1 min 1 s", "1", "chr21:1-500", "-"]
    assert second[:3] == ["job1-2", "QUEUED", "12_2 PENDING"]
    assert second[-1] == "It waits for free cores or memory."


def test_watch_shows_the_place_in_the_queue(shell: Shell, gateway: FakeGateway) -> None:
    """Guards: who waits for a job sees it move up."""
    gateway.job_states["job1"] = ["QUEUED", "SUCCEEDED"]
    gateway.job_fields = {"queue_place": 3, "queue_length": 12, "waiting": "It waits for free cores or memory."}
    lines = shell("jobs", "watch", "job1").stderr.splitlines()
    assert lines[0] == "job job1: QUEUED (3 of 12: It waits for free cores or memory)"


@pytest.mark.parametrize(
    ("words", "wish"),
    [
        ([], {}),
        (["--more"], {"more": True}),
        (["--memory", "16G", "--time", "1h30m"], {"memory_mb": 16384, "minutes": 90}),
    ],
)
def test_rerun_asks_for_more(shell: Shell, gateway: FakeGateway, words: list[str], wish: dict[str, Any]) -> None:
    """Guards: what the options say reaches the gateway in megabytes and minutes."""
    shell("jobs", "rerun", "job1", *words)
    assert json.loads(gateway.requests("rerun")[-1].body or "{}") == wish


def test_rerun_refuses_what_is_no_amount(shell: Shell, gateway: FakeGateway) -> None:
    """Guards: a typing error asks nothing of the gateway."""
    shell("jobs", "rerun", "job1", "--memory", "lots", code=ExitCode.USAGE)
    assert gateway.requests("rerun") == []
