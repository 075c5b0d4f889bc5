"""What the operator sees of a site on a real SLURM: audit, usage, drain; and which of two copies is followed when
sbatch submits twice."""

from __future__ import annotations

import json
import subprocess

import pytest
from divbase_client.models import JobState

from tests.cluster.site import Site, wait_for
from tests.cluster.truth import check, runs_of
from tests.e2e.stack import BIN

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# Another site's tests may run on the same cluster, with the same account.
AUDIT = ("audit", "--since", "4h", "--shared-account", "--json")


def findings(site: Site, job: str) -> list[str]:
    """What the audit says of a job, which is no fault: a fault, of whatever job, fails the test at once."""
    answer = subprocess.run(
        [str(BIN / "divbase-gateway"), *AUDIT],
        cwd=site.folder,
        env=site.gateway.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(answer.stdout)
    assert (answer.returncode, found["clean"]) == (0, True), found["findings"]
    return [each["kind"] for each in found["findings"] if each["job"] == job]


def test_the_copy_that_claims_is_followed_and_the_audit_is_clean(site: Site) -> None:
    """sbatch submits twice and tells of the second; the first claims, does the work, and is the one that counts."""
    site.levers.hold("stage")
    site.levers.before_command("sbatch", f'/usr/bin/sbatch "$@" > "$0.untold"; {site.levers.until_held("stage")}\n')
    job = site.submit()
    site.slurm_id(job)
    names = {attempt.slurm_name for attempt in site.job(job).attempts}
    copies = wait_for(lambda: _both(site, names), "both copies in SLURM")
    site.levers.release("stage")
    site.succeeds(job)
    check(site)
    counted = site.slurm_id(job)
    untold = site.levers.run(f"cat {site.levers.bin_dir}/sbatch.untold").strip()
    runs = {run.job_id: (run.state, run.exit_code) for run in runs_of(site) if run.name in names}
    assert (counted, runs[counted]) == (untold, ("COMPLETED", "0:0"))
    # refused at its claim, or, where all was over, without the directory that SLURM would write its log to
    ((state, code),) = [runs[copy] for copy in copies if copy != counted]
    assert (state, code in ("3:0", "1:0", "0:53")) == ("FAILED", True), code
    assert wait_for(lambda: findings(site, job), "the copy in the audit") == ["idle_copy"]


def _both(site: Site, names: set[str]) -> set[str] | None:
    ids = {run.job_id for run in runs_of(site) if run.name in names}
    return ids if len(ids) == 2 else None


def test_usage_is_what_sacct_says(site: Site) -> None:
    """Core-hours of the site's one project are elapsed times processors of its runs that counted."""
    job = site.succeeds(site.submit())
    (attempt,) = job.attempts
    fields = site.cluster.run("sacct", "-X", "-n", "-P", "-j", str(attempt.slurm_job_id), "-o", "ElapsedRaw,AllocCPUS")
    elapsed, cpus = fields.split("|")
    assert attempt.elapsed_s == float(elapsed)
    lines = json.loads(site.operate("usage", "--json"))
    (line,) = [line for line in lines if line["name"] == site.project]
    assert line["core_hours"] >= float(elapsed) * int(cpus) / 3600
    assert line["jobs"] >= 2  # the file's index job too


def test_drain_holds_submission_back_and_nothing_else(site: Site) -> None:
    """A job that runs goes on to its end; one that is accepted meanwhile waits, and says for what."""
    site.levers.hold("claim")
    before = site.submit()
    site.slurm_id(before)
    site.operate("drain", "--reason", "New disks until noon.")
    try:
        held = site.submit()
        site.levers.release("claim")
        site.succeeds(before)
        shown = site.job(held)
        assert (shown.state, shown.attempts) == (JobState.ACCEPTED, [])
        assert str(shown.waiting).endswith("UTC: New disks until noon.")
        wait_for(lambda: "submission" in site.checks(), "/ready to mention it")
    finally:
        site.operate("resume")
    site.succeeds(held)
    check(site)
