"""What pyslurm 24.11 shows of SLURM, over the cluster in a folder (tests/fakes/slurm_cluster.py) that FAKE_SLURM names:
the classes that the gateway's worker uses, with pyslurm's checks and habits. It is found as `pyslurm` where this folder
is on the PYTHONPATH, and nowhere else.

Further faults, set with `FakeCluster.fault`:

import_exits, import_fails: words; loading ends the process as libslurm's fatal() does, or raises ImportError.
exits: for the next call only, the process ends in it; "before_accept" or "after_accept" of a submission.
answers: errno and words with which every call fails.
old_errno: cancelling works, and pyslurm reports the error of an earlier system call.
banner: printed to file descriptor 1 in every call, as a library in C does.
"""

import errno
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["SLURM_TIME_FORMAT"] = "%s"

import slurm_cluster

__version__ = "24.11.0"
FOLDER = Path(os.environ["FAKE_SLURM"])
UNLIMITED = "UNLIMITED"


class PyslurmError(Exception):
    pass


class RPCError(PyslurmError):
    def __init__(self, errno=-1, msg=None):
        self.errno, self.msg = errno, msg
        super().__init__(msg)


def slurm_api_version():
    return (24, 11, 5)


# --- calls -------------------------------------------------------------------------------------------------------


def _die(words):
    os.write(2, f"python3: fatal: {words}\n".encode())
    os._exit(1)


@contextmanager
def _call(name):
    """One RPC: the state of the cluster, up to date before and after."""
    with (FOLDER / "calls").open("a") as calls:
        calls.write(name + "\n")
    with slurm_cluster._state(FOLDER) as state:
        faults = dict(state["faults"])
        exits = state["faults"].pop("exits", None)
    if "banner" in faults:
        os.write(1, f"{faults['banner']}\n".encode())
    time.sleep(faults.get("hang_s", 0))
    if faults.get("ctld_away") and name != "slurmdb_jobs_get":
        raise RPCError(1800, slurm_cluster.CONTACT)
    if faults.get("dbd_away") and name == "slurmdb_jobs_get":
        raise RPCError(msg="Failed to get Jobs from slurmdbd")
    if "answers" in faults:
        raise RPCError(*faults["answers"])
    if exits == "before_accept":
        _die("slurm_msg_sendto: connection lost")
    with slurm_cluster._state(FOLDER) as state:
        slurm_cluster._advance(FOLDER, state)
        yield state
        slurm_cluster._advance(FOLDER, state)
    if exits == "after_accept":
        _die("slurm_receive_msg: connection lost")


with slurm_cluster._state(FOLDER) as _at_import:
    if _words := _at_import["faults"].get("import_exits"):
        _die(_words)
    if _words := _at_import["faults"].get("import_fails"):
        raise ImportError(_words)


def _raw_time(text):
    return int(text) if text.isdecimal() and text != "0" else None


def _exit_code(text):
    """pyslurm takes 128 off the codes above 127, as sacct does."""
    code, number = (int(part) for part in text.split(":"))
    return (code - 128 if code >= 128 else code), number


# --- submission --------------------------------------------------------------------------------------------------


class JobSubmitDescription:
    """Attributes that pyslurm's class does not have cannot be set, as in the extension type."""

    __slots__ = (
        *("account", "comment", "cpus_per_task", "environment", "is_requeueable", "log_files_open_mode"),
        *("memory_per_node", "name", "nodes", "ntasks", "partitions", "qos", "script", "signal", "standard_error"),
        *("standard_in", "standard_output", "time_limit", "wckey", "working_directory"),
    )

    def __init__(self, **kwargs):
        for name in self.__slots__:
            setattr(self, name, None)
        for name, value in kwargs.items():
            setattr(self, name, value)

    def submit(self):
        self._check()
        asked = {name: getattr(self, name) for name in self.__slots__}
        with _call("slurm_submit_batch_job") as state:
            lost = state["faults"].pop("lose_answer", None)
            refusal = state["faults"].get("refuse")
            job = None
            if not refusal and lost != "before_accept":
                options = {"job-name": self.name, "chdir": self.working_directory, "output": self.standard_output}
                slurm_cluster._new_jobs(state, options, self.script)
                job = state["jobs"][-1]
                job["asked"] = asked
        if refusal:
            raise RPCError(2000, refusal)
        if lost:
            raise RPCError(1802, "Socket timed out on send/recv operation")
        return int(job["id"])

    def _check(self):
        if not self.script:
            raise ValueError("You need to provide a batch script.")
        if not Path(self.script).read_text().startswith("#!"):
            raise ValueError("Not a valid Batch script. First line must start with '#!',")
        if isinstance(self.time_limit, str) and self.time_limit.isdigit():
            raise TypeError("an integer is required")
        if not self.environment:
            self.environment = "ALL"


# --- looking -----------------------------------------------------------------------------------------------------


