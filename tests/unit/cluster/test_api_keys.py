from __future__ import annotations

import logging
import re

import pytest
from played_clock import Clock
from typer.testing import CliRunner

from cluster.__main__ import app
from cluster.api_keys import ApiKeys, Area, make_key, secret_digest
from cluster.audit_log import AuditEvent, AuditLog
from cluster.database import open_database
from cluster.errors import InvalidInput, NotFound
from cluster.keys_cli import create, duration_s
from cluster.logs import redact


@pytest.fixture
def keys(clock: Clock) -> ApiKeys:
    return ApiKeys(open_database(), clock)


def test_a_secret_is_kept_nowhere_and_recognised(keys: ApiKeys) -> None:
    key, secret = keys.create("ann", ["files"], "laptop")
    (kept,) = keys.list()
    assert kept == key
    assert secret not in repr(kept)
    assert kept.secret_sha256 == secret_digest(secret)
    assert secret.endswith(kept.hint)


def test_two_secrets_are_never_the_same_and_hard_to_guess() -> None:
    secrets = {make_key("ann")[1] for _ in range(100)}
    assert len(secrets) == 100
    assert min(map(len, secrets)) > 43


@pytest.mark.parametrize(
    ("scopes", "area", "writes", "allowed"),
    [
        (["files"], Area.FILES, True, True),
        (["files"], Area.FINE_TUNING, False, False),
        (["files:read"], Area.FILES, False, True),
        (["files:read"], Area.FILES, True, False),
        (["admin"], Area.VECTOR_STORES, True, True),
        (["admin:read"], Area.VECTOR_STORES, False, False),
    ],
)
def test_scopes_open_areas(scopes: list[str], area: Area, writes: bool, allowed: bool) -> None:
    assert make_key("ann", scopes)[0].allows(area, writes) is allowed


@pytest.mark.parametrize("tenant", ["", "Ann", "../x", "a b", "-a", "a" * 41])
def test_a_project_has_a_name_that_can_be_a_folder(tenant: str) -> None:
    with pytest.raises(InvalidInput, match="project"):
        make_key(tenant)


@pytest.mark.parametrize("scopes", [[], ["everything"], ["files", "files:write"]])
def test_unknown_scopes_are_refused(scopes: list[str]) -> None:
    with pytest.raises(InvalidInput, match="choose from"):
        make_key("ann", scopes)


def test_a_note_longer_than_is_kept_is_refused() -> None:
    assert len(make_key("ann", name="x" * 128)[0].name) == 128
    with pytest.raises(InvalidInput, match="129 characters"):
        make_key("ann", name="x" * 129)


def test_a_rotated_key_ends_after_its_grace_and_its_successor_lives_as_long(
    keys: ApiKeys, clock: Clock
) -> None:
    old, _ = keys.create("ann", ["files"], "laptop", expires_in_s=1000)
    clock.now += 600
    new, _ = keys.rotate(old.id, grace_s=60)
    before, after = keys.list()
    assert (after.tenant, after.scopes, after.name) == ("ann", ("files",), "laptop")
    assert new.expires_at == clock.now + 1000
    assert before.is_valid(clock.now + 59)
    assert not before.is_valid(clock.now + 60)


def test_grace_does_not_make_a_key_live_longer(keys: ApiKeys, clock: Clock) -> None:
    old, _ = keys.create("ann", expires_in_s=10)
    keys.rotate(old.id, grace_s=1000)
    assert not keys.list()[0].is_valid(clock.now + 10)


def test_a_revoked_key_stays_revoked_and_cannot_be_rotated(keys: ApiKeys, clock: Clock) -> None:
    key, _ = keys.create("ann")
    at = keys.revoke(key.id).revoked_at
    clock.now += 5
    assert keys.revoke(key.id).revoked_at == at
    assert not keys.list()[0].is_valid(clock.now)
    with pytest.raises(InvalidInput, match="revoked"):
        keys.rotate(key.id)
    with pytest.raises(NotFound):
        keys.revoke("key_unknown")


