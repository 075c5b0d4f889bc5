"""The node helper's pipeline: what it reads, in which order it starts things, and whom it blames."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from divbase_jobscripts import node


def write_pipeline(path: Path, *processes: list[str]) -> Path:
    words = [word for process in processes for word in (str(len(process)), *process)]
    path.write_bytes(b"".join(word.encode() + b"\0" for word in words))
    return path


def process(name: str, *sources: str, materialise: bool = False, output: str | None = None) -> Any:
    words = [name, *(word for source in sources for word in ("--from", source))]
    words += ["--materialise"] if materialise else []
    words += ["--output", output] if output else []
    return node.Process([word.encode() for word in (*words, "--", "view")])


def ended(made: Any, status: int, words: str = "", at: float = 1.0) -> Any:
    made.status, made.words, made.ended, made.erred = status, words.encode(), at, "[E::" in words
    made.popen = SimpleNamespace()
    return made


def blame(*processes: Any) -> str:
    job = SimpleNamespace(manifest={}, scratch="/")
    with pytest.raises(node.Failed) as caught:
        node.Pipeline(job, list(processes)).judge()
    return str(caught.value.message)


def test_read_pipeline(tmp_path: Path) -> None:
    """Every word comes back as it was, those that look like options or counts included."""
    path = write_pipeline(
        tmp_path / "pipeline",
        ["f1", "--", "view", "", "3", "--from", "a\nb", "é"],
        ["out", "--from", "f1", "--output", "out/r", "--", "view"],
    )
    first, last = node.read_pipeline(str(path))
    assert (first.id, first.argv) == ("f1", [b"view", b"", b"3", b"--from", b"a\nb", "é".encode()])
    assert (last.sources, last.output, last.materialise) == (["f1"], "out/r", False)


@pytest.mark.parametrize(
    "processes",
    [
        [],
        [process("f1")],
        [process("f1"), process("out", output="x")],
        [process("out", "f1", output="x")],
        [process("f1"), process("a", "f1"), process("b", "f1"), process("out", "a", "b", output="x")],
    ],
    ids=["empty", "no output", "never read", "unknown source", "read twice"],
)
def test_pipeline_that_cannot_work_is_refused(processes: list[Any]) -> None:
    """Every output is read exactly once, and the last process writes the result."""
    with pytest.raises(ValueError):
        node.check_pipeline(processes)


def test_all_pipes_run_at_once() -> None:
    """Without files in between there is one level."""
    processes = [process("f1"), process("f2"), process("m", "f1", "f2"), process("out", "m", output="x")]
    node.check_pipeline(processes)
    assert [each.level for each in processes] == [0, 0, 0, 0]


def test_reader_of_a_file_waits_for_it() -> None:
    """The reader of a stored output is a level later, and so are all that pipe into the same reader."""
    processes = [
        process("f1"),
        process("f1.2", "f1", materialise=True),
        process("f2", materialise=True),
        process("c1", "f1.2", "f2"),
        process("f3"),
        process("f3.2", "f3"),
        process("m", "c1", "f3.2", output="x"),
    ]
    node.check_pipeline(processes)
    assert [each.level for each in processes] == [0, 0, 0, 1, 1, 1, 1]


def test_inputs_of_a_plugin_stand_before_its_own_options() -> None:
    """bcftools gives what follows -- to the plugin, which would take a file name for a mistake."""
    assert node.with_inputs([b"+fill-tags", b"-Ou", b"--", b"--tags", b"AF"], [b"-"]) == [
        b"+fill-tags", b"-Ou", b"-", b"--", b"--tags", b"AF",
    ]  # fmt: skip
    assert node.with_inputs([b"view", b"--include", b"--"], [b"-"]) == [b"view", b"--include", b"--", b"-"]


def test_what_is_printed_is_the_result_only_where_no_argument_names_it() -> None:
    """A process that is told the path writes the file itself."""
    told = node.Process([b"out", b"--output", b"out/r", b"--", b"view", b"-o", b"out/r"])
    assert (told.prints_result, process("out", output="out/r").prints_result, process("f1").prints_result) == (
        False, True, False,
    )  # fmt: skip


def print_to(path: Path, data: bytes) -> Any:
    text = node.Text(str(path))
    os.write(text.writing_end, data)
    os.close(text.writing_end)
    text.close()
    return text


def test_printed_text_is_kept_whole(tmp_path: Path) -> None:
    """Every byte arrives, and lines are counted over the borders of what is read at once."""
    data = b"a line\n" * 5000
    assert print_to(tmp_path / "r", data).lines == 5000
    assert (tmp_path / "r").read_bytes() == data


def test_text_that_cannot_be_written_is_a_failure() -> None:
    """bcftools would end with status 0 on a full disk."""
    with pytest.raises(OSError, match="No space left"):
        print_to(Path("/dev/full"), b"a line\n")


def test_writer_that_lost_its_reader_is_not_blamed() -> None:
    """SIGPIPE is a consequence: the message names the reader that failed."""
    writer, reader = ended(process("f1"), -signal.SIGPIPE), ended(process("out", "f1", output="x"), 2, "bad expression")
    assert "bad expression" in blame(writer, reader)


def test_writer_that_says_broken_pipe_is_not_blamed() -> None:
    """A bcftools that ignores SIGPIPE says so in words, after its reader ended."""
    writer = ended(process("f1"), 1, "[E::x] Broken pipe", at=2.0)
    assert "bad expression" in blame(writer, ended(process("out", "f1", output="x"), 2, "bad expression", at=1.0))


def test_reader_of_a_broken_stream_is_not_blamed() -> None:
    """When the writer failed, what its reader says of a short stream is a consequence."""
    writer = ended(process("f1"), 255, "no such sample")
    assert "no such sample" in blame(writer, ended(process("out", "f1", output="x"), 255, "[E::bgzf_read] failed"))


def test_reader_that_left_early_is_a_failure() -> None:
    """A reader that ends well before its writer has not read everything: the result would be short."""
    writer, reader = ended(process("f1"), -signal.SIGPIPE), ended(process("out", "f1", output="x"), 0)
    assert "was ended by signal 13" in blame(writer, reader)


def test_error_line_with_status_0_is_a_failure() -> None:
    """Older bcftools exit 0 after read errors; htslib's error mark counts."""
    assert "although it ended with status 0" in blame(ended(process("out", output="x"), 0, "[E::bgzf_read] failed"))


