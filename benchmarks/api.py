"""What the files and fine-tuning API costs: listings of 1,000 files and 200 jobs, and one large upload.

    python benchmarks/api.py --quick --json api.json

A router with scripted models runs in a process of its own, on SQLite in a fresh folder. The upload's baseline is
a copy of the same bytes on the same disk, flushed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil

from cluster.database import open_database
from cluster.files import Files
from cluster.fine_tuning_jobs import FineTuningJobs
from cluster.fine_tuning_records import JobRequest
from cluster.ports import free_port
from cluster.settings import settings

REPOSITORY = Path(__file__).parents[1]
MIB = 1024**2
SERVER = """
import sys, uvicorn
from serving.config import FineTuningConfig, ServingConfig
from serving.platform import Platform
from serving.scripted_parts import ScriptedApplication
config = ServingConfig(fine_tuning=FineTuningConfig(launcher="local"))
app = ScriptedApplication(config=config, platform=Platform.of(config)).app
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


def fill(num_files: int, num_jobs: int) -> None:
    engine = open_database()
    files, jobs = Files(engine), FineTuningJobs(engine)
    for number in range(num_files):
        files.add(files.stored("default", f"{number}.txt", "user_data", b"text"))
    request = JobRequest("smollm2", "file-0", None, {"type": "supervised"}, {}, None, 1, {"n": "1"}, {})
    for _ in range(num_jobs):
        jobs.cancel("default", jobs.create("default", request).id)


def walk(client: httpx.Client, path: str, limit: int) -> list[float]:
    """Milliseconds of each page."""
    times, after = [], None
    while True:
        started = time.perf_counter()
        page = client.get(path, params={"limit": limit} | ({"after": after} if after else {})).json()
        times.append((time.perf_counter() - started) * 1000)
        if not page["has_more"]:
            return times
        after = page["data"][-1]["id"]


def upload(client: httpx.Client, server: psutil.Process, source: Path) -> tuple[float, float]:
    """MiB/s, and MiB by which the server's memory grew at most."""
    before = server.memory_info().rss
    started = time.perf_counter()
    with source.open("rb") as file:
        client.post(
            "/v1/files", files={"file": ("rows.bin", file)}, data={"purpose": "user_data"}
        ).raise_for_status()
    seconds = time.perf_counter() - started
    peak = int(Path(f"/proc/{server.pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return source.stat().st_size / MIB / seconds, max(peak - before, 0) / MIB


def copy_speed(source: Path) -> float:
    """MiB/s of a copy that is flushed to the disk."""
    target = source.with_suffix(".copy")
    started = time.perf_counter()
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(MIB):
            write.write(chunk)
        write.flush()
        os.fsync(write.fileno())
    seconds = time.perf_counter() - started
    target.unlink()
    return source.stat().st_size / MIB / seconds


def measure(home: Path, num_rounds: int) -> list[dict[str, Any]]:
    fill(1000, 200)
    port = free_port("127.0.0.1")
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], cwd=REPOSITORY)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            await_ready(client)
            files = [ms for _ in range(num_rounds) for ms in walk(client, "/v1/files", 100)]
            whole = [ms for _ in range(num_rounds) for ms in walk(client, "/v1/files", 1000)]
            jobs = [ms for _ in range(num_rounds) for ms in walk(client, "/v1/fine_tuning/jobs", 20)]
            source = home / "source.bin"
            source.write_bytes(os.urandom(MIB) * 512)
            speed, growth = upload(client, psutil.Process(process.pid), source)
            baseline = copy_speed(source)
    finally:
        process.terminate()
        process.wait()
    return [
        row("list_files_page_100_p50", files, "ms"),
        row("list_files_1000_p50", whole, "ms"),
        row("list_jobs_page_20_p50", jobs, "ms"),
        row("upload_512_mib_vs_copy", [speed], "MiB/s", baseline),
        row("upload_512_mib_memory", [growth], "MiB"),
    ]


def await_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            client.get("/healthz").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the router did not start")


def row(metric: str, values: list[float], unit: str, baseline: float | None = None) -> dict[str, Any]:
    value = statistics.median(values)
    return {
        "metric": metric,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": value / baseline if baseline else None,
        "spread": [min(values), max(values)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds of listings instead of 20")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HAMLET_HOME"] = folder
        settings.cache_clear()
        rows = measure(Path(folder), 3 if arguments.quick else 20)
    for entry in rows:
        low, high = entry["spread"]
        beside = f"  copy {entry['baseline']:.0f}, ratio {entry['ratio']:.2f}" if entry["baseline"] else ""
        print(
            f"{entry['metric']:<28} {entry['value']:8.1f} {entry['unit']:<6} ({low:.1f} to {high:.1f}){beside}"
        )
    if arguments.json:
        document = {
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {name: version(name) for name in ("fastapi", "sqlalchemy", "uvicorn")},
            "metrics": rows,
        }
        arguments.json.write_text(json.dumps(document, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
