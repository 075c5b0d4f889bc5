"""Questions at a snapshot, and questions that were answered before, asked of a real stack by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.simulate import Survey
from tests.e2e.conftest import MakeStack
from tests.e2e.stack import Bcftools, Project, Stack, result_of

COMMAND = "view -r chr21:5000000-25000000"


@pytest.mark.slow
def test_a_snapshot_gives_yesterday_s_bytes(make_stack: MakeStack, survey: Survey, tmp_path: Path) -> None:
    """Guards: after the file has changed and after it was deleted, a job at the snapshot reads the bytes of then, and
    what it makes of them is what was made of them then; asked once more, the earlier job answers."""
    then, now = survey.files[0], survey.files[-1]
    stack = make_stack()
    project = Project.create(stack, "puffins")
    upload(project, then)
    stack.run("login", stack.url, "--api-key-stdin", stdin=f"{stack.key}\n")
    stack.run("projects", "use", "puffins")
    stack.run("snapshots", "create", "yesterday", "--note", "before the new calls")
    before = ask(stack)
    assert ask(stack)["id"] == before["id"]

    upload(project, now)
    today = ask(stack)
    assert today["id"] != before["id"]
    assert ask(stack, "--at", "yesterday")["id"] == before["id"]
    stack.run("files", "rm", "colony.vcf.gz")
    again = ask(stack, "--at", "yesterday", "--fresh")
    assert again["id"] not in (before["id"], today["id"])
    results = [result_of(project.job(job["id"])) for job in (before, today, again)]
    assert results[0] == results[2] != results[1]

    bcftools = Bcftools.in_folder(tmp_path / "by-hand")
    whole = bcftools.indexed("then.bcf", "view", then)
    expected = bcftools.indexed("region.bcf", "view", "-r", "chr21:5000000-25000000", whole)
    assert bcftools.records(project.fetch(again["id"], tmp_path / "result")) == bcftools.records(expected)
    assert len(bcftools.records(expected)) > 100


def upload(project: Project, path: Path) -> None:
    """The file's bytes as the project's only file, usable."""
    with project.stack.client() as client:
        client.files.upload(project.name, path, "colony.vcf.gz")
        assert client.files.wait_until_indexed(project.name, "colony.vcf.gz").state == "READY"


def ask(stack: Stack, *options: str) -> dict[str, str]:
    """The job that answers the question, at its end."""
    words = ("query", "run", "--all-samples", "-c", COMMAND, "--wait", "--json")
    answer: dict[str, str] = json.loads(stack.run(*words, *options))
    return answer
