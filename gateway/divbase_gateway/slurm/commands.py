"""The command lines of SLURM that the gateway runs, and the environment that it runs them in. Text out, nothing else:
who runs them, where, and what the answers mean is not known here.

Sources: sbatch(1), squeue(1), sacct(1), scancel(1), scontrol(1) of SLURM 22.05 to 26.05.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

SEPARATOR = "|"

SQUEUE_FIELDS = (
    "JobArrayID",
    "State",
    "RestartCnt",
    "exit_code",
    "SubmitTime",
    "StartTime",
    "EndTime",
    "NodeList",
    "PriorityLong",
    "Partition",
    "Reason",
    "Name",
)
"""The name last: jobs of the same account that are not ours may have any character in theirs."""

SACCT_FIELDS = (
    "JobID",
    "State",
    "ExitCode",
    "Submit",
    "Start",
    "End",
    "ElapsedRaw",
    "TotalCPU",
    "MaxRSS",
    "AllocCPUS",
    "NodeList",
    "JobName",
)

# No digit before the suffix is a size of 0, which prints the whole value; without a suffix squeue cuts at 20.
_SQUEUE_FORMAT = ",".join(f"{name}:{SEPARATOR}" for name in SQUEUE_FIELDS)
_SACCT_FORMAT = ",".join(SACCT_FIELDS)


@dataclass(frozen=True)
class SlurmCommands:
    """Command lines for one installation: `bin_dir` is absolute, `slurm_conf` None where SLURM finds its own."""

    bin_dir: PurePosixPath
    slurm_conf: PurePosixPath | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """All that the commands see: no `SBATCH_…` variable of anybody's can change a job, and times are Unix times."""
        conf = {"SLURM_CONF": str(self.slurm_conf)} if self.slurm_conf else {}
        times, numbers = {"SLURM_TIME_FORMAT": "%s"}, {"SLURM_BITSTR_LEN": "0"}  # of an array's tasks, all
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", **times, **numbers, **conf}

    def sbatch(self, directory: PurePosixPath, name: str, script: str) -> list[str]:
        """Submit. What the job's identity and safety hang on is said here, where no script can contradict it."""
        return [
            self._path("sbatch"),
            "--parsable",
            f"--job-name={name}",
            f"--chdir={directory}",
            "--input=/dev/null",
            "--output=job.log",
            "--open-mode=append",
            "--export=NONE",
            "--no-requeue",
            str(directory / script),
        ]

    def sbatch_array(
        self, directory: PurePosixPath, name: str, comment: str, tasks: Iterable[int], script: PurePosixPath
    ) -> list[str]:
        """Submit a script as an array of tasks, each of which logs in a directory of its own.

        Args:
            directory: in which those of the tasks are.
            script: its path.
        """
        return [
            self._path("sbatch"),
            "--parsable",
            f"--job-name={name}",
            f"--comment={comment}",
            f"--array={','.join(map(str, tasks))}",
            f"--chdir={directory}",
            "--input=/dev/null",
            f"--output={name}.%a/job.log",
            "--open-mode=append",
            "--export=NONE",
            "--no-requeue",
            str(script),
        ]

    def squeue(self, name: str | None = None) -> list[str]:
        """Every job of this account that slurmctld remembers, in one call however many; or those of one name."""
        chosen = [f"--name={name}"] if name else []
        return [self._path("squeue"), "--noheader", "--me", "--states=all", *chosen, f"--Format={_SQUEUE_FORMAT}"]

    def sacct(self, job_ids: Iterable[str], since_s: int) -> list[str]:
        """What accounting has of these ids, for jobs of the last `since_s` seconds: ids wrap.

        Of a task of an array it is asked for the whole: `123_4` does not find `123_[4-9]`, those that never started.
        """
        numbers = dict.fromkeys(each.partition("_")[0] for each in job_ids)
        return [*self._sacct(since_s), f"--jobs={','.join(numbers)}"]

    def sacct_by_name(self, name: str, since_s: int) -> list[str]:
        """What accounting has of this name for the last `since_s` seconds."""
        return [*self._sacct(since_s), f"--name={name}"]

    def sacct_history(self, since_s: int) -> list[str]:
        """What accounting has of this account's jobs for the last `since_s` seconds, each run and its steps."""
        return self._sacct(since_s)

    def scancel(self, job_ids: Iterable[str], name: str) -> list[str]:
        """Cancel the jobs of these ids that have this name."""
        return [self._path("scancel"), f"--name={name}", *job_ids]

    def scontrol_ping(self) -> list[str]:
        return [self._path("scontrol"), "ping"]

    def version(self) -> list[str]:
        return [self._path("sinfo"), "--version"]

    def _sacct(self, since_s: int) -> list[str]:
        # Relative to the cluster's own clock and time zone. Without --duplicates a requeue hides the earlier record.
        start = f"--starttime=now-{since_s}seconds"
        return [self._path("sacct"), "--parsable2", "--noheader", "--duplicates", f"--format={_SACCT_FORMAT}", start]

    def _path(self, command: str) -> str:
        return str(self.bin_dir / command)
