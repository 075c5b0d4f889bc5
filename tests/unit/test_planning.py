"""Planning: what is chosen, how it is combined, which processes come of it, and what is refused early."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from divbase_gateway.domain.combining import Member, plain_concat_order, usable_samples
from divbase_gateway.domain.errors import (
    InvalidFilter,
    InvalidName,
    InvalidRequest,
    InvalidSelection,
    InvalidStep,
    OverlappingSamples,
    UnusableFile,
)
from divbase_gateway.domain.files import CataloguedFile, Contig, FileFormat, FileState, IndexKind, IndexRef
from divbase_gateway.domain.planning import make_plan, plan_from_dict, plan_to_dict, validate_result_name
from divbase_gateway.domain.plans import RECIPE, digest_plan
from divbase_gateway.domain.queries import CombineKind, OutputFormat, Plan, Process, QueryRequest, Selection
from divbase_gateway.domain.samples import read_table

EVERYONE = Selection(all_samples=True)
TABLE = read_table(
    b"#Sample_ID\tArea\tYear\nA\tNorth\t2001\nB\tNorth\t2002\nC\tWest\t2003\nZ\tWest\t2004\nY\tEast\t1\n"
)


def vcf(key: str, samples: str, contigs: str = "1:5 2:5", **changes: object) -> CataloguedFile:
    """A readable file; `contigs` as name:variants. Anything else by keyword."""
    parsed = tuple(Contig(name, 1000, int(n)) for name, n in (word.rsplit(":", 1) for word in contigs.split()))
    index = IndexRef(f"{key}.csi", f"vi-{key}", IndexKind.CSI, 100, f"ei-{key}")
    file = CataloguedFile(
        key=key, version_id=f"v-{key}", size=1000, etag=f"e-{key}", sha256=None, format=FileFormat.VCF_GZ,
        state=FileState.READY, reason=None, samples=tuple(samples.split()), contigs=parsed, index=index,
    )  # fmt: skip
    return replace(file, **changes)  # type: ignore[arg-type]


def plan_of(*files: CataloguedFile, selection: Selection = EVERYONE, command: str = "view", **changes: object) -> Plan:
    request = QueryRequest(selection, command, **changes)  # type: ignore[arg-type]
    return make_plan(request, files, TABLE)


def only(*samples: str) -> Selection:
    return Selection(samples=samples)


def argvs(plan: Plan) -> list[str]:
    """Each process as `id < sources: argv`, a star where it is materialised."""
    return [f"{p.id}{'*' if p.materialise else ''} < {' '.join(p.sources)}: {' '.join(p.argv)}" for p in plan.processes]


# --- processes -------------------------------------------------------------------------------------------------------


def test_one_file_is_one_process() -> None:
    """A step over one file reads it last and writes the result itself."""
    plan = plan_of(vcf("a.vcf.gz", "A B"), command="view -r 1:1-9 -v snps", level=5, name="x")
    assert plan.processes == (
        Process(
            id="f1",
            argv=("view", "--no-version", "-Oz5", "-o", "out/x.vcf.gz", "--regions", "1:1-9", "--types", "snps",
                  "in/1.vcf.gz"),
            output="out/x.vcf.gz",
        ),
    )  # fmt: skip
    assert (plan.combine, plan.samples, plan.regions) == (CombineKind.SINGLE, ("A", "B"), ("1:1-9",))
    assert plan.inputs[0].samples is None


def test_disjoint_samples_with_equal_headers_merge_as_streams() -> None:
    """Files in key order, one pipe each, the region in each of them, compression in a process of its own."""
    files = (vcf("b.bcf", "C D", format=FileFormat.BCF), vcf("a.vcf.gz", "A B"))
    plan = plan_of(*files, selection=only("D", "A"), command="view -r 1; view -c 1", output=OutputFormat.BCF)
    assert argvs(plan) == [
        "f1.1 < : view --no-version -Ou --regions 1 --samples-file samples/1.txt in/1.vcf.gz",
        "f1.2 < f1.1: view --no-version -Ou --min-ac 1",
        "f2.1 < : view --no-version -Ou --regions 1 --samples-file samples/2.txt in/2.bcf",
        "f2.2 < f2.1: view --no-version -Ou --min-ac 1",
        "m < f1.2 f2.2: merge --no-index --no-version -Ou",
        "out < m: view --no-version -Ob3 -o out/result.bcf",
    ]
    assert (plan.combine, plan.samples, plan.output_name) == (CombineKind.MERGE, ("A", "D"), "result.bcf")
    assert [(entry.number, entry.key, entry.samples, entry.group) for entry in plan.inputs] == [
        (1, "a.vcf.gz", ("A",), 1),
        (2, "b.bcf", ("D",), 2),
    ]


@pytest.mark.parametrize("contigs", ["2:5 1:5", "1:5", "1:5 2:5 3:0"])
def test_merge_of_unlike_headers_does_not_stream(contigs: str) -> None:
    """bcftools streams only over the same contigs in the same order; otherwise the sources are indexed files."""
    plan = plan_of(vcf("a.vcf.gz", "A"), vcf("b.vcf.gz", "B", contigs))
    assert argvs(plan) == [
        "f1* < : view --no-version -Ob1 in/1.vcf.gz",
        "f2* < : view --no-version -Ob1 in/2.vcf.gz",
        "m < f1 f2: merge --no-version -Ou",
        "out < m: view --no-version -Oz3 -o out/result.vcf.gz",
    ]


def test_files_by_contig_are_concatenated_in_contig_order() -> None:
    """No contig in two files: plain concat, in the order of the header and not of the keys."""
    plan = plan_of(vcf("chr10.vcf.gz", "A B", "2:0 10:5"), vcf("chr2.vcf.gz", "A B", "2:5 10:0"))
    assert argvs(plan) == [
        "f2* < : view --no-version -Ob1 in/2.vcf.gz",
        "f1* < : view --no-version -Ob1 in/1.vcf.gz",
        "c1 < f2 f1: concat --no-version -Oz3 -o out/result.vcf.gz",
    ]
    assert plan.combine is CombineKind.CONCAT


def test_files_that_share_a_contig_overlap() -> None:
    """SNPs and indels of the same samples: overlapping concat, reordered to the first file's columns."""
    plan = plan_of(vcf("indels.vcf.gz", "A B"), vcf("snps.vcf.gz", "B A"))
    assert argvs(plan) == [
        "f1* < : view --no-version -Ob1 in/1.vcf.gz",
        "f2.1 < : view --no-version -Ou --no-update --samples-file samples/2.txt in/2.vcf.gz",
        "f2.2* < f2.1: view --no-version -Ob1",
        "c1 < f1 f2.2: concat --no-version --allow-overlaps -Oz3 -o out/result.vcf.gz",
    ]
    assert [entry.samples for entry in plan.inputs] == [None, ("A", "B")]
    assert plan.samples == ("A", "B")


