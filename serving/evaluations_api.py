"""`/v1/evaluations` and `/reports`: comparisons started over HTTP, and the reports of all of them.

A comparison runs as a job of its own, `python -m evaluation compare`; serving does not import evaluation. A
caller names files of its own and models that are served, never a path of the server.
"""

from __future__ import annotations

from html import escape
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import Field

from cluster.blobs import place_bytes
from cluster.errors import HamletError, NotFound, Unavailable
from cluster.files import Files
from cluster.launcher import Launcher, RunState
from cluster.reports import Report, Reports, ReportStatus, new_report_id, report_uri
from cluster.settings import settings
from serving import object_schemas as shapes
from serving.authentication import tenant_of
from serving.bodies import KeptBody
from serving.config import ServingConfig
from serving.errors import renamed
from serving.job_policy import reason_of
from serving.openapi import answers, routes_of

PROGRAM = ("python", "-m", "evaluation", "compare")
ENDS = (ReportStatus.SUCCEEDED, ReportStatus.FAILED)
# The page is made of users' texts; it is escaped, and nothing in it may run or load all the same.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}

Name = Annotated[str, Field(min_length=1, max_length=200)]
Cell = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+.-]{1,40}$")]


class EvaluationRequest(KeptBody):
    """A comparison of models that are served."""

    name: Name = "comparison"
    questions: str = Field(description="Id of a file: JSONL of id, question, answer, accept, kind, document.")
    training: str | None = Field(
        None, description="Id of the training file; test questions in it are refused."
    )
    cells: dict[Cell, Name] = Field(
        min_length=1, max_length=16, description="Cell to model name, such as rag: smollm2+rag."
    )
    weights: dict[str, float] | None = Field(None, description="Row to weight; see docs/evaluation.md.")
    limit_per_kind: int | None = Field(None, ge=1, description="Only so many questions of each kind.")
    max_tokens: int = Field(48, ge=1, le=4096, description="Answer length in tokens.")
    concurrency: int = Field(4, ge=1, le=64, description="Questions in flight.")


def router(files: Files, launcher: Launcher, config: ServingConfig) -> APIRouter:
    """The endpoints; `launcher` starts the jobs."""
    api = routes_of("Evaluations")
    reports = Reports()

    def own(request: Request) -> list[Report]:
        return [looked_after(report, reports, launcher) for report in reports.list(tenant_of(request))]

    @api.post("/v1/evaluations", summary="Create evaluation", responses=answers(shapes.Evaluation))
    def create(body: EvaluationRequest, request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)
        report = Report(id=new_report_id(), tenant=tenant, name=body.name, status=ReportStatus.QUEUED)
        uri = report_uri(report, "config.yaml")
        place_bytes(yaml.safe_dump(job_config(body, files, tenant, report.id, config)).encode(), uri)
        reports.save(report)
        try:
            launcher.start(report.id, [*PROGRAM, uri, "--project", tenant, "--report", report.id])
        except HamletError as exc:
            reports.save(report.model_copy(update={"status": ReportStatus.FAILED, "error": exc.message}))
            raise
        return report_object(report)

    @api.get("/v1/evaluations", summary="List evaluations", responses=answers(shapes.EvaluationList))
    def listing(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [report_object(report) for report in own(request)]}

    @api.get(
        "/v1/evaluations/{report_id}", summary="Retrieve evaluation", responses=answers(shapes.Evaluation)
    )
    def retrieve(report_id: str, request: Request) -> dict[str, Any]:
        return report_object(looked_after(reports.get(report_id, tenant_of(request)), reports, launcher))

    @api.get(
        "/v1/evaluations/{report_id}/results",
        summary="Retrieve evaluation results",
        responses=answers(dict[str, Any], "Every figure."),
    )
    def results(report_id: str, request: Request) -> Response:
        return Response(reports.results(report_id, tenant_of(request)), media_type="application/json")

    @api.get("/reports", summary="Show reports", response_class=HTMLResponse)
    def index(request: Request) -> HTMLResponse:
        return HTMLResponse(index_page(own(request)), headers=PAGE_HEADERS)

    @api.get("/reports/{report_id}", summary="Show report", response_class=HTMLResponse)
    def page(report_id: str, request: Request) -> HTMLResponse:
        return HTMLResponse(reports.page(report_id, tenant_of(request)), headers=PAGE_HEADERS)

    return api


def job_config(
    body: EvaluationRequest, files: Files, tenant: str, report_id: str, config: ServingConfig
) -> dict[str, Any]:
    """The configuration of `python -m evaluation compare`. Raises NotFound for a file of nobody or of another."""
    asked = body.model_dump(exclude_none=True)
    for name in ("questions", "training"):
        if name in asked:
            try:
                asked[name] = files.get(tenant, asked[name]).uri
            except NotFound as exc:
                raise renamed(exc, {"file_id": name}) from exc
    return asked | {
        "base_url": config.router.base_url.rstrip("/") + "/v1",
        "output": str(settings().home_dir / "evaluations" / report_id),
    }


def looked_after(report: Report, reports: Reports, launcher: Launcher) -> Report:
    """The report, failed where its job has ended without a word; as it last was, while nobody can tell.

    The failure is kept: Ray forgets its jobs, and a listing need not ask for this one again.
    """
    if report.status in ENDS:
        return report
    try:
        run = launcher.look(report.id)
    except Unavailable:
        return report
    if run.state is not RunState.ENDED or run.exit_code == 0:
        return report
    # Read again: the job may have told its end just before it left.
    report = reports.get(report.id, report.tenant)
    if report.status in ENDS:
        return report
    return reports.save(report.model_copy(update={"status": ReportStatus.FAILED, "error": reason_of(run)}))


def report_object(report: Report) -> dict[str, Any]:
    """As the API tells of it; times are Unix seconds, as in OpenAI's objects."""
    return {
        "id": report.id,
        "object": "evaluation",
        "name": report.name,
        "status": report.status.value,
        "stage": report.stage,
        "verdict": report.verdict,
        "error": report.error,
        "created_at": int(report.created_at.timestamp()),
        "finished_at": int(report.finished_at.timestamp()) if report.finished_at else None,
        "url": f"/reports/{report.id}" if report.status is ReportStatus.SUCCEEDED else None,
    }


def index_page(reports: list[Report]) -> str:
    """All reports as one page of links."""
    rows = "".join(
        f"<tr><td>{_link(report)}</td><td>{escape(report.status)}</td><td>{escape(report.verdict or '')}</td>"
        f"<td>{report.created_at:%Y-%m-%d %H:%M}</td></tr>"
        for report in reports
    )
    body = (
        f"<table><tr><th>report</th><th>state</th><th>best</th><th>begun, UTC</th></tr>{rows}</table>"
        if reports
        else "<p>None yet: <code>python -m evaluation compare CONFIG.yaml</code> makes one.</p>"
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1"><title>Reports</title>'
        "<style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;"
        "margin:2rem auto;padding:0 1rem}td,th{text-align:left;padding:.35rem .8rem .35rem 0}</style>"
        f"<h1>Reports</h1>{body}"
    )


def _link(report: Report) -> str:
    name = escape(report.name)
    return f'<a href="/reports/{report.id}">{name}</a>' if report.status is ReportStatus.SUCCEEDED else name
