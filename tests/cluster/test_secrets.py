"""No secret is anywhere where others can look: SLURM's records, the processes of a node, the logs. A look that finds
nothing proves something only if it finds what is planted, so that is tested too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from tests.cluster.containers import Cluster
from tests.cluster.levers import Levers
from tests.cluster.site import Site
from tests.cluster.truth import check

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SIGNATURE = "X-Amz-Signature"
STEPS = ("claim", "stage", "run", "push", "finish")

_PROCESSES = """\
for process in /proc/[0-9]*; do
  tr '\\0' ' ' < $process/cmdline; echo
  [ "$(stat -c %U $process 2>/dev/null)" = neighbour ] && continue
  tr '\\0' ' ' < $process/environ; echo
done 2>/dev/null; true
"""


@dataclass(frozen=True)
class Places:
    """Everything that others than the job itself can read, by what it is."""

    texts: Mapping[str, str]

    def holding(self, secrets: Mapping[str, str]) -> list[str]:
        """`secret in place` for every find."""
        return [f"{name} in {place}" for place, text in self.texts.items() for name, s in secrets.items() if s in text]


def places(site: Site, number: str, node: str, name: str) -> Places:
    """What SLURM's tools show of a running job to any user and root, a node's processes to another user, the logs."""
    cluster = site.cluster
    cluster.wait_start(number)
    as_neighbour = ["bash", "-c", _PROCESSES]
    return Places(
        {
            "scontrol show job": cluster.admin("slurmctld", "scontrol", "--details", "show", "job", number),
            "the batch script": cluster.admin("slurmctld", "scontrol", "write", "batch_script", number, "-"),
            "sacct": cluster.admin("slurmdbd", "sacct", f"--jobs={number}", "--parsable2", "--format=all"),
            "squeue": cluster.admin("slurmctld", "squeue", f"--jobs={number}", "--format=%all"),
            "the processes of the node": cluster.admin(node, *as_neighbour, user="neighbour"),
            "the command lines of the login node": cluster.admin("login", *as_neighbour, user="neighbour"),
            "job.log": site.levers.run(f"cat {site.levers.work_dir}/{name}/job.log"),
            "the gateway's log": site.log,
        }
    )


def secrets_of(site: Site, name: str) -> dict[str, str]:
    """Every secret that a job or the gateway has to do with."""
    ticket = json.loads(site.levers.run(f"cat {site.levers.work_dir}/{name}/job.json"))
    return {
        "the job's token": ticket["token"],
        "a signature": SIGNATURE,
        "the S3 secret": site.s3.secret_key,
        "the API key": site.key,
        "the API key's secret": site.key.partition(".")[2],
    }


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_shown_while_a_job_is_at_a_step(site: Site, step: str) -> None:
    """At every step of a job, with the step's own process there."""
    for other in STEPS:
        site.levers.release(other)
    site.levers.hold(step)
    job = site.submit()
    site.levers.wait_held(step)
    attempt = site.job(job).attempts[-1]
    node = site.cluster.run("squeue", "--noheader", f"--jobs={attempt.slurm_job_id}", "--format=%N").strip()
    secrets = secrets_of(site, attempt.slurm_name)
    seen = places(site, str(attempt.slurm_job_id), node, attempt.slurm_name)
    assert all(len(secret) > 10 for secret in secrets.values())
    assert [place for place, text in seen.texts.items() if not text.strip()] in ([], ["job.log"])
    assert seen.holding(secrets) == []
    site.levers.release(step)
    site.succeeds(job)
    assert Places({"the stored log": site.user.jobs.log(site.project, job).text, "the log": site.log}).holding(
        secrets
    ) == ([])
    check(site)


def test_what_is_planted_is_found(site: Site, cluster: Cluster) -> None:
    """The looks of the test above find a secret in each place, if it is there."""
    word = "planted-4711-secret"
    site.levers.before_all(f"sh -c 'sleep 30; true' {word} & export PLANTED={word}; echo {word}")
    site.levers.hold("claim")
    site.levers.before_command("sbatch", f'set -- --comment={word} "$@"')
    job = site.submit()
    site.levers.wait_held("claim")
    attempt = site.job(job).attempts[-1]
    node = cluster.run("squeue", "--noheader", f"--jobs={attempt.slurm_job_id}", "--format=%N").strip()
    seen = places(site, str(attempt.slurm_job_id), node, attempt.slurm_name)
    found = seen.holding({"it": word})
    expected = ("scontrol show job", "sacct", "squeue", "the processes of the node", "job.log")
    assert found == [f"it in {place}" for place in expected]
    site.levers.release("claim")
    site.succeeds(job)


def test_levers_are_out_of_sight(site: Site) -> None:
    """The site's own folder is for its user alone, or the looks above would prove less."""
    assert isinstance(site.levers, Levers)
    assert site.levers.run(f"stat -c %a {site.levers.folder}").strip() == "700"
