"""Which files, contigs and samples a query is about: names and globs against the catalogue and the sample table.

It knows what exists, not how it is combined or run. Everything unknown is an error with close matches; everything
left out without being asked for is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from divbase_gateway.domain.errors import InvalidSelection, UnusableFile
from divbase_gateway.domain.files import METADATA_KEY, RESERVED_PREFIXES, CataloguedFile, FileFormat, FileState
from divbase_gateway.domain.queries import Selection
from divbase_gateway.domain.samples import (
    SampleTable,
    close_matches,
    did_you_mean,
    filter_warnings,
    list_some,
    parse_filter,
    select,
)

_VARIANT_FORMATS = (FileFormat.VCF_GZ, FileFormat.VCF, FileFormat.BCF)
_EXAMPLES = 20


@dataclass(frozen=True)
class ChosenFiles:
    """Files that can be read now, in key order, and what was left out, in sentences."""

    files: tuple[CataloguedFile, ...]
    warnings: tuple[str, ...] = ()


def choose_files(patterns: Sequence[str], catalogue: Sequence[CataloguedFile]) -> ChosenFiles:
    """The readable files that the patterns name, or all of the project.

    A pattern is a key or a glob (`*` crosses folders). A file that cannot be read is an error where it is named by its
    key, a warning where a glob, or no pattern at all, sweeps it up. Results of earlier queries are never swept up.

    Raises:
        UnusableFile: a named file, or all files of a glob, cannot be read; with the reason.
        InvalidSelection: a key that is not there, a glob that matches no variant file, a project without any.
    """
    by_key = {file.key: file for file in sorted(catalogue, key=lambda file: file.key)}
    swept = [f for f in by_key.values() if f.format in _VARIANT_FORMATS and not f.key.startswith(RESERVED_PREFIXES)]
    chosen: dict[str, CataloguedFile] = {}
    for pattern in patterns:
        chosen.update((file.key, file) for file in _match(pattern, by_key, swept))
    if not patterns:
        chosen = {file.key: file for file in swept}
    named = {pattern for pattern in patterns if pattern in by_key}
    for key in named:
        _require_readable(by_key[key])
    files = [chosen[key] for key in sorted(chosen)]
    usable = tuple(file for file in files if _why_unreadable(file) is None)
    if not usable:
        raise _nothing_usable(files)
    warnings = tuple(f"{f.key} is left out: {reason}." for f in files if (reason := _why_unreadable(f)) is not None)
    return ChosenFiles(usable, warnings)


def _match(pattern: str, by_key: dict[str, CataloguedFile], swept: Sequence[CataloguedFile]) -> list[CataloguedFile]:
    if pattern in by_key:
        return [by_key[pattern]]
    found = [file for file in swept if fnmatchcase(file.key, pattern)]
    if not found:
        known = [file.key for file in swept]
        raise InvalidSelection(
            f"No variant file of the project matches {pattern!r}.{did_you_mean(pattern, known)}",
            hint="`divbase files ls` lists the files.",
            details={"unknown": [pattern], "known": known[:_EXAMPLES]},
        )
    return found


def _why_unreadable(file: CataloguedFile) -> str | None:
    """Why a query cannot read the file, as the rest of a sentence; None where it can."""
    if file.state is FileState.UNUSABLE:
        return (file.reason or "it cannot be read").rstrip(".")
    if file.state is FileState.STORED or file.format not in _VARIANT_FORMATS:
        return "it is not a variant file that can be queried (.vcf.gz, .vcf.bgz or .bcf)"
    if file.state is FileState.INDEXING or file.index is None:
        return "its index is still being built; ask again in a moment"
    if file.format is FileFormat.VCF:
        return "it is not compressed; compress it with bgzip"
    return None


def _require_readable(file: CataloguedFile) -> None:
    reason = _why_unreadable(file)
    if reason is not None:
        raise UnusableFile(
            f"{file.key} cannot be used: {reason}.",
            hint=f"`divbase files info {file.key}` says more.",
            details={"key": file.key, "reason": reason},
        )


def _nothing_usable(files: Sequence[CataloguedFile]) -> InvalidSelection | UnusableFile:
    if not files:
        return InvalidSelection("The project has no variant files.", hint="`divbase files upload FILE…` adds some.")
    reasons = "; ".join(f"{file.key}: {_why_unreadable(file)}" for file in files[:5])
    details = {"key": files[0].key, "reason": _why_unreadable(files[0])}
    return UnusableFile(f"None of the {len(files)} file(s) can be used: {reasons}.", details=details)


def check_contigs(contigs: Iterable[str], files: Sequence[CataloguedFile]) -> None:
    """Refuse a contig that no file knows.

    Raises:
        InvalidSelection: with the known contigs and close matches (`chr21` for `21`).
    """
    wanted = dict.fromkeys(contigs)
    if not wanted:
        return
    known = dict.fromkeys(contig.name for file in files for contig in file.contigs)
    unknown = [name for name in wanted if name not in known]
    if not unknown:
        return
    word = unknown[0]
    twins = [name for name in (f"chr{word}", word.removeprefix("chr")) if name != word and name in known]
    meant = f" Did you mean {twins[0]!r}?" if twins else did_you_mean(word, known)
    raise InvalidSelection(
        f"No file has a contig {word!r}.{meant}",
        hint=f"The contigs are {list_some(list(known))}.",
        details={"unknown": unknown, "known": list(known)[:_EXAMPLES], "close": twins or close_matches(word, known)},
    )


@dataclass(frozen=True)
class ChosenSamples:
    """The samples asked for; `names` is None for all of every file."""

    names: frozenset[str] | None
    ordered: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def choose_samples(
    selection: Selection,
    files: Sequence[CataloguedFile],
    table: SampleTable | None,
    catalogue: Sequence[CataloguedFile],
) -> ChosenSamples:
    """Who is asked for.

    Raises:
        InvalidSelection: not exactly one way of choosing, no table to filter, nobody matches, a sample in no file.
        InvalidFilter: from the filter.
    """
    ways = [selection.where is not None, bool(selection.samples), selection.all_samples]
    if sum(ways) != 1:
        raise InvalidSelection("Choose samples in exactly one way.", hint="--where, --samples or --all-samples.")
    if selection.all_samples:
        return ChosenSamples(None)
    if selection.where is not None:
        return _choose_where(selection.where, files, table)
    asked = tuple(dict.fromkeys(selection.samples))
    missing = set(asked).difference(*(file.samples for file in files))
    if missing:
        unknown = [name for name in asked if name in missing]
        raise _unknown_samples(unknown, _every_sample(files), catalogue)
    return ChosenSamples(frozenset(asked), asked)


def _every_sample(files: Sequence[CataloguedFile]) -> set[str]:
    return set().union(*(file.samples for file in files))


def _choose_where(where: str, files: Sequence[CataloguedFile], table: SampleTable | None) -> ChosenSamples:
    if table is None:
        raise InvalidSelection(
            f"The project has no {METADATA_KEY}, so there is nothing to filter by.",
            hint=f"`divbase metadata push {METADATA_KEY}` adds it; `divbase metadata template` writes one to fill in.",
        )
    parsed = parse_filter(where, table)
    matching = select(table, parsed)
    warnings = list(filter_warnings(table, parsed))
    if not matching:
        raise InvalidSelection(
            f"No sample of the metadata matches {where!r}." + "".join(f" {warning}" for warning in warnings),
            hint="`divbase metadata query` tries a filter without running anything.",
            details={"unknown": [where], "known": []},
        )
    in_files = _every_sample(files)
    missing = [name for name in matching if name not in in_files]
    if len(missing) == len(matching):
        raise InvalidSelection(
            f"{len(matching)} sample(s) match {where!r}, but none of them is in a file: {list_some(missing)}.",
            details={"unknown": missing, "known": sorted(in_files)[:_EXAMPLES]},
        )
    if missing:
        warnings.append(f"{len(missing)} matching sample(s) are in no file: {list_some(missing)}.")
    return ChosenSamples(frozenset(matching), matching, tuple(warnings))


def _unknown_samples(unknown: list[str], known: set[str], catalogue: Sequence[CataloguedFile]) -> InvalidSelection:
    elsewhere = [file.key for file in catalogue if unknown[0] in file.samples]
    where = f" It is in {list_some(elsewhere, 3)}, which this query does not read." if elsewhere else ""
    return InvalidSelection(
        f"{len(unknown)} sample(s) are in none of the files: {list_some(unknown)}."
        f"{where or did_you_mean(unknown[0], known)}",
        hint="`divbase metadata template` writes a list of the samples of all files.",
        details={"unknown": unknown, "known": sorted(known)[:_EXAMPLES]},
    )
