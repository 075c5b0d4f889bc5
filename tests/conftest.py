"""Fixtures for every test folder; the code behind them is in modules with names that say what they start."""

import pytest

from tests.cluster.containers import cluster, skip_where_impossible
from tests.seaweed import bucket_name, seaweed

__all__ = ["bucket_name", "cluster", "seaweed"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_where_impossible(items)
