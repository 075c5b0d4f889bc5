"""What squeue and sacct print, read: recorded answers of real clusters, and the traps that no quiet cluster shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from divbase_gateway.domain.jobs import Phase, phase_of
from divbase_gateway.ports import Sighting, array_of
from divbase_gateway.slurm.records import merged, sacct_records, sacct_runs, squeue_records, whole_job

RECORDED = Path(__file__).parents[1] / "recorded"
RELEASES = sorted(path.name for path in RECORDED.iterdir() if path.is_dir()) if RECORDED.is_dir() else []


def at(unix: int) -> datetime:
    return datetime.fromtimestamp(unix, UTC)


def queued(line: str) -> Sighting:
    (record,) = squeue_records(line)
    return record.sighting


def accounted(text: str) -> Sighting:
    (record,) = sacct_records(text)
    return record.sighting


# --- recorded ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
def test_every_recorded_line_of_squeue_is_read(release: str) -> None:
    """No job of a real answer is passed over, and every word is one that we know."""
    for path in RECORDED.joinpath(release).glob("gateway-squeue*.stdout"):
        text = path.read_text()
        records = squeue_records(text)
        assert len(records) == len(text.splitlines())
        assert Phase.UNKNOWN not in {phase_of(record.sighting.state) for record in records}


@pytest.mark.parametrize("release", RELEASES)
def test_every_recorded_job_of_sacct_is_read(release: str) -> None:
    """Every line without a step is a job, or an earlier run of one; every word is one that we know."""
    for path in RECORDED.joinpath(release).glob("gateway-sacct*.stdout"):
        jobs = {line.split("|")[0] for line in path.read_text().splitlines() if "." not in line.split("|")[0]}
        records = sacct_records(path.read_text())
        assert {record.full_id for record in records} == jobs
        assert Phase.UNKNOWN not in {phase_of(record.sighting.state) for record in records}


@pytest.mark.parametrize("release", RELEASES)
def test_only_a_recorded_job_that_started_was_given_processors(release: str) -> None:
    """22.05 prints for a job that waits what it asks for."""
    for path in RECORDED.joinpath(release).glob("gateway-sacct*.stdout"):
        for record in sacct_runs(path.read_text()):
            assert (record.sighting.alloc_cpus is not None) == (record.sighting.started_at is not None), record


# --- squeue ------------------------------------------------------------------------------------------------------


def test_running_job_has_started_and_not_ended() -> None:
    """SLURM prints as end when it must end; that is no end yet, nor is 0:0 an exit status."""
    assert queued("8|RUNNING|1|0:0|1000|1001|1601|c2|100|main|None|divbase-p-1-a|") == Sighting(
        "RUNNING", node="c2", started_at=at(1001), restarts=1, partition="main", source="squeue"
    )


def test_waiting_job_has_not_started() -> None:
    """SLURM prints as start when it may start: a guess, and no start."""
    assert queued("11|PENDING|0|0:0|1000|5000|6000||4294901757|main|Resources|divbase-p-1-a|") == Sighting(
        "PENDING",
        reason="Resources",
        expected_start=at(5000),
        priority=4294901757,
        partition="main",
        source="squeue",
    )


@pytest.mark.parametrize("start", ["N/A", "Unknown", "0"])
def test_waiting_job_without_an_expected_start_has_none(start: str) -> None:
    """SLURM guesses only for jobs that its backfill has looked at."""
    assert queued(f"11|PENDING|0|0:0|1000|{start}|N/A||0|main|JobHeldUser|divbase-p-1-a|").expected_start is None


def test_ended_job_has_its_exit_status() -> None:
    """A failed job with how it failed."""
    assert queued("6|FAILED|0|3:0|1000|1001|1004|c1|100|main|NonZeroExitCode|divbase-p-1-a|") == Sighting(
        "FAILED",
        reason="NonZeroExitCode",
        exit_code=3,
        signal=0,
        node="c1",
        started_at=at(1001),
        ended_at=at(1004),
        partition="main",
        source="squeue",
    )


def test_job_cancelled_before_its_start_never_started() -> None:
    """SLURM prints the time of cancelling as its start."""
    assert queued("2|CANCELLED|0|0:0|1000|1009|1009||100|main|None|divbase-p-1-a|").started_at is None


@pytest.mark.parametrize(
    "line",
    [
        "Welcome to the cluster | please read the news | all of it",
        "8|RUNNING|0|0:0|1000|1001|1601|c2|100|main|None|divbase-p-1-a",
        "8|RUNNING|0|0:0|1000|1001",
        "8|running fast|0|0:0|1000|1001|1601|c2|100|main|None|divbase-p-1-a|",
        "",
    ],
)
def test_lines_that_are_no_records_are_passed_over(line: str) -> None:
    """Banners, and lines that were cut."""
    assert squeue_records(line) == []


def test_a_name_with_the_separator_is_one_name() -> None:
    """Somebody else's job of the same account cannot shift the columns."""
    (record,) = squeue_records("8|RUNNING|0|0:0|1000|1001|1601|c2|100|main|None|a|b|FAILED|")
    assert (record.name, record.sighting.state) == ("a|b|FAILED", "RUNNING")


