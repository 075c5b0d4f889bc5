"""What an answer of sbatch, scancel or a query means: yes, no, or nothing at all. Pure decisions over status and text;
the words are those of SLURM's own error table (src/common/slurm_errno.c, releases 22.05 to 26.05)."""

from __future__ import annotations

import re

from divbase_gateway.domain.errors import SchedulerUnavailable, SubmissionRefused, SubmissionUnknown
from divbase_gateway.slurm.runners import Completed

_JOB_ID = re.compile(r"(\d+)(?:;[\w.-]+)?")
_FAILED = re.compile(r"Batch job submission failed: (.*)")
_ERROR_LINE = re.compile(r"(?:\w+: )?(?:error|fatal): (.*)")

_OPERATOR_ACCOUNT = (
    "A site admin corrects account, partition, QOS or wckey of the project (`divbase projects allocation set`), the "
    "operator those of the site (`scheduler.account` and so on in the gateway's settings), or the cluster's "
    "administrator lets the gateway's user have them (sacctmgr). Then `divbase jobs rerun`."
)
_LESS = (
    "Ask for less memory, fewer cores or less time, or let a site admin name another partition for the project "
    "(`divbase projects allocation set`)."
)
_LATER = "Wait until some jobs have ended and run it again, or ask the site's operator for a higher limit."
_OPERATOR = "The site's operator must look at it."

_REFUSALS = {
    "Invalid account or account/partition combination specified": _OPERATOR_ACCOUNT,
    "Invalid partition name specified": _OPERATOR_ACCOUNT,
    "No partition specified or system default partition": _OPERATOR_ACCOUNT,
    "Invalid qos specification": _OPERATOR_ACCOUNT,
    "Invalid wckey specification": _OPERATOR_ACCOUNT,
    "User's group not permitted to use this partition": _OPERATOR_ACCOUNT,
    "Access/permission denied": _OPERATOR_ACCOUNT,
    "Invalid user id": _OPERATOR_ACCOUNT,
    "Requested node configuration is not available": _LESS,
    "Requested partition configuration not available now": _LESS,
    "More processors requested than permitted": _LESS,
    "Node count specification invalid": _LESS,
    "CPU count specification invalid": _LESS,
    "Memory required by task is not available": _LESS,
    "Requested time limit is invalid (missing or exceeds some limit)": _LESS,
    "Job violates accounting/QOS policy": _LATER,
    "Requested account has breached requested QOS usage threshold": _LATER,
    "Required node not available (down, drained or reserved)": _OPERATOR,
    "Required partition not available (inactive or drain)": _OPERATOR,
    "Invalid feature specification": _OPERATOR,
    "Invalid generic resource (gres) specification": _OPERATOR,
    "Invalid license specification": _OPERATOR,
    "Job size specification needs to be provided": _OPERATOR,
    "Pathname of a file, directory or other parameter too long": _OPERATOR,
    "Requested operation is presently disabled": _OPERATOR,
    "Requested operation not supported on this system": _OPERATOR,
    "Unspecified error": _OPERATOR,  # a job_submit plugin that says no
}
"""Answers of slurmctld by which no job came to be, where asking again changes nothing; and who does something."""

_NOT_NOW = (
    "Unable to contact slurm controller (connect failure)",
    "Slurm backup controller in standby mode",
    "MaxJobCount limit reached",
    "Rate limit exceeded",
    "Unable to create job record, try again",
)
"""No job came to be either, but a later try may do better."""

_REFUSED_BY_SBATCH = re.compile(
    r"does not look like a batch script|Invalid --\S+ specification|unrecognized option|Job script not specified"
)
"""sbatch itself will have none of it: slurmctld was never asked."""

_BEFORE_ASKING = ("resolve_ctls_from_dns_srv", "Could not establish a configuration source", "Unable to open file")
"""sbatch gave up before it spoke to slurmctld."""

_ASKED_TWICE = "temporarily unable to accept job"
"""sbatch had lost an answer itself and asked again, so the last answer is not the only one."""

_NOTHING_TO_CANCEL = re.compile(
    r"Invalid job id specified|No active jobs match|already completing or completed|Job/step already"
)
_SILENT_FAILURE = re.compile(
    r"^(?:squeue|sacct|slurm_load_jobs|scontrol|scancel)\b.*"
    r"(?:Unable to contact|Problem talking to the database|Connection refused|persist|timed out|Zero Bytes"
    r"|Unable to connect|accounting storage is disabled)",
    re.MULTILINE,
)
_CONTROLLER_DOWN = re.compile(r"^Slurmctld\(primary\).*is DOWN", re.MULTILINE)


