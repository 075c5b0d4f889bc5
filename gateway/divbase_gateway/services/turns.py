"""Groups of jobs handed out one after the other to several threads, until there are no more or somebody says that it is
enough."""

from __future__ import annotations

import threading
from collections.abc import Sequence


class Turns:
    """Each group of jobs is handed out once, in order; after `stop` none is, whoever asks."""

    def __init__(self, jobs: Sequence[Sequence[int]]):
        self._left = iter(jobs)
        self._lock = threading.Lock()
        self._stopped = False

    def next(self) -> Sequence[int] | None:
        """The next jobs, to be submitted together; None where it is over."""
        with self._lock:
            return None if self._stopped else next(self._left, None)

    def stop(self) -> None:
        """Begin nothing new; what is under way goes on to its end."""
        with self._lock:
            self._stopped = True
