"""The node helper runs on old Pythons, alone, and keeps its secrets."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from divbase_jobscripts.render import node_helper_source

SOURCE = node_helper_source().decode()


def test_syntax_is_that_of_python_3_6() -> None:
    """Nothing newer than Python 3.6 can be parsed, so nothing newer may be written."""
    ast.parse(SOURCE, feature_version=(3, 6))


def test_only_the_standard_library_is_imported() -> None:
    """The helper is one file beside a script; nothing is installed for it on a node."""
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name.partition(".")[0] for node in imports for alias in node.names}
    assert names <= sys.stdlib_module_names
    assert not [node for node in imports if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize("keyword", ["capture_output", "text", "universal_newlines", "missing_ok", "dirs_exist_ok"])
def test_no_argument_that_python_3_6_lacks(keyword: str) -> None:
    """Arguments that came after 3.6 are not used."""
    calls = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Call)]
    assert keyword not in {each.arg for call in calls for each in call.keywords}


@pytest.mark.slow  # starts every Python there is
def test_starts_on_the_oldest_python_here(tmp_path: Path) -> None:
    """Where the machine has an old Python, the helper is loaded by it."""
    found = [shutil.which(f"python3.{minor}") for minor in (6, 7, 8, 9)]
    working = [path for path in found if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0]
    if not working:
        pytest.skip("no Python older than 3.10 on the PATH")
    (tmp_path / "divbase_node.py").write_text(SOURCE, encoding="utf-8")
    load = "import runpy; runpy.run_path('divbase_node.py')"
    subprocess.run([working[0], "-IS", "-c", load], cwd=tmp_path, check=True)