def test_a_secret_that_is_logged_is_hidden() -> None:
    _, secret = make_key("ann")
    assert secret not in redact(f"request with {secret} failed")


@pytest.mark.parametrize("text", ["4000000d", "999999999999w"])
def test_a_duration_beyond_every_calendar_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="more than 100 years"):
        duration_s(text, "expires")


def test_a_key_that_would_never_work_is_not_made() -> None:
    with pytest.raises(InvalidInput, match="never works"):
        create(expires="0s")
    assert ApiKeys().list() == []


def test_a_duration_has_a_number_and_a_unit() -> None:
    assert [duration_s(text, "expires") for text in ("90d", "12h", "30m", "1w")] == [
        7_776_000,
        43_200,
        1800,
        604_800,
    ]
    for text in ("", "soon", "90", "-1d", "1.5h"):
        with pytest.raises(InvalidInput, match="duration"):
            duration_s(text, "expires")


def test_the_audit_log_says_who_did_what_newest_first() -> None:
    log = AuditLog(open_database())
    log.add(AuditEvent("ann", "key_1", "POST /v1/files", "file-1", 200, "req_1", at=5.0))
    log.add(AuditEvent("bob", "key_2", "DELETE /v1/files/" + "x" * 1000, "", 404))
    assert [event.tenant for event in log.newest()] == ["bob", "ann"]
    assert log.newest(tenant="ann") == [
        AuditEvent("ann", "key_1", "POST /v1/files", "file-1", 200, "req_1", 5.0)
    ]
    assert len(log.newest(limit=1)[0].action) == 512
    assert log.newest(limit=1)[0].at > 1_700_000_000


def test_what_a_database_cannot_hold_is_left_out_of_the_audit_log() -> None:
    log = AuditLog(open_database())
    log.add(AuditEvent("ann", "key_1", "POST /v1/fine_tuning/jobs/a\0b/cancel" + "x" * 512, ""))
    (event,) = log.newest()
    assert event.action == ("POST /v1/fine_tuning/jobs/a\N{REPLACEMENT CHARACTER}b/cancel" + "x" * 512)[:512]


def test_the_command_line_prints_a_secret_once_and_records_what_was_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    runner = CliRunner()
    made = runner.invoke(app, ["keys", "create", "--project", "ann", "--scope", "files", "--expires", "90d"])
    assert made.exit_code == 0
    secret = made.stdout.strip()
    assert re.fullmatch(r"sk-hamlet-[\w-]{43}", secret)
    (key,) = ApiKeys().list()
    listed = runner.invoke(app, ["keys", "list", "--json"])
    assert key.id in listed.stdout
    assert secret not in listed.stdout
    assert secret_digest(secret) not in listed.stdout
    rotated = runner.invoke(app, ["keys", "rotate", key.id, "--grace", "0s"])
    assert rotated.stdout.strip() not in ("", secret)
    assert runner.invoke(app, ["keys", "revoke", key.id]).exit_code == 0
    audit = runner.invoke(app, ["audit", "--json"]).stdout
    assert [line.split('"action": ')[1][:15] for line in audit.splitlines()] == [
        '"keys revoke", ',
        '"keys rotate", ',
        '"keys create", ',
    ]
    assert secret not in audit + caplog.text


def test_a_project_without_keys_is_not_an_api_that_asks_for_none() -> None:
    runner = CliRunner()
    assert "asks for none" in runner.invoke(app, ["keys", "list"]).stdout
    runner.invoke(app, ["keys", "create", "--project", "ann"])
    assert runner.invoke(app, ["keys", "list", "--project", "[an]"]).stdout == "Project [an] has no keys.\n"
    audit = runner.invoke(app, ["audit", "--project", "[an]"])
    assert audit.stdout == "Nothing has been done yet in project [an].\n"
