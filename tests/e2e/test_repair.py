"""`divbase files repair` on a real stack: what a person types, and what the files are afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from divbase_client.errors import Conflict
from divbase_client.models import File, FileState, JobState

from tests.e2e.conftest import MakeStack
from tests.e2e.stack import Gate, Project
from tests.variants import bgzf, plain_gzip, vcf_header, vcf_records

NAMES = ["A", "B"]
RECORDS = vcf_records("chr1", 900_000, NAMES, 500, 1)
TEXT = vcf_header(NAMES, {"chr1": 900_000}) + RECORDS
UNSORTED = vcf_header(NAMES, {"chr1": 900_000}) + "".join(reversed(RECORDS.splitlines(keepends=True)))


@pytest.mark.slow
def test_files_are_repaired_from_the_command_line(make_stack: MakeStack, tmp_path: Path) -> None:
    """Guards: the listing names the command, the command mends what can be mended and says what to do about the rest;
    the old version can be had; and a file that is replaced while its repair runs stays what it was replaced by."""
    sent = tmp_path / "sent"
    sent.mkdir()
    bodies = {
        "gzip.vcf.gz": plain_gzip(TEXT.encode()),
        "unsorted.vcf.gz": bgzf(UNSORTED.encode()),
        "cut.vcf.gz": bgzf(TEXT.encode(), eof=False),
        "busy.vcf": TEXT.encode(),
    }
    for name, body in bodies.items():
        (sent / name).write_bytes(body)
    gate = Gate.build(tmp_path / "gate")
    stack = make_stack(environment=gate.environment)
    project = Project.create(stack, "stoats", [sent / name for name in bodies])
    stack.run("login", stack.url, "--api-key-stdin", stdin=f"{stack.key}\n")
    stack.run("projects", "use", "stoats")
    named = {each.key for each in listing(project) if f"`divbase files repair {each.key}`" in (each.reason or "")}
    assert named == {"gzip.vcf.gz", "unsorted.vcf.gz", "busy.vcf"}

    keys = ("gzip.vcf.gz", "unsorted.vcf.gz", "cut.vcf.gz")
    answer = json.loads(stack.run("files", "repair", *keys, "--wait", "--json", code=6))
    assert [each.get("file", {}).get("state") for each in answer] == ["READY", "READY", None]
    assert "It is truncated" in answer[2]["error"]
    new, old = listing(project, prefix="gzip", versions=True)
    assert (new.state, new.variants, old.state) == (FileState.READY, 500, FileState.UNUSABLE)
    with stack.client() as client:
        assert b"".join(client.files.read("stoats", "gzip.vcf.gz", version=old.version_id)) == bodies["gzip.vcf.gz"]
        with pytest.raises(Conflict, match="nothing to mend"):
            client.files.repair("stoats", "gzip.vcf.gz")

        gate.close()
        (started,) = json.loads(stack.run("files", "repair", "busy.vcf", "--json"))
        assert client.files.repair("stoats", "busy.vcf").id == started["job"]["id"]
        (sent / "busy.vcf").write_bytes(UNSORTED.encode())
        client.files.upload("stoats", sent / "busy.vcf")
        gate.open()
    assert project.reaches(started["job"]["id"], JobState.FAILED).reason == "superseded"
    assert [each.size for each in listing(project, prefix="busy")] == [len(UNSORTED)]


def listing(project: Project, *, prefix: str = "", versions: bool = False) -> list[File]:
    with project.stack.client() as client:
        return list(client.files.list(project.name, prefix=prefix, versions=versions))
