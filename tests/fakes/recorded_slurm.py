"""A SLURM that only talks: executables that print what they were given, however much that is, and note every call.

For what a cluster with thousands of jobs costs the gateway, without a cluster. What it prints has the form of the
answers in `tests/recorded/`, written with the gateway's own lists of fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from divbase_gateway.slurm.commands import SEPARATOR, SQUEUE_FIELDS

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")


class RecordedSlurm:
    """`folder` is made; the executables are in its `bin`, and `work` is where the jobs' directories would be."""

    def __init__(self, folder: Path):
        self.bin_dir, self.work_dir = folder / "bin", folder / "work"
        self._answers, self._calls = folder / "answers", folder / "calls"
        for each in (self.bin_dir, self.work_dir, self._answers):
            each.mkdir(parents=True)
        for command in COMMANDS:
            self.answer(command, [])
            program = self.bin_dir / command
            program.write_text(f"#!/bin/sh\necho {command} >> {self._calls}\nexec cat {self._answers / command}\n")
            program.chmod(0o755)

    def answer(self, command: str, lines: Iterable[str]) -> None:
        """What this command prints from now on."""
        (self._answers / command).write_text("".join(f"{line}\n" for line in lines))

    def calls(self) -> list[str]:
        """The commands that were run since the last time this was asked, in order."""
        made = self._calls.read_text().split() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return made


def squeue_line(job_id: str, name: str, state: str, **values: object) -> str:
    """A line of squeue with these values in some fields, and what a quiet job has in the others."""
    usual: dict[str, object] = {
        "JobArrayID": job_id,
        "State": state,
        "RestartCnt": 0,
        "exit_code": "0:0",
        "SubmitTime": 1795464780,
        "StartTime": "N/A" if state == "PENDING" else 1795464790,
        "EndTime": "N/A" if state == "PENDING" else 1795465390,
        "NodeList": "" if state == "PENDING" else "c1",
        "PriorityLong": 1000,
        "Partition": "main",
        "Reason": "Priority" if state == "PENDING" else "None",
        "Name": name,
    }
    known: Sequence[str] = SQUEUE_FIELDS
    unknown = set(values) - set(known)
    if unknown or set(usual) != set(known):
        raise ValueError(f"squeue is not asked for {unknown or set(usual) ^ set(known)}")
    return "".join(f"{({**usual, **values})[field]}{SEPARATOR}" for field in known)
