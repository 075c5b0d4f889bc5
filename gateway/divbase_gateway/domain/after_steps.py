"""The steps of a query that run once, on all its files as one stream: what `--after` holds, and the rules between them.

It knows which command may stand where, not the files, nor how steps become processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from divbase_gateway.domain.after_options import AFTER_COMMANDS, GENOTYPE_TAGS, read_removed
from divbase_gateway.domain.queries import OutputFormat
from divbase_gateway.domain.step_grammar import ReadStep, read_steps
from divbase_gateway.domain.steps import check_overlaps, contigs_of

_TEXT = {"query": OutputFormat.TSV, "stats": OutputFormat.STATS}
_ELSEWHERE: Mapping[str, str] = {
    "bcftools": "Leave the word bcftools out: a step begins with the name of its command.",
    "fill-tags": "It is a plugin: write +fill-tags -- -t AF,AN.",
    "plugin": "Write +fill-tags -- -t AF,AN.",
    "merge": "Files are combined by the plan, before these steps.",
    "concat": "Files are combined by the plan, before these steps.",
    "filter": "Use view -i or view -e.",
    "sort": "The records are sorted already.",
    "index": "The result is indexed in any case.",
}


@dataclass(frozen=True)
class AfterSteps:
    """The steps in order; none is the rule."""

    steps: tuple[ReadStep, ...] = ()

    @property
    def text_format(self) -> OutputFormat | None:
        """What the last step prints; None where it writes records."""
        return _TEXT.get(self.steps[-1].command.name) if self.steps else None

    @property
    def target_contigs(self) -> tuple[str, ...]:
        """Every contig that a `--targets` names."""
        return contigs_of(step.value("targets") for step in self.steps)

    @property
    def drops_genotypes(self) -> bool:
        return any(step.has("drop-genotypes") for step in self.steps)

    @property
    def counts_genotypes(self) -> ReadStep | None:
        """The first step whose tags are counted from genotypes."""
        return next((step for step in self.steps if _counts_genotypes(step)), None)


def parse_after(text: str) -> AfterSteps:
    r"""Read steps such as `+fill-tags -- -t AF; query -f '%POS\t%AF\n'`; an empty text has none.

    Raises:
        InvalidStep: with the step, the place in the text and what is allowed.
    """
    if not text.strip():
        return AfterSteps()
    steps = read_steps(text, "after", AFTER_COMMANDS, _ELSEWHERE)
    for step in steps:
        check_overlaps(step)
        _check_norm(step)
    _check_order(steps)
    return AfterSteps(tuple(steps))


def _check_norm(step: ReadStep) -> None:
    """An option that says how something is done stands beside what it does; no pair that some releases refuse."""
    duplicates = step.given("rm-dup")
    if duplicates and (step.value("multiallelics") or "").startswith("-"):
        raise step.refuse(
            "-d beside a splitting -m is an error in bcftools before 1.21",
            duplicates.position,
            "Use two steps: norm -m -any; norm -d exact",
        )
    atomize = step.given("atomize")
    if atomize and step.has("multiallelics"):
        raise step.refuse(
            "-a beside -m gives other records in bcftools before 1.20",
            atomize.position,
            "Use two steps, in the order that you mean: norm -m -any; norm -a",
        )
    for name, needed in (
        ("atom-overlaps", "atomize"),
        ("keep-sum", "multiallelics"),
        ("strict-filter", "multiallelics"),
    ):
        given = step.given(name)
        if given and not step.has(needed):
            raise step.refuse(f"--{name} says nothing without --{needed}", given.position)


def _check_order(steps: Sequence[ReadStep]) -> None:
    """A step that prints text is the last; genotypes are counted while there are some."""
    gone = 0
    for step in steps:
        if step.command.name in _TEXT and step is not steps[-1]:
            raise step.refuse(f"{step.command.name} prints text, so it is the last step", hint="Move it to the end.")
        if gone and _counts_genotypes(step):
            raise step.refuse(f"Step {gone} removed the genotypes that this one counts", hint="Put this one before it.")
        gone = gone or (step.number if _removes_genotypes(step) else 0)


def _counts_genotypes(step: ReadStep) -> bool:
    tags = (step.value("tags") or "").split(",")
    return step.command.name == "+fill-tags" and not set(GENOTYPE_TAGS).isdisjoint(tags)


def _removes_genotypes(step: ReadStep) -> bool:
    removed = step.value("remove")
    items = [item for item in read_removed(removed) if item[1] == "FORMAT" and item[2]] if removed else []
    named = "GT" in {name for _, _, name in items}
    return step.has("drop-genotypes") or bool(items and named is not items[0][0])  # all are named to be kept, or to go
