"""The command line of the benchmarks: which to run, how thoroughly, and where the figures go."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import api, crowds, faults, machine, overhead, query, sidecars, submission, ticks, transfers
from benchmarks.figures import NotHere, Section, as_markdown, as_text
from benchmarks.stack import say

BENCHMARKS: dict[str, Callable[[Path, bool], Section]] = {
    "transfers": transfers.measure,
    "api": api.measure,
    "overhead": overhead.measure,
    "query": query.measure,
    "submission": submission.measure,
    "ticks": ticks.measure,
    "faults": faults.measure,
    "crowds": crowds.measure,
    "sidecars": sidecars.measure,
}
_NEEDED = {
    "transfers": 40 << 30,
    "api": 6 << 30,
    "overhead": 2 << 30,
    "query": 6 << 30,
    "submission": 1 << 30,
    "ticks": 1 << 30,
    "faults": 1 << 30,
    "crowds": 2 << 30,
    "sidecars": 4 << 30,
}
_NEEDED_QUICK = 3 << 30


def main() -> int:
    """Run the chosen benchmarks one after the other. Returns 0, or 1 when there is no room for the data."""
    options = _options()
    names = options.benchmarks or list(BENCHMARKS)
    needed = _NEEDED_QUICK if options.quick else max(_NEEDED[name] for name in names)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        say(f"{tempfile.gettempdir()} has {free >> 30} GiB free, {needed >> 30} GiB are needed; set TMPDIR to another.")
        return 1
    signal.signal(signal.SIGTERM, _leave)
    facts = machine.facts(options.quick)
    sections = [section for name in names if (section := _run(name, options.quick)) is not None]
    sys.stdout.write(as_text(sections, facts))
    if options.markdown:
        page = options.markdown.read_text(encoding="utf-8") if options.markdown.exists() else ""
        options.markdown.write_text(as_markdown(sections, facts, page), encoding="utf-8")
    if options.json:
        raw = {"facts": facts, **{section.name: section.raw for section in sections}}
        options.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    return 0


def _leave(number: int, frame: object) -> None:
    """End as by an exception, so that everything that was started is stopped."""
    sys.exit(128 + number)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("benchmarks", nargs="*", metavar="|".join(BENCHMARKS), help="which; all if left out")
    parser.add_argument("--quick", action="store_true", help="small inputs and few repetitions, to try the harness")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write the page of the documentation, and leave there what was not run",
    )
    options = parser.parse_args()
    unknown = [name for name in options.benchmarks if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    return options


def _run(name: str, quick: bool) -> Section | None:
    say(f"--- {name}")
    with tempfile.TemporaryDirectory(prefix="divbase-bench-") as folder:
        try:
            return BENCHMARKS[name](Path(folder), quick)
        except NotHere as reason:
            say(f"{name} is not measured: {reason}.")
            return None


if __name__ == "__main__":
    sys.exit(main())
