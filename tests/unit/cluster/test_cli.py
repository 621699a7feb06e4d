"""How command lines end."""

from __future__ import annotations

import logging

import pytest
import typer

from cluster.cli import run
from cluster.errors import NotFound
from cluster.settings import settings


def end_of(action: object, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Exit code of a command line whose only command does `action`."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(action)  # type: ignore[type-var]
    monkeypatch.setattr("sys.argv", ["prog", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(app)
    return ended.value.code


def test_an_error_of_ours_is_one_line_on_stderr_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise NotFound("no model 'x';\n  pull it first")

    assert end_of(fail, monkeypatch) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: no model 'x'; pull it first\n"
    assert captured.out == ""


def test_a_secret_in_an_error_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise NotFound("no database at postgresql://ann:hunter2@db/x")

    end_of(fail, monkeypatch)
    assert "hunter2" not in capsys.readouterr().err


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert end_of(interrupt, monkeypatch) == 130


def test_an_unknown_option_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> None: ...

    assert end_of(nothing, monkeypatch, "--no-such-option") == 2


def test_a_command_keeps_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def found_a_problem() -> None:
        raise typer.Exit(1)

    assert end_of(found_a_problem, monkeypatch) == 1


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty() -> None:
        raise ZeroDivisionError

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(faulty)
    monkeypatch.setattr("sys.argv", ["prog"])
    with pytest.raises(ZeroDivisionError):
        run(app)


def test_a_wrong_setting_is_an_error_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HAMLET_RAY_PORT", "80")
    settings.cache_clear()

    assert end_of(lambda: None, monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: HAMLET_RAY_PORT='80': ")
    assert error.count("\n") == 1


def test_the_log_level_comes_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMLET_LOG_LEVEL", "ERROR")
    settings.cache_clear()

    end_of(lambda: None, monkeypatch)
    assert logging.getLogger("cluster").level == logging.ERROR


@pytest.mark.parametrize(
    ("argument", "reason"),
    [("", "an argument is empty; set the shell variable"), ("caf\udce9.md", "is not UTF-8; rename the file")],
)
def test_an_argument_that_no_command_can_use_is_refused(
    argument: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(name: str) -> None: ...

    assert end_of(command, monkeypatch, argument) == 2
    assert reason in capsys.readouterr().err


def test_text_of_any_language_and_line_is_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(question: str) -> None: ...

    assert end_of(command, monkeypatch, "wie groß?\nمی‌خواهم") == 0
