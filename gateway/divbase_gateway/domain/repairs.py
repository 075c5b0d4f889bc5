"""Files that cannot be used as they are: which of them a job can mend, and what that job reads, writes and needs.

It knows states and reasons; what a file holds is looked at elsewhere, and rewriting it is the node's.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from divbase_gateway.domain.bgzf import Compression
from divbase_gateway.domain.errors import Conflict
from divbase_gateway.domain.estimates import MAX_MINUTES, MIB, TRANSFER_RATE, WORK_RATE
from divbase_gateway.domain.files import CataloguedFile, FileFormat, FileState
from divbase_gateway.domain.jobs import Reason

KIND = "repair"
"""What its jobs are called among jobs."""

RECIPE = 1
"""How a file is mended, in one number: to be raised with a change that gives other records for the same file."""

MEMORY_MB = 2048
_TEXT_PACKS_TO = 0.2
"""Bytes of BGZF for a byte of VCF text; a tenth is usual where there are many samples."""
_SORTED_TWICE = 6
"""Bytes of sorted runs, which bcftools writes as they are, for a byte of BGZF."""


class Mend(StrEnum):
    """What a file lacks."""

    REWRITE = "rewrite"  # it is to be written anew: as BGZF, or sorted
    INDEX = "index"  # there is nothing wrong with it, but its index could not be built


@dataclass(frozen=True)
class Condition:
    """How a variant file is packed, and what is wrong with it that no rewriting mends, in whole sentences."""

    compression: Compression
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class IndexEnd:
    """How the job that was to build a file's index ended. `reason` None: it succeeded, but its index is of no use."""

    job: str
    reason: str | None


@dataclass(frozen=True)
class RepairPlan:
    """What a repair will do: read one file version whole, and write the next one of the same key.

    Attributes:
        output_name: of the new file on the node; its suffix says what bcftools writes.
        bytes_total: the same as `size`; what the size of the result is reckoned from.
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
        """sha256 hex over what is read and how: the same for every wish to mend this version."""
        content = json.dumps([KIND, RECIPE, self.key, self.version_id], ensure_ascii=True)
        return hashlib.sha256(content.encode("ascii")).hexdigest()


_INDEX_FAULTS = {
    Reason.INPUT_CORRUPT: "bytes of it are damaged or missing, and no job can find them again",
    Reason.INPUT_MISSING: "this version of it is gone from the bucket",
    Reason.BCFTOOLS_FAILED: "bcftools cannot read what is in it",
}


def choose_mend(file: CataloguedFile, index: IndexEnd | None, condition: Condition | None) -> Mend:
    """What is to be done about a file.

    Args:
        index: where a job tried to build its index and ended; then `condition` is of no account.
        condition: what was seen of it, where nobody got as far as an index; None where nobody need look.

    Raises:
        Conflict: nothing can be done, or nothing need be; the message says why and the hint what the user can do.
    """
    if file.state is not FileState.UNUSABLE:
        raise _refusal(file, *_SOUND[file.state])
    if index is not None:
        return _mend_after(file, index)
    if condition is None:
        raise _refusal(
            file,
            "it is no variant file, and what is wrong with it is for its author to mend",
            "`divbase metadata validate` names every fault of a sample table.",
        )
    if condition.faults:
        raise _refusal(file, f"no job can mend this: {' '.join(condition.faults)}".rstrip("."), _UPLOAD)
    return Mend.REWRITE


_UPLOAD = "Mend it where it came from, and upload it again under the same name: `divbase files upload`."

_SOUND = {
    FileState.READY: ("there is nothing to mend: it is READY", "Queries use it as it is."),
    FileState.INDEXING: ("its index is being built", "`divbase files info` shows when it is READY."),
    FileState.STORED: (
        "it is no variant file by its name",
        "Files called .vcf, .vcf.gz, .vcf.bgz or .bcf can be mended.",
    ),
}


def _mend_after(file: CataloguedFile, index: IndexEnd) -> Mend:
    if index.reason in (None, Reason.UNSORTED):
        return Mend.REWRITE
    fault = _INDEX_FAULTS.get(Reason(index.reason))
    if fault is None:
        return Mend.INDEX
    raise _refusal(file, f"{fault}: {file.reason}".rstrip("."), _UPLOAD)


def _refusal(file: CataloguedFile, why: str, hint: str) -> Conflict:
    details = {"key": file.key, "state": file.state, "reason": file.reason}
    return Conflict(f"{file.key!r} cannot be repaired: {why}.", hint=hint, details=details)


def repair_command(key: str) -> str:
    """How the user asks for it."""
    return f"divbase files repair {shlex.quote(key)}"


def plan_repair(file: CataloguedFile) -> RepairPlan:
    """What mending this version takes: it is read once or, where it turns out to be unsorted, twice, on one core."""
    packed = file.size * (_TEXT_PACKS_TO if file.format is FileFormat.VCF else 1)
    seconds = (file.size + packed) / TRANSFER_RATE + 2 * packed / WORK_RATE
    bcf = file.format is FileFormat.BCF
    return RepairPlan(
        key=file.key,
        version_id=file.version_id,
        size=file.size,
        etag=file.etag,
        sha256=file.sha256,
        format=file.format.value,
        output_name="repaired.bcf" if bcf else "repaired.vcf.gz",
        bytes_total=file.size,
        memory_mb=MEMORY_MB,
        cores=1,
        minutes=min(MAX_MINUTES, 10 + ceil(2 * seconds / 60)),
        scratch_mb=256 + ceil((file.size + (_SORTED_TWICE + 2) * packed) / MIB),
    )


def sort_memory_mb(memory_mb: int) -> int:
    """How much of a job's memory bcftools sort may fill with records; the rest is for what it does with them."""
    return max(64, memory_mb // 2)
