"""What the golden scripts beside this file are rendered from. `python -m tests.golden.scripts` writes them anew.

The same descriptions are rendered, compared and really run by the tests, so a golden script is one that works.
"""

from __future__ import annotations

from pathlib import Path

from divbase_jobscripts.render import (
    Header,
    IndexScript,
    QueryScript,
    RepairScript,
    ScriptInput,
    ScriptProcess,
    SidecarScript,
    render_index,
    render_query,
    render_repair,
    render_sidecar,
)

HEADER = Header(
    job_name="divbase-lynx-k3v9-7f3a",
    comment="k3v9,lynx,user7",
    cores=2,
    memory_mb=1500,
    minutes=30,
    account="p2024-17",
    partition="core",
)
VIEW = ("view", "--no-version", "-Ou")
WRITE = ScriptProcess(
    "out",
    ("view", "--no-version", "-Oz3", "-o", "out/result.vcf.gz"),
    sources=("all",),
    output="out/result.vcf.gz",
)


def view(number: int, *options: str) -> ScriptProcess:
    return ScriptProcess(f"f{number}", (*VIEW, *options, f"in/{number}.vcf.gz"))


def stored(number: int) -> ScriptProcess:
    """For a reader that opens its inputs twice, as concat does, or seeks."""
    return ScriptProcess(f"f{number}", ("view", "--no-version", "-Ob1", f"in/{number}.vcf.gz"), materialise=True)


def cut(number: int) -> tuple[str, ...]:
    return ("--samples-file", f"samples/{number}.txt")


def query(keys: tuple[str, ...], *processes: ScriptProcess, **more: tuple[str, ...]) -> QueryScript:
    inputs = tuple(ScriptInput(number, key) for number, key in enumerate(keys, start=1))
    return QueryScript(HEADER, inputs, processes, processes[-1].output or "", **more)


SINGLE = query(
    ("snps/lynx é.vcf.gz",),
    view(1, *cut(1), "--regions", "chr1:1-500000"),
    ScriptProcess("f1.2", (*VIEW, "-i", 'QUAL>30 && TYPE="snp"'), sources=("f1",)),
    ScriptProcess("out", WRITE.argv, sources=("f1.2",), output=WRITE.output),
    prologue=("true # module load bcftools/1.24",),
)
CONCAT = query(
    ("chr1.vcf.gz", "chr2.vcf.gz"),
    stored(1),
    stored(2),
    ScriptProcess("c1", ("concat", "--no-version", *WRITE.argv[2:]), sources=("f1", "f2"), output=WRITE.output),
)
MERGE = query(
    ("north.vcf.gz", "south.vcf.gz"),
    view(1, *cut(1)),
    view(2),
    ScriptProcess("all", ("merge", "--no-index", "--no-version", "-Ou"), sources=("f1", "f2")),
    WRITE,
)
MIXED = query(
    ("north.snps.vcf.gz", "north.indels.vcf.gz", "south.vcf.gz"),
    stored(1),
    stored(2),
    ScriptProcess("c1", ("concat", "--allow-overlaps", "--no-version", "-Ou"), sources=("f1", "f2")),
    view(3, *cut(3)),
    ScriptProcess("all", ("merge", "--no-index", "--no-version", "-Ou"), sources=("c1", "f3")),
    WRITE,
)
FILLED = query(
    ("north.vcf.gz", "south.vcf.gz"),
    view(1, *cut(1)),
    view(2),
    ScriptProcess("m", ("merge", "--no-index", "--no-version", "-Ou"), sources=("f1", "f2")),
    ScriptProcess(
        "a1",
        ("+fill-tags", "--no-version", "-Oz3", "-o", "out/result.vcf.gz", "--", "--tags", "AF,AN"),
        sources=("m",),
        output="out/result.vcf.gz",
    ),
)
TABLE = query(
    ("north.vcf.gz", "south.vcf.gz"),
    view(1, *cut(1)),
    view(2),
    ScriptProcess("m", ("merge", "--no-index", "--no-version", "-Ou"), sources=("f1", "f2")),
    ScriptProcess("a1", (*VIEW, "--min-ac", "2"), sources=("m",)),
    ScriptProcess(
        "a2",
        ("query", "--format", r"%CHROM\t%POS\t%AC\t%AN[\t%GT]\n"),
        sources=("a1",),
        output="out/result.tsv",
    ),
)


def shard(number: int, region: str, *options: str) -> tuple[ScriptProcess, ...]:
    """Both files of a merge in one region, stored."""
    files = [
        ScriptProcess(f"s{number}.f{file}", (*VIEW, "--regions", region, *options, f"in/{file}.vcf.gz"))
        for file in (1, 2)
    ]
    argv = ("merge", "--no-index", "--no-version", "-Ob1")
    return (*files, ScriptProcess(f"s{number}.m", argv, sources=tuple(each.id for each in files), materialise=True))


SHARDED = query(
    ("north.vcf.gz", "south.vcf.gz"),
    *shard(1, "chr1:1-500000"),
    *shard(2, "chr1:500001-", "--targets", "^chr1:1-500000", "--targets-overlap", "0"),
    ScriptProcess(
        "j",
        ("concat", "--no-version", *WRITE.argv[2:], "--threads", "2"),
        sources=("s1.m", "s2.m"),
        output=WRITE.output,
    ),
)
INDEX = IndexScript(HEADER, ScriptInput(1, "new.vcf.gz"))
REPAIR = RepairScript(HEADER, ScriptInput(1, "sent.vcf.gz"), "out/repaired.vcf.gz", sort_memory_mb=750)
SIDECAR = SidecarScript(HEADER, ScriptInput(1, "north.vcf.gz"), "out/copy.bcf")
COPY = QueryScript(
    HEADER,
    (ScriptInput(1, "north.vcf.gz", is_copy=True), ScriptInput(2, "south.vcf.gz")),
    (
        ScriptProcess("f1", (*VIEW, "in/1.bcf")),
        view(2),
        ScriptProcess("all", ("merge", "--no-index", "--no-version", "-Ou"), sources=("f1", "f2")),
        WRITE,
    ),
    "out/result.vcf.gz",
)

Script = QueryScript | IndexScript | RepairScript | SidecarScript

SCRIPTS: dict[str, Script] = {
    "query_single": SINGLE,
    "query_concat": CONCAT,
    "query_merge": MERGE,
    "query_mixed": MIXED,
    "query_filled": FILLED,
    "query_table": TABLE,
    "query_sharded": SHARDED,
    "index": INDEX,
    "repair": REPAIR,
    "sidecar": SIDECAR,
    "query_copy": COPY,
}


def render(script: Script) -> str:
    if isinstance(script, RepairScript):
        return render_repair(script)
    if isinstance(script, SidecarScript):
        return render_sidecar(script)
    return render_query(script) if isinstance(script, QueryScript) else render_index(script)


def golden_path(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.sh")


if __name__ == "__main__":
    for name, script in SCRIPTS.items():
        golden_path(name).write_text(render(script), encoding="utf-8")
