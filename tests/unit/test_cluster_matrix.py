"""The table over SLURM's releases, from pytest's reports."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.matrix import Outcome, outcome_of, page, settings, table

REPORT = """<?xml version="1.0"?>
<testsuites><testsuite>
<testcase classname="tests.m" name="a"/><testcase classname="tests.m" name="b"/>
<testcase classname="tests.m" name="c"><failure message="no"/></testcase>
<testcase classname="tests.m" name="d"><skipped message="not here"/></testcase>
<testcase classname="tests.m" name="e"><error message="broke"/></testcase>
</testsuite></testsuites>
"""
TRIXIE = Outcome("trixie", ("24.11.5", "1.21", "3.13.5"), passed=40, failed=0, skipped=1, seconds=61.7)


def test_report_is_counted(tmp_path: Path) -> None:
    """A test passed, failed, broke or was skipped; without a report something broke."""
    (tmp_path / "report.xml").write_text(REPORT)
    versions = ("1", "2", "3")
    found = outcome_of("forky", versions, tmp_path / "report.xml", 5.0)
    assert found == Outcome("forky", versions, 2, 2, 1, 5.0, ("tests.m.c", "tests.m.e"))
    assert page([found]).splitlines()[-1] == "| forky | 1 | 2 | 3 | 2 | 2 | 1 | `c`, `e` |"
    assert outcome_of("forky", versions, tmp_path / "none.xml", 5.0).failed == 1


def test_page_does_not_change_from_run_to_run() -> None:
    """The terminal shows how long it took, the page does not."""
    assert page([TRIXIE]).splitlines()[-1] == "| trixie | 24.11.5 | 1.21 | 3.13.5 | 40 | 0 | 1 | none |"
    assert table([TRIXIE]).splitlines()[-1] == "trixie   24.11.5  1.21      3.13.5  40      0       1        62"


def test_releases_that_were_not_run_keep_their_rows() -> None:
    """One release can be run anew, and a second run of it replaces its row."""
    bookworm = Outcome("bookworm", ("22.05.8", "1.16", "3.11.2"), passed=1, failed=2, skipped=3, seconds=9)
    both = page([TRIXIE], page([bookworm]))
    assert both == page([bookworm, TRIXIE])
    assert page([TRIXIE], both) == both


def test_a_release_that_did_not_start_did_not_work() -> None:
    assert TRIXIE.worked
    assert not Outcome("forky", ("", "", ""), passed=0, failed=0, skipped=0, seconds=5).worked


def test_each_release_has_its_own_name_and_ports() -> None:
    """So that none meets another, or the default one."""
    environments = [settings(release) for release in ("bookworm", "trixie", "forky")]
    ports = [one[name] for one in environments for name in ("LOGIN_PORT", "S3_PORT", "POSTGRES_PORT", "GATEWAY_PORT")]
    assert len({one["CLUSTER"] for one in environments}) == 3
    assert len(set(ports)) == 12
    assert not set(ports) & {"2202", "2203", "2204", "2205"}
