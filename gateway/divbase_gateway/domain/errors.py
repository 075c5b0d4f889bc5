"""The error tree of the gateway. It knows nothing of HTTP: `api/errors.py` maps each class to a status.

DivBaseError
├── InvalidRequest          what was asked for is wrong, and asking again changes nothing
│   ├── InvalidName         a project, file, user or result name
│   ├── InvalidFilter       a metadata filter
│   ├── InvalidStep         a bcftools step
│   ├── InvalidSelection    samples, files or regions that do not exist or match nothing
│   ├── OverlappingSamples  selected samples that are in some of the files but not all
│   ├── InvalidMetadata     a sample table; carries every fault with its row and column
│   ├── UnusableFile        a file that a query needs and that cannot be read; its kinds are in bgzf, vcf, indexes
│   └── BeyondCeiling       more memory or time than a job of the project may have
├── Unauthenticated         no key, or one that is wrong, expired or revoked
├── Forbidden               the role is too low
├── NotFound                no such thing, or not for this user
│   └── ResultRemoved       a result that was there and was removed when its time was over
├── Conflict                the thing is in a state that does not allow this
├── LimitReached            the project or the user has no more open jobs or core-hours left; later there may be
│   └── StorageFull         what the project keeps in its bucket is at its limit, or would be above it
├── Unavailable             something DivBase depends on does not answer; ask again later
│   ├── StoreUnavailable
│   ├── SchedulerUnavailable
│   └── DatabaseUnavailable
└── SubmissionError
    ├── SubmissionRefused   the scheduler said no; there is no such job
    └── SubmissionUnknown   the answer was lost; there may be such a job
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class DivBaseError(Exception):
    """Root of every error that DivBase raises on purpose.

    Args:
        message: what happened, naming the thing and the place, in one sentence.
        hint: what to do about it, with the command that does it where there is one.
        details: the data behind the message, JSON-compatible, for machines.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None, details: Mapping[str, object] | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: dict[str, object] = dict(details or {})

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InvalidRequest(DivBaseError):
    code = "invalid_request"


class InvalidName(InvalidRequest):
    code = "invalid_name"


class InvalidFilter(InvalidRequest):
    """`details`: `key` (the filter key at fault, where one is) and `known` (the columns there are)."""

    code = "invalid_filter"


class InvalidStep(InvalidRequest):
    """`details`: `part` (`command` or `after`), `step` (1-based), `position` (0-based character) and `allowed`."""

    code = "invalid_step"


class InvalidSelection(InvalidRequest):
    """`details`: `unknown` (what was asked for and is not there) and `known` (examples of what is)."""

    code = "invalid_selection"


class OverlappingSamples(InvalidRequest):
    """`details`: `files` (key -> its selected samples), `shared` and `usable_samples` (a selection that works)."""

    code = "overlapping_samples"


class InvalidMetadata(InvalidRequest):
    """`details`: `faults`, a list of {row, column, message}; rows are 1-based lines of the file."""

    code = "invalid_metadata"


class UnusableFile(InvalidRequest):
    """`details`: `key` and `reason`."""

    code = "unusable_file"


class BeyondCeiling(InvalidRequest):
    """`details`: `project` and `exceeded`, for each of `memory_mb` and `minutes` at fault its `asked` and `ceiling`."""

    code = "beyond_ceiling"


class Unauthenticated(DivBaseError):
    code = "unauthenticated"


class Forbidden(DivBaseError):
    """`details`: `needed` and `role` (what the user has)."""

    code = "forbidden"


class NotFound(DivBaseError):
    code = "not_found"


class ResultRemoved(NotFound):
    """`details`: `job`, `removed_at` (ISO 8601) and `days` (of the retention that removed it)."""

    code = "result_removed"


class Conflict(DivBaseError):
    code = "conflict"


class LimitReached(DivBaseError):
    """`details`: `of` (project or user), `name` (whose), `what` (open_jobs or core_hours), `used`, `committed`,
    `this_job`, `limit` and `left`."""

    code = "limit_reached"


class StorageFull(LimitReached):
    """`details`: `project`, `what` (bytes), and in bytes `used`, `committed` (to open uploads), `limit`, `left` and
    `this_upload` (of a query None)."""

    code = "storage_full"


class Unavailable(DivBaseError):
    code = "unavailable"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class SchedulerUnavailable(Unavailable):
    code = "scheduler_unavailable"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class SubmissionError(DivBaseError):
    code = "submission_error"


class SubmissionRefused(SubmissionError):
    """The scheduler refused the job in its own words; nothing runs."""

    code = "submission_refused"


class SubmissionUnknown(SubmissionError):
    """The scheduler's answer was lost; a job may or may not exist under the name that was given."""

    code = "submission_unknown"
