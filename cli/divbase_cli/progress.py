"""Bars for transfers and for a job, on standard error and only where a person looks at it. It moves nothing itself."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from divbase_cli.output import Output, printable, seconds
from divbase_cli.standing import short_wait

if TYPE_CHECKING:
    from divbase_client.models import JobDetail
    from divbase_client.transfers import Moved, Progress
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_REFRESH = 0.2  # seconds between two updates of a bar; pieces arrive by the thousand


@contextmanager
def transfer_bars(output: Output) -> Iterator[Progress | None]:
    """A bar for each file under way, with rate and time left; None where no one looks."""
    if output.as_json or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5) as bars:
        yield _Bars(bars).update


class _Bars:
    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[tuple[str, str], tuple[TaskID, float]] = {}
        self._lock = threading.Lock()

    def update(self, moved: Moved) -> None:
        with self._lock:
            now = time.monotonic()
            known = self._tasks.get((moved.key, moved.stage))
            ended = moved.done >= moved.total
            if known and not ended and now - known[1] < _REFRESH:
                return
            label = f"{moved.stage} {printable(moved.key)}"
            task = known[0] if known else self._bars.add_task(label, total=moved.total)
            self._bars.update(task, completed=moved.done, visible=not ended)
            self._tasks[moved.key, moved.stage] = (task, now)


def summary(job: JobDetail | None) -> str:
    """One line on how a job stands: `RUNNING staging 40 % on node3`."""
    if job is None:
        return "the gateway does not answer; the job goes on, looking again"
    words = [job.state.value]
    if job.state.is_end:
        words += [word for word in (job.reason, job.message) if word]
        return ": ".join(words)
    if job.progress:
        share = f" {100 * job.progress.done // job.progress.total} %" if job.progress.total else ""
        words.append(f"{job.progress.stage}{share}")
    if job.stuck:
        words.append(f"- will not start by itself: {job.stuck}")
    elif job.waiting:
        words.append(f"({short_wait(job)})")
    if job.node:
        words.append(f"on {job.node}")
    return " ".join(words)


class JobView:
    """Shows each look at a job: a live line with a bar at a terminal, one line a change elsewhere."""

    def __init__(self, output: Output, job: str) -> None:
        self._output = output
        self._job = job
        self._last = ""
        self._begin = time.monotonic()
        self._live = None if output.as_json or not sys.stderr.isatty() else _live()

    def __enter__(self) -> JobView:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, job: JobDetail | None) -> None:
        if self._live:
            self._live.update(self._drawing(job), refresh=True)
        elif (line := f"job {self._job}: {summary(job)}") != self._last:
            self._output.note(line)
            self._last = line

    def _drawing(self, job: JobDetail | None) -> Group:
        from rich.console import Group as Lines
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        since = seconds(time.monotonic() - self._begin)
        lines: list[RenderableType] = [Text(f"job {printable(self._job)}: {printable(summary(job))}  [{since}]")]
        if job and job.progress and job.progress.total and not job.state.is_end:
            lines.append(ProgressBar(total=job.progress.total, completed=job.progress.done, width=40))
        return Lines(*lines)


def _live() -> Live:
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(stderr=True), auto_refresh=False)
