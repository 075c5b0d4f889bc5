#!/usr/bin/env python3
"""The process that holds pyslurm, so that the gateway does not: libslurm blocks for as long as it likes, prints where
it likes and may end the process that loaded it. It knows SLURM through pyslurm and nothing of DivBase; a program of
one file, for Python 3.6 or later, because it runs on the Python that the cluster's administrator built pyslurm for.

It reads one JSON object a line from standard input and writes one a line to standard output, in the same order:

    {"id": 7, "method": "squeue", "params": {}, "limit_s": 60}
    {"id": 7, "result": ...}  or  {"id": 7, "error": {"kind": ..., "words": ...}}

The first line, with the id 0, comes unasked: what was loaded, or why it cannot be. Kinds of error: `import`, `invalid`
(SLURM was not asked), `slurm` (libslurm's own words), `fault` (anything else). Rows carry the names and the notation of
the fields of squeue and sacct. End of input ends the process.
"""

import json
import math
import os
import pwd
import re
import shlex
import signal
import sys
import time
from typing import Any, Dict, Iterable, Iterator, List, Optional, TextIO

Row = Dict[str, str]

ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "REQUEUED")
NOT_THERE = ("Invalid job id specified", "Job/step already completing or completed")
SPARE_S = 5
"""After this long beyond a request's limit the kernel ends a process that nobody came to kill."""


class Invalid(Exception):
    """SLURM was not asked, because the request cannot be put to it."""


# --- submission --------------------------------------------------------------------------------------------------


def _minutes(value: str) -> Any:
    return int(value) if value.isdigit() else value  # pyslurm takes digits only as a number


def _signal(value: str) -> Dict[str, Any]:
    """`[B:]USR2[@seconds]`."""
    match = re.match(r"(B:)?(?:SIG)?([A-Z0-9]+)(?:@(\d+))?$", value)
    if match is None:
        raise Invalid("'--signal={}' cannot be read".format(value))
    number = int(match.group(2)) if match.group(2).isdigit() else getattr(signal, "SIG" + match.group(2), None)
    if number is None:
        raise Invalid("'--signal={}' names no signal".format(value))
    return {"signal": int(number), "time": int(match.group(3) or 60), "batch_only": bool(match.group(1))}


# pyslurm's own reader of `#SBATCH` lines knows --partition by a name that it does not have, and no --signal=USR2.
FROM_HEADER = {
    "account": ("account", str),
    "comment": ("comment", str),
    "cpus-per-task": ("cpus_per_task", int),
    "mem": ("memory_per_node", str),
    "nodes": ("nodes", int),
    "ntasks": ("ntasks", int),
    "partition": ("partitions", str),
    "qos": ("qos", str),
    "signal": ("signal", _signal),
    "time": ("time_limit", _minutes),
    "wckey": ("wckey", str),
}  # type: Dict[str, Any]
SAID_BELOW = ("chdir", "export", "input", "job-name", "no-requeue", "open-mode", "output")


def header(script: str) -> Dict[str, Any]:
    """What the `#SBATCH` lines of a script ask for, in pyslurm's names. They end where the commands begin."""
    found = {}  # type: Dict[str, Any]
    for line in script.splitlines()[1:]:
        if line.strip() and not line.startswith("#"):
            break
        if not line.startswith("#SBATCH"):
            continue
        for word in shlex.split(line[len("#SBATCH") :], comments=True):
            option, _, value = word.partition("=")
            option = option[2:] if option.startswith("--") else ""
            if option in FROM_HEADER:
                name, read = FROM_HEADER[option]
                found[name] = read(value)
            elif option not in SAID_BELOW:
                raise Invalid("the script asks for '{}', which DivBase cannot hand to pyslurm".format(word))
    return found


def submit(slurm: Any, directory: str, name: str, script: str) -> str:
    """Submit the script, a file in the directory. What the job's identity and safety hang on is said here."""
    path = os.path.join(directory, script)
    try:
        with open(path, encoding="utf-8") as file:
            wanted = header(file.read())
        wanted.update(
            name=name,
            script=path,
            working_directory=directory,
            standard_in="/dev/null",
            standard_output="job.log",
            log_files_open_mode="append",
            environment="NONE",
            is_requeueable=False,
        )
        description = slurm.JobSubmitDescription(**wanted)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Invalid(str(error)) from error
    try:
        return str(description.submit())
    except ValueError as error:  # of pyslurm's own checks, which come before the call
        raise Invalid(str(error)) from error


# --- looking -----------------------------------------------------------------------------------------------------


def squeue(slurm: Any, name: Optional[str] = None) -> List[Row]:
    """This account's jobs that slurmctld remembers, or those of one name."""
    ours = os.getuid()
    jobs = [job for job in slurm.Jobs.load().values() if job.user_id == ours]
    return [_queue_row(job) for job in jobs if name is None or job.name == name]


def shown_id(job: Any) -> str:
    """The id as SLURM's commands print it: of a task of an array `123_4`, of those that have not begun `123_[5-9]`."""
    if not job.array_id:
        return str(job.id)
    if job.array_task_id is not None:
        return "{}_{}".format(job.array_id, job.array_task_id)
    waiting = (getattr(job, "array_tasks_waiting", None) or "").strip("[]")
    return "{}_[{}]".format(job.array_id, waiting) if waiting else str(job.array_id)


