"""The bcftools that tests run: the one inside pysam, or another that is named.

    DIVBASE_TEST_BCFTOOLS=/usr/bin/bcftools pytest tests/integration/test_differential.py

docs/bcftools.md says how to get older ones without installing them.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from divbase_gateway.local.bcftools import write_pysam_bcftools

VARIABLE = "DIVBASE_TEST_BCFTOOLS"


def bcftools_for_tests(folder: Path) -> Path:
    """An executable called `bcftools` in `folder`, for a PATH that begins with it."""
    named = os.environ.get(VARIABLE)
    if not named:
        return write_pysam_bcftools(folder).path
    if not os.access(named, os.X_OK):
        raise ValueError(f"{VARIABLE} is {named!r}; it has to be the path of a program")
    (folder / "bcftools").symlink_to(Path(named).resolve())
    return folder / "bcftools"


def release_of(program: Path) -> tuple[int, ...]:
    """(1, 21) of one that says 1.21."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    return tuple(int(number) for number in said.split("-")[0].split("."))
