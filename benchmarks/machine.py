"""Facts of the machine and the programs that a figure depends on; nothing that names the machine or its owner."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent


def facts(quick: bool) -> dict[str, str]:
    """What to print above the figures, in order."""
    load = os.getloadavg()[0]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load before the start": f"{load:.1f} (0 is an idle machine)",
        "programs": ", ".join(_programs()),
        "run": "quick: small inputs, few repetitions; only good for trying the harness" if quick else "full",
    }


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds of a process and its children so far, ended children included."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if each.pid == process.pid:
            total += times.children_user + times.children_system
    return total


def settle() -> None:
    """Let the disk finish what it was given, so that one measurement does not pay for the one before."""
    os.sync()
    time.sleep(0.2)


def _programs() -> list[str]:
    named = [f"{name} {version(name)}" for name in ("divbase-gateway", "divbase-cli", "sqlalchemy", "uvicorn")]
    first = subprocess.run([str(BIN / "rclone"), "version"], capture_output=True, text=True, check=True).stdout
    weed = subprocess.run([str(BIN / "weed"), "version"], capture_output=True, text=True, check=True).stdout
    return [*named, first.splitlines()[0], "SeaweedFS " + weed.split()[2]]