def _queue_row(job: Any) -> Row:
    return {
        "JobArrayID": shown_id(job),
        "State": job.state,
        "RestartCnt": str(job.requeue_count),
        "exit_code": "{}:{}".format(job.exit_code, job.exit_code_signal),
        "SubmitTime": str(job.submit_time or 0),
        "StartTime": str(job.start_time or 0),
        "EndTime": str(job.end_time or 0),
        "NodeList": job.allocated_nodes or "",
        "PriorityLong": str(job.priority),
        "Partition": job.partition or "",
        "Reason": job.state_reason or "",
        "Name": job.name or "",
    }


def sacct(slurm: Any, since_s: int, ids: Optional[List[str]] = None, name: Optional[str] = None) -> List[Row]:
    """What accounting has of this account's jobs of the last seconds: all, these ids, or this name; steps follow their
    job. Of an id that ran more than once pyslurm shows the last run only."""
    chosen = {"start_time": int(time.time()) - since_s, "users": [os.getuid()]}  # type: Dict[str, Any]
    if ids is not None:
        chosen["ids"] = sorted({int(each.partition("_")[0]) for each in ids})  # of an array, all tasks
    if name is not None:
        chosen["names"] = [name]
    jobs = slurm.db.Jobs.load(slurm.db.JobFilter(**chosen))
    return [row for job in jobs.values() for row in _account_rows(job)]


def _account_rows(job: Any) -> Iterator[Row]:
    whole = {
        "JobID": shown_id(job),
        "State": _state(job),
        "ExitCode": "{}:{}".format(job.exit_code, job.exit_code_signal),
        "Submit": str(job.submit_time or 0),
        "Start": str(job.start_time or 0),
        "End": str(job.end_time or 0),
        "ElapsedRaw": str(job.elapsed_time or 0),
        "TotalCPU": "0:{}".format(job.stats.total_cpu_time),
        "MaxRSS": "",
        "AllocCPUS": str(job.cpus or 0),
        "Partition": job.partition or "",
        "NodeList": job.nodelist or "",
        "JobName": job.name or "",
    }
    yield whole
    for step in job.steps.values():
        yield dict(
            whole,
            JobID="{}.{}".format(whole["JobID"], step.id),
            State=step.state,
            ExitCode="{}:{}".format(step.exit_code, step.exit_code_signal),
            MaxRSS=str(step.stats.max_resident_memory),
            JobName=step.name or "",
        )


def _state(job: Any) -> str:
    """SLURM's word, with the number of who cancelled it, as sacct writes it."""
    if job.state != "CANCELLED":
        return str(job.state)
    try:
        return "CANCELLED by {}".format(pwd.getpwnam(job.cancelled_by).pw_uid)
    except (KeyError, TypeError):  # an account that this machine does not know
        return "CANCELLED"


# --- the rest ----------------------------------------------------------------------------------------------------


def scancel(slurm: Any, job_id: str, name: str) -> bool:
    """End the job of this id if it has this name; False where there is none that could be told.

    pyslurm tells only jobs that have an id of their own, which a task of an array has from its start on.
    """
    if "_" in job_id:
        own = [job.id for job in slurm.Jobs.load().values() if shown_id(job) == job_id and job.name == name]
        if not own:
            return False
        job_id = str(own[0])
    try:
        if slurm.Job.load(int(job_id)).name != name:
            return False
        slurm.Job(int(job_id)).cancel()
    except slurm.RPCError as error:
        if any(words in str(error) for words in NOT_THERE):
            return False
        # pyslurm judges by errno, which an earlier call may have left behind: what matters is what became of the job.
        if slurm.Job.load(int(job_id)).state in ALIVE:
            raise
    return True


def ping(slurm: Any) -> Dict[str, str]:
    """Ask slurmctld for its configuration."""
    cluster = slurm.slurmctld.Config.load().cluster
    release = ".".join(str(part) for part in slurm.slurm_api_version())
    return {"cluster": cluster, "slurm": release, "pyslurm": slurm.__version__}


METHODS = {
    "submit": submit,
    "squeue": squeue,
    "sacct": sacct,
    "scancel": scancel,
    "ping": ping,
}  # type: Dict[str, Any]


# --- requests and answers ----------------------------------------------------------------------------------------


def answer(slurm: Any, request: Dict[str, Any]) -> Dict[str, Any]:
    """One request's answer, whatever becomes of it."""
    signal.alarm(math.ceil(request["limit_s"]) + SPARE_S)  # unhandled, so that it ends even a call that does not return
    try:
        return {"result": METHODS[request["method"]](slurm, **request["params"])}
    except Invalid as error:
        return failure("invalid", error)
    except slurm.RPCError as error:
        return failure("slurm", error)
    except Exception as error:  # noqa: BLE001 - whatever it was, somebody waits for a line
        return failure("fault", error)
    finally:
        signal.alarm(0)


def failure(kind: str, error: Exception) -> Dict[str, Any]:
    words = " ".join(str(error).split()) or type(error).__name__
    return {"error": {"kind": kind, "words": words if kind != "fault" else type(error).__name__ + ": " + words}}


def serve(requests: Iterable[str], answers: TextIO) -> None:
    """Answer until there are no more requests."""

    def say(number: int, words: Dict[str, Any]) -> None:
        answers.write(json.dumps(dict(words, id=number)) + "\n")
        answers.flush()

    try:
        import pyslurm
    except Exception as error:  # noqa: BLE001 - a library of another release fails in many ways
        say(0, failure("import", error))
        return
    say(0, {"result": {"pyslurm": pyslurm.__version__}})
    for line in requests:
        request = json.loads(line)
        say(request["id"], answer(pyslurm, request))


def main() -> None:
    """Keep both streams for the protocol: what a library prints goes to standard error, and what it reads is empty."""
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - as long as the process lives
    with requests, answers:
        serve(requests, answers)


if __name__ == "__main__":
    main()
