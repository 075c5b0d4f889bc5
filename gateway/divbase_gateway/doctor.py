"""Looks at everything that the gateway depends on and says what to do about what fails. What it has to
write to find out, it removes."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from divbase_gateway import bootstrap
from divbase_gateway.clock import SystemClock
from divbase_gateway.db import revision
from divbase_gateway.db.projects import any_bucket
from divbase_gateway.db.session import Database
from divbase_gateway.domain.errors import StoreUnavailable
from divbase_gateway.local.bcftools import ensure_bcftools
from divbase_gateway.services import manifests
from divbase_gateway.services.health import Check, check
from divbase_gateway.settings import Settings

_TIMEOUT_S = 5.0

_HINTS = {
    "database": "Check `database.url` with `divbase-gateway settings`, and that the database runs.",
    "schema": "Run `divbase-gateway migrate` (on a new site: `divbase-gateway init --email YOU`).",
    "s3": "Check the group `s3` with `divbase-gateway settings`, and that S3 runs.",
    "s3 for laptops": "Correct `s3.public_endpoint`: presigned URLs for laptops carry this name.",
    "s3 for jobs": "Correct `s3.node_endpoint`: presigned URLs for jobs carry this name.",
    "conditional PUT": "Set `jobs.node_access` to `gateway`, or use a store that keeps to `If-None-Match: *`: with "
    "`manifest` it is what lets one run of a job win.",
    "scheduler": "Check the group `scheduler` with `divbase-gateway settings`.",
    "bcftools": "Install bcftools on the PATH, or run: pip install 'divbase-gateway[embedded]'",
}


def examine(settings: Settings) -> list[Check]:
    """Every check, each by itself: one that fails keeps no other from running."""
    checks = [
        check("database", lambda: _database(settings)),
        check("schema", lambda: f"revision {revision.require_head(settings.database.url)}"),
        check("s3", lambda: bootstrap.build_store(settings).ping()),
        check("s3 for laptops", lambda: _endpoint(settings.s3.laptop_endpoint, settings.s3.endpoint)),
        check("s3 for jobs", lambda: _endpoint(settings.s3.job_endpoint, settings.s3.endpoint)),
        check("scheduler", lambda: _scheduler(settings)),
        check("bcftools", _bcftools),
    ]
    if settings.jobs.node_access == "manifest":
        checks.append(check("conditional PUT", lambda: _conditional_put(settings)))
    return [one if one.ok or one.hint else Check(one.name, one.ok, one.words, _HINTS[one.name]) for one in checks]


def _database(settings: Settings) -> str:
    path = settings.database.url.removeprefix("sqlite:///")
    if path != settings.database.url and not Path(path).exists():
        return f"SQLite, {path} is not made yet"
    database = Database(settings.database.url, pool_size=1)
    try:
        return database.ping()
    finally:
        database.close()


def _scheduler(settings: Settings) -> str:
    scheduler = bootstrap.build_scheduler(settings, SystemClock())
    try:
        return scheduler.ping()
    finally:
        bootstrap.close_scheduler(scheduler)


def _endpoint(url: str, own: str) -> str:
    """Whether anything speaks HTTP there, seen from here. S3 answers 403 without credentials; that is an answer."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise StoreUnavailable(f"{url!r} is not an http or https URL.")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S):  # noqa: S310 - the scheme was looked at above
            pass
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError) as error:
        raise StoreUnavailable(f"{url} does not answer from here: {error}.") from error
    return f"{url} (the gateway's own)" if url == own else f"{url} answers from here"


def _conditional_put(settings: Settings) -> str:
    """Whether the store lets only the first of two such PUTs through, in the bucket of some project."""
    database = Database(settings.database.url, pool_size=1)
    try:
        with database.read() as session:
            bucket = any_bucket(session)
    finally:
        database.close()
    if bucket is None:
        return "not tried: there is no project yet, so there is no bucket"
    manifests.require_conditional_put(bootstrap.build_store(settings), bucket)
    return f"the second of two in bucket {bucket!r} was refused"


def _bcftools() -> str:
    with TemporaryDirectory(prefix="divbase-doctor-") as folder:
        found = ensure_bcftools(Path(folder))
    return f"bcftools {found.version} from {found.source}"
