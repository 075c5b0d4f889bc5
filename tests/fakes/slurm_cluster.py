"""A SLURM cluster in a folder: sbatch, squeue, sacct, scancel, scontrol and sinfo as executables that really run
scripts on this machine, with faults that a test switches on. It imports nothing but the standard library, so that a
command takes milliseconds, and knows nothing of the gateway; what it prints is what SLURM 24.11 prints.

As a program: `slurm_cluster.py FOLDER COMMAND ARGUMENT...`; `FOLDER run JOB` is the process that watches one job.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Job = dict[str, Any]
State = dict[str, Any]

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL")
CONTACT = "Unable to contact slurm controller (connect failure)"
DATABASE = "sacct: error: Problem talking to the database: Connection refused"
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")


class FakeCluster:
    """The test's side. Faults, set with `fault(name=value)`:

    ctld_away, dbd_away: the daemon does not answer.
    lose_answer: for the next sbatch only; "after_accept" or "before_accept", with exit 1 and a timeout's words.
    accept_and_fail: for the next sbatch only; the job is accepted, the id printed, and the exit status 1.
    twice: for the next sbatch only; two jobs come of it, and the id of the first is printed.
    refuse: slurmctld's words for every sbatch.
    banner: noise before every answer, on standard output and standard error.
    hang_s: seconds before every answer.
    min_job_age_s: how long squeue shows ended jobs (300).
    accounting_lags: sacct still calls ended jobs RUNNING.
    """

    def __init__(self, folder: Path, slots: int = 2, grace_s: float = 1.0):
        self.folder = folder
        self.bin_dir = folder / "bin"
        self.work_dir = folder / "work"
        for each in (folder, self.bin_dir, self.work_dir):
            each.mkdir(mode=0o700, parents=True)
        _write(folder / "state.json", {"next_id": 1, "slots": slots, "grace_s": grace_s, "faults": {}, "jobs": []})
        for command in COMMANDS:
            program = self.bin_dir / command
            words = f'#!/bin/sh\nexec {sys.executable} -IS {Path(__file__).resolve()} {folder} {command} "$@"\n'
            program.write_text(words)
            program.chmod(0o755)

    def fault(self, **faults: object) -> None:
        with _state(self.folder) as state:
            state["faults"].update(faults)

    def count_from(self, next_id: int) -> None:
        """Let the ids go on from here: they wrap."""
        with _state(self.folder) as state:
            state["next_id"] = next_id

    def edit(self, name: str, **fields: object) -> None:
        """Say what became of the newest job of this name."""
        with _state(self.folder) as state:
            _advance(self.folder, state)
            next(job for job in reversed(state["jobs"]) if job["name"] == name).update(fields)

    def names(self) -> list[str]:
        """Names of all jobs that were ever accepted."""
        with _state(self.folder) as state:
            return [job["name"] for job in state["jobs"]]

    def calls(self) -> list[str]:
        """The commands that were run."""
        path = self.folder / "calls"
        return path.read_text().split() if path.exists() else []

    def close(self) -> None:
        """End every job that runs, and wait for that."""
        with _state(self.folder) as state:
            running = [job for job in state["jobs"] if job["state"] == "RUNNING"]
            state["slots"] = 0
            for job in running:
                (self.folder / f"kill-{job['key']}").touch()
        deadline = time.monotonic() + 10
        while any(_alive(job["pid"]) for job in running) and time.monotonic() < deadline:
            with suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            time.sleep(0.01)


# --- state -------------------------------------------------------------------------------------------------------


@contextmanager
def _state(folder: Path) -> Iterator[State]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads((folder / "state.json").read_text())
        yield state
        _write(folder / "state.json", state)


def _write(path: Path, content: object) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.rename(path)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _advance(folder: Path, state: State) -> None:
    """Do what the controller would have done since the last command."""
    for job in state["jobs"]:
        if job["state"] == "RUNNING":
            _end_if_over(folder, job)
    running = sum(job["state"] == "RUNNING" for job in state["jobs"])
    waiting = [job for job in state["jobs"] if job["state"] == "PENDING" and not job.get("held")]
    for job in waiting[: max(0, state["slots"] - running)]:
        argv = [sys.executable, "-IS", __file__, str(folder), "run", json.dumps({**job, "grace_s": state["grace_s"]})]
        job["pid"] = subprocess.Popen(
            argv, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).pid
        job.update(state="RUNNING", reason="None", start=int(time.time()), node="fake1")


def _end_if_over(folder: Path, job: Job) -> None:
    end = folder / f"end-{job['key']}.json"
    gone = not _alive(job["pid"])
    if end.exists():
        job.update(json.loads(end.read_text()))
        good = job["exit"] == job["signal"] == 0
        job["state"] = "CANCELLED" if job["cancelled"] else "COMPLETED" if good else "FAILED"
    elif gone:
        job.update(state="NODE_FAIL", end=int(time.time()), exit=0, signal=0)


# --- one job -----------------------------------------------------------------------------------------------------


def run(folder: Path, job: Job) -> None:
    """Run the script to its end, and let nothing that it started outlive it."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans of the job become children of this process
    array, _, task = job["id"].partition("_")
    variables = {
        "PATH": os.defpath + ":/usr/bin:/bin:" + str(Path(sys.executable).parent),
        "HOME": job["chdir"],
        "SLURM_JOB_ID": job["id"],
        "SLURM_JOB_NAME": job["name"],
        **({} if not task else {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task}),
        **({"SLURM_RESTART_COUNT": str(job["restarts"])} if job["restarts"] else {}),
    }
    copy = folder / f"script-{job['key']}"
    copy.write_bytes(Path(job["script"]).read_bytes())
    copy.chmod(0o700)
    with (Path(job["chdir"]) / job["output"]).open("ab") as log:
        child = subprocess.Popen(
            [str(copy)], cwd=job["chdir"], env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    _watch(folder, job, child)
    _kill_all()
    code = child.returncode
    end = {"end": int(time.time()), "exit": max(0, code), "signal": max(0, -code)}
    _write(folder / f"end-{job['key']}.json", end)


def _watch(folder: Path, job: Job, child: subprocess.Popen[bytes]) -> None:
    told_at = 0.0
    while child.poll() is None:
        if (folder / f"kill-{job['key']}").exists():
            over = told_at and time.monotonic() - told_at > job["grace_s"]
            _signal_all(signal.SIGKILL if over else signal.SIGTERM)
            told_at = told_at or time.monotonic()
        time.sleep(0.01)


def _signal_all(number: int) -> bool:
    family = _descendants(os.getpid())
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return bool(family)


def _kill_all() -> None:
    while _signal_all(signal.SIGKILL):
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                if words[0] != "Z":
                    parents[int(entry.name)] = int(words[1])
    found, fringe = [], [root]
    while fringe:
        parent = fringe.pop()
        children = [pid for pid, its in parents.items() if its == parent]
        found += children
        fringe += children
    return found


# --- the commands ------------------------------------------------------------------------------------------------


def _options(argv: list[str], known: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    options, rest = {}, []
    for word in argv:
        name, _, value = word.partition("=")
        if not word.startswith("--"):
            rest.append(word)
        elif name.removeprefix("--") in known:
            options[name.removeprefix("--")] = value
        else:
            _fail(f"unrecognized option '{name}'", 255)
    return options, rest


def _fail(words: str, status: int = 1) -> None:
    sys.stderr.write(words + "\n")
    raise SystemExit(status)


def sbatch(folder: Path, state: State, argv: list[str]) -> None:
    known = (
        "parsable",
        "job-name",
        "chdir",
        "input",
        "output",
        "open-mode",
        "export",
        "no-requeue",
        "array",
        "comment",
    )
    options, (script,) = _options(argv, known)
    faults = state["faults"]
    lost = faults.pop("lose_answer", None)
    timeout = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    if "refuse" in faults:
        _fail(f"sbatch: error: Batch job submission failed: {faults['refuse']}")
    if lost == "before_accept":
        _fail(timeout)
    job_id = _new_jobs(state, options, script)
    if faults.pop("twice", False):
        _new_jobs(state, options, script)
    if lost == "after_accept":
        _fail(timeout)
    print(job_id)
    if faults.pop("accept_and_fail", False):
        _fail("sbatch: error: something went wrong after all")


def _new_jobs(state: State, options: dict[str, str], script: str) -> str:
    """A job, or a task for each number of an array; the id that sbatch prints."""
    job_id = str(state["next_id"])
    state["next_id"] += 1
    if "array" not in options:
        _new_job(state, options, script, job_id)
        return job_id
    for number in options["array"].split(","):
        output = options["output"].replace("%a", number)
        _new_job(state, {**options, "output": output}, script, f"{job_id}_{number}")
    return job_id


def _new_job(state: State, options: dict[str, str], script: str, job_id: str) -> Job:
    job = {
        "id": job_id,
        "key": len(state["jobs"]),  # ids wrap
        "name": options["job-name"],
        "script": script,
        "chdir": options["chdir"],
        "output": options["output"],
        "submit": int(time.time()),
        "state": "PENDING",
        "reason": "Resources",
        "priority": 1000,
        "partition": "main",
        "expected_start": 0,
        "restarts": 0,
        "cancelled": False,
        "start": 0,
        "end": 0,
        "exit": 0,
        "signal": 0,
        "node": "",
        "pid": 0,
    }
    state["jobs"].append(job)
    return job


def squeue(folder: Path, state: State, argv: list[str]) -> None:
    options, _ = _options(argv, ("noheader", "me", "states", "name", "Format"))
    age = state["faults"].get("min_job_age_s", 300)
    for job in _with_waiting_tasks_as_one(state["jobs"]):
        forgotten = job["state"] in ENDED and time.time() - job["end"] >= age
        if not forgotten and options.get("name", job["name"]) == job["name"]:
            values = _squeue_values(job)
            fields = [field.split(":") for field in options["Format"].split(",")]
            print("".join(values[name] + suffix for name, suffix in fields))


def _with_waiting_tasks_as_one(jobs: list[Job]) -> Iterator[Job]:
    """The jobs as SLURM lists them: tasks of an array that wait are one line, `7_[2-3,9]`."""
    shown = set()
    for job in jobs:
        array, _, task = job["id"].partition("_")
        if not task or job["state"] != "PENDING":
            yield job
        elif (array, job["name"]) not in shown:
            shown.add((array, job["name"]))
            alike = [each for each in jobs if each["id"].startswith(f"{array}_") and each["name"] == job["name"]]
            tasks = [each["id"] for each in alike if each["state"] == "PENDING"]
            numbers = _ranges([int(each.partition("_")[2]) for each in tasks])
            yield {**job, "id": f"{array}_[{numbers}]", "tasks": tasks}


def _ranges(numbers: list[int]) -> str:
    """`2-3,9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _squeue_values(job: Job) -> dict[str, str]:
    return {
        "JobArrayID": job["id"],
        "State": job["state"],
        "RestartCnt": str(job["restarts"]),
        "exit_code": f"{job['exit']}:{job['signal']}",
        "SubmitTime": _time(job["submit"], "N/A"),
        "StartTime": _time(job["start"] or job["end"] or job["expected_start"], "N/A"),
        "EndTime": _time(job["end"], "N/A"),
        "NodeList": job["node"],
        "PriorityLong": str(job["priority"]),
        "Partition": job["partition"],
        "Reason": job["reason"],
        "Name": job["name"],
    }


def sacct(folder: Path, state: State, argv: list[str]) -> None:
    known = ("parsable2", "noheader", "duplicates", "format", "starttime", "jobs", "name")
    options, _ = _options(argv, known)
    begin = time.time() - int(options["starttime"].removeprefix("now-").removesuffix("seconds"))
    if state["faults"].get("dbd_away"):
        _fail(DATABASE)
    wanted = {each for each in options.get("jobs", "").split(",") if each}
    for job in _with_waiting_tasks_as_one(state["jobs"]):
        # A task is found by its own number only once it has a line of its own.
        chosen = not wanted or job["id"] in wanted or job["id"].partition("_")[0] in wanted
        if chosen and job["submit"] >= begin and options.get("name", job["name"]) == job["name"]:
            for values in _sacct_lines(job, bool(state["faults"].get("accounting_lags"))):
                print("|".join(values[name] for name in options["format"].split(",")))


def _sacct_lines(job: Job, lags: bool) -> Iterator[dict[str, str]]:
    state = job["state"]
    ended = state in ENDED and not lags
    whole = {
        "JobID": job["id"],
        "State": "RUNNING" if state in ENDED and lags else state,
        "ExitCode": "0:0" if state == "CANCELLED" else f"{job['exit']}:{job['signal']}",
        "Submit": _time(job["submit"], "Unknown"),
        "Start": _time(job["start"] or job["end"], "Unknown"),
        "End": _time(job["end"] if ended else 0, "Unknown"),
        "ElapsedRaw": str(job["end"] - job["start"] if ended and job["start"] else 0),
        "TotalCPU": "00:01.500" if ended else "00:00:00",
        "MaxRSS": "",
        "AllocCPUS": "1" if job["start"] else "0",
        "NodeList": job["node"] or "None assigned",
        "JobName": job["name"],
    }
    if whole["State"] == "CANCELLED":
        whole["State"] = f"CANCELLED by {os.getuid()}"
    yield whole
    if job["start"]:
        batch = {"JobID": f"{job['id']}.batch", "JobName": "batch", "MaxRSS": "2048K" if ended else ""}
        yield {
            **whole,
            **batch,
            "ExitCode": f"{job['exit']}:{job['signal']}",
            "State": job.get("step", whole["State"].partition(" ")[0]),
        }


def _time(moment: int, nothing: str) -> str:
    wanted = os.environ.get("SLURM_TIME_FORMAT", "%Y-%m-%dT%H:%M:%S")
    return (str(moment) if wanted == "%s" else time.strftime(wanted, time.localtime(moment))) if moment else nothing


def scancel(folder: Path, state: State, argv: list[str]) -> None:
    options, job_ids = _options(argv, ("name",))
    found = False
    for job in state["jobs"]:
        if job["id"] not in job_ids or job["name"] != options.get("name", job["name"]) or job["state"] in ENDED:
            continue
        found = job["cancelled"] = True
        if job["state"] == "PENDING":
            job.update(state="CANCELLED", end=int(time.time()), reason="None")
        else:
            (folder / f"kill-{job['key']}").touch()
    if not found:
        _fail(f"scancel: error: No active jobs match ALL job filters, including: job_name={options.get('name')} ", 0)


def scontrol(folder: Path, state: State, argv: list[str]) -> None:
    print("Slurmctld(primary) at fake is UP")


def sinfo(folder: Path, state: State, argv: list[str]) -> None:
    print("slurm 24.11.5")


PROGRAMS: dict[str, Callable[[Path, State, list[str]], None]] = {
    "sbatch": sbatch,
    "squeue": squeue,
    "sacct": sacct,
    "scancel": scancel,
    "scontrol": scontrol,
    "sinfo": sinfo,
}


def main(folder: Path, command: str, argv: list[str]) -> None:
    with (folder / "calls").open("a") as calls:
        calls.write(command + "\n")
    with _state(folder) as state:
        faults = dict(state["faults"])
    if banner := faults.get("banner"):
        print(banner)
        sys.stderr.write(f"{banner}\n")
    time.sleep(faults.get("hang_s", 0))
    if faults.get("ctld_away") and command in ("sbatch", "squeue", "scancel", "scontrol"):
        prefix = {"squeue": "slurm_load_jobs error", "sbatch": "sbatch: error: Batch job submission failed"}
        _fail(f"{prefix.get(command, command + ': error')}: {CONTACT}")
    with _state(folder) as state:
        _advance(folder, state)
        status = 0
        try:
            PROGRAMS[command](folder, state, argv)
        except SystemExit as end:
            status = int(end.code or 0)
        _advance(folder, state)
    raise SystemExit(status)


if __name__ == "__main__":
    if sys.argv[2] == "run":
        run(Path(sys.argv[1]), json.loads(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
