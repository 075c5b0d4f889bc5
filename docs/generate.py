"""Writes the pages that follow from the code, or with --check says which of them no longer do.

python docs/generate.py [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from divbase_cli.reference import render
from divbase_gateway.api.app import openapi_document
from divbase_gateway.settings import markdown

FOLDER = Path(__file__).parent


def _openapi() -> str:
    return json.dumps(openapi_document(), indent=2, ensure_ascii=False) + "\n"


PAGES: dict[str, Callable[[], str]] = {"cli.md": render, "settings.md": markdown, "openapi.json": _openapi}


def main() -> int:
    """Write every page, or with --check compare; 1 if one differs."""
    check = sys.argv[1:] == ["--check"]
    stale = [name for name, make in PAGES.items() if _differs(FOLDER / name, make())]
    if check:
        for name in stale:
            print(f"docs/{name} does not follow from the code any more; `make lint FIX=1` writes it.")
        return 1 if stale else 0
    for name in stale:
        (FOLDER / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"docs/{name} written")
    return 0


def _differs(page: Path, text: str) -> bool:
    return not page.is_file() or page.read_text(encoding="utf-8") != text


if __name__ == "__main__":
    sys.exit(main())
