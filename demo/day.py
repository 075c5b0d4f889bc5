"""A researcher's day: every command is shown as one would type it, and really run, against whatever gateway there is.

Nothing outside the laptop's folder is touched, the command line's own configuration included.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from demo.simulate import Survey, simulate_survey

REGIONS = "chr21:15000000-25000000,chr22:15000000-25000000"
QUERY = ["--where", "Sex:F;Country:Norway", "--command", f'view -r {REGIONS}; view -i "QUAL>=30"']
RESULT = "result/result.vcf.gz"

BIN = Path(sys.executable).parent

console = Console(highlight=False, soft_wrap=True)


class StepFailed(Exception):
    """A command of the demo ended with an error; its own words are on the terminal."""


class Laptop:
    """A folder with a command line whose configuration is its own. `key` is the API key that it signs in with."""

    def __init__(self, folder: Path, url: str, key: str):
        self.folder = folder
        self.url = url
        self.key = key
        own = {name: value for name, value in os.environ.items() if not name.startswith("DIVBASE_")}
        self._environment = own | {
            "DIVBASE_CONFIG": str(folder / ".config" / "divbase.toml"),
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def run(self, words: list[str], *, stdin: str | None = None, typed_before: str = "", expect: int = 0) -> None:
        """Show and run one `divbase` command.

        Raises:
            StepFailed: its exit code is not the expected one.
        """
        prompt(f"{typed_before}divbase {shlex.join(words)}")
        self._run([str(BIN / "divbase"), *words], stdin, expect)

    def shell(self, command: str) -> None:
        """Show and run an ordinary command."""
        prompt(command)
        self._run(["sh", "-c", command], None, 0)

    def sha256(self) -> str:
        """Of the answer that was downloaded."""
        return hashlib.sha256((self.folder / RESULT).read_bytes()).hexdigest()

    def _run(self, argv: list[str], stdin: str | None, expect: int) -> None:
        ended = subprocess.run(
            argv, cwd=self.folder, env=self._environment, input=stdin, text=True, check=False, timeout=600
        )
        if ended.returncode != expect:
            raise StepFailed(f"exit code {ended.returncode}, not {expect}")


def whole_day(laptop: Laptop) -> None:
    """From two surveys on the laptop to one small file on the laptop."""
    say("Two surveys of a sea bird are on the laptop: one file for each chromosome, and one for each colony.")
    survey = simulate_survey(laptop.folder)
    laptop.shell("ls -sh1")

    say("Sign in, and make a project: a bucket of its own, with versions of everything.")
    _begin_project(laptop)

    say("Upload the files. Bytes go straight to S3; the gateway reads headers and has indexes built by jobs.")
    _upload(laptop, survey)
    laptop.run(["files", "ls"])

    say("The sample table: checked on the laptop, then pushed. Which samples does a filter find?")
    laptop.shell("head -4 sample_metadata.tsv")
    laptop.run(["metadata", "validate", survey.metadata.name])
    laptop.run(["metadata", "push", survey.metadata.name])
    laptop.run(["metadata", "query", "Sex:F;Country:Norway"])

    say("The question: females from Norway, two regions, good quality, over all files. First the plan, for free.")
    laptop.run(["query", "plan", *QUERY])

    say("A wrong question is answered at once, and costs nothing.")
    laptop.run(["query", "run", "--where", "Gender:F"], expect=3)

    say("Now the job: submitted, followed, checked, downloaded.")
    laptop.run(["query", "run", *QUERY, "--download", "result"])

    say("What became of it all, and the answer itself.")
    laptop.run(["jobs", "ls"])
    laptop.shell(f"gzip -dc {RESULT} | grep -v '^##' | cut -f 1,2,4,5,10-14 | head -8")
    laptop.shell("ls -sh1 result")


def same_question(laptop: Laptop) -> None:
    """The same files, the same table and the same query, without the rest of the day."""
    survey = simulate_survey(laptop.folder)
    _begin_project(laptop)
    _upload(laptop, survey)
    laptop.run(["metadata", "push", survey.metadata.name])
    laptop.run(["query", "run", *QUERY, "--download", "result"])


def _begin_project(laptop: Laptop) -> None:
    project = f"puffins-{time.strftime('%H%M%S')}"
    laptop.run(["login", laptop.url, "--api-key-stdin"], stdin=laptop.key, typed_before="cat ~/my-api-key | ")
    laptop.run(["projects", "create", project, "--description", "Puffins of the north"])
    laptop.run(["projects", "use", project])


def _upload(laptop: Laptop, survey: Survey) -> None:
    laptop.run(["files", "upload", *[file.name for file in survey.files], "--wait"])


def say(words: str) -> None:
    console.print(f"\n# {words}", style="bold cyan", markup=False)


def prompt(command: str) -> None:
    console.print(f"$ {command}", style="bold", markup=False)