def test_a_region_can_leave_one_file() -> None:
    """Files without records on the contigs asked for drop out before anything is decided."""
    files = (vcf("chr1.vcf.gz", "A B", "1:5 2:0"), vcf("chr2.vcf.gz", "A B", "1:0 2:5"))
    plan = plan_of(*files, command="view -r 2")
    assert [entry.key for entry in plan.inputs] == ["chr2.vcf.gz"]
    assert plan.combine is CombineKind.SINGLE


def test_groups_are_concatenated_and_then_merged() -> None:
    """Equal sets concat, disjoint ones merge; the samples follow the groups' first files."""
    files = (
        vcf("n1.vcf.gz", "C D", "1:5 2:0"),
        vcf("n2.vcf.gz", "C D", "1:0 2:5"),
        vcf("s.vcf.gz", "B A"),
    )
    plan = plan_of(*files)
    assert argvs(plan) == [
        "f1* < : view --no-version -Ob1 in/1.vcf.gz",
        "f2* < : view --no-version -Ob1 in/2.vcf.gz",
        "c1 < f1 f2: concat --no-version -Ou",
        "f3 < : view --no-version -Ou in/3.vcf.gz",
        "m < c1 f3: merge --no-index --no-version -Ou",
        "out < m: view --no-version -Oz3 -o out/result.vcf.gz",
    ]
    assert (plan.combine, plan.samples) == (CombineKind.MIXED, ("C", "D", "B", "A"))
    assert [entry.group for entry in plan.inputs] == [1, 1, 2]