def job_id_of(name: str, answer: Completed) -> str:
    """The id that sbatch gave the job.

    Raises:
        SubmissionRefused: slurmctld said no; there is no such job.
        SchedulerUnavailable: nobody could say yes or no; there is no such job.
        SubmissionUnknown: anything else.
    """
    ids = [match[1] for line in answer.stdout.splitlines() if (match := _JOB_ID.fullmatch(line.strip()))]
    if answer.status == 0 and ids:
        return ids[-1]
    words = words_of(answer)
    if not ids and _ASKED_TWICE not in answer.stderr:
        _raise_if_definite(name, answer, words)
    raise SubmissionUnknown(f"sbatch gave no clear answer for {name} (exit {answer.status}): {words}")


def _raise_if_definite(name: str, answer: Completed, words: str) -> None:
    if answer.status in (126, 127) or any(each in answer.stderr for each in _BEFORE_ASKING):
        raise SchedulerUnavailable(
            f"sbatch could not be run (exit {answer.status}): {words}",
            hint="The site's operator checks `scheduler.bin_dir` and `scheduler.slurm_conf`.",
        )
    if answer.status != 0 and _REFUSED_BY_SBATCH.search(answer.stderr):
        raise SubmissionRefused(f"sbatch refused the job: {words}.", hint=_OPERATOR, details={"name": name})
    said = _FAILED.search(answer.stderr)
    if said is not None and answer.status != 0:
        raise_if_not_accepted(name, said[1], words)


def raise_if_not_accepted(name: str, said: str, words: str) -> None:
    """Whether slurmctld's answer to a submission means for certain that there is no such job.

    Args:
        said: libslurm's words for the answer (slurm_strerror), maybe with more around them.
        words: what is passed on to people.

    Raises:
        SubmissionRefused: asking again changes nothing.
        SchedulerUnavailable: a later try may do better.
    """
    if any(each in said for each in _NOT_NOW):
        raise SchedulerUnavailable(f"SLURM takes no jobs now: {said}.")
    for refusal, hint in _REFUSALS.items():
        if refusal in said:
            raise SubmissionRefused(f"SLURM refused the job: {words}.", hint=hint, details={"name": name})


def words_of(answer: Completed) -> str:
    """SLURM's own words for what went wrong, on one line, without the noise of the login around them."""
    lines = [match[1] for line in answer.stderr.splitlines() if (match := _ERROR_LINE.match(line.strip()))]
    said = [line.removeprefix("Batch job submission failed: ").rstrip(".") for line in lines]
    return "; ".join(dict.fromkeys(said)) or " ".join(answer.stderr.split())[-300:] or "nothing was said"


def require_answer(command: str, answer: Completed) -> str:
    """The output of a query that worked. Some commands print an error and end with 0 all the same.

    Raises:
        SchedulerUnavailable: this is no answer, so nothing follows from what is not in it.
    """
    if answer.status != 0 or _SILENT_FAILURE.search(answer.stderr):
        raise SchedulerUnavailable(f"{command} failed (exit {answer.status}): {words_of(answer)}.")
    return answer.stdout


def require_cancelled(answer: Completed) -> None:
    """Raises SchedulerUnavailable, unless each of the jobs was told to end or there is none that could be told."""
    said = [line for line in answer.stderr.splitlines() if _ERROR_LINE.match(line.strip())]
    if answer.status != 0 and not (said and all(map(_NOTHING_TO_CANCEL.search, said))):
        raise SchedulerUnavailable(f"scancel failed (exit {answer.status}): {words_of(answer)}.")


def require_controller(answer: Completed) -> str:
    """The first line of `scontrol ping`.

    Raises:
        SchedulerUnavailable: the controller is down.
    """
    lines = [line.strip() for line in answer.stdout.splitlines() if line.startswith("Slurmctld(")]
    if answer.status != 0 or not lines or _CONTROLLER_DOWN.search(answer.stdout):
        raise SchedulerUnavailable(
            f"slurmctld does not answer: {' '.join(lines) or words_of(answer)}.",
            hint="The cluster's administrator must look at it; jobs that run are not touched by this.",
        )
    return lines[0]
