"""Commands that ask: plan, run and script. It knows the client and the output, no route and no bcftools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from divbase_cli.command import command, group
from divbase_cli.completion import complete_keys, complete_snapshots
from divbase_cli.failure import UsageError
from divbase_cli.jobs import fail_unless_succeeded, fetch_result, follow, print_job
from divbase_cli.output import local_time, seconds, size
from divbase_cli.session import Session

if TYPE_CHECKING:
    from divbase_client.models import JobDetail, Plan, Query, Spread

app = group("query", "Ask a question over many files: plan it, run it, or see its script.")

Format = Literal["vcf.gz", "bcf", "tsv", "stats"]
Where = Annotated[str | None, typer.Option(help="Choose samples by metadata, e.g. 'Area:North,West;Year:>=2000'.")]
Samples = Annotated[str | None, typer.Option(help="Choose samples by name, with commas between.")]
SamplesFile = Annotated[Path | None, typer.Option(help="Choose samples by a file: one a line, # for comments.")]
AllSamples = Annotated[bool, typer.Option("--all-samples", help="Choose all samples.")]
Steps = Annotated[str, typer.Option("--command", "-c", help="bcftools steps for each file, ; between them.")]
After = Annotated[
    str, typer.Option(help="Steps for all files together: view, +fill-tags, norm, annotate; last query or stats.")
]
Globs = Annotated[
    list[str] | None,
    typer.Option(
        "--files", help="Key or glob of input files; repeatable; all if left out.", autocompletion=complete_keys
    ),
]
OutputFormat = Annotated[
    Format | None,
    typer.Option(
        "--output", "-O", help="Format of the result: what the steps give, else vcf.gz.", case_sensitive=False
    ),
]
Level = Annotated[int | None, typer.Option(help="Compression level of the result; 3 if left out.", min=0, max=9)]
Name = Annotated[str, typer.Option(help="Name of the result, without its ending.")]
At = Annotated[
    str | None,
    typer.Option(help="Ask the files as they were in this snapshot.", autocompletion=complete_snapshots),
]

_EXAMPLE = "--where 'Area:North;Sex:F' --command 'view -r 21:15000000-25000000; view -i \"QUAL>30\"'"


def make_query(
    where: str | None,
    samples: str | None,
    samples_file: Path | None,
    all_samples: bool,
    command: str,
    after: str,
    files: list[str] | None,
    output: Format | None,
    level: int | None,
    name: str,
    at: str | None,
) -> Query:
    """The wire query of the options. Raises UsageError unless exactly one option chooses the samples."""
    from divbase_client.models import OutputFormat, Query

    chosen = [where is not None, samples is not None, samples_file is not None, all_samples]
    if sum(chosen) != 1:
        raise UsageError("Choose the samples with exactly one of --where, --samples, --samples-file and --all-samples.")
    names = _split(samples) if samples is not None else _read(samples_file) if samples_file else None
    if names is not None and not names:
        raise UsageError("The list of samples is empty.", hint="Use --all-samples for all.")
    return Query(
        where=where,
        samples=names,
        all_samples=all_samples,
        command=command,
        after=after,
        files=files or [],
        output=OutputFormat(output) if output else None,
        level=level,
        name=name,
        at=at,
    )


def _split(samples: str) -> list[str]:
    return [name.strip() for name in samples.split(",") if name.strip()]


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file in UTF-8.") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def print_plan(session: Session, plan: Plan) -> None:
    """What the job will read, do and need."""
    if session.output.as_json:
        session.output.json(plan.model_dump(mode="json"))
        return
    session.output.table(
        ["INPUT", "SIZE", "TO READ", "SAMPLES", "GROUP"],
        [
            (
                one.key,
                size(one.size),
                size(one.bytes_needed),
                "all" if one.samples is None else len(one.samples),
                one.group,
            )
            for one in plan.inputs
        ],
    )
    session.output.text("")
    session.output.facts(
        [
            ("Samples", len(plan.samples)),
            ("Regions", ", ".join(plan.regions) or "everything"),
            ("Combined by", plan.combine),
            ("Reads", f"{size(plan.bytes_needed)} of {size(plan.bytes_total)}"),
            ("Works in", _works_in(plan)),
            ("Expected", f"about {seconds(plan.expected_s)}, once it runs" if plan.expected_s else None),
            ("Each shard", f"asks for {_asks_for(plan.spread)}" if plan.spread else None),
            ("Asks for", f"{_asks_for(plan)}{', to join them' if plan.spread else ''}"),
            ("As", _labels(plan)),
            ("Result", plan.output),
        ]
    )
    session.output.text("")
    for one in plan.inputs:
        if one.copy_size is not None:
            session.output.text(f"in/{one.number}.bcf is the BCF copy of {one.key} ({size(one.copy_size)})")
    for line in plan.commands:
        session.output.text(line)
    _warn(session, plan)


def _works_in(plan: Plan) -> str:
    if plan.spread:
        return f"{plan.spread.tasks} shards as jobs of their own, then one that joins them"
    return "one piece" if plan.shards == 1 else f"{plan.shards} shards, side by side"


def _asks_for(plan: Plan | Spread) -> str:
    cores = "1 core" if plan.cores == 1 else f"{plan.cores} cores"
    memory, scratch = size(plan.memory_mb << 20), size(plan.scratch_mb << 20)
    return f"{cores}, {memory} memory, {scratch} scratch, at most {seconds(plan.minutes * 60)}"


def _labels(plan: Plan) -> str | None:
    named = (("account", plan.account), ("partition", plan.partition), ("QOS", plan.qos))
    return ", ".join(f"{name} {value}" for name, value in named if value) or None


def _warn(session: Session, plan: Plan) -> None:
    if plan.dropped_samples:
        session.output.warn(f"samples without data in the region: {', '.join(plan.dropped_samples)}")
    for warning in plan.warnings:
        session.output.warn(warning)


@command(app, "plan", example=f"divbase query plan {_EXAMPLE}")
def plan(
    session: Session,
    where: Where = None,
    samples: Samples = None,
    samples_file: SamplesFile = None,
    all_samples: AllSamples = False,
    command: Steps = "view",
    after: After = "",
    files: Globs = None,
    output: OutputFormat = None,
    level: Level = None,
    name: Name = "result",
    at: At = None,
) -> None:
    """Show what a query would do and need; nothing is submitted."""
    query = make_query(where, samples, samples_file, all_samples, command, after, files, output, level, name, at)
    print_plan(session, session.client.queries.plan(session.project, query))


@command(app, "script", example=f"divbase query script {_EXAMPLE}")
def script(
    session: Session,
    where: Where = None,
    samples: Samples = None,
    samples_file: SamplesFile = None,
    all_samples: AllSamples = False,
    command: Steps = "view",
    after: After = "",
    files: Globs = None,
    output: OutputFormat = None,
    level: Level = None,
    name: Name = "result",
    at: At = None,
) -> None:
    """Print the batch script that a query would become; nothing is submitted."""
    query = make_query(where, samples, samples_file, all_samples, command, after, files, output, level, name, at)
    text = session.client.queries.script(session.project, query)
    if session.output.as_json:
        session.output.json({"script": text})
    else:
        session.output.block(text)


@command(
    app,
    "run",
    example=[
        f"divbase query run {_EXAMPLE} --wait",
        "divbase query run --all-samples -c 'view -r 21:1-500000' --download .",
        "divbase query run --all-samples --after 'norm -m -any; query -f \"%CHROM\\t%POS\\t%ALT[\\t%GT]\\n\"' --wait",
    ],
)
def run(
    session: Session,
    where: Where = None,
    samples: Samples = None,
    samples_file: SamplesFile = None,
    all_samples: AllSamples = False,
    command: Steps = "view",
    after: After = "",
    files: Globs = None,
    output: OutputFormat = None,
    level: Level = None,
    name: Name = "result",
    at: At = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; the exit code tells.")] = False,
    download: Annotated[
        Path | None, typer.Option(help="Wait, then download the result into this folder.", file_okay=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files of this machine that differ.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run it even where an earlier job has the answer already.")
    ] = False,
) -> None:
    """Submit a query as a job; with --wait follow it, with --download fetch its result too.

    Where an earlier job of the project has read the same versions of the same files in the same way, its result is the
    answer, at once.
    """
    query = make_query(where, samples, samples_file, all_samples, command, after, files, output, level, name, at)
    job = session.client.jobs.submit(session.project, query, fresh=fresh)
    if job.plan:
        _warn(session, job.plan)
    if job.reused:
        ran = local_time(job.ended_at or job.created_at)
        session.output.note(f"answered by job {job.id}, which ran on {ran}; --fresh runs it again")
    elif not wait and download is None:
        print_job(session, job, hint=f"Follow it with: divbase jobs watch {job.id}")
        return
    else:
        job = _see_through(session, job)
    if download is None:
        print_job(session, job, hint=f"Fetch the result with: divbase jobs result {job.id} --download DIR")
    else:
        fetch_result(session, job.id, download, force)


def _see_through(session: Session, job: JobDetail) -> JobDetail:
    """Follow a job that was just accepted to its end. Raises CommandFailed unless it succeeds."""
    if job.plan:
        needed = f"{size(job.plan.bytes_needed)} of {size(job.plan.bytes_total)} to read"
        session.output.note(f"job {job.id}: accepted, {len(job.plan.inputs)} files, {needed}")
    ended = follow(session, job.id)
    fail_unless_succeeded(session, ended)
    return ended
