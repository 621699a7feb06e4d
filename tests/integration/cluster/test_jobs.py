"""Jobs through the real `ray job submit`, followed to their real end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster import jobs
from cluster.errors import NotFound, Unavailable
from cluster.head_record import HeadRecord
from cluster.jobs import exit_code, follow
from cluster.submission import submit, submit_command

REPOSITORY = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("head")

REPORT = """
import json, os, pathlib, sys
print(json.dumps({
    "argv": sys.argv[1:],
    "python": sys.executable,
    "files": sorted(str(path) for path in pathlib.Path().rglob("*") if path.is_file()),
    "train_v2": os.environ.get("RAY_TRAIN_V2_ENABLED"),
}))
sys.exit(int(sys.argv[1]) if sys.argv[1:2] == ["3"] else 0)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "report.py").write_text(REPORT)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-1").write_text("large")
    (tmp_path / "weights.safetensors").write_text("large")
    (tmp_path / "data.csv").write_text("a,b")
    return tmp_path


def run(entrypoint: str | list[str], project: Path) -> tuple[str, str]:
    """Final status and log of a job."""
    written: list[str] = []
    status = follow(submit(submit_command(entrypoint, project)), write=written.append)
    return status, "".join(written)


def test_words_with_spaces_arrive_and_only_what_is_needed_is_uploaded(project: Path) -> None:
    status, log = run(["python", "report.py", "--name", "my run", "it's"], project)
    assert exit_code(status) == 0
    [line] = [line for line in log.splitlines() if line.startswith("{")]
    report = json.loads(line)
    assert report["argv"] == ["--name", "my run", "it's"]
    assert report["files"] == ["data.csv", "report.py"]
    assert report["python"] == sys.executable
    assert report["train_v2"] == "1"


def test_a_failing_job_is_failed_and_its_log_is_shown(project: Path) -> None:
    status, log = run("python report.py 3", project)
    assert status == "FAILED"
    assert exit_code(status) == 1
    assert log.count('"argv": ["3"]') == 1


def test_the_printed_command_runs_in_a_shell_of_the_users_and_status_lists_its_job(
    head: HeadRecord, project: Path
) -> None:
    command = submit_command(["python", "report.py", "my run"], project)
    path = f"PATH={Path(sys.executable).parent}:$PATH"
    result = subprocess.run(
        f"export {path}; {command}", shell=True, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert '"argv": ["my run"]' in result.stdout
    status = subprocess.run(
        [sys.executable, "-m", "cluster", "status"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert status.returncode == 0
    (job_id,) = set(re.findall(r"raysubmit_\w+", result.stdout))
    assert f"job          {job_id}  SUCCEEDED  python report.py" in status.stdout
    assert head.dashboard_url in status.stdout


def test_an_unknown_job_is_named() -> None:
    with pytest.raises(NotFound, match="no job nobody"):
        follow("nobody")


def test_a_head_that_is_not_there_is_named(project: Path) -> None:
    command = submit_command(["python", "report.py"], project, address="http://127.0.0.1:1")
    with pytest.raises(Unavailable, match="ray job submit failed"):
        submit(command)
    with pytest.raises(Unavailable, match="nothing answers at"):
        follow("job", "http://127.0.0.1:1")


def test_a_head_that_hangs_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()

    class Hanging(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/api/version":
                is_over.wait(30)
            body = b'{"ray_version": "2.60.0"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(jobs, "SILENCE_LIMIT_S", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hanging) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        client = jobs.job_client(f"http://127.0.0.1:{server.server_port}")
        try:
            with pytest.raises(jobs.OUT_OF_REACH, match="Read timed out"):
                client.get_job_status("job")
        finally:
            is_over.set()
            server.shutdown()
