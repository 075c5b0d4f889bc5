"""`divbase projects allocation` and `usage` against the fake gateway: what is sent, what is printed, how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from divbase_cli import allocation as allocation_module
from divbase_cli.failure import ExitCode, UsageError
from divbase_cli.quantities import parse_memory, parse_minutes, shown_memory, shown_minutes
from divbase_client.models import AllocationChange, AllocationValues

from tests.fakes.gateway_server import KEY, FakeGateway, Refusal, running_gateway
from tests.unit.test_cli_commands import Shell

NOTHING = dict.fromkeys(AllocationValues.model_fields)
ALLOCATION = {
    **NOTHING,
    "project": "vole",
    "account": "popgen",
    "max_memory_mb": 65536,
    "core_hours_a_month": 5000.0,
    "site": {**NOTHING, "account": "divbase", "partition": "main", "max_memory_mb": 4096, "max_minutes": 1500},
}
USAGE = {
    "project": "vole",
    "month": "2024-05",
    "core_hours": 12.345,
    "committed": 1.5,
    "limit": 20.0,
    "left": 6.155,
    "jobs": 7,
    "open_jobs": 2,
    "max_open_jobs": 10,
}


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway() as one:
        one.answers["GET /projects/vole/allocation"] = ALLOCATION
        one.answers["PATCH /projects/vole/allocation"] = ALLOCATION
        one.answers["GET /projects/vole/usage"] = USAGE
        yield one


@pytest.fixture
def shell(gateway: FakeGateway, tmp_path: Path) -> Shell:
    environment = {"DIVBASE_CONFIG": str(tmp_path / "config.toml"), "DIVBASE_URL": gateway.url}
    return Shell({**environment, "DIVBASE_API_KEY": KEY, "DIVBASE_PROJECT": "vole"})


def sent(gateway: FakeGateway) -> Any:
    return json.loads(gateway.requests("PATCH /api/v1/projects/vole/allocation")[0].body)


def test_show_says_whose_value_holds(shell: Shell) -> None:
    """The project's own, else the site's, else that there is none."""
    assert shell("projects", "allocation", "show").stdout.splitlines() == [
        "WHAT\tVALUE\tSET FOR",
        "Account\tpopgen\tthe project",
        "Partition\tmain\tthe site",
        "QOS\tthe cluster's default\t-",
        "Wckey\tnone\t-",
        "Cores of one job\tno limit\t-",
        "Memory of one job\t64G\tthe project",
        "Time of one job\t1d1h\tthe site",
        "Open query jobs\tno limit\t-",
        "Core-hours a month\t5000\tthe project",
        "Files and results\tno limit\t-",
    ]
    assert shell.json("projects", "allocation", "show", "vole") == ALLOCATION


def test_set_sends_what_is_named_and_nothing_else(shell: Shell, gateway: FakeGateway) -> None:
    """In the units of the wire; what is cleared is sent as null."""
    words = "--account popgen --max-memory 64G --max-time 2h --core-hours 5000 --max-open-jobs 0 --clear qos"
    words += " --max-size 1.5TB"
    shell("projects", "allocation", "set", *words.split(), "--clear", "max-cores")
    assert sent(gateway) == {
        "account": "popgen",
        "max_memory_mb": 65536,
        "max_minutes": 120,
        "core_hours_a_month": 5000.0,
        "max_open_jobs": 0,
        "max_bytes": 1_500_000_000_000,
        "qos": None,
        "max_cores": None,
    }


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("", "Nothing is to be changed"),
        ("--account a --clear account", "--clear account"),
        ("--max-memory lots", "--max-memory 'lots'"),
        ("--max-time 12", "90m"),
        ("--account a/b", "--account 'a/b'"),
        ("--max-memory 999999999T", "--max-memory"),
        ("--clear shoe-size", "shoe-size"),
        ("--max-cores 0", "--max-cores"),
        ("--max-size 500", "500GB"),
        ("--max-size 1.5X", "--max-size '1.5X'"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(shell: Shell, gateway: FakeGateway, words: str, named: str) -> None:
    """One that names the option, before anything is sent."""
    result = shell("projects", "allocation", "set", *words.split(), code=ExitCode.USAGE)
    assert named in result.stderr
    assert gateway.requests("PATCH") == []


def test_options_are_fields_of_the_wire() -> None:
    """Every value there is can be set and cleared."""
    assert list(allocation_module._FIELDS.values()) == list(AllocationChange.model_fields)


def test_usage_is_told_with_what_is_left(shell: Shell, gateway: FakeGateway) -> None:
    """Of the month that was asked for."""
    lines = shell("projects", "usage", "--month", "2024-05").stdout.splitlines()
    assert [line.split(":", 1)[1].strip() for line in lines] == [
        "vole", "2024-05 (UTC)", "12.35", "1.50", "20.00", "6.16", "7", "2 of 10",
    ]  # fmt: skip
    assert gateway.requests("usage")[0].path.endswith("?month=2024-05")
    assert shell.json("projects", "usage") == USAGE


def test_no_limit_is_said(shell: Shell, gateway: FakeGateway) -> None:
    """Not shown as 0 or an empty line."""
    gateway.answers["GET /projects/vole/usage"] = {**USAGE, "limit": None, "left": None, "max_open_jobs": None}
    shown = shell("projects", "usage").stdout
    assert "no limit" in shown
    assert "Open query jobs:   2\n" in shown


def test_a_limit_that_is_reached_has_its_exit_code(shell: Shell, gateway: FakeGateway) -> None:
    """A query that is refused for now ends with 6, in the gateway's words."""
    words = "Project vole has 2 open jobs, and 2 is the limit: 0 are left."
    gateway.answers["POST /projects/vole/jobs"] = Refusal(409, "limit_reached", words)
    assert words in shell("query", "run", "--all-samples", code=ExitCode.CONFLICT).stderr


@pytest.mark.parametrize(
    ("text", "megabytes", "shown"),
    [("64G", 65536, "64G"), ("1500m", 1500, "1500M"), ("1.5GiB", 1536, "1536M"), ("2 TB", 2097152, "2T")],
)
def test_memory_is_counted_as_slurm_does(text: str, megabytes: int, shown: str) -> None:
    """In units of 1024, and shown in the largest that is exact."""
    assert parse_memory(text, "--max-memory") == megabytes
    assert shown_memory(megabytes) == shown


@pytest.mark.parametrize(
    ("text", "minutes", "shown"),
    [("90m", 90, "1h30m"), ("12h", 720, "12h"), ("1d12h", 2160, "1d12h"), ("2D", 2880, "2d")],
)
def test_time_is_days_hours_and_minutes(text: str, minutes: int, shown: str) -> None:
    """A number without a unit could mean any of them."""
    assert parse_minutes(text, "--max-time") == minutes
    assert shown_minutes(minutes) == shown
    with pytest.raises(UsageError):
        parse_minutes("90", "--max-time")


def test_every_command_has_an_example() -> None:
    """Of its own name, as all commands have; these are a level deeper."""
    for one in allocation_module.app.registered_commands:
        assert f"divbase projects allocation {one.name} vole-2024" in str(one.help)
