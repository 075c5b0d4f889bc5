"""What the cluster in containers promises to the tests that use it."""

from __future__ import annotations

import json
import secrets
import subprocess
from datetime import timedelta

import psycopg
import pytest
from divbase_gateway.ports import Audience
from divbase_gateway.s3.store import S3Store

from tests.cluster.containers import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

COMMENT = "job=42 project=pelican user=anna"


def submit(cluster: Cluster, name: str, script: str, *options: str) -> str:
    """Submit a job of divbase and return its id."""
    argv = ["sbatch", "--parsable", "--account=divbase", f"--job-name={name}", f"--comment={COMMENT}", "--export=NONE"]
    return cluster.run(*argv, "--chdir=/shared/divbase", *options, f"--wrap={script}").strip()


@pytest.fixture
def name() -> str:
    """A job name that no other test uses."""
    return f"divbase-pelican-{secrets.token_hex(4)}"


def test_two_nodes_answer(cluster: Cluster) -> None:
    """Both nodes take jobs: idle, or busy with those of another test."""
    lines = cluster.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %t").splitlines()
    nodes = dict(line.split() for line in lines)
    assert sorted(nodes) == ["c1", "c2"]
    assert set(nodes.values()) <= {"idle", "mix", "alloc", "comp"}


def test_job_submitted_over_ssh_is_accounted_for(cluster: Cluster, name: str) -> None:
    """A job that ran is COMPLETED in the accounting, with its name, account and comment."""
    job = submit(cluster, name, "hostname")
    assert cluster.wait_end(job) == "COMPLETED"
    assert cluster.sacct(job, "JobName", "Account", "User", "Comment") == [name, "divbase", "divbase", COMMENT]


def test_queue_shows_whose_job_it_is(cluster: Cluster, name: str) -> None:
    """squeue has the name, the account and the comment of a job that waits."""
    job = submit(cluster, name, "true", "--hold")
    try:
        shown = cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%j|%a|%k|%T|%r")
    finally:
        cluster.run("scancel", job)
    assert shown.strip() == f"{name}|divbase|{COMMENT}|PENDING|JobHeldUser"


def test_job_directory_is_shared(cluster: Cluster, name: str) -> None:
    """What a node writes under /shared is there on the login node, as the same user."""
    job = submit(cluster, name, "hostname", f"--output={name}.log", "--nodelist=c2")
    cluster.wait_end(job)
    shown = cluster.run("bash", "-c", f"cd /shared/divbase; cat {name}.log; stat -c %U {name}.log; rm {name}.log")
    assert shown.split() == ["c2", "divbase"]


def test_nodes_have_what_jobs_need(cluster: Cluster) -> None:
    """Every node has bcftools, curl and Python."""
    for node in ("c1", "c2"):
        cluster.admin(node, "bash", "-c", "bcftools --version && curl --version && python3 --version")


def test_memory_beyond_the_request_ends_the_job(cluster: Cluster, name: str) -> None:
    """A job that takes more memory than it asked for is killed; without cgroups SLURM has no better word for it."""
    hungry = "python3 -c 'import time; x = b\"1\" * 400_000_000; time.sleep(60)'"
    job = submit(cluster, name, hungry, "--mem=100")
    cluster.wait_end(job)
    assert cluster.sacct(job, "State", "ExitCode") == ["FAILED", "0:9"]


def test_account_that_does_not_exist_is_refused(cluster: Cluster) -> None:
    """Associations are enforced: sbatch says no, in SLURM's own words."""
    answer = cluster.ssh("sbatch --account=nobody --wrap=true")
    assert answer.returncode == 1
    assert "Invalid account or account/partition combination specified" in answer.stderr


def test_password_is_no_way_in(cluster: Cluster) -> None:
    """The login node's sshd offers keys only."""
    offered = cluster.admin("login", "bash", "-c", "sshd -T | grep -iE '^(password|kbdinteractive)auth'").splitlines()
    assert sorted(line.lower() for line in offered) == ["kbdinteractiveauthentication no", "passwordauthentication no"]


def test_nothing_is_published_beyond_this_machine(cluster: Cluster) -> None:
    """Every published port is on loopback."""
    for service in ("login", "s3", "postgres"):
        argv = ["docker", "port", cluster.container(service)]
        published = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
        assert [line.split(" -> ")[1].split(":")[0] for line in published] == ["127.0.0.1"]


def test_no_container_is_privileged(cluster: Cluster) -> None:
    """No capability beyond Docker's own, but that nodes may read the memory use of other users' processes."""
    for service in ("slurmdbd", "slurmctld", "c1", "c2", "login", "s3", "postgres"):
        shown = subprocess.run(
            ["docker", "inspect", cluster.container(service)], capture_output=True, check=True
        ).stdout
        host = json.loads(shown)[0]["HostConfig"]
        more = ["SYS_PTRACE"] if service in ("c1", "c2") else None
        assert (host["Privileged"], host["CapAdd"]) == (False, more)


def test_s3_is_one_store_under_two_names(cluster: Cluster) -> None:
    """What a node puts into S3, by a request signed for the node's name of it, this machine reads under its own."""
    s3, bucket = cluster.settings()["s3"], f"test-{secrets.token_hex(6)}"
    keys = {"access_key": s3["access_key"], "secret_key": s3["secret_key"]}
    store = S3Store(s3["endpoint"], node_endpoint=s3["node_endpoint"], **keys)
    store.ensure_bucket(bucket)
    put = store.presign_put(bucket, "a", Audience.NODE, timedelta(minutes=1), None, {})
    headers = [word for name, value in put.headers.items() for word in ("--header", f"{name}: {value}")]
    cluster.admin("c1", "curl", "--silent", "--fail", "--request", "PUT", "--data", "hello", *headers, put.url)
    assert put.url.startswith("http://s3:8333/")
    assert store.read(bucket, "a", None, 0, 5) == b"hello"


def test_postgres_answers_to_the_role_of_the_gateway(cluster: Cluster) -> None:
    """With the password that was made at start, and with that only; tests may make databases of their own."""
    url = cluster.settings()["database"]["url"].replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        may = connection.execute("SELECT rolcreatedb, rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    assert may == (True, False)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url, password="guess")


def test_controller_that_is_away_comes_back_with_its_jobs(cluster: Cluster, name: str) -> None:
    """Without slurmctld squeue fails; when it is back, it has the job."""
    job = submit(cluster, name, "true", "--hold")
    with cluster.without("slurmctld", "slurmctld"):
        assert cluster.ssh("squeue").returncode == 1
    shown = cluster.run("squeue", "--noheader", f"--name={name}", "--format=%i")
    cluster.run("scancel", job)
    assert shown.strip() == job
