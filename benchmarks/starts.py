"""What it costs to start a program that does nothing else: the floor under every job that has many to start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from divbase_jobscripts.render import node_helper_source

_STARTS = 15


@dataclass(frozen=True)
class Start:
    """Seconds of one start, the median of some: by the clock, and of processors."""

    wall: float
    cpu: float


def start_of_bcftools(program: Path) -> Start:
    """bcftools says its version, and ends."""
    return _start_of([str(program), "--version"], program.parent)


def start_of_helper(folder: Path) -> Start:
    """The node helper as a job's script starts it, up to its first step."""
    (folder / "divbase_node.py").write_bytes(node_helper_source())
    words = 'import sys; sys.dont_write_bytecode = True; sys.path.insert(0, ""); import divbase_node'
    return _start_of([sys.executable, "-IS", "-c", words], folder)


def _start_of(command: Sequence[str], folder: Path) -> Start:
    taken = [_once(command, folder) for _ in range(_STARTS)]
    return Start(median(each.wall for each in taken), median(each.cpu for each in taken))


def _once(command: Sequence[str], folder: Path) -> Start:
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return Start(time.perf_counter() - begun, usage.ru_utime + usage.ru_stime)
