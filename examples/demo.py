"""The main job, end to end: fine-tune two models, index a handbook, serve, and ask four ways.

Every step is a command you could type; it is printed before it runs. What is started keeps running
afterwards, until `make down`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI
from rich.console import Console
from rich.table import Table

from cluster import jobs
from cluster.connection import client_environment, dashboard_url
from cluster.submission import submit as start_job
from cluster.submission import submit_command

ROOT = Path(__file__).resolve().parent.parent
BASE_URL = "http://127.0.0.1:8000"
READY_DEADLINE_S = 240
PLAIN, TUNED = "smollm2", "handbook"
WAYS = {"plain": PLAIN, "tuned": TUNED, "retrieval": f"{PLAIN}+rag", "auto": "auto"}
SHOWN_QUESTION = "travel-agency-1"
PAIR = (
    "The company said profits rose by a tenth last year.",
    "Last year's earnings were up ten percent, according to the firm.",
)

console = Console(highlight=False, width=min(Console().width, 120) if sys.stdout.isatty() else 110)


@dataclass(frozen=True)
class Answer:
    """One answered question, as the client saw it."""

    text: str
    route: str
    reason: str
    sources: list[str]
    seconds: float


def main() -> None:
    started = time.monotonic()
    os.chdir(ROOT)
    step(1, "Start a local Ray cluster, on 127.0.0.1 only and closed to callers without its token.")
    fetching = begin("python -m cluster models pull builtin:smollm2")  # for step 3
    run("python -m cluster up", quiet=True)
    os.environ.update(client_environment(for_http=True))
    step(2, "Fine-tune a BERT classifier on sentence pairs: two workers, DeepSpeed ZeRO, under Ray Train.")
    submit("python -m training run examples/bert-paraphrase.yaml")
    step(3, "Fine-tune a small chat model on questions about a company handbook, with LoRA.")
    fetching.wait()  # where it failed, the run tries again and says why
    submit("python -m training run examples/smollm2-handbook.yaml")
    step(4, "Cut the handbook's documents into passages, embed them and store them in Qdrant's engine.")
    run("python -m retrieval ingest examples/handbook/docs --collection handbook")
    step(5, "Serve both models, the embedder and the retriever behind one OpenAI-compatible router.")
    run(f"serve deploy --address {dashboard_url()} examples/serve.yaml", quiet=True)
    wait_until_ready()
    step(6, "Ask, with the openai client you already own.")
    # The client wants a key; the service asks for it once one was made, and then it has to be exported.
    client = OpenAI(base_url=f"{BASE_URL}/v1", api_key=os.environ.get("OPENAI_API_KEY", "none"))
    show_one_question(client)
    show_score(client)
    show_classification(client)
    show_next(time.monotonic() - started)


def step(number: int, sentence: str) -> None:
    console.print(f"\n[bold]{number}  {sentence}[/bold]")


def submit(entrypoint: str) -> None:
    """Submit a job by the printed `ray job submit`, and follow its log to its real end."""
    command = submit_command(entrypoint)
    console.print(f"[dim]$ {command}[/dim]", soft_wrap=True)
    job_id = start_job(command)
    log = JobLog()
    status = jobs.follow(job_id, write=log.write)
    if jobs.exit_code(status):
        raise SystemExit(f"error: job {job_id} ended as {status}; see its output above")


class JobLog:
    """Prints a job's log, which comes in pieces, line by line, without what Ray writes before the run."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if not line.startswith(jobs.FIRST_LINE) and "Runtime env is setting up" not in line:
                console.print("  " + line, markup=False, soft_wrap=True)


