"""`divbase files repair` against the fake gateway: which job mends which file, and how the command ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from divbase_cli.failure import ExitCode

from tests.fakes.gateway_server import KEY, FakeGateway, Refusal, job, running_gateway
from tests.unit.test_cli_commands import Shell

ROUTE = "POST /projects/vole/files/repair"


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway() as one:
        yield one


@pytest.fixture
def shell(gateway: FakeGateway, tmp_path: Path) -> Shell:
    return Shell(
        {
            "DIVBASE_CONFIG": str(tmp_path / "home" / "config.toml"),
            "DIVBASE_URL": gateway.url,
            "DIVBASE_API_KEY": KEY,
            "DIVBASE_PROJECT": "vole",
        }
    )


def repair_job(state: str, **fields: object) -> dict[str, object]:
    return {**job("job7", state), "kind": "repair", "query": None, "plan": None, **fields}


class TestRepair:
    def test_without_waiting_the_job_is_named(self, gateway: FakeGateway, shell: Shell) -> None:
        """The command ends at once and says how to go on; a key that is named twice is asked for once."""
        gateway.answers[ROUTE] = repair_job("ACCEPTED")
        ended = shell("files", "repair", "a.vcf.gz", "a.vcf.gz")
        assert ended.stdout.splitlines()[1].split("\t")[:3] == ["a.vcf.gz", "job7", "ACCEPTED"]
        assert "divbase jobs watch job7" in ended.stderr
        assert len([one for one in gateway.seen if one.path.endswith("/files/repair")]) == 1

    def test_with_wait_the_file_is_looked_at(self, gateway: FakeGateway, shell: Shell) -> None:
        """What counts is what the file is in the end."""
        gateway.store("a.vcf.gz", b"whatever")
        gateway.answers[ROUTE] = repair_job("ACCEPTED")
        gateway.answers["GET /projects/vole/jobs/job7"] = repair_job("SUCCEEDED")
        (one,) = shell.json("files", "repair", "a.vcf.gz", "--wait")
        assert (one["key"], one["job"]["state"], one["file"]["state"]) == ("a.vcf.gz", "SUCCEEDED", "READY")

    def test_a_job_that_fails_is_exit_code_8(self, gateway: FakeGateway, shell: Shell) -> None:
        """Scripts tell a failed job from a refusal."""
        gateway.answers[ROUTE] = repair_job("ACCEPTED")
        gateway.answers["GET /projects/vole/jobs/job7"] = repair_job("FAILED", reason="superseded", message="Replaced.")
        ended = shell("files", "repair", "a.vcf.gz", "--wait", code=ExitCode.JOB_FAILED)
        assert "superseded: Replaced." in ended.stderr

    def test_a_refusal_is_exit_code_6_with_what_to_do(self, gateway: FakeGateway, shell: Shell) -> None:
        """The gateway's own words reach the user, for each of several files."""
        gateway.answers[ROUTE] = Refusal(409, "conflict", "It cannot be repaired: it is READY.", "Queries use it.")
        ended = shell("files", "repair", "a.vcf.gz", code=ExitCode.CONFLICT)
        assert "it is READY. Queries use it." in ended.stderr
        both = shell("files", "repair", "a.vcf.gz", "b.vcf.gz", "--json", code=ExitCode.CONFLICT)
        assert both.stdout.count("it is READY") == 2

    def test_a_job_that_is_at_work_is_said_to_be(self, gateway: FakeGateway, shell: Shell) -> None:
        """Who asks twice learns that there is one job."""
        gateway.answers[ROUTE] = repair_job("RUNNING", reused=True)
        assert "job job7 is at work on a.vcf.gz already" in shell("files", "repair", "a.vcf.gz").stderr
