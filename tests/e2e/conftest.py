"""Stacks for tests of the whole: each in a folder of its own, and nothing of it left when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.simulate import Survey, simulate_survey
from tests.e2e.stack import Stack

MakeStack = Callable[..., Stack]


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """Two surveys in two layouts, small enough that a query takes a moment."""
    return simulate_survey(tmp_path_factory.mktemp("survey"), sites_per_contig=1500)


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[MakeStack]:
    """Starts a stack in a folder of this test; `make_stack(name, settings=…)`."""
    stacks: list[Stack] = []

    def make(name: str = "stack", **options: object) -> Stack:
        stack = Stack(tmp_path / name, **options)  # type: ignore[arg-type]
        stacks.append(stack)
        stack.start()
        return stack

    try:
        yield make
    finally:
        for stack in stacks:
            stack.clear()
