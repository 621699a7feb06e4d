"""Reports of evaluations in storage, where every replica of the router finds them.

    reports/<tenant>/<id>/config.yaml   what is compared, when it was asked for over HTTP
    reports/<tenant>/<id>/state.json    what it is, how far it is
    reports/<tenant>/<id>/report.html   the page, once it is finished
    reports/<tenant>/<id>/results.json  every figure

By tenant, so that a listing reads nothing of others.
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
        place_bytes(report.model_dump_json(indent=2).encode(), report_uri(report, "state.json"))
        return report

    def finish(self, report: Report, html: bytes, results: bytes) -> Report:
        """Write page and figures, then the state that says so."""
        place_bytes(results, report_uri(report, "results.json"))
        place_bytes(html, report_uri(report, "report.html"))
        done = {"status": ReportStatus.SUCCEEDED, "stage": "", "finished_at": datetime.now(UTC)}
        return self.save(report.model_copy(update=done))

    def find(self, report_id: str, tenant: str = DEFAULT_TENANT) -> Report | None:
        """The report of this id; None for an unknown one, and for one of another tenant."""
        content = _read(report_id, tenant, "state.json")
        return Report.model_validate_json(content) if content else None

    def get(self, report_id: str, tenant: str = DEFAULT_TENANT) -> Report:
        """Raises NotFound for an unknown id, and for one of another tenant in the same words."""
        report = self.find(report_id, tenant)
        if report is None:
            raise NotFound(f"no evaluation {report_id!r}; see /v1/evaluations", "id", "evaluation_not_found")
        return report

    def list(self, tenant: str = DEFAULT_TENANT) -> list[Report]:
        """The reports of a tenant, newest first."""
        found = (self.find(name, tenant) for name in folder_names(storage_uri("reports", tenant)))
        known = [report for report in found if report is not None]
        return sorted(known, key=lambda report: (report.created_at, report.id), reverse=True)

    def page(self, report_id: str, tenant: str = DEFAULT_TENANT) -> bytes:
        """The HTML page. Raises NotFound while it is not finished too."""
        return self._finished(report_id, tenant, "report.html")

    def results(self, report_id: str, tenant: str = DEFAULT_TENANT) -> bytes:
        """Every figure, as JSON. Raises NotFound while it is not finished too."""
        return self._finished(report_id, tenant, "results.json")

    def _finished(self, report_id: str, tenant: str, name: str) -> bytes:
        report = self.get(report_id, tenant)
        content = _read(report_id, tenant, name)
        if content is None:
            raise NotFound(f"{report_id} has no {name} yet: it is {report.status}", "id", "report_not_ready")
        return content


def report_uri(report: Report, name: str) -> str:
    """Where a file of a report is kept."""
    return storage_uri("reports", report.tenant, report.id, name)


def _read(report_id: str, tenant: str, name: str) -> bytes | None:
    return read_blob(storage_uri("reports", tenant, report_id, name)) if REPORT_ID.match(report_id) else None
