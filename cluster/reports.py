"""Reports of evaluations in storage, where every replica of the router finds them.

    reports/<id>/state.json    who owns it, what it is, how far it is
    reports/<id>/report.html   the page, once it is finished
    reports/<id>/results.json  every figure

A report is unknown until its state is there. The page is written before the state says that it is finished.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from cluster.blobs import place_bytes, read_blob
from cluster.errors import NotFound
from cluster.storage import folder_names, storage_uri
from cluster.tenants import DEFAULT_TENANT

REPORT_ID = re.compile(r"^eval-[a-z0-9]{4,40}$")


class ReportStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Report(BaseModel):
    """One evaluation, as the HTTP API tells of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    tenant: str = DEFAULT_TENANT
    name: str
    status: ReportStatus = ReportStatus.RUNNING
    stage: str = Field("", description="What it is doing, while it runs.")
    verdict: str | None = Field(None, description="The winner, or what is not told apart; when finished.")
    error: str | None = None
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None


def new_report_id() -> str:
    return f"eval-{secrets.token_hex(6)}"


class Reports:
    """All reports of this storage."""

    def save(self, report: Report) -> Report:
        """Write the state of a report."""
        place_bytes(report.model_dump_json(indent=2).encode(), _uri(report.id, "state.json"))
        return report

    def finish(self, report: Report, html: bytes, results: bytes) -> Report:
        """Write page and figures, then the state that says so."""
        place_bytes(results, _uri(report.id, "results.json"))
        place_bytes(html, _uri(report.id, "report.html"))
        done = {"status": ReportStatus.SUCCEEDED, "stage": "", "finished_at": datetime.now(UTC)}
        return self.save(report.model_copy(update=done))

    def find(self, report_id: str) -> Report | None:
        """The report of this id, whoever owns it: for the job that makes it."""
        content = read_blob(_uri(report_id, "state.json")) if REPORT_ID.match(report_id) else None
        return Report.model_validate_json(content) if content else None

    def get(self, report_id: str, tenant: str = DEFAULT_TENANT) -> Report:
        """Raises NotFound for an unknown id, and for one of another tenant in the same words."""
        report = self.find(report_id)
        if report is None or report.tenant != tenant:
            raise NotFound(f"no evaluation {report_id!r}; see /v1/evaluations", "id", "evaluation_not_found")
        return report

    def list(self, tenant: str = DEFAULT_TENANT) -> list[Report]:
        """The reports of a tenant, newest first."""
        found = map(self.find, folder_names(storage_uri("reports")))
        own = [report for report in found if report is not None and report.tenant == tenant]
        return sorted(own, key=lambda report: (report.created_at, report.id), reverse=True)

    def page(self, report_id: str, tenant: str = DEFAULT_TENANT) -> bytes:
        """The HTML page. Raises NotFound while it is not finished too."""
        return self._finished(report_id, tenant, "report.html")

    def results(self, report_id: str, tenant: str = DEFAULT_TENANT) -> bytes:
        """Every figure, as JSON. Raises NotFound while it is not finished too."""
        return self._finished(report_id, tenant, "results.json")

    def _finished(self, report_id: str, tenant: str, name: str) -> bytes:
        report = self.get(report_id, tenant)
        content = read_blob(_uri(report_id, name))
        if content is None:
            raise NotFound(f"{report_id} has no {name} yet: it is {report.status}", "id", "report_not_ready")
        return content


def _uri(report_id: str, name: str) -> str:
    return storage_uri("reports", report_id, name)