def test_many_files_merge_in_a_tree() -> None:
    """At most 64 sources for each merge, none with one, and the order of the samples is kept."""
    files = [vcf(f"{index:03}.vcf.gz", f"S{index}") for index in range(129)]
    plan = plan_of(*files)
    merges = {p.id: p.sources for p in plan.processes if p.argv[0] == "merge"}
    assert {name: len(sources) for name, sources in merges.items()} == {"m.1.1": 43, "m.1.2": 43, "m.1.3": 43, "m": 3}
    leaves = [source for name in merges["m"] for source in merges[name]]
    assert leaves == [f"f{number}" for number in range(1, 130)]
    assert plan.samples == tuple(f"S{index}" for index in range(129))


def test_regions_follow_the_header_of_each_file() -> None:
    """bcftools writes regions in the order given, so each file gets those that it has, in its own order."""
    plan = plan_of(
        vcf("a.vcf.gz", "A", "1:5 2:5 X:y:1"), vcf("b.vcf.gz", "B", "2:5 1:5"), command="view -r {X:y}:3-,2,1:7,1:1-5"
    )
    assert [p.argv[4] for p in plan.processes if "--regions" in p.argv] == ["1:7,1:1-5,2,{X:y}:3-", "2,1:7,1:1-5"]
    assert plan.regions == ("{X:y}:3-", "2", "1:7", "1:1-5")


@pytest.mark.parametrize(
    ("command", "first"),
    [
        ("view -r 1 -v snps", "--regions 1 --types snps --samples-file samples/1.txt in/1.vcf.gz"),
        ("view -i 'QUAL>3' -c 1", "--include QUAL>3 --min-ac 1 --samples-file samples/1.txt in/1.vcf.gz"),
        ("view -r 1 -t 1:1-5 -I -i 'AC>1'",
         "--regions 1 --targets 1:1-5 --no-update --samples-file samples/1.txt in/1.vcf.gz"),
        ("view -g het", "--samples-file samples/1.txt in/1.vcf.gz"),
        ("view -s -i 'AC>1'", "--include AC>1 --samples-file samples/1.txt in/1.vcf.gz"),
        ("view -i 'AC>1'; view -s", "--include AC>1 in/1.vcf.gz"),
    ],
)  # fmt: skip
def test_the_cut_comes_first_or_where_it_is_marked(command: str, first: str) -> None:
    """Where the first step would filter by samples that are to go, the cut gets a process before it."""
    plan = plan_of(vcf("a.vcf.gz", "A B"), selection=only("A"), command=command + "; view")
    assert " ".join(plan.processes[0].argv).removeprefix("view --no-version -Ou ") == first
    assert sum("--samples-file" in p.argv for p in plan.processes) == 1


def test_a_cut_of_its_own_takes_the_region_along_and_leaves_the_filter() -> None:
    """The region is read once, in the process that reads the file."""
    plan = plan_of(vcf("a.vcf.gz", "A B"), selection=only("A"), command="view -r 1 -i 'AC>1' -v snps")
    assert argvs(plan) == [
        "f1.1 < : view --no-version -Ou --regions 1 --samples-file samples/1.txt in/1.vcf.gz",
        "f1.2 < f1.1: view --no-version -Oz3 -o out/result.vcf.gz --include AC>1 --types snps",
    ]


# --- who and what is chosen ------------------------------------------------------------------------------------------


def test_a_filter_chooses_and_names_who_is_missing() -> None:
    """Samples of the table that no file has are a warning and are listed, not a wall."""
    plan = plan_of(vcf("a.vcf.gz", "B A X"), selection=Selection(where="Area:North,West"))
    assert plan.samples == ("B", "A")
    assert plan.dropped_samples == ("C", "Z")
    assert plan.warnings == ("2 matching sample(s) are in no file: C, Z.",)


def test_samples_whose_files_have_nothing_there_are_dropped_with_a_warning() -> None:
    """The answer names who falls away because of the region."""
    files = (vcf("a.vcf.gz", "A", "1:5 2:0"), vcf("b.vcf.gz", "B", "1:5 2:5"))
    plan = plan_of(*files, selection=only("A", "B"), command="view -r 2")
    assert (plan.samples, plan.dropped_samples) == (("B",), ("A",))
    assert plan.warnings == ("1 sample(s) are left out, their files have no records there: A.",)


