"""Long JSON texts of the database as the values that they stand for, kept for the next time.

A value is found by the text itself, so that none of them is ever wrong: the database is asked each time, and only the
reading of JSON is spared.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Parsed(Generic[T]):
    """The values that were used last, of texts of `max_chars` together. They are shared: nobody may change one."""

    def __init__(self, parse: Callable[[str], T], max_chars: int):
        self._parse = parse
        self._max_chars = max_chars
        self._chars = 0
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def chars(self) -> int:
        """Of the texts that are kept."""
        return self._chars

    def of(self, text: str) -> T:
        """What the text stands for; whatever `parse` raises."""
        with self._lock:
            if text in self._kept:
                self._kept.move_to_end(text)
                return self._kept[text]
        value = self._parse(text)
        with self._lock:
            if text not in self._kept:
                self._kept[text] = value
                self._chars += len(text)
            while self._chars > self._max_chars:
                self._chars -= len(self._kept.popitem(last=False)[0])
        return value
