"""How files are put together, decided on the selected samples: single, concat, merge, mixed, or not at all.

It knows keys, samples and contigs of the chosen files; not regions, steps or processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from divbase_gateway.domain.errors import OverlappingSamples
from divbase_gateway.domain.files import CataloguedFile
from divbase_gateway.domain.queries import CombineKind
from divbase_gateway.domain.samples import list_some

_SHOWN = 30
"""A `--samples` value longer than this is given in the details only; a person would use --samples-file."""


@dataclass(frozen=True)
class Member:
    """A file that takes part.

    Attributes:
        samples: its selected ones, in header order.
        header: its contigs, in header order.
        data: those of the contigs asked for that it has records on, in header order.
    """

    file: CataloguedFile
    samples: tuple[str, ...]
    header: tuple[str, ...]
    data: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Files with the same selected samples, in key order. `samples`: in the order of the first file's header."""

    members: tuple[Member, ...]

    @property
    def samples(self) -> tuple[str, ...]:
        return self.members[0].samples


def group_members(members: Sequence[Member]) -> tuple[Group, ...]:
    """Groups of equal sample sets, in the order of their first files.

    Raises:
        OverlappingSamples: two sets share some of their samples; with the files and a selection that would work.
    """
    sets: dict[frozenset[str], list[Member]] = {}
    for member in members:
        sets.setdefault(frozenset(member.samples), []).append(member)
    if sum(map(len, sets)) > len(frozenset().union(*sets)):
        raise _overlap(members, sets)
    return tuple(Group(tuple(group)) for group in sets.values())


def kind_of(groups: Sequence[Group]) -> CombineKind:
    if len(groups) == 1:
        return CombineKind.SINGLE if len(groups[0].members) == 1 else CombineKind.CONCAT
    return CombineKind.MERGE if all(len(group.members) == 1 for group in groups) else CombineKind.MIXED


def _overlap(members: Sequence[Member], sets: Mapping[frozenset[str], Sequence[Member]]) -> OverlappingSamples:
    owners = Counter(name for names in sets for name in names)
    shared = {name for name, count in owners.items() if count > 1}
    keys = {member.file.key for names, group in sets.items() if names & shared for member in group}
    involved = {member.file.key: list(member.samples) for member in members if member.file.key in keys}
    usable = usable_samples(members)
    ordered = [name for name in dict.fromkeys(n for m in members for n in m.samples) if name in shared]
    short = len(usable) <= _SHOWN
    value = f"--samples {','.join(usable)}" if short else f"--samples-file with these {len(usable)} samples"
    return OverlappingSamples(
        f"{list_some(list(involved), 5)} share {list_some(ordered)}, but not all of their selected samples: they can "
        "be neither concatenated nor merged.",
        hint=f"This selection would work: {value}.",
        details={"files": involved, "shared": ordered, "usable_samples": usable},
    )


def usable_samples(members: Sequence[Member]) -> list[str]:
    """Samples that can be combined: two of them are in the same files, or in no file together.

    Samples fall into classes by the set of files that hold them. Classes with disjoint (or equal) file sets go
    together; the largest class is taken first, so that as many as the greedy way finds stay.
    """
    holders: dict[str, list[int]] = {}
    for index, member in enumerate(members):
        for name in member.samples:
            holders.setdefault(name, []).append(index)
    classes: dict[frozenset[int], list[str]] = {}
    for name, indexes in holders.items():
        classes.setdefault(frozenset(indexes), []).append(name)
    taken: set[int] = set()
    usable: set[str] = set()
    for files, names in sorted(classes.items(), key=lambda item: (-len(item[1]), min(item[0]))):
        if not files & taken:
            taken |= files
            usable.update(names)
    return [name for name in holders if name in usable]


def union_contigs(members: Iterable[Member]) -> tuple[str, ...]:
    """The contigs of a combined header, as bcftools builds it: in the order in which headers first name them."""
    headers = dict.fromkeys(member.header for member in members)
    return tuple(dict.fromkeys(chain.from_iterable(headers)))


def plain_concat_order(members: Sequence[Member]) -> tuple[Member, ...] | None:
    """The order in which plain `concat` gives a sorted result; None where only `--allow-overlaps` does.

    Plain concat copies one file after the other, so every contig has to be in one file only, and the contigs of the
    files must not interleave. The header that bcftools makes of that order has to be the one of the files in key order:
    it appends the contigs that a later file adds, behind what the steps have added to the first.
    """
    rank = _ranks(members)
    if any(not member.data for member in members):
        return None
    ordered = tuple(sorted(members, key=lambda member: min(rank[name] for name in member.data)))
    if ordered != tuple(members) and len({member.header for member in members}) > 1:
        return None
    written = [rank[name] for member in ordered for name in member.data]
    return ordered if all(a < b for a, b in pairwise(written)) else None


def _ranks(members: Sequence[Member]) -> dict[str, int]:
    return {name: index for index, name in enumerate(union_contigs(members))}