def test_the_overlap_is_decided_on_the_selected_samples() -> None:
    """Files that overlap as a whole combine when the selection does not."""
    files = (vcf("a.vcf.gz", "A B"), vcf("b.vcf.gz", "B C"))
    assert plan_of(*files, selection=only("A", "C")).combine is CombineKind.MERGE
    assert plan_of(*files, selection=only("B")).combine is CombineKind.CONCAT


def test_partly_overlapping_files_are_named_with_a_selection_that_works() -> None:
    """The error has the files, the shared samples, and a `--samples` that can be pasted."""
    files = (vcf("a.vcf.gz", "A B"), vcf("b.vcf.gz", "B C D"), vcf("c.vcf.gz", "E"))
    with pytest.raises(OverlappingSamples) as caught:
        plan_of(*files)
    assert caught.value.details == {
        "files": {"a.vcf.gz": ["A", "B"], "b.vcf.gz": ["B", "C", "D"]},
        "shared": ["B"],
        "usable_samples": ["A", "C", "D", "E"],
    }
    assert caught.value.hint == "This selection would work: --samples A,C,D,E."
    assert plan_of(*files, selection=only("A", "C", "D", "E")).combine is CombineKind.MERGE


def test_usable_samples_keep_the_larger_class() -> None:
    """When what is shared is most of it, the shared samples are the way out."""
    members = [
        Member(vcf(k, names), tuple(names.split()), ("1",), ("1",)) for k, names in (("a", "A B C D"), ("b", "B C D E"))
    ]
    assert usable_samples(members) == ["B", "C", "D"]


@pytest.mark.parametrize(
    ("patterns", "keys"),
    [
        ((), ["a.vcf.gz", "d/b.vcf.gz", "d/c[1].vcf.gz"]),
        (("d/*",), ["d/b.vcf.gz", "d/c[1].vcf.gz"]),
        (("*b.vcf.gz", "a.vcf.gz"), ["a.vcf.gz", "d/b.vcf.gz"]),
        (("d/c[1].vcf.gz",), ["d/c[1].vcf.gz"]),
        (("results/old.vcf.gz",), ["results/old.vcf.gz"]),
    ],
)
def test_files_are_chosen_by_key_or_glob(patterns: tuple[str, ...], keys: list[str]) -> None:
    """Default: every usable variant file but earlier results; a key with glob characters is a key."""
    files = [
        vcf("d/c[1].vcf.gz", "C"), vcf("a.vcf.gz", "A"), vcf("d/b.vcf.gz", "B"), vcf("results/old.vcf.gz", "R"),
        vcf("notes.txt", "", "", format=FileFormat.OTHER, state=FileState.STORED, index=None),
    ]  # fmt: skip
    assert [entry.key for entry in plan_of(*files, files=patterns).inputs] == keys


def test_unusable_files_that_are_swept_up_are_left_out_with_the_reason() -> None:
    """A bad file blocks no query that does not name it."""
    bad = vcf("bad.vcf.gz", "", state=FileState.UNUSABLE, reason="It is compressed with gzip, not bgzip.", index=None)
    new = vcf("new.vcf.gz", "N", state=FileState.INDEXING, index=None)
    plan = plan_of(bad, vcf("a.vcf.gz", "A"), new, files=("*.vcf.gz",))
    assert plan.warnings == (
        "bad.vcf.gz is left out: It is compressed with gzip, not bgzip.",
        "new.vcf.gz is left out: its index is still being built; ask again in a moment.",
    )


def test_an_unusable_file_that_is_named_is_an_error() -> None:
    """Who asks for this very file is told why it cannot be."""
    bad = vcf("bad.vcf.gz", "", state=FileState.UNUSABLE, reason="It is truncated.", index=None)
    with pytest.raises(UnusableFile) as caught:
        plan_of(bad, vcf("a.vcf.gz", "A"), files=("bad.vcf.gz", "*"))
    assert caught.value.details == {"key": "bad.vcf.gz", "reason": "It is truncated"}


