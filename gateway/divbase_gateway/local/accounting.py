"""What the embedded scheduler remembers of jobs whose folders are gone: a line for each, in a file a month, as
`slurmdbd` would. It must not know how a job runs; old months may be deleted by hand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from divbase_gateway.ports import PastRun, Sighting, SlurmRef

_FOLDER = ".accounting"
_TIMES = ("started_at", "ended_at", "expected_start")


def write_down(folder: Path, run: PastRun, now: datetime) -> None:
    """Keep the run. One short line is appended whole, whoever else appends.

    Raises:
        OSError: it was not kept.
    """
    (folder / _FOLDER).mkdir(mode=0o700, exist_ok=True)
    line = json.dumps({"ref": asdict(run.ref), "sighting": asdict(run.sighting)}, default=datetime.isoformat)
    fd = os.open(_month(folder, now), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, line.encode() + b"\n")
    finally:
        os.close(fd)


def remembered(folder: Path, since: datetime) -> Iterator[PastRun]:
    """Runs that were written down in the month of `since` or later; a line that a full disk cut is passed over."""
    first = _month(folder, since).name
    for path in sorted((folder / _FOLDER).glob("*.jsonl")):
        if path.name < first:
            continue
        for line in path.read_text().splitlines():
            try:
                yield _run_of(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue


def _month(folder: Path, moment: datetime) -> Path:
    return folder / _FOLDER / f"{moment:%Y-%m}.jsonl"


def _run_of(record: dict[str, Any]) -> PastRun:
    ref, sighting = dict(record["ref"]), dict(record["sighting"])
    ref["submitted_at"] = datetime.fromisoformat(ref["submitted_at"])
    for name in _TIMES:
        sighting[name] = datetime.fromisoformat(sighting[name]) if sighting[name] else None
    return PastRun(SlurmRef(**ref), Sighting(**sighting))