def test_all_well() -> None:
    """Warnings are no failure."""
    fine = [ended(process("f1"), 0, "[W::x] mind this"), ended(process("out", "f1", output="x"), 0)]
    node.Pipeline(SimpleNamespace(manifest={}, scratch="/"), fine).judge()
    assert [each.failed for each in fine] == [False, False]


def test_words_of_a_process_are_bounded(capfd: pytest.CaptureFixture[str]) -> None:
    """A process that talks without end fills neither the memory nor the log; the first and the last words stay."""
    talker = process("f1")
    talker.hear(b"first\n")
    for number in range(20_000):
        talker.hear(b"line %d\n" % number)
    assert len(talker.words) <= node.WORDS_BYTES
    assert talker.words.startswith(b"first\n")
    assert talker.words.endswith(b"line 19999\n")
    assert len(capfd.readouterr().out.splitlines()) == node.LOGGED_LINES + 1


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        ("No space left on device", 1, "disk_full"),
        ("[E::x] Cannot allocate memory", 1, "out_of_memory"),
        ("", -signal.SIGKILL, "out_of_memory"),
        ("[E::bgzf_read_block] Failed to read", 255, "input_corrupt"),
        ("Error: wrong number of fields", 255, "bcftools_failed"),
        ('Could not load "fill-tags".', 255, "bcftools_failed"),
    ],
)
def test_reason_of_a_failed_process(words: str, status: int, reason: str) -> None:
    """What bcftools and the system say is translated to the protocol's reasons."""
    job = SimpleNamespace(manifest={"inputs": [{"number": 1, "format": "bcf", "key": "a.bcf"}]}, scratch="/")
    assert node.process_failure(job, [b"view", b"in/1.bcf"], status, words).reason == reason


def test_damaged_stream_is_not_a_damaged_input() -> None:
    """Only a process that reads an input file can say that the file is damaged."""
    job = SimpleNamespace(manifest={"inputs": [{"number": 1, "format": "bcf", "key": "a.bcf"}]}, scratch="/")
    assert node.process_failure(job, [b"view", b"-"], 255, "[E::bgzf_read_block] x").reason == "bcftools_failed"
