"""BCF copies of VCF files: what the job that writes one reads, writes and needs, and when a copy may be read.

It knows sizes, names and counts; that the records are equal is for the job to prove.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from math import ceil

from divbase_gateway.domain.errors import UnusableFile
from divbase_gateway.domain.estimates import MAX_MINUTES, MIB, TRANSFER_RATE, WORK_RATE
from divbase_gateway.domain.files import CataloguedFile, Contig

KIND = "sidecar"
"""What its jobs are called among jobs."""

RECIPE = 1
"""How a copy is written and proven, in one number: to be raised with a change that gives another for the same file."""

FOLDER = ".divbase/bcf/"

MOST_OPEN = 50
"""Jobs that write copies, of all projects, at a time: queries of people shall not wait behind thousands of them."""

GRACE = timedelta(minutes=10)
"""From the moment that no new plan reads a copy until it is removed: what was planned before is accepted by then."""

_PASSES = 3
"""Times that the file is worked through: written, and both read for the comparison, of which the BCF is the quicker."""
_LARGER = 4
"""Bytes of the copy for each byte of the file, at most; 1.0 to 1.5 were measured."""


class SidecarState(StrEnum):
    """What there is beside a version."""

    WRITING = "WRITING"  # a job is at work
    READY = "READY"  # queries read it where it is cheaper
    NONE = "NONE"  # there will be none, for the reason that is kept
    GOING = "GOING"  # no new plan reads it; it is removed when no open job does


@dataclass(frozen=True)
class SidecarPlan:
    """What a job of this kind will do: read one version of a file whole, and write it as BCF.

    Attributes:
        bytes_total: the same as `size`; what the size of the copy is reckoned from.
    """

    key: str
    version_id: str
    size: int
    etag: str
    sha256: str | None
    format: str
    output_name: str
    bytes_total: int
    memory_mb: int
    cores: int
    minutes: int
    scratch_mb: int

    @property
    def digest(self) -> str:
        """sha256 hex over what is read and how."""
        content = json.dumps([KIND, RECIPE, self.key, self.version_id], ensure_ascii=True)
        return hashlib.sha256(content.encode("ascii")).hexdigest()


class UnequalCopy(UnusableFile):
    """A copy that is not of this file; the message says in what they differ."""


def plan_sidecar(file: CataloguedFile) -> SidecarPlan:
    """What writing the copy of this version takes, on one core: jobs of this kind are in no hurry."""
    seconds = file.size / TRANSFER_RATE + _PASSES * file.size / WORK_RATE
    return SidecarPlan(
        key=file.key,
        version_id=file.version_id,
        size=file.size,
        etag=file.etag,
        sha256=file.sha256,
        format=file.format.value,
        output_name="copy.bcf",
        bytes_total=file.size,
        memory_mb=1024,
        cores=1,
        minutes=min(MAX_MINUTES, 10 + ceil(2 * seconds / 60)),
        scratch_mb=256 + ceil((1 + _LARGER) * file.size / MIB),
    )


def sidecar_key(key: str, job: str) -> str:
    """Where the copy that this job writes of a file goes; users neither see nor write there."""
    return f"{FOLDER}{key}/{job}.bcf"


def check_equal(file: CataloguedFile, samples: Sequence[str], contigs: Sequence[Contig]) -> None:
    """Hold what header and index of a copy say against those of the file, from which it differs in nothing.

    Raises:
        UnequalCopy: it does.
    """
    if tuple(samples) != file.samples:
        raise UnequalCopy(f"It has {len(samples)} sample(s) where the file has {len(file.samples)}, or other names.")
    names = [contig.name for contig in contigs]
    if names != [contig.name for contig in file.contigs]:
        raise UnequalCopy("Its header has other contigs than the file's, or another order.")
    for mine, of_file in zip(contigs, file.contigs, strict=True):
        if of_file.variants is not None and mine.variants != of_file.variants:
            raise UnequalCopy(f"It has {mine.variants} records on {mine.name!r}, the file {of_file.variants}.")