@pytest.mark.parametrize("full_id", ["123", "123_4", "123_[5-9%2]", "123+1"])
def test_ids_of_every_form_belong_to_their_number(full_id: str) -> None:
    """What sbatch printed is the number at the front."""
    (record,) = squeue_records(f"{full_id}|RUNNING|0|0:0|1000|1001|1601|c2|100|main|None|n|")
    assert (record.job_id, record.full_id) == ("123", full_id)


def test_only_wanted_ids_are_read() -> None:
    """Other jobs of the account are of no interest."""
    lines = "8|RUNNING|0|0:0|1000|1001|1601|c2|100|main|None|a|\n9|RUNNING|0|0:0|1000|1001|1601|c2|100|main|None|b|"
    assert [record.name for record in squeue_records(lines, {"9"})] == ["b"]


def test_array_with_one_failed_task_has_failed() -> None:
    """One bad task is not hidden by the good ones, and a task that lives keeps the whole alive."""
    done, bad, alive = Sighting("COMPLETED"), Sighting("FAILED"), Sighting("RUNNING")
    records = squeue_records(
        "5_1|COMPLETED|0|0:0|1000|1001|1601|c2|100|main|None|n|\n5_2|FAILED|0|1:0|1000|1001|1601|c2|100|main|None|n|"
    )
    sighting = whole_job(records)
    assert sighting is not None
    assert sighting.state == bad.state
    alive_too = [*records, *squeue_records("5_3|RUNNING|0|0:0|1000|1001|1601|c2|100|main|None|n|")]
    assert (whole_job(alive_too) or done).state == alive.state


def test_tasks_of_our_arrays_are_jobs_of_their_own() -> None:
    """Each under its number, in its name too; those that wait are in one line, and are as many records."""
    name = "divbase-p-job-tok.shards"
    lines = (
        f"5_1|RUNNING|0|0:0|1000|1001|1601|c2|100|main|None|{name}|\n"
        f"5_[2-4,7%2]|PENDING|0|0:0|1000|N/A|N/A||100|main|Priority|{name}|\n"
        "6_[1-2]|PENDING|0|0:0|1000|N/A|N/A||100|main|Priority|somebody-elses|"
    )
    assert [(record.job_id, record.name) for record in squeue_records(lines)] == [
        ("5_1", f"{name}.1"),
        ("5_2", f"{name}.2"),
        ("5_3", f"{name}.3"),
        ("5_4", f"{name}.4"),
        ("5_7", f"{name}.7"),
        ("6", "somebody-elses"),
    ]
    (waiting,) = squeue_records(lines, {"5_7"})
    assert (waiting.sighting.state, waiting.sighting.reason) == ("PENDING", "Priority")
    accounts = (
        f"5_1|OUT_OF_MEMORY|0:125|1000|1001|1061|60|01:02:03||2|c1|{name}\n"
        f"5_1.batch|OUT_OF_MEMORY|0:125|1001|1001|1061|60|01:02:03|2K|2|c1|batch\n"
        f"5_[2-3]|PENDING|0:0|1000|Unknown|Unknown|0|00:00:00||0|None assigned|{name}"
    )
    for records in (sacct_records(accounts), sacct_runs(accounts)):
        assert [(record.job_id, record.name) for record in records] == [
            ("5_1", f"{name}.1"),
            ("5_2", f"{name}.2"),
            ("5_3", f"{name}.3"),
        ]
        assert records[0].sighting.max_rss_bytes == 2048