def begin(command: str) -> subprocess.Popen[bytes]:
    """Print a command and let it run beside what follows, without a word."""
    console.print(f"[dim]$ {command} &[/dim]")
    return subprocess.Popen(
        arguments_of(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def arguments_of(command: str) -> list[str]:
    """The words of a command, whose program is that of this environment whatever the caller's PATH."""
    program, *arguments = shlex.split(command)
    return [str(Path(sys.executable).parent / program), *arguments]


def run(command: str, *, quiet: bool = False) -> None:
    """Print a command, run it, and show its output as it comes; leave with its output when it fails."""
    console.print(f"[dim]$ {command}[/dim]")
    process = subprocess.Popen(
        arguments_of(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        errors="replace",
    )
    assert process.stdout is not None
    kept: list[str] = []
    for line in process.stdout:
        kept.append(line.rstrip("\n"))
        if not quiet:
            console.print("  " + kept[-1], markup=False, soft_wrap=True)
    if process.wait():
        if quiet:
            console.print("\n".join(kept), markup=False, soft_wrap=True)
        raise SystemExit(
            f"error: `{command}` failed with exit code {process.returncode}; see its output above"
        )


def wait_until_ready() -> None:
    """Wait for /readyz, telling which part is still starting."""
    started = time.monotonic()
    with console.status("starting") as status:
        while time.monotonic() - started < READY_DEADLINE_S:
            try:
                response = httpx.get(f"{BASE_URL}/readyz", timeout=5)
                if response.status_code == 200:
                    console.print(f"  ready after {time.monotonic() - started:.0f} s", style="dim")
                    return
                status.update(f"starting: {response.text[:80]}")
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
    raise SystemExit(f"error: {BASE_URL}/readyz is not ready after {READY_DEADLINE_S} s; see `serve status`")


def ask(client: OpenAI, model: str, question: str) -> Answer:
    started = time.monotonic()
    response = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=48, temperature=0
    )
    seconds = time.monotonic() - started
    extra: dict[str, Any] = (response.model_extra or {}).get("hamlet", {})
    message = response.choices[0].message
    # The client's type knows other annotations than file citations; its plain form has them all.
    notes: Any = message.to_dict().get("annotations") or []
    sources = [note["file_citation"]["filename"] for note in notes]
    text = (message.content or "").strip()
    return Answer(text, extra.get("route", "-"), extra.get("reason", ""), sources, seconds)


def show_one_question(client: OpenAI) -> None:
    """One question, four ways, side by side."""
    fact = next(row for row in test_questions() if row["id"] == SHOWN_QUESTION)
    table = Table(title=f"“{fact['question']}”  (the handbook says: {fact['answer']})", title_justify="left")
    for title in ("asked as model", "answer", "right", "sources", "route", "seconds"):
        table.add_column(title, overflow="fold")
    for model in WAYS.values():
        answer = ask(client, model, fact["question"])
        mark = "[green]yes[/green]" if is_right(answer.text, fact) else "[red]no[/red]"
        table.add_row(
            model,
            answer.text,
            mark,
            ", ".join(dict.fromkeys(answer.sources)),
            answer.route,
            f"{answer.seconds:.1f}",
        )
    console.print(table)


def show_score(client: OpenAI) -> None:
    """The same over a few questions of either kind: taught in training, and only in the documents."""
    groups = {
        "facts it was trained on": first_of_kind("taught", 6),
        "facts only in the documents": first_of_kind("untaught", 6),
    }
    table = Table(title="Right answers to questions worded otherwise than in training", title_justify="left")
    table.add_column("")
    for way in WAYS:
        table.add_column(way, justify="right")
    cells = list(itertools.product(groups, WAYS.values()))
    asked = [(model, fact["question"]) for name, model in cells for fact in groups[name]]
    # All at once: the generator answers them in batches.
    with ThreadPoolExecutor(16) as pool, console.status(f"asking {len(asked)} questions"):
        answers = pool.map(lambda each: ask(client, *each), asked)
        rights = {cell: sum(is_right(next(answers).text, fact) for fact in groups[cell[0]]) for cell in cells}
    for name, facts in groups.items():
        table.add_row(name, *(f"{rights[name, model]} of {len(facts)}" for model in WAYS.values()))
    console.print(table)


def show_classification(client: OpenAI) -> None:
    # OpenAI has no such endpoint, but its client calls any path of the service.
    response: Any = client.post(
        "/classify", body={"model": "paraphrase", "input": [list(PAIR)]}, cast_to=object
    )
    result = response["data"][0]
    console.print(f"Same meaning?  “{PAIR[0]}”\n               “{PAIR[1]}”")
    console.print(f"               [bold]{result['label']}[/bold] ({result['score']:.2f})")


def show_next(seconds: float) -> None:
    console.print(
        f"\n[bold]Done in {seconds:.0f} s.[/bold] The service keeps running. Open {BASE_URL}/ in a browser, or try:"
    )
    for command in (
        f"curl {BASE_URL}/v1/models",
        f"curl {BASE_URL}/v1/chat/completions -H 'Content-Type: application/json' "
        '-d \'{"model": "auto", "messages": [{"role": "user", "content": "How much is a lunch ticket?"}]}\'',
        "python -m cluster models list",
        'python -m retrieval search "How long is parental leave?" --collection handbook',
        "python -m training run --help",
        "make down",
    ):
        console.print(f"  {command}", style="dim", markup=False, soft_wrap=True)


def test_questions() -> list[dict[str, Any]]:
    lines = (ROOT / "examples/handbook/test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def first_of_kind(kind: str, count: int) -> list[dict[str, Any]]:
    """The first wording of `count` facts, spread over the documents."""
    rows = [row for row in test_questions() if row["kind"] == kind and row["id"].endswith("-1")]
    return rows[:: max(1, len(rows) // count)][:count]


def is_right(text: str, fact: dict[str, Any]) -> bool:
    """Whether an answer holds the right value as whole words."""
    return any(contains_words(text, accepted) for accepted in (fact["answer"], *fact["accept"]))


def contains_words(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


if __name__ == "__main__":
    main()
