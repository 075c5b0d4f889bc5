"""`divbase projects retention`, `jobs pin` and what is said of results that end, against the fake gateway."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from divbase_cli import keeping
from divbase_cli.failure import ExitCode
from divbase_cli.output import local_time
from divbase_client.models import Job

from tests.fakes.gateway_server import KEY, FakeGateway, Refusal, job, running_gateway, storage
from tests.unit.test_cli_commands import Shell

NOW = datetime.now(UTC)
EFFECT: dict[str, Any] = {
    "project": "vole",
    "days": 90,
    "site_days": None,
    "holds_days": 90,
    "grace_until": "2024-06-08T10:00:00Z",
    "results": 12,
    "bytes": 4_000_000_000,
    "soon_results": 3,
    "soon_bytes": 1_000_000_000,
    "first_at": "2024-06-08T10:00:00Z",
    "pinned": 2,
}
NOTHING: dict[str, Any] = {
    **EFFECT,
    "days": 0,
    "holds_days": None,
    "grace_until": None,
    "soon_results": 0,
    "soon_bytes": 0,
    "first_at": None,
}
PATH = "/projects/vole/retention"


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway() as one:
        one.answers[f"GET {PATH}"] = one.answers[f"PUT {PATH}"] = EFFECT
        yield one


@pytest.fixture
def shell(gateway: FakeGateway, tmp_path: Path) -> Shell:
    environment = {"DIVBASE_CONFIG": str(tmp_path / "config.toml"), "DIVBASE_URL": gateway.url}
    return Shell({**environment, "DIVBASE_API_KEY": KEY, "DIVBASE_PROJECT": "vole"})


@pytest.fixture
def has(gateway: FakeGateway) -> Callable[..., str]:
    """A job that succeeded, with these fields."""

    def put(**fields: Any) -> str:
        gateway.jobs["j1"] = {**job("j1", "SUCCEEDED"), **fields}
        return "j1"

    return put


def sent(gateway: FakeGateway) -> list[Any]:
    return [json.loads(one.body) for one in gateway.requests(f"PUT /api/v1{PATH}")]


def test_a_dry_run_says_what_would_be_removed_and_changes_nothing(shell: Shell, gateway: FakeGateway) -> None:
    """How many, how large, and none before when."""
    shown = shell("projects", "retention", "set", "--days", "90", "--dry-run")
    assert sent(gateway) == [{"days": 90, "dry_run": True}]
    assert (
        "12 results (4.0 GB) will be removed, each 90 days after their last use, but none before 2024-" in shown.stdout
    )
    assert "3 results of them (1.0 GB) within a week from now" in shown.stdout
    assert "Nothing was changed." in shown.stderr


def test_what_removes_something_has_to_be_confirmed(shell: Shell, gateway: FakeGateway) -> None:
    """Where nobody can be asked, `--yes` is asked for, after what it would do was said."""
    refused = shell("projects", "retention", "set", "--days", "90", code=ExitCode.USAGE)
    assert "12 results (4.0 GB) will be removed" in refused.stderr
    assert "--yes" in refused.stderr
    assert sent(gateway) == [{"days": 90, "dry_run": True}]
    shell("projects", "retention", "set", "--days", "90", "--yes")
    assert sent(gateway)[1:] == [{"days": 90, "dry_run": True}, {"days": 90}]


@pytest.mark.parametrize(("option", "days"), [("--forever", 0), ("--as-site", None)])
def test_what_removes_nothing_is_done_at_once(
    shell: Shell, gateway: FakeGateway, option: str, days: int | None
) -> None:
    """Nobody is asked about keeping more."""
    gateway.answers[f"PUT {PATH}"] = NOTHING
    shown = shell("projects", "retention", "set", option).stdout
    assert sent(gateway) == [{"days": days, "dry_run": True}, {"days": days}]
    assert "for ever" in shown
    assert "Nothing is going to be removed." in shown


@pytest.mark.parametrize("words", [[], ["--days", "9", "--forever"], ["--days", "0"], ["--days", "3651"]])
def test_how_long_is_said_in_one_way(shell: Shell, gateway: FakeGateway, words: list[str]) -> None:
    """And within bounds, before anything is sent."""
    shell("projects", "retention", "set", *words, code=ExitCode.USAGE)
    assert sent(gateway) == []


def test_show_is_json_too(shell: Shell) -> None:
    """As the gateway answers it."""
    assert shell.json("projects", "retention", "show") == EFFECT
    assert "90 days after their last use (set for the project)" in shell("projects", "retention", "show").stdout


def test_a_project_is_shown_with_what_it_keeps(shell: Shell, gateway: FakeGateway) -> None:
    """What takes how much, and a bar of the limit."""
    lines = shell("projects", "show", "vole").stdout.splitlines()
    assert "Files\t3.5 MB\t70 %" in lines
    assert "Older versions and deleted files\t500 kB\t10 %" in lines
    assert "Together\t5.0 MB\t-" in lines
    assert lines[-1] == "Limit: [##########..........] 50 %, 5.0 MB left of 10.0 MB"
    assert shell.json("projects", "show")["storage"] == storage()


@pytest.mark.parametrize(("limit", "shown"), [(None, "Limit: no limit"), (0, "100 %, 0 B left of 0 B")])
def test_no_limit_and_no_room_are_told_apart(shell: Shell, gateway: FakeGateway, limit: int | None, shown: str) -> None:
    """A limit of nothing is not the absence of one."""
    kept = {**storage(limit=limit), **({"left": 0} if limit == 0 else {})}
    gateway.answers["GET /projects/vole/storage"] = kept
    assert shown in shell("projects", "show").stdout.splitlines()[-1]


def test_pin_and_unpin(shell: Shell, has: Callable[..., str]) -> None:
    """Each says what holds then."""
    name = has(expires_at=NOW.isoformat(), warn_from=NOW.isoformat())
    assert shell("jobs", "pin", name).stdout == "The result of job j1 is kept for ever (pinned).\n"
    assert shell.json("jobs", "pin", name)["pinned"] is True
    assert shell("jobs", "unpin", name).stdout.startswith("The result of job j1 is kept until ")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "The result of job j1 is kept for ever.\n"),
        ({"state": "RUNNING"}, "The result of job j1 will be kept as long as the project keeps others.\n"),
        ({"state": "FAILED"}, "Job j1 has no result that could be removed.\n"),
        ({"kind": "index"}, "Job j1 has no result that could be removed.\n"),
        ({"results_removed_at": NOW.isoformat()}, "makes it again.\n"),
    ],
)
def test_unpin_promises_no_more_than_there_is(
    shell: Shell, has: Callable[..., str], fields: dict[str, str], words: str
) -> None:
    """A job that has no date may have no result, or not yet; only one that the project keeps is kept for ever."""
    said = shell("jobs", "unpin", has(**fields)).stdout
    assert said.endswith(words)
    assert "kept removed" not in said


def test_a_result_that_ends_soon_is_marked_and_warned_of(shell: Shell, has: Callable[..., str]) -> None:
    """In the listing, in `show` and where its files are listed; in JSON the dates are there."""
    expires = NOW + timedelta(days=3)
    name = has(expires_at=expires.isoformat(), warn_from=(NOW - timedelta(days=1)).isoformat())
    assert f"\t! until {expires.astimezone():%Y-%m-%d}\t" in shell("jobs", "ls").stdout
    for command in ("show", "result"):
        shown = shell("jobs", command, name)
        assert "warning: the result of job j1 is to be removed on " in shown.stderr
        assert "`divbase jobs pin j1` keeps it" in shown.stderr
    assert "Result kept:  until " in shell("jobs", "show", name).stdout


@pytest.mark.parametrize("days", [3, 90])
@pytest.mark.parametrize("download", [False, True], ids=["listed", "downloaded"])
def test_what_a_use_puts_off_is_not_warned_of(
    shell: Shell, gateway: FakeGateway, has: Callable[..., str], tmp_path: Path, download: bool, days: int
) -> None:
    """The time that the command itself began anew is what counts; where that is short, it ends soon all the same."""
    expires, later = NOW + timedelta(days=1), NOW + timedelta(days=days)
    name = has(expires_at=expires.isoformat(), warn_from=(NOW - timedelta(days=1)).isoformat())
    gateway.used_fields = {
        "expires_at": later.isoformat(),
        "warn_from": (later - timedelta(days=7)).isoformat(),
    }
    gateway.store(f"results/{name}/result.vcf.gz", b"records")
    said = shell("jobs", "result", name, *(["--download", str(tmp_path)] if download else [])).stderr
    assert (tmp_path / "result.vcf.gz").exists() is download
    warned = f"warning: the result of job j1 is to be removed on {local_time(later)}" in said
    assert (warned, "warning" in said) == ((True, True) if days == 3 else (False, False))


def test_far_from_its_end_there_is_no_warning(shell: Shell, has: Callable[..., str]) -> None:
    """Only the date, to who asks for it."""
    soon = (NOW + timedelta(hours=1)).isoformat()
    name = has(expires_at=(NOW + timedelta(days=8)).isoformat(), warn_from=soon)
    shown = shell("jobs", "show", name)
    assert "warning" not in shown.stderr
    assert "Result kept:  until " in shown.stdout
    assert "until" not in shell("jobs", "ls").stdout


def test_a_removed_result_says_how_to_get_it_back(shell: Shell, gateway: FakeGateway, has: Callable[..., str]) -> None:
    """In the listing, in `show`, and where it is asked for."""
    name = has(results_removed_at=NOW.isoformat())
    assert "\tremoved\t" in shell("jobs", "ls").stdout
    assert "`divbase jobs rerun j1` makes it again" in shell("jobs", "show", name).stdout
    words = "The result of job j1 was removed on 2024-05-01 10:00 UTC by the retention of 30 days of project vole."
    gateway.answers["GET /projects/vole/jobs/j1/result"] = Refusal(410, "result_removed", words, "Run it again.")
    refused = shell("jobs", "result", name, code=ExitCode.NOT_FOUND)
    assert words in refused.stderr


def test_marks_are_of_one_kind() -> None:
    """What was removed is not called pinned, and what is pinned does not end."""
    fields = {**job("j1", "SUCCEEDED"), "expires_at": NOW, "warn_from": NOW, "pinned": True}
    assert keeping.mark(Job.model_validate(fields), NOW) == "pinned"
    assert keeping.mark(Job.model_validate({**fields, "results_removed_at": NOW}), NOW) == "removed"
    assert keeping.mark(Job.model_validate({**fields, "pinned": False, "expires_at": None}), NOW) is None


def test_every_command_has_an_example() -> None:
    """Of its own name, as all commands have; these are a level deeper."""
    for one in keeping.app.registered_commands:
        assert f"divbase projects retention {one.name} vole-2024" in str(one.help)
