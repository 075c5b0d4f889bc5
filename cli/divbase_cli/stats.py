"""`divbase jobs stats`: the statistics of a result as tables, and as a picture. It stands apart from the other commands
about jobs because it reads a result and not only fetches it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from divbase_cli.command import command
from divbase_cli.failure import CommandFailed, ExitCode, UsageError
from divbase_cli.jobs import JobId
from divbase_cli.session import Session

if TYPE_CHECKING:
    from divbase_client.vcf_stats import VcfStats

_KINDS = (".png", ".svg", ".pdf")
_BAR = 40  # letters
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def register(app: typer.Typer) -> None:
    """Put the command among those about jobs."""
    command(app, "stats", example=["divbase jobs stats JOB", "divbase jobs stats JOB --plot chr21.png"])(stats)


def stats(
    session: Session,
    job: JobId,
    plot: Annotated[Path | None, typer.Option(help="Draw them into this .png, .svg or .pdf.", dir_okay=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the picture that is there.")] = False,
) -> None:
    """Show the statistics of a job whose last step is `stats`: counts, allele frequencies, depths, samples."""
    if plot is not None:
        _check_plot(plot, force)
    found = session.client.jobs.stats(session.project, job)
    if found is None:
        raise CommandFailed(
            f"The result of job {job} is no statistics.",
            ExitCode.BAD_INPUT,
            hint="Statistics are what a query ends with: divbase query run … --after 'stats -s -'",
            code="no_statistics",
        )
    if plot is not None:
        _draw(found, plot, job)
        session.output.note(f"drawn: {plot}")
    if session.output.as_json:
        session.output.json(_dumped(found))
        return
    _print(session, found)


def _check_plot(plot: Path, force: bool) -> None:
    """Before anything is fetched: the picture can be drawn, and replaces nothing by accident."""
    from divbase_client.errors import TargetExists

    if plot.suffix.lower() not in _KINDS:
        raise UsageError(f"{plot} names no kind of picture that can be drawn: {', '.join(_KINDS)}.")
    if plot.exists() and not force:
        raise TargetExists(f"{plot} is there already.", hint="Name another file, or add --force.")
    if not plot.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {plot.absolute().parent}.")
    if find_spec("matplotlib") is None:
        raise UsageError(
            "Pictures are drawn by matplotlib, which is not installed here.", hint="pip install 'divbase-cli[plots]'"
        )


# --- tables ------------------------------------------------------------------------------------------------------


def _print(session: Session, found: VcfStats) -> None:
    from divbase_client.vcf_stats import depth_quantiles

    output = session.output
    ratio = found.ts_tv
    output.facts([*found.summary.items(), ("ts/tv", None if ratio is None else f"{ratio:.2f}")])
    bins = found.frequencies(bins=10)
    most = max((each.snps + each.indels for each in bins), default=0)
    if bins:
        output.text("")
        output.table(
            ["ALLELE FREQUENCY", "SNPS", "INDELS", ""],
            [
                (
                    f"{b.low:.1f} to {b.high:.1f}",
                    b.snps,
                    b.indels,
                    "#" * round((b.snps + b.indels) / most * _BAR) or " ",
                )
                for b in bins
            ],
        )
    depths = found.depths()
    if quantiles := depth_quantiles(depths, _SHARES):
        of = "GENOTYPES" if any(each.genotypes for each in depths) else "SITES"
        output.text("")
        output.table([f"DEPTH OF {of}", *(f"{share:.0%}" for share in _SHARES)], [("at most", *quantiles)])
    samples = found.tables.get("PSC")
    if samples and samples.rows:
        output.text("")
        output.table(
            ["SAMPLE", "REF HOM", "HET", "ALT HOM", "INDELS", "SINGLETONS", "MISSING", "MEAN DEPTH"],
            [
                (
                    row["sample"],
                    row["nRefHom"],
                    row["nHets"],
                    row["nNonRefHom"],
                    row["nIndels"],
                    row["nSingletons"],
                    row["nMissing"],
                    row["average depth"],
                )
                for row in samples.records()
            ],
        )


def _bar(share: float) -> str:
    return "#" * round(share * _BAR) or " "


def _dumped(found: VcfStats) -> dict[str, Any]:
    tables = {name: {"columns": table.columns, "rows": table.rows} for name, table in found.tables.items()}
    return {"bcftools": found.bcftools, "summary": found.summary, "ts_tv": found.ts_tv, "tables": tables}


# --- picture -----------------------------------------------------------------------------------------------------


def _draw(found: VcfStats, target: Path, job: str) -> None:
    """Allele frequencies and depths side by side. The file is there when it is whole."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    frequencies, depths = figure.subplots(1, 2)
    _draw_frequencies(frequencies, found)
    _draw_depths(depths, found)
    counts = found.summary
    figure.suptitle(
        f"{counts.get('number of records', 0):,} records of {counts.get('number of samples', 0):,} samples, job {job}"
    )
    partial = target.with_name(f".{target.name}.part")
    try:
        figure.savefig(partial, format=target.suffix[1:].lower(), dpi=150)
        os.replace(partial, target)
    except OSError as error:
        raise CommandFailed(f"{target} cannot be written: {error.strerror}.", ExitCode.BAD_INPUT) from error
    finally:
        partial.unlink(missing_ok=True)


def _draw_frequencies(axes: Any, found: VcfStats) -> None:
    axes.set(xlabel="frequency of the alternate allele", ylabel="sites", title="Allele frequency", xlim=(0, 1))
    bins = found.frequencies()
    if not bins:
        _say_nothing_there(axes, "no alleles were counted")
        return
    starts = [each.low for each in bins]
    snps, indels = [each.snps for each in bins], [each.indels for each in bins]
    style = {"width": 1 / len(bins), "align": "edge", "edgecolor": "white", "linewidth": 0.5}
    axes.bar(starts, snps, label="SNPs", color="#3b6ea5", **style)
    axes.bar(starts, indels, bottom=snps, label="indels", color="#d98c3f", **style)
    axes.legend(frameon=False)


def _draw_depths(axes: Any, found: VcfStats) -> None:
    """Up to the depth that 99 of 100 keep below; bcftools puts what is beyond its last bin into one."""
    from divbase_client.vcf_stats import depth_quantiles

    bins = found.depths()
    of_genotypes = any(each.genotypes for each in bins)
    of = "genotypes" if of_genotypes else "sites"
    axes.set(xlabel="depth (DP)", ylabel=of, title=f"Depth of {of}")
    counts = {each.depth: each.genotypes if of_genotypes else each.sites for each in bins}
    if not any(counts.values()):
        _say_nothing_there(axes, "the records have no DP")
        return
    end = next(each.depth for each in bins if each.label == depth_quantiles(bins, [0.99])[0])
    shown = range(max(end, 1) + 1)
    axes.fill_between(shown, [counts.get(depth, 0) for depth in shown], step="mid", color="#3b6ea5")
    axes.set(xlim=(0, max(end, 1)), ylim=(0, None))


def _say_nothing_there(axes: Any, words: str) -> None:
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes, color="grey")
    axes.set(xticks=[], yticks=[])
