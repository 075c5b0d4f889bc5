"""What `divbase` says of BCF copies: the project's wish, what a file has, and which inputs of a plan are copies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from divbase_cli.failure import ExitCode

from tests.fakes.gateway_server import FakeGateway, plan
from tests.unit.test_cli_commands import Shell, gateway, shell

__all__ = ["gateway", "shell"]  # the fixtures


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["--sidecars"], {"sidecars": True}),
        (["--no-sidecars"], {"sidecars": False}),
        (["--description", "Voles"], {"description": "Voles"}),
        (["--description", "Voles", "--sidecars"], {"description": "Voles", "sidecars": True}),
    ],
)
def test_only_what_is_named_is_changed(
    gateway: FakeGateway, shell: Shell, words: list[str], sent: dict[str, Any]
) -> None:
    """Guards: an edit of one thing leaves the other."""
    shell("projects", "edit", *words)
    [request] = gateway.requests("PATCH /api/v1/projects/vole")
    assert {name: value for name, value in json.loads(request.body).items() if value is not None} == sent


def test_an_edit_of_nothing_is_refused(gateway: FakeGateway, shell: Shell) -> None:
    """Guards: it says which options there are, and asks nobody."""
    ended = shell("projects", "edit", code=ExitCode.USAGE)
    assert "--no-sidecars" in ended.stderr
    assert gateway.requests("PATCH") == []


def test_a_project_says_whether_it_wants_copies(shell: Shell) -> None:
    """Guards: `projects show` tells it."""
    assert "BCF copies:  none" in shell("projects", "show").stdout
    assert "BCF copies:  wanted" in shell("projects", "edit", "--sidecars").stdout


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"state": "READY", "size": 41_204_512}, "41.2 MB (41204512 bytes)"),
        ({"state": "WRITING"}, "being written by job k3v9"),
        ({"state": "NONE", "reason": "It has a record at position 0."}, "none: It has a record at position 0."),
    ],
)
def test_a_file_says_what_copy_it_has(gateway: FakeGateway, shell: Shell, state: dict[str, Any], words: str) -> None:
    """Guards: its size, who writes it, or why there is none."""
    gateway.store("a.vcf.gz", b"whatever")
    gateway.sidecar = {"size": None, "reason": None, "job": "k3v9", **state}
    assert f"BCF copy:  {words}" in shell("files", "info", "a.vcf.gz").stdout


def test_a_plan_says_which_inputs_are_copies(gateway: FakeGateway, shell: Shell) -> None:
    """Guards: in/1.bcf in a command is explained."""
    answer = plan()
    answer["inputs"][0]["copy_size"] = 2_000_000
    gateway.answers["POST /projects/vole/queries/plan"] = answer
    key = answer["inputs"][0]["key"]
    assert f"in/1.bcf is the BCF copy of {key} (2.0 MB)" in shell("query", "plan", "--all-samples").stdout
