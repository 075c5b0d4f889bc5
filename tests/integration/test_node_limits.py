"""Nodes that have too little of something: the job fails and says of what, or it does without; no result is short."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bcftools import bcftools_for_tests
from tests.fakes.node_gateway import NodeGateway
from tests.golden.scripts import MERGE, SINGLE
from tests.integration.test_node_run import JobFolder, add_single, add_two_groups, failure, fake_bcftools

pytestmark = pytest.mark.slow  # real programs


@pytest.fixture(scope="module")
def bcftools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bcftools_for_tests(tmp_path_factory.mktemp("bcftools"))


@pytest.fixture
def gateway() -> Iterator[NodeGateway]:
    with NodeGateway() as server:
        yield server


def test_out_of_descriptors(gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """A limit that the helper cannot raise; what is missing is said."""
    add_two_groups(gateway, tmp_path)
    folder = JobFolder(tmp_path / "run")
    folder.prepare(MERGE, gateway, bcftools)
    folder.write("bin/bash", '#!/bin/bash -p\nulimit -n 12\nexec /bin/bash "$@"\n', 0o755)
    reason, message = failure(folder.wait(folder.start()), gateway)
    assert (reason, "(12, ulimit -n): Too many open files." in message) == ("bcftools_failed", True), message


def test_a_process_is_out_of_descriptors(gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """What bcftools says of it is not taken for a damaged input."""
    add_single(gateway, tmp_path)
    folder = JobFolder(tmp_path / "run")
    fake = fake_bcftools(tmp_path, bcftools, '[[ "$*" == *--regions* ]] && ulimit -n 4')
    folder.prepare(SINGLE, gateway, fake)
    reason, message = failure(folder.wait(folder.start()), gateway)
    assert (reason, "Too many open files" in message) == ("bcftools_failed", True), message


def test_no_memory_for_a_thread() -> None:
    """The helper's own want of memory is called that, and no fault of DivBase's."""
    code = """
import resource, time
from divbase_jobscripts import node
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (20 << 20),) * 2)
try:
    node.work_through([lambda: time.sleep(5)] * 16, 16)
except node.Failed as exc:
    print(exc.reason, exc.message, flush=True)
node.os._exit(0)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("out_of_memory The helper got no more threads on ")


def test_full_disk_while_it_runs(gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """The result does not fit: what was written of it goes, and is no result."""
    add_single(gateway, tmp_path, sites=5000)
    folder = JobFolder(tmp_path / "run")
    limit = '[[ "$*" == *out/result* && "$*" == *-o* ]] && { ulimit -f 4; trap "" XFSZ; }'
    folder.prepare(SINGLE, gateway, fake_bcftools(tmp_path, bcftools, limit))
    reason, message = failure(folder.wait(folder.start()), gateway)
    assert reason in ("disk_full", "bcftools_failed"), message
    assert "out/result.vcf.gz" in message or "No space is left" in message


def test_too_little_memory(gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """A process that gets no more memory fails; those that read from it do not hide it."""
    add_single(gateway, tmp_path, sites=5000)
    folder = JobFolder(tmp_path / "run")
    folder.prepare(SINGLE, gateway, fake_bcftools(tmp_path, bcftools, '[[ "$*" == *QUAL* ]] && ulimit -v 9000'))
    reason, message = failure(folder.wait(folder.start()), gateway)
    assert reason in ("out_of_memory", "bcftools_failed"), message
    assert "QUAL>30" in message


def test_no_python(gateway: NodeGateway, tmp_path: Path, bcftools: Path) -> None:
    """Nobody can be told but the scheduler: the script does not end as if all were well, and says why in its log."""
    add_single(gateway, tmp_path)
    folder = JobFolder(tmp_path / "run")
    folder.prepare(SINGLE, gateway, bcftools)
    folder.write("bin/python3", '#!/bin/sh\necho "python3: not found" >&2\nexit 127\n', 0o755)
    ended = folder.wait(folder.start())
    assert ended.status not in (0, 3)
    assert ended.left_behind == []
    assert "python3: not found" in ended.log
    assert (gateway.calls, gateway.outputs) == ([], {})