class Job:
    def __init__(self, job_id):
        self.id = job_id

    @classmethod
    def _of(cls, job):
        values = slurm_cluster._squeue_values(job)
        made = cls(_raw_id(job))
        made.array_id, made.array_task_id = _array(job)
        made.user_id = os.getuid()
        made.name, made.partition, made.priority = job["name"], job["partition"], job["priority"]
        made.state, made.state_reason, made.requeue_count = job["state"], job["reason"], job["restarts"]
        made.exit_code, made.exit_code_signal = _exit_code(values["exit_code"])
        made.submit_time, made.start_time, made.end_time = (
            _raw_time(values[field]) for field in ("SubmitTime", "StartTime", "EndTime")
        )
        made.allocated_nodes = job["node"] or None
        return made

    @staticmethod
    def load(job_id):
        with _call("slurm_load_job") as state:
            jobs = [job for job in _remembered(state) if _raw_id(job) == job_id]
        if not jobs:
            raise RPCError(2017, "Invalid job id specified")
        return Job._of(jobs[-1])

    def cancel(self):
        with _call("slurm_kill_job") as state:
            for job in _remembered(state):
                if _raw_id(job) == self.id and job["state"] not in slurm_cluster.ENDED:
                    slurm_cluster.scancel(FOLDER, state, [job["id"]])
            old_errno = state["faults"].get("old_errno")
        if old_errno:
            raise RPCError(errno.EINPROGRESS, os.strerror(errno.EINPROGRESS))


def _array(job):
    """(the array's id, the task's number), of a job that is none (None, None)."""
    array, _, task = job["id"].partition("_")
    return (int(array), int(task)) if task else (None, None)


def _raw_id(job):
    """Of a task another than that of its array."""
    return 10**7 + job["key"] if "_" in job["id"] else int(job["id"])


def _remembered(state):
    age = state["faults"].get("min_job_age_s", 300)
    jobs = state["jobs"]
    return [job for job in jobs if job["state"] not in slurm_cluster.ENDED or time.time() - job["end"] < age]


class Jobs:
    """By id: of two jobs with the same one the last stays."""

    def __init__(self, jobs):
        self._jobs = {job.id: job for job in jobs}

    @staticmethod
    def load():
        with _call("slurm_load_jobs") as state:
            return Jobs([Job._of(job) for job in _remembered(state)])

    def values(self):
        return list(self._jobs.values())


# --- accounting --------------------------------------------------------------------------------------------------


class _JobFilter:
    __slots__ = ("ids", "names", "start_time", "users")

    def __init__(self, **kwargs):
        for name in self.__slots__:
            setattr(self, name, None)
        for name, value in kwargs.items():
            setattr(self, name, value)

    def _takes(self, job):
        chosen = not self.ids or int(job["id"].partition("_")[0]) in self.ids
        return chosen and (not self.names or job["name"] in self.names) and job["submit"] >= self.start_time


class _AccountedJob:
    def __init__(self, job, lines):
        whole, *steps = lines
        self.id = _raw_id(job)
        self.array_id, self.array_task_id = _array(job)
        self.name, self.partition, self.cpus = job["name"], job["partition"], int(whole["AllocCPUS"])
        self.state = whole["State"].partition(" ")[0]
        self.cancelled_by = _user_name() if self.state == "CANCELLED" else None
        self.exit_code, self.exit_code_signal = _exit_code(whole["ExitCode"])
        self.submit_time, self.start_time, self.end_time, self.elapsed_time = (
            _raw_time(whole[field]) for field in ("Submit", "Start", "End", "ElapsedRaw")
        )
        self.nodelist = whole["NodeList"]
        self.steps = {line["JobID"].partition(".")[2]: _step(line) for line in steps}
        self.stats = SimpleNamespace(total_cpu_time=1 if self.end_time else 0)


def _user_name():
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _step(line):
    code, number = _exit_code(line["ExitCode"])
    memory = int(line["MaxRSS"].removesuffix("K") or 0) * 1024
    stats = SimpleNamespace(max_resident_memory=memory)
    step_id = line["JobID"].partition(".")[2]
    return SimpleNamespace(
        id=step_id, name=line["JobName"], state=line["State"], exit_code=code, exit_code_signal=number, stats=stats
    )


class _AccountedJobs:
    @staticmethod
    def load(db_filter):
        with _call("slurmdb_jobs_get") as state:
            lags = bool(state["faults"].get("accounting_lags"))
            jobs = [job for job in state["jobs"] if db_filter._takes(job)]
            return Jobs([_AccountedJob(job, list(slurm_cluster._sacct_lines(job, lags))) for job in jobs])


db = SimpleNamespace(Jobs=_AccountedJobs, JobFilter=_JobFilter)


# --- the controller ----------------------------------------------------------------------------------------------


class _Config:
    cluster = "fake"

    @staticmethod
    def load():
        with _call("slurm_load_ctl_conf"):
            return _Config()


slurmctld = SimpleNamespace(Config=_Config)
