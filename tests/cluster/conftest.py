"""Tests on a real SLURM are collected only where DIVBASE_CLUSTER=1 asks for them (`make test`); sites for those
of them that need a gateway, S3 and a database as well."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.cluster.containers import Cluster
from tests.cluster.site import Site
from tests.cluster.truth import audit

collect_ignore_glob = [] if os.environ.get("DIVBASE_CLUSTER") == "1" else ["test_*.py"]

MakeSite = Callable[..., Site]
EXPIRY_S = 60


@contextmanager
def _sites(cluster: Cluster, folders: pytest.TempPathFactory) -> Iterator[MakeSite]:
    with ExitStack() as stack:

        def make(**options: object) -> Site:
            site = Site(cluster, folders.mktemp("site"), **options)  # type: ignore[arg-type]
            stack.callback(site.tear_down)
            site.set_up()
            return site

        yield make


@pytest.fixture(scope="module")
def make_site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeSite]:
    """Brings a site up for its module alone; `make_site(settings=…, database=…, replicas=…)`."""
    with _sites(cluster, tmp_path_factory) as make:
        yield make


@pytest.fixture(scope="session")
def shared_site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """In the end the operator's audit finds nothing in all that happened to it."""
    with _sites(cluster, tmp_path_factory) as make:
        site = make(index_by_job=True)
        yield site
        audit(site)


@pytest.fixture(scope="session")
def s3_only(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site in `manifest` mode, whose nodes have no way to the gateway; its URLs are good for `EXPIRY_S` seconds."""
    settings = {
        "JOBS__NODE_ACCESS": "manifest",
        "JOBS__MANIFEST_EXPIRY_S": str(EXPIRY_S),
        "SERVER__NODE_URL": "http://host.docker.internal:1",
    }
    with _sites(cluster, tmp_path_factory) as make:
        yield make(settings=settings, index_by_job=True)


@pytest.fixture
def site(shared_site: Site) -> Site:
    """The site that most tests share, in peace: its gateway runs, and no job or command is held."""
    shared_site.levers.reset()
    for gateway in shared_site.gateways:
        if gateway.process is None or gateway.process.poll() is not None:
            gateway.start()
        gateway.turn_page()
    return shared_site
