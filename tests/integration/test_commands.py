"""The operator's commands, run as a program: what they print, where, and with which exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from divbase_gateway.bootstrap import SystemClock
from divbase_gateway.db import revision
from divbase_gateway.db.session import Database
from divbase_gateway.services import keys
from divbase_gateway.settings import leaves

from tests.integration.conftest import free_port

pytestmark = pytest.mark.slow  # real programs


class Run:
    """Runs `divbase-gateway` in a folder of its own, over the database of the test."""

    def __init__(self, folder: Path, variables: dict[str, str]):
        known = {leaf.variable for leaf in leaves()} | {"DIVBASE_GATEWAY_CONFIG"}
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if name not in known} | variables

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "divbase_gateway", *arguments],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def run(tmp_path: Path, empty_url: str) -> Run:
    return Run(tmp_path, {"DIVBASE_DATABASE__URL": empty_url})


def test_init_sets_a_site_up_once(run: Run, empty_url: str) -> None:
    """Tables, the first admin and a key that works; the second time nothing is changed and no key printed."""
    first = run("init", "--email", "Ada@Example.org")
    assert first.returncode == 0, first.stderr
    assert revision.current(empty_url) == revision.head()
    database = Database(empty_url)
    with database.read() as session:
        caller = keys.authenticate(session, first.stdout.strip(), SystemClock().now())
        assert (caller.user.email, caller.user.is_admin) == ("ada@example.org", True)
    database.close()

    again = run("init", "--email", "eve@example.org")
    assert (again.returncode, again.stdout) == (0, "")
    assert "set up already; ada@example.org" in again.stderr


def test_init_with_a_bad_address_is_one_line(run: Run) -> None:
    """A mistake of the operator is no traceback."""
    answer = run("init", "--email", "ada")

    assert answer.returncode == 1
    assert answer.stderr.splitlines()[0] == "error: 'ada' is not an email address."
    assert "Traceback" not in answer.stderr


def test_migrate_says_what_it_did(run: Run) -> None:
    """From where to where; and nothing to do the second time."""
    assert run("migrate").stdout == f"Migrated from nothing to {revision.head()}.\n"
    assert run("migrate").stdout == f"The schema is at revision {revision.head()}.\n"


def test_serve_refuses_a_schema_that_it_does_not_know(run: Run) -> None:
    """A gateway that is newer than its database says so instead of failing in the middle of requests."""
    answer = run("serve")

    assert answer.returncode == 1
    assert "divbase-gateway migrate" in answer.stderr


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
def test_doctor_tells_every_failure_and_what_to_do(run: Run) -> None:
    """Each check by itself, as data with --json; exit status 1 because S3 is not there."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    answer = run(
        "doctor", "--json", DIVBASE_S3__ENDPOINT=nowhere, DIVBASE_S3__ACCESS_KEY="a", DIVBASE_S3__SECRET_KEY="b"
    )

    assert answer.returncode == 1, answer.stderr
    checks = {check["name"]: check for check in json.loads(answer.stdout)}
    assert list(checks) == ["database", "schema", "s3", "s3 for laptops", "s3 for jobs", "scheduler", "bcftools"]
    assert [name for name, check in checks.items() if not check["ok"]] == [
        "schema",
        "s3",
        "s3 for laptops",
        "s3 for jobs",
    ]
    assert "divbase-gateway migrate" in checks["schema"]["hint"]
    assert all(check["hint"] for check in checks.values() if not check["ok"])


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
def test_settings_are_printed_with_their_source(run: Run) -> None:
    """What holds, and where it came from; as data with --json."""
    (run.folder / "divbase.toml").write_text('[s3]\nregion = "eu-north-1"\n')
    lines = {line["name"]: line for line in json.loads(run("settings", "--json").stdout)}

    assert (lines["s3.region"]["value"], lines["s3.region"]["source"]) == ("eu-north-1", "file")
    assert lines["database.url"]["source"] == "environment"
    assert lines["jobs.tick_s"]["source"] == "default"


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
def test_wrong_settings_are_told_before_anything_is_done(run: Run) -> None:
    """A misspelt name in the file is one error line with the name that was meant."""
    (run.folder / "divbase.toml").write_text("[s3]\nregoin = 1\n")

    answer = run("migrate")
    assert answer.returncode == 1
    assert "is it 's3.region'" in answer.stderr


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
def test_the_version_is_told_before_anything_is_read(run: Run) -> None:
    """Guards: what a bug report begins with, also where the settings are wrong."""
    told = run("--version", DIVBASE_SERVER__PORT="nonsense")
    assert (told.returncode, told.stdout) == (0, f"divbase-gateway {version('divbase-gateway')}\n")
