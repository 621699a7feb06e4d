"""Runs the README's commands, in order, as a newcomer would type them: from the clone, nothing else set up."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FENCE = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
# The longest command is the demo.
COMMAND_DEADLINE_S = 1200


def readme_commands() -> list[str]:
    """Every command of a ```bash block, comments left out, continued lines joined.

    `make test` is left out: it is what runs the tests.
    """
    blocks = FENCE.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    lines = "\n".join(blocks).replace("\\\n", "").splitlines()
    commands = [re.sub(r"\s+#\s.*$", "", line).strip() for line in lines]
    return [line for line in commands if line and not line.startswith("#") and line != "make test"]


@pytest.fixture(scope="module", autouse=True)
def _stop_what_was_started() -> object:
    yield
    subprocess.run(["make", "down"], cwd=REPOSITORY, check=False, capture_output=True)


@pytest.mark.timeout(COMMAND_DEADLINE_S)
@pytest.mark.parametrize("command", readme_commands())
def test_a_command_of_the_readme_succeeds(command: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HAMLET_", "RAY_"))
    }
    environment["PATH"] = f"{REPOSITORY / '.venv/bin'}:{environment['PATH']}"
    environment["HAMLET_HOME"] = str(Path("~/.hamlet").expanduser())
    result = subprocess.run(
        command, shell=True, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    print(result.stdout)  # noqa: T201  (pytest shows it when the command fails)
    assert result.returncode == 0, f"{command}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
