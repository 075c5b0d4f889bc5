"""Looks at processes and a folder while something runs: the most memory and the most disk that were used at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

import psutil

_LOOK_S = 0.05


class Watch:
    """While it is entered it looks every 50 ms; `memory` and `scratch` are the greatest sums that it saw, bytes.

    Args:
        processes: those to look at, asked at every look. Memory that two of them share counts twice.
        folder: what is in it counts as scratch.
    """

    def __init__(self, processes: Callable[[], Iterable[psutil.Process]], folder: Path):
        self.memory = 0
        self.scratch = 0
        self._processes = processes
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.memory = max(self.memory, sum(map(_memory_of, self._processes())))
            self.scratch = max(self.scratch, _size_of(self._folder))


def tree_of(pid: int) -> list[psutil.Process]:
    """A process and all that it started, as far as they live."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _size_of(folder: Path) -> int:
    """Bytes on the disk of everything in the folder; what vanishes meanwhile does not count."""
    total = 0
    for here, _, names in os.walk(folder):  # which goes on where a folder has vanished; rglob does not
        for name in names:
            try:
                total += os.lstat(os.path.join(here, name)).st_blocks * 512
            except OSError:
                continue
    return total
