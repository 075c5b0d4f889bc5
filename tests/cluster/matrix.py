"""The tests of the cluster on every SLURM release that there is an image for, and the table that comes of it.

    python -m tests.cluster.matrix [RELEASE…]

Each release gets a cluster of its own, with its own name and ports, so that one that is up is left alone. A run writes
docs/compatibility.md, where releases that it left out keep their rows; nothing in there changes from day to day.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "slurm-docker-cluster" / "cluster"
PAGE = REPOSITORY / "docs" / "compatibility.md"
REPORTS = REPOSITORY / "build" / "matrix"
RELEASES = ("bookworm", "trixie", "forky")
_FIRST_PORT = 2250

_HEAD = """# Releases of SLURM that DivBase was tested on

This page is generated: `make test-matrix` runs the tests of the cluster (`slurm-docker-cluster/`) on every release and
writes it.

| Debian | SLURM | bcftools | Python on the nodes | passed | failed | skipped | which failed |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one release.

    Attributes:
        versions: of SLURM, bcftools and Python; empty words where the cluster did not start.
        failures: the names of the tests that failed or broke.
    """

    release: str
    versions: tuple[str, str, str]
    passed: int
    failed: int
    skipped: int
    seconds: float
    failures: tuple[str, ...] = ()

    @property
    def worked(self) -> bool:
        return self.passed > 0 and self.failed == 0

    def cells(self) -> list[str]:
        return [self.release, *self.versions, str(self.passed), str(self.failed), str(self.skipped)]


def main(arguments: Sequence[str]) -> int:
    """Run the releases that are named, else all; 0 if no test failed."""
    if unknown := [name for name in arguments if name not in RELEASES]:
        sys.stderr.write(f"There is no release {', '.join(unknown)}; there are {', '.join(RELEASES)}.\n")
        return 2
    REPORTS.mkdir(parents=True, exist_ok=True)
    outcomes = [run(release) for release in arguments or RELEASES]
    sys.stdout.write(table(outcomes))
    PAGE.write_text(page(outcomes, PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""), encoding="utf-8")
    return 0 if all(outcome.worked for outcome in outcomes) else 1


def run(release: str) -> Outcome:
    """Start the release's cluster, run the tests on it and take it down again."""
    environment = settings(release)
    began = time.monotonic()
    report = REPORTS / f"{release}.xml"
    report.unlink(missing_ok=True)
    try:
        if subprocess.run([str(SCRIPT), "start"], env=environment, check=False).returncode != 0:
            return Outcome(release, ("", "", ""), 0, 0, 0, time.monotonic() - began)
        versions = versions_of(environment)
        argv = [sys.executable, "-m", "pytest", "-m", "cluster", f"--junitxml={report}"]
        subprocess.run(argv, env=environment, cwd=REPOSITORY, check=False)
    finally:
        subprocess.run([str(SCRIPT), "down"], env=environment, check=False)
    seconds = time.monotonic() - began
    return outcome_of(release, versions, report, seconds)


def settings(release: str) -> dict[str, str]:
    """The environment in which `cluster` and the tests mean the cluster of this release."""
    first = _FIRST_PORT + 4 * RELEASES.index(release)
    ports = ("LOGIN_PORT", "S3_PORT", "POSTGRES_PORT", "GATEWAY_PORT")
    own = {name: str(first + number) for number, name in enumerate(ports)}
    flags = {"DIVBASE_CLUSTER": "1", "DIVBASE_REQUIRE_CLUSTER": "1", "DIVBASE_KEEP_CLUSTER": "1"}
    return {**os.environ, **own, **flags, "CLUSTER": f"divbase-{release}", "DEBIAN_RELEASE": release}


def versions_of(environment: Mapping[str, str]) -> tuple[str, str, str]:
    """SLURM's, bcftools' and Python's version on a node."""
    command = "sinfo --version; bcftools --version | head -n 1; python3 --version"
    config = SCRIPT.parent / "run" / environment["CLUSTER"] / "ssh_config"
    argv = ["ssh", "-F", str(config), "login", f"bash -c {shlex.quote(command)}"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    slurm, bcftools, python = (line.split()[-1] for line in shown)
    return slurm, bcftools, python


def outcome_of(release: str, versions: tuple[str, str, str], report: Path, seconds: float) -> Outcome:
    """From pytest's report; where there is none, something broke."""
    ends = ends_of(report) if report.is_file() else {"pytest": "error"}
    counted = Counter(ends.values())
    failures = tuple(name for name, end in ends.items() if end in ("failure", "error"))
    return Outcome(release, versions, counted["passed"], len(failures), counted["skipped"], seconds, failures)


def ends_of(report: Path) -> dict[str, str]:
    """Test -> passed, failure, error or skipped."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - pytest has just written it
        name = f"{case.get('classname')}.{case.get('name')}"
        found[name] = next((part.tag for part in case if part.tag in ("failure", "error", "skipped")), "passed")
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    """For the terminal."""
    rows = [["release", "SLURM", "bcftools", "Python", "passed", "failed", "skipped", "seconds"]]
    rows += [[*outcome.cells(), f"{outcome.seconds:.0f}"] for outcome in outcomes]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def page(outcomes: Sequence[Outcome], before: str = "") -> str:
    """For docs/. `before`: the page as it was."""
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in before.splitlines()}
    for outcome in outcomes:
        names = ", ".join(f"`{name.rpartition('.')[2]}`" for name in outcome.failures) or "none"
        rows[outcome.release] = f"| {' | '.join(outcome.cells())} | {names} |"
    return _HEAD + "".join(f"{rows[release]}\n" for release in RELEASES if release in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
