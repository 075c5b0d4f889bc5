"""A researcher's day on simulated data: on one machine, or with --slurm on the SLURM cluster in containers.

python -m demo [--slurm] [--keep] [--folder demo-data]
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from pathlib import Path

from demo import cluster, gateways
from demo.day import Laptop, StepFailed, console, say, whole_day


def main() -> int:
    """Run the demo. Returns 0 when every step did what it should."""
    options = _options()
    folder = options.folder.absolute()
    began = time.monotonic()
    try:
        if options.slurm:
            cluster.day(folder, keep=options.keep)
        else:
            _day(folder, keep=options.keep)
    except StepFailed as failure:
        console.print(f"\nThe demo stopped: {failure}", style="bold red")
        return 1
    console.print(f"\nThe whole day took {time.monotonic() - began:.0f} s.", style="bold")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.splitlines()[0])
    parser.add_argument("--slurm", action="store_true", help="jobs run on the SLURM cluster of slurm-docker-cluster/")
    parser.add_argument("--keep", action="store_true", help="leave DivBase running afterwards")
    parser.add_argument("--folder", type=Path, default=Path("demo-data"), help="where everything is kept")
    return parser.parse_args()


def _day(folder: Path, *, keep: bool) -> None:
    shutil.rmtree(folder / "laptop", ignore_errors=True)
    (folder / "laptop").mkdir(parents=True)
    say("DivBase on this machine: S3 server, database, scheduler and API.")
    with gateways.embedded(folder, keep=keep) as url:
        laptop = Laptop(folder / "laptop", url, (folder / "stack" / "admin.key").read_text().strip())
        whole_day(laptop)
        if keep:
            _invite(laptop)


def _invite(laptop: Laptop) -> None:
    console.print(f"\nDivBase goes on at {laptop.url}. To go on by hand:", style="bold")
    console.print(f"  export DIVBASE_CONFIG={shlex.quote(str(laptop.folder / '.config' / 'divbase.toml'))}")
    console.print(f"  cd {shlex.quote(gateways.short(laptop.folder))} && divbase files ls")


if __name__ == "__main__":
    sys.exit(main())
