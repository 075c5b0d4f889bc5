"""Ends what a job left behind when its supervisor was killed. It knows processes, not how jobs are stored or started.

The only module that uses psutil: it tells a process from a later one with the same id, with or without /proc.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import psutil

from divbase_gateway.local.supervisor import MARK

_KILL_PAUSE_S = 0.01
_SAME_START_S = 5.0
"""The leader of a job's group is forked just before the time that is recorded; a later namesake starts much later."""


def end_survivors(mark: str, group: int, started_at: float, timeout_s: float = 5.0) -> bool:
    """Kill every process of a job whose supervisor is dead, and wait until they are gone.

    Args:
        mark: the job's mark, in the environment of its processes.
        group: the process group that was recorded at `started_at` (seconds since 1970).

    Returns:
        False if something still runs after `timeout_s`: the job must not be reported as ended then.
    """
    deadline = time.monotonic() + timeout_s
    while survivors := list(_survivors(mark, group, started_at)):
        if time.monotonic() > deadline:
            return False
        for process in survivors:
            _kill(process)
        time.sleep(_KILL_PAUSE_S)
    return True


def _survivors(mark: str, group: int, started_at: float) -> Iterator[psutil.Process]:
    """Processes that carry the mark, and those that share a group with one or with the recorded leader.

    A group id is not given out again while the group has a member, so one member that is ours proves the group.
    """
    mine = [process for process in psutil.process_iter() if _carries(process, mark)]
    groups = {_group_of(process.pid) for process in mine}
    if _is_leader(group, started_at):
        groups.add(group)
    groups -= {0, os.getpgid(0)}
    for process in psutil.process_iter():
        if (process in mine or _group_of(process.pid) in groups) and _runs(process):
            yield process


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False  # ended meanwhile, or another user's


def _is_leader(group: int, started_at: float) -> bool:
    try:
        return abs(psutil.Process(group).create_time() - started_at) < _SAME_START_S
    except psutil.Error:
        return False


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)  # psutil checks first that it is still the same process
    except psutil.Error:
        return
