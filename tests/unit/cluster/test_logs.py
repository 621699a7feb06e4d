"""No secret reaches a log line."""

from __future__ import annotations

import logging
import sys

import pytest

from cluster.logs import RedactingFormatter, environment_secrets, redact, set_up_logging


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer ***"),
        ("token=abc", "token=***"),
        ("HAMLET_QDRANT_API_KEY='k1'", "HAMLET_QDRANT_API_KEY='***'"),
        ('{"api_key": "abc", "n": 1}', '{"api_key": "***", "n": 1}'),
        ("password: s3cret!", "password: ***"),
        ("postgresql+psycopg://ann:pw@db:5432/x", "postgresql+psycopg://ann:***@db:5432/x"),
        ("use sk-abcdefghijklmnopqrst now", "use sk-*** now"),
        ("hf_abcdefghijklmnopqrstuv", "hf_***"),
        ("AWS_SECRET_ACCESS_KEY=abc/def", "AWS_SECRET_ACCESS_KEY=***"),
        ("HF_INFERENCE_ENDPOINT_TOKEN=abc", "HF_INFERENCE_ENDPOINT_TOKEN=***"),
        (f"{'my-' * 100}password=abc", f"{'my-' * 100}password=***"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=64",
        "275 tokens/s",
        "trained_tokens: 1200",
        "http://127.0.0.1:8265/api/jobs",
        "the token in /root/.ray/auth_token",
    ],
)
def test_what_only_resembles_one_stays(text: str) -> None:
    assert redact(text) == text


def test_values_of_secret_variables_are_hidden_wherever_they_stand() -> None:
    secrets = environment_secrets({"HF_TOKEN": "plainword", "QDRANT_API_KEY": "another1", "PATH": "/usr/bin"})
    assert (
        redact("asked with plainword and another1 in /usr/bin", secrets)
        == "asked with *** and *** in /usr/bin"
    )


def test_a_short_value_is_no_secret_because_it_would_blot_out_words() -> None:
    assert environment_secrets({"MY_TOKEN": "on"}) == frozenset()


def test_arguments_and_tracebacks_are_redacted_as_well() -> None:
    try:
        raise ValueError("refused token=abc123")
    except ValueError:
        record = logging.LogRecord(
            "cluster", logging.ERROR, "", 0, "with %s", ("password=x1y2",), sys.exc_info()
        )
    line = RedactingFormatter("%(message)s").format(record)
    assert "abc123" not in line
    assert "x1y2" not in line
    assert "Traceback" in line


def test_setting_up_twice_does_not_double_the_lines() -> None:
    def num_handlers() -> int:
        handlers = logging.getLogger().handlers
        return sum(isinstance(handler.formatter, RedactingFormatter) for handler in handlers)

    set_up_logging("INFO")
    set_up_logging("DEBUG")
    assert num_handlers() == 1
    assert logging.getLogger("training").level == logging.DEBUG
    assert logging.getLogger("httpx").getEffectiveLevel() == logging.WARNING
