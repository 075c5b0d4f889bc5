"""Fixtures for every test folder; the code behind them is in modules with names that say what they start."""

from tests.cluster.containers import cluster
from tests.seaweed import bucket_name, seaweed

__all__ = ["bucket_name", "cluster", "seaweed"]