@pytest.mark.parametrize(
    ("printed", "tasks"),
    [
        ("[3,17]", [3, 17]),
        ("[3-17:14]", [3, 17]),
        ("[1-13:4%2]", [1, 5, 9, 13]),
        ("[2-3,9-21:6]", [2, 3, 9, 15, 21]),
    ],
)
def test_tasks_that_wait_are_read_however_they_are_printed(printed: str, tasks: list[int]) -> None:
    """Ranges, with a step and with the most that may run at once."""
    name = "divbase-p-job-tok.shards"
    line = f"5_{printed}|PENDING|0|0:0|1000|N/A|N/A||100|main|Priority|{name}|"
    assert [record.job_id for record in squeue_records(line)] == [f"5_{task}" for task in tasks]


def test_the_name_that_slurm_knows_of_a_task() -> None:
    """That of its array; any other name is its own."""
    assert array_of("divbase-p-job-tok.shards.12") == "divbase-p-job-tok.shards"
    for name in ("divbase-p.1-job-tok", "divbase-p-job-tok.shards", "divbase-p-job-tok.shards.x", "x.1"):
        assert array_of(name) == name


# --- sacct -------------------------------------------------------------------------------------------------------

END = (
    "7|{state}|{exit}|1000|1001|1061|60|01:02:03||2|c1|divbase-p-1-a\n"
    "7.batch|{step}|{step_exit}|1001|1001|1061|60|01:02:03|{rss}|2|c1|batch"
)


def ended(
    state: str = "COMPLETED", exit: str = "0:0", step: str = "COMPLETED", step_exit: str = "0:0", rss: str = "2K"
) -> str:
    return END.format(state=state, exit=exit, step=step, step_exit=step_exit, rss=rss)


def test_usage_comes_from_job_and_steps() -> None:
    """Time from the job's line, memory from its steps' in bytes."""
    assert accounted(ended(rss="1.50M")) == Sighting(
        "COMPLETED",
        exit_code=0,
        signal=0,
        node="c1",
        started_at=at(1001),
        ended_at=at(1061),
        elapsed_s=60.0,
        cpu_s=3723.0,
        max_rss_bytes=1572864,
        alloc_cpus=2,
        source="sacct",
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:01.500", 1.5), ("01:02", 62.0), ("1-02:03:04", 93784.0), ("", None), ("x", None)]
)
def test_processor_time_in_every_form(text: str, seconds: float | None) -> None:
    """Days, hours and fractions are there only when needed."""
    assert accounted(f"7|COMPLETED|0:0|1000|1001|1061|60|{text}||1|c1|n").cpu_s == seconds


@pytest.mark.parametrize("word", ["OUT_OF_MEMORY", "OUT_OF_ME+"])
def test_step_that_ran_out_of_memory_is_not_hidden_by_exit_0(word: str) -> None:
    """A child was killed and the script went on; the word may be cut."""
    assert accounted(ended(step=word)).state == "OUT_OF_MEMORY"