def test_a_copy_of_a_file_is_a_warning() -> None:
    """The same content under two keys would be in the result twice."""
    files = (vcf("a.vcf.gz", "A", sha256="aa"), vcf("b.vcf.gz", "A", sha256="aa"))
    assert plan_of(*files).warnings == (
        "b.vcf.gz has the same content as a.vcf.gz: its records will be in the result twice.",
    )


def test_files_without_samples() -> None:
    """Alone they are a table of sites; beside files with samples they are left out with a warning."""
    assert plan_of(vcf("a.vcf.gz", ""), vcf("b.vcf.gz", "")).combine is CombineKind.CONCAT
    plan = plan_of(vcf("a.vcf.gz", ""), vcf("b.vcf.gz", "B"))
    assert [entry.key for entry in plan.inputs] == ["b.vcf.gz"]
    assert plan.warnings == ("1 file(s) without samples are left out: a.vcf.gz.",)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"files": ("z*",)}, InvalidSelection, "No variant file of the project matches 'z*'"),
        ({"files": ("a.vcf",)}, InvalidSelection, "Did you mean 'a.vcf.gz' or"),
        ({"selection": only("A", "Q")}, InvalidSelection, "1 sample(s) are in none of the files: Q."),
        ({"selection": only("s1")}, InvalidSelection, "Did you mean 'S1'?"),
        ({"selection": Selection()}, InvalidSelection, "exactly one way"),
        ({"selection": Selection(where="", all_samples=True)}, InvalidSelection, "exactly one way"),
        ({"selection": Selection(where="Area:South")}, InvalidSelection, "No sample of the metadata matches"),
        ({"selection": Selection(where="Area:East")}, InvalidSelection, "none of them is in a file: Y"),
        ({"selection": Selection(where="Aera:North")}, InvalidFilter, "Did you mean 'Area'?"),
        ({"command": "view -r chr1"}, InvalidSelection, "No file has a contig 'chr1'. Did you mean '1'?"),
        ({"command": "view -t 9"}, InvalidSelection, "No file has a contig '9'."),
        ({"command": "view -r 3"}, InvalidSelection, "There are no records on 3 in the files."),
        ({"command": "view -r 2", "selection": only("A")}, InvalidSelection, "no records on 2 in the files of the sel"),
        ({"command": "norm -m -any"}, InvalidStep, "no allowed command"),
        ({"command": "view -s -x"}, InvalidStep, "there is no rest"),
        ({"name": "../x"}, InvalidName, "cannot name a result"),
        ({"level": 10}, InvalidRequest, "no compression level"),
    ],
)
def test_bad_requests_are_refused(changes: dict[str, object], error: type[Exception], words: str) -> None:
    """Each with its own error, which names the thing at fault."""
    files = (vcf("a.vcf.gz", "A S1", "1:5 2:0 3:0"), vcf("b.vcf.gz", "B", "1:5 2:5 3:0"))
    with pytest.raises(error) as caught:
        plan_of(*files, **changes)  # type: ignore[arg-type]
    assert type(caught.value) is error
    assert words in str(caught.value)


def test_a_filter_without_a_table_says_how_to_get_one() -> None:
    """The hint has the command that adds sample metadata."""
    with pytest.raises(InvalidSelection) as caught:
        make_plan(QueryRequest(Selection(where="Area:North")), [vcf("a.vcf.gz", "A")], None)
    assert "sample_metadata.tsv" in caught.value.message
    assert "divbase metadata push" in (caught.value.hint or "")


def test_a_project_without_files_says_so() -> None:
    """Nothing to query is an error of its own."""
    with pytest.raises(InvalidSelection, match="no variant files"):
        plan_of()


@pytest.mark.parametrize("name", ["a", "A.b_c-1", "_x", "9" * 100])
def test_result_names(name: str) -> None:
    """Letters, digits and three marks."""
    assert validate_result_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "a b", "é", "a\n", "$(x)", "9" * 101])
def test_result_names_that_are_refused(name: str) -> None:
    """What hides, climbs, begins an option or needs quoting names nothing."""
    with pytest.raises(InvalidName):
        validate_result_name(name)


