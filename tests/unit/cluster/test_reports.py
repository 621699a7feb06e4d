from __future__ import annotations

from pathlib import Path

import pytest

from cluster import reports as reports_module
from cluster.blobs import read_blob
from cluster.errors import NotFound, Unavailable
from cluster.reports import Report, Reports, ReportStatus, new_report_id
from cluster.router_policy import RouterPolicy, policy_uri, read_policy, remove_policy, write_policy
from cluster.settings import settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMLET_HOME", str(tmp_path))
    settings.cache_clear()


def test_a_report_is_found_again_with_its_page_once_it_is_finished() -> None:
    reports = Reports()
    report = reports.save(Report(id=new_report_id(), name="a"))
    with pytest.raises(NotFound, match="it is running"):
        reports.page(report.id)
    reports.finish(report, b"<p>page</p>", b"{}")
    assert reports.get(report.id).status is ReportStatus.SUCCEEDED
    assert (reports.page(report.id), reports.results(report.id)) == (b"<p>page</p>", b"{}")


def test_reports_are_listed_newest_first_and_by_tenant() -> None:
    reports = Reports()
    assert reports.list() == []
    first, second = (reports.save(Report(id=new_report_id(), name=name)) for name in "ab")
    reports.save(Report(id=new_report_id(), name="c", tenant="acme"))
    assert [report.id for report in reports.list()] == [second.id, first.id]


def test_a_listing_reads_nothing_of_other_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = Reports()
    for name in "abc":
        reports.save(Report(id=new_report_id(), name=name, tenant="acme"))
    own = reports.save(Report(id=new_report_id(), name="d"))
    read: list[str] = []

    def reading(uri: str) -> bytes | None:
        read.append(uri)
        return read_blob(uri)

    monkeypatch.setattr(reports_module, "read_blob", reading)
    assert reports.list() == [own]
    assert [uri for uri in read if "acme" in uri] == []
    assert len(read) == 1


def test_a_tenant_may_be_called_as_reports_are() -> None:
    reports = Reports()
    report = Report(id=new_report_id(), name="a", tenant="eval-team")
    reports.save(report)
    assert (reports.list("eval-team"), reports.list()) == ([report], [])


def test_another_tenants_report_is_unknown_in_the_words_of_an_unknown_id() -> None:
    reports = Reports()
    theirs = reports.save(Report(id=new_report_id(), name="c", tenant="acme"))
    unknown = new_report_id()
    with pytest.raises(NotFound) as of_another:
        reports.get(theirs.id)
    with pytest.raises(NotFound) as of_nobody:
        reports.get(unknown)
    assert str(of_another.value).replace(theirs.id, unknown) == str(of_nobody.value)


@pytest.mark.parametrize("hostile", ["../policies", "eval-../../x", "", "state.json"])
def test_an_id_that_is_none_is_never_looked_for(hostile: str) -> None:
    with pytest.raises(NotFound):
        Reports().get(hostile)


def test_a_promoted_policy_replaces_the_one_before_and_can_be_taken_away() -> None:
    assert read_policy() is None
    first = RouterPolicy(grounded_route="rag", score_threshold=0.3)
    second = RouterPolicy(grounded_route="tuned", score_threshold=0.4, tuned_model="ft:x")
    assert write_policy(first) is None
    assert write_policy(second) == first
    assert read_policy() == second
    remove_policy()
    assert read_policy() is None


def test_a_broken_policy_is_named_and_another_can_be_promoted() -> None:
    policy = RouterPolicy(grounded_route="rag", score_threshold=0.3)
    write_policy(policy)
    Path(policy_uri()).write_text("{")
    with pytest.raises(Unavailable, match=r"no router policy.*promote an evaluation again"):
        read_policy()
    assert write_policy(policy) is None
    assert read_policy() == policy