def test_signal_of_a_cancelled_job_is_in_its_step() -> None:
    """The job's own line says 0:0, and who cancelled it."""
    sighting = accounted(ended(state="CANCELLED by 1001", step="CANCELLED", step_exit="0:15"))
    assert (sighting.state, sighting.exit_code, sighting.signal) == ("CANCELLED by 1001", 0, 15)


def test_requeued_job_is_its_last_run() -> None:
    """Earlier runs are counted and nothing more; the job came when the first came."""
    first = "7|NODE_FAIL|1:0|1000|1001|1010|9|00:00||1|c1|n"
    second = "7|COMPLETED|0:0|1020|1030|1040|10|00:01||1|c2|n"
    (record,) = sacct_records(f"{second}\n{first}")
    assert (record.sighting.state, record.sighting.restarts, record.submitted_at) == ("COMPLETED", 1, at(1000))


def test_every_run_of_a_requeued_job_is_a_run() -> None:
    """The first is over, with what it used, although SLURM's word for it is REQUEUED; the second waits."""
    first = "7|REQUEUED|0:0|1000|1001|1010|9|00:03||2|c1|n"
    second = "7|PENDING|0:0|1010|Unknown|Unknown|0|00:00:00||2|None assigned|n"
    runs = [(run.submitted_at, run.sighting) for run in sacct_runs(f"{first}\n{second}")]
    assert runs == [
        (
            at(1000),
            Sighting(
                "REQUEUED",
                exit_code=0,
                signal=0,
                node="c1",
                started_at=at(1001),
                ended_at=at(1010),
                elapsed_s=9.0,
                cpu_s=3.0,
                alloc_cpus=2,
                source="sacct",
            ),
        ),
        (at(1010), Sighting("PENDING", restarts=1, source="sacct")),
    ]


def test_same_id_with_another_name_is_another_job() -> None:
    """Ids wrap: accounting shows the old job of 2017 too."""
    old = "7|COMPLETED|0:0|900|901|910|9|00:00||1|c1|old"
    new = "7|FAILED|1:0|1020|1030|1040|10|00:01||1|c2|new"
    assert {record.name: record.sighting.restarts for record in sacct_records(f"{old}\n{new}")} == {"old": 0, "new": 0}


# --- both --------------------------------------------------------------------------------------------------------

NOW = at(1070)
OVER = Sighting("COMPLETED", reason="x", exit_code=0, signal=0, started_at=at(1001), ended_at=at(1061), source="squeue")


def test_end_is_accounting_s_with_the_reason_of_squeue() -> None:
    """Usage and steps are known there only."""
    final = accounted(ended(step="OUT_OF_MEMORY"))
    both = merged(OVER, final, NOW)
    assert both is not None
    assert (both.state, both.reason, both.max_rss_bytes) == ("OUT_OF_MEMORY", "x", 2048)


def test_end_that_accounting_does_not_have_yet_is_completing() -> None:
    """sacct lags by seconds; for that long the job is not judged."""
    running = accounted("7|RUNNING|0:0|1000|1001|Unknown|60|00:00||1|c1|n")
    both = merged(OVER, running, NOW)
    assert both is not None
    assert (both.state, both.exit_code, both.ended_at) == ("COMPLETING", None, None)


def test_end_that_accounting_never_gets_is_squeue_s() -> None:
    """After a minute squeue's word is enough."""
    assert merged(OVER, None, NOW + timedelta(minutes=2)) == OVER


def test_end_of_an_earlier_run_is_not_the_end() -> None:
    """After a requeue accounting may still show the run before."""
    earlier = Sighting("NODE_FAIL", exit_code=1, signal=0, ended_at=at(990), source="sacct")
    both = merged(OVER, earlier, NOW)
    assert both is not None
    assert both.state == "COMPLETING"


@pytest.mark.parametrize("state", ["RUNNING", "PENDING"])
def test_job_that_only_accounting_calls_alive_is_not_seen(state: str) -> None:
    """It left squeue, so that record is stale; it must not stay RUNNING for ever."""
    assert merged(None, Sighting(state, source="sacct"), NOW) is None
