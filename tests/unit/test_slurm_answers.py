"""What an answer of sbatch means: the difference between no, not now, and nobody knows is the difference between one
run of a job and two."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionRefused, SubmissionUnknown
from divbase_gateway.slurm.answers import (
    job_id_of,
    require_answer,
    require_cancelled,
    require_controller,
    words_of,
)
from divbase_gateway.slurm.runners import Completed

RECORDED = Path(__file__).parents[1] / "recorded"
FAILED = "sbatch: error: Batch job submission failed: "


def refused_cases() -> list[tuple[str, str, int]]:
    """Release, case and exit status of every recorded refusal; sbatch accepts a time limit that no partition has."""
    return [
        (table.parent.name, row["case"], int(row["exit"]))
        for table in sorted(RECORDED.glob("*/commands.tsv"))
        for row in csv.DictReader(table.open(), delimiter="\t", quoting=csv.QUOTE_NONE)
        if row["case"].startswith("sbatch-refused-") and row["exit"] != "0"
    ]


NOT_ABOUT_THE_JOB = {"sbatch-refused-dependency", "sbatch-refused-no-file"}
"""We submit without dependencies; a script that is not where we put it is a fault of the place, not of the job."""


@pytest.mark.parametrize(("release", "case", "status"), refused_cases())
def test_recorded_refusals_are_refusals(release: str, case: str, status: int) -> None:
    """What a real cluster says no to is refused in its own words, and nothing else is."""
    stderr = (RECORDED / release / f"{case}.stderr").read_text()
    error = Exception if case in NOT_ABOUT_THE_JOB else SubmissionRefused
    with pytest.raises(error) as caught:
        job_id_of("n", Completed(status, "", stderr))
    assert isinstance(caught.value, SubmissionRefused) == (case not in NOT_ABOUT_THE_JOB)


@pytest.mark.parametrize("stdout", ["42\n", "42;cluster\n", "Welcome\n42\n", "  42  \n", "7\n42\n"])
def test_exit_0_and_an_id_is_an_id(stdout: str) -> None:
    """Whatever stands before it, and whatever is said on the error output."""
    assert job_id_of("n", Completed(0, stdout, f"{FAILED}Invalid qos specification")) == "42"


@pytest.mark.parametrize(
    "words",
    [
        "Invalid account or account/partition combination specified",
        "Invalid partition name specified",
        "Invalid qos specification",
        "Requested node configuration is not available",
        "Requested time limit is invalid (missing or exceeds some limit)",
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "Unspecified error",
    ],
)
def test_a_no_of_slurmctld_is_a_refusal_in_its_words(words: str) -> None:
    """With words for what to do."""
    with pytest.raises(SubmissionRefused) as caught:
        job_id_of("n", Completed(1, "", f"sbatch: error: AssocMaxSubmitJobLimit\n{FAILED}{words}\n"))
    assert caught.value.message == f"SLURM refused the job: AssocMaxSubmitJobLimit; {words}."
    assert caught.value.hint


@pytest.mark.parametrize(
    "answer",
    [
        Completed(1, "", f"{FAILED}Unable to contact slurm controller (connect failure)"),
        Completed(1, "", f"{FAILED}Slurm backup controller in standby mode"),
        Completed(1, "", f"{FAILED}MaxJobCount limit reached"),
        Completed(127, "", "env: /opt/slurm/bin/sbatch: No such file or directory"),
        Completed(1, "", "sbatch: fatal: Could not establish a configuration source"),
    ],
)
def test_who_could_not_be_asked_accepted_nothing(answer: Completed) -> None:
    """The job waits for the next tick."""
    with pytest.raises(SchedulerUnavailable):
        job_id_of("n", answer)


@pytest.mark.parametrize(
    "answer",
    [
        Completed(1, "", f"{FAILED}Socket timed out on send/recv operation"),
        Completed(1, "", f"{FAILED}Zero Bytes were transmitted or received"),
        Completed(1, "", f"{FAILED}Unable to contact slurm controller (receive failure)"),
        Completed(1, "", f"{FAILED}I/O error writing script/environment to file"),
        Completed(1, "", "Segmentation fault"),
        Completed(1, "42\n", f"{FAILED}Invalid qos specification"),
        Completed(0, "", ""),
        Completed(-9, "", ""),
        Completed(
            1,
            "",
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
            f"{FAILED}Unable to contact slurm controller (connect failure)",
        ),
    ],
)
def test_everything_else_is_unknown(answer: Completed) -> None:
    """There may be such a job, so it is looked for before anything else."""
    with pytest.raises(SubmissionUnknown):
        job_id_of("n", answer)


def test_words_are_without_the_noise_of_the_login() -> None:
    """Only lines that call themselves errors are passed on."""
    noise = "*** Maintenance on Monday ***\nsbatch: error: Memory specification can not be satisfied\n"
    assert words_of(Completed(1, "", noise)) == "Memory specification can not be satisfied"


@pytest.mark.parametrize(
    "answer",
    [
        Completed(1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"),
        Completed(0, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"),
        Completed(0, "", "sacct: error: Problem talking to the database: Connection refused"),
        Completed(1, "", "Slurm accounting storage is disabled"),
    ],
)
def test_an_error_is_no_empty_list(answer: Completed) -> None:
    """Also where the command ends with 0 all the same."""
    with pytest.raises(SchedulerUnavailable):
        require_answer("squeue", answer)


def test_noise_beside_an_answer_is_no_error() -> None:
    """A banner may speak of refused connections."""
    assert require_answer("squeue", Completed(0, "x", "Motd: Connection refused on node 7 is known")) == "x"


@pytest.mark.parametrize(
    "answer",
    [
        Completed(0, "", ""),
        Completed(1, "", "scancel: error: Kill job error on job id 9: Invalid job id specified"),
        Completed(1, "", "scancel: error: Kill job error on job id 9: Job/step already completing or completed"),
        Completed(1, "", "scancel: error: No active jobs match ALL job filters, including: job_name=n "),
    ],
)
def test_nothing_left_to_cancel_is_no_error(answer: Completed) -> None:
    """The job ended first."""
    require_cancelled(answer)


@pytest.mark.parametrize(
    "said",
    [
        "scancel: error: Unable to contact slurm controller (connect failure)",
        "scancel: error: Kill job error on job id 7_1: Job/step already completing or completed\n"
        "scancel: error: Kill job error on job id 7_2: Socket timed out on send/recv operation",
        "",
    ],
)
def test_a_cancel_that_nobody_took_is_an_error(said: str) -> None:
    """It is sent again, for all of the jobs where it is for one."""
    with pytest.raises(SchedulerUnavailable):
        require_cancelled(Completed(1, "", said))


def test_a_controller_that_is_down_is_unavailable() -> None:
    """scontrol ping may end with 0 and say so in words."""
    with pytest.raises(SchedulerUnavailable):
        require_controller(Completed(0, "Slurmctld(primary) at ctl is DOWN\n", ""))
    assert require_controller(Completed(0, "Slurmctld(primary) at ctl is UP\n", "")).endswith("UP")
