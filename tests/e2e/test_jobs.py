"""What users do with their jobs while they wait, run and are over, through the client and a real stack."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import psutil
import pytest
from divbase_client import Conflict
from divbase_client.models import JobState

from demo.simulate import Survey
from tests.e2e.conftest import MakeStack
from tests.e2e.stack import Bcftools, Gate, Project, outcomes_of, wait_for

WORDS = "The job was cancelled at the user's request."


@pytest.mark.slow
def test_jobs_are_cancelled_and_leave_nothing(make_stack: MakeStack, survey: Survey, tmp_path: Path) -> None:
    """Guards: a running job and a waiting one end when they are told to, with all their processes and files; their
    logs stay; what has ended is not run twice."""
    gate = Gate.build(tmp_path / "gate")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {**gate.environment, "TMPDIR": str(scratch)}
    stack = make_stack(settings={"SCHEDULER__SLOTS": "1"}, environment=environment)
    project = Project.create(stack, "puffins", survey.files[:1])
    gate.close()
    running, waiting = project.submit(), project.submit()
    project.reaches(running, JobState.RUNNING)
    assert project.reaches(waiting, JobState.QUEUED).slurm_reason in (None, "Resources")
    wait_for(lambda: "staged:" in project.log_text(running), "the log of the running job")
    with stack.client() as client:
        client.jobs.cancel("puffins", waiting)
        cancelled = project.reaches(waiting, JobState.CANCELLED)
        assert (cancelled.message, cancelled.started_at) == (WORDS, None)
        client.jobs.cancel("puffins", running)
        assert project.reaches(running, JobState.CANCELLED).message == WORDS
        assert "finished: cancelled" in project.log_text(running)
        assert [process for process in stack.processes() if in_a_job(process, stack.data)] == []
        wait_for(lambda: not list(scratch.glob("divbase.*")), "the end of the scratch folders")
        gate.open()
        assert outcomes_of(client.jobs.rerun("puffins", running)) == ["cancelled"]
        assert outcomes_of(project.succeeds(running)) == ["cancelled", "succeeded"]
        with pytest.raises(Conflict):
            client.jobs.rerun("puffins", running)
        log = client.jobs.log("puffins", running)
    assert log.complete
    assert "finished: succeeded" in log.text
    wait_for(lambda: not list((stack.data / "jobs").glob("[0-9]*")), "the end of the job directories")


def in_a_job(process: psutil.Process, data: Path) -> bool:
    return Path(process.cwd()).is_relative_to(data / "jobs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "command"),
    [("64k", "view"), ("400k", "view")],
    ids=["no room for the inputs", "no room for the result"],
)
def test_a_full_disk_is_said_and_nothing_is_left(
    make_stack: MakeStack, survey: Survey, tmp_path: Path, size: str, command: str
) -> None:
    """Guards: a job whose scratch folder fills up fails with the reason and words, after as many attempts as the site
    allows, and removes what it wrote; another job has the room again."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    mount = f"mount -t tmpfs -o size={size},mode=0700 tmpfs {shlex.quote(str(scratch))}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here (needs root and a mount namespace)")
    stack = make_stack(
        settings={"JOBS__MAX_ATTEMPTS": "2"},
        environment={"TMPDIR": str(scratch)},
        wrapper=["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"],
    )
    project = Project.create(stack, "puffins", indexed(survey.files[0], tmp_path / "indexed"))
    assert stack.process is not None
    seen = Path(f"/proc/{stack.process.pid}/root{scratch}")
    assert os.statvfs(seen).f_blocks * os.statvfs(seen).f_frsize <= 1 << 20
    failed = project.reaches(project.submit(command, level=0), JobState.FAILED)
    assert failed.reason == "disk_full"
    assert f"{scratch}/divbase." in (failed.message or "")
    assert outcomes_of(failed) == ["disk_full", "disk_full"]
    assert "finished: disk_full" in project.log_text(failed.id)
    wait_for(lambda: not list(seen.iterdir()), "the end of the scratch folders")
    if size != "64k":
        assert outcomes_of(project.succeeds(project.submit("view -r chr21:1-1000000"))) == ["succeeded"]


def indexed(file: Path, folder: Path) -> list[Path]:
    """A copy with an index beside it, so that no job has to build one."""
    bcftools = Bcftools.in_folder(folder)
    copy = folder / file.name
    copy.write_bytes(file.read_bytes())
    bcftools.run("index", "--csi", copy)
    return [folder / f"{file.name}.csi", copy]