# --- order of contigs, figures, identity -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "order"),
    [
        (["1:0 2:5", "1:5 2:0"], ["b", "a"]),
        (["1:5", "2:5"], ["a", "b"]),
        (["1:5 2:0 3:5", "1:0 2:5 3:0"], None),  # interleaved
        (["1:5", "1:5"], None),  # shared
        (["1:0 2:5", "3:0 1:5"], None),  # with b first, its header has 3 before 1
        (["1:0 2:5", "2:0 1:5"], None),  # with b first, its header has 2 before 1
        (["1:0 2:5", "1:5"], None),  # with b first, 2 comes behind what the steps add to the header of b
    ],
)
def test_when_plain_concat_is_sorted(headers: list[str], order: list[str] | None) -> None:
    """Only if no contig is in two files, and the contigs of the result are in the order of the files' headers."""
    members = []
    for key, header in zip("abc", headers, strict=False):
        file = vcf(key, "A", header)
        header = tuple(c.name for c in file.contigs)
        members.append(Member(file, ("A",), header, tuple(c.name for c in file.contigs if c.variants)))
    found = plain_concat_order(members)
    assert (found and [member.file.key for member in found]) == order


def test_the_figures_of_a_plan() -> None:
    """Bytes are exact; memory, cores, minutes and scratch follow the documented formulas and floors."""
    gigabyte = 1 << 30
    files = [vcf(f"{n}.vcf.gz", f"S{n}", "1:75 2:25", size=gigabyte) for n in range(4)]
    plan = plan_of(*files, command="view -r 2")
    assert (plan.bytes_total, plan.bytes_needed) == (4 * gigabyte + 400, 4 * gigabyte + 400)
    # 6 processes: 256 + 6 x 32 + 4 x 2 MB is below the floor; 4096/20 + 1024/2 s, doubled; 256 + 4096 + 1.5 x 1024 MB
    assert (plan.memory_mb, plan.cores, plan.minutes, plan.scratch_mb) == (1024, 2, 24, 5889)
    small = plan_of(vcf("a.vcf.gz", "A"))
    assert (small.memory_mb, small.cores, small.minutes, small.scratch_mb) == (1024, 1, 10, 257)


def test_a_plan_survives_json() -> None:
    """Plans are stored as JSON in the database and come back equal."""
    plan = plan_of(vcf("a.vcf.gz", "A B"), vcf("b.vcf.gz", "C"), selection=only("A", "C"), command="view -r 1,2:3-4")
    assert plan_from_dict(json.loads(json.dumps(plan_to_dict(plan)))) == plan


def test_equal_questions_have_equal_digests_and_others_do_not() -> None:
    """The digest follows versions, samples, commands and output, and nothing else."""
    file = vcf("a.vcf.gz", "A B")
    plan = plan_of(file, selection=only("A"))
    assert len(plan.digest) == 64
    bad = vcf("bad.vcf.gz", "", state=FileState.UNUSABLE, index=None)
    assert plan_of(file, bad, selection=only("A"), command=["view", "view"][0]).digest == plan.digest
    others = [
        plan_of(replace(file, version_id="v2"), selection=only("A")),
        plan_of(replace(file, etag="e2"), selection=only("A")),
        plan_of(file, selection=only("B")),
        plan_of(file, selection=only("A"), command="view -k"),
        plan_of(file, selection=only("A"), level=4),
        plan_of(file, selection=only("A"), name="other"),
        plan_of(file, selection=only("A"), output=OutputFormat.BCF),
    ]
    assert len({plan.digest, *(other.digest for other in others)}) == 8


def test_another_recipe_is_another_digest() -> None:
    """Results that an earlier release made in another way do not answer for this one."""
    plan = plan_of(vcf("a.vcf.gz", "A B"), selection=only("A"))
    assert digest_plan(plan) == plan.digest
    assert digest_plan(plan, RECIPE + 1) != plan.digest


def test_planning_a_hundred_files_looks_at_no_pair_of_samples() -> None:
    """A hundred files of a thousand samples take some 0.03 s; what compares each sample with each takes minutes."""
    files = [vcf(f"{n:03}.vcf.gz", " ".join(f"S{n}-{i}" for i in range(1000))) for n in range(100)]
    chosen = only(*(name for file in files for name in file.samples[::2]))
    best = min(timed(lambda: plan_of(*files, selection=chosen)) for _ in range(5))
    assert best < 2


def timed(action: object) -> float:
    assert callable(action)
    start = time.process_time()
    action()
    return time.process_time() - start
