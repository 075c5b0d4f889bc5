"""What `bcftools stats` prints, as tables. It reads text and knows neither the API nor how anything is shown.

Columns are found by the names that the text itself gives them, because releases of bcftools have more or fewer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

_MADE_BY = re.compile(r"# This file was produced by bcftools stats \((.+)\) and")
_COLUMN = re.compile(r"\[\d+\]\s*(.+)")


@dataclass(frozen=True)
class StatsTable:
    """One of the tables, such as `AF`; the column with the number of the set, which is always 0, is left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def records(self) -> Iterator[dict[str, str]]:
        """Each row by the names of its columns."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)


@dataclass(frozen=True)
class FrequencyBin:
    """Alternate alleles whose frequency is in `(low, high]`; the first bin has the singletons too."""

    low: float
    high: float
    snps: int
    indels: int


@dataclass(frozen=True)
class DepthBin:
    """Genotypes and sites of one depth; `label` is the depth, or what bcftools prints beyond its last bin (`>500`)."""

    label: str
    depth: int
    genotypes: int
    sites: int


@dataclass(frozen=True)
class VcfStats:
    """The tables by their names, `SN` among them; `bcftools` is the release, as it names itself."""

    bcftools: str
    tables: Mapping[str, StatsTable]

    @property
    def summary(self) -> dict[str, int]:
        """What the table SN counts, such as `number of records`."""
        table = self.tables.get("SN")
        return {row[0].rstrip(":"): int(row[1]) for row in table.rows} if table else {}

    @property
    def ts_tv(self) -> float | None:
        """Transitions over transversions; None where there is no transversion."""
        for row in self._records("TSTV"):
            return float(row["ts"]) / float(row["tv"]) if float(row["tv"]) else None
        return None

    def frequencies(self, bins: int = 20) -> list[FrequencyBin]:
        """The table AF in `bins` bins of one width; empty where nothing was counted.

        bcftools counts singletons at 0 and names its own bins, of 0.01, by their lower end: 0.49 has the frequency 0.5.
        """
        snps, indels = [0] * bins, [0] * bins
        for row in self._records("AF"):
            number = min(int((float(row["allele frequency"]) + 0.005) * bins), bins - 1)
            snps[number] += int(row["number of SNPs"])
            indels[number] += int(row["number of indels"])
        if not any(snps) and not any(indels):
            return []
        return [FrequencyBin(n / bins, (n + 1) / bins, snps[n], indels[n]) for n in range(bins)]

    def depths(self) -> list[DepthBin]:
        """The table DP, from the least depth on; empty where the files have no DP."""
        return sorted(
            (
                DepthBin(
                    row["bin"],
                    int(re.sub(r"\D", "", row["bin"]) or 0) + row["bin"].startswith(">"),
                    int(row["number of genotypes"]),
                    int(row["number of sites"]),
                )
                for row in self._records("DP")
            ),
            key=lambda each: (each.depth, not each.label.startswith("<")),
        )

    def _records(self, name: str) -> Iterator[dict[str, str]]:
        table = self.tables.get(name)
        return table.records() if table else iter(())


def depth_quantiles(bins: Sequence[DepthBin], shares: Sequence[float]) -> list[str]:
    """The depths below or at which these shares of the genotypes lie, or of the sites where no genotype has a depth."""
    counts = [each.genotypes for each in bins]
    if not any(counts):
        counts = [each.sites for each in bins]
    below = list(accumulate(counts))
    if not below or not below[-1]:
        return []
    return [next(b.label for b, so_far in zip(bins, below, strict=True) if so_far >= s * below[-1]) for s in shares]


def parse_stats(text: str) -> VcfStats:
    """Read what `bcftools stats` printed for one file.

    Raises:
        ValueError: it is something else, or two files were compared; with the line.
    """
    bcftools = ""
    columns: dict[str, tuple[str, ...]] = {}
    rows: dict[str, list[tuple[str, ...]]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name, *cells = line.split("\t")
        if made := _MADE_BY.match(line):
            bcftools = made[1]
        elif line.startswith("#"):
            named = [match[1].strip() for match in map(_COLUMN.match, cells) if match]
            if named and len(named) == len(cells) and name != "# ID":
                columns[name.removeprefix("# ")] = tuple(named[1:])
                rows.setdefault(name.removeprefix("# "), [])
        elif name == "ID":
            if cells[0] != "0":
                raise ValueError(f"line {number}: these are the statistics of more than one file.")
        elif line:
            if len(cells) != len(columns.get(name, ())) + 1 or cells[0] != "0":
                raise ValueError(f"line {number} is no row of a table of bcftools stats: {line[:80]!r}")
            rows[name].append(tuple(cells[1:]))
    if not bcftools:
        raise ValueError("this is not what bcftools stats prints: its first line is missing.")
    return VcfStats(bcftools, {name: StatsTable(columns[name], tuple(found)) for name, found in rows.items()})
