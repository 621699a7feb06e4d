from __future__ import annotations

from pathlib import Path

from cluster.last_words import TAIL_BYTES, last_line_of


def test_the_last_words_of_a_log_are_its_last_line_that_says_something(tmp_path: Path) -> None:
    log = tmp_path / "head.log"
    assert last_line_of(log, "it said nothing") == "it said nothing"
    log.write_text("é" * TAIL_BYTES + "\n  line\nValueError: no such port\n\n")
    assert last_line_of(log, "it said nothing") == "ValueError: no such port"
