"""The program `divbase-gateway`."""

from __future__ import annotations

import gc


def run() -> None:
    """The entry point. Loading makes hundreds of thousands of objects that stay, and to look through them for garbage
    again and again took a fifth of it."""
    gc.set_threshold(100_000, 20, 20)
    from divbase_gateway.main import run as run_command

    run_command()


if __name__ == "__main__":
    run()
