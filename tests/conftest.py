"""Fixtures for every test folder; the code behind them is in modules with names that say what they start."""

import gc
from collections.abc import Generator
from functools import cache

import botocore.session
import pytest
import typer.testing
from hypothesis import settings

from tests.cluster.containers import cluster, run_on_one_worker, skip_in_one_line
from tests.seaweed import bucket_name, seaweed

__all__ = ["bucket_name", "cluster", "seaweed"]

# Properties are about answers; how long one takes says more of what else the machine does.
settings.register_profile("divbase", deadline=None)
settings.load_profile("divbase")


# boto3 reads a megabyte of JSON for every session, which takes a fifth of a second; the tests make hundreds.
botocore.session.create_loader = cache(botocore.session.create_loader)
# And typer builds all commands anew, as long, for each that is run in this process.
typer.testing._get_command = cache(typer.testing._get_command)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    run_on_one_worker(items)


def pytest_collection_finish() -> None:
    """Take what is there by now, and stays, out of every search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    skip_in_one_line(report)
    return report
