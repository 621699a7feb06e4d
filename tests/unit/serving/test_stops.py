from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.stops import StopFilter, TokenDecoder


def test_beginning_of_a_stop_sequence_is_held_back_until_it_is_complete() -> None:
    stop = StopFilter(["\nUser:"])
    shown = [stop.feed(token) for token in ("Total", ": 4", "\nUs", "er:", " hi")]
    assert shown == ["Total", ": 4", "", "", ""]
    assert stop.stopped


def test_text_held_back_is_released_when_the_match_fails() -> None:
    stop = StopFilter(["\nUser:"])
    assert stop.feed("\nUse") == ""
    assert stop.feed("d") == "\nUsed"
    assert not stop.stopped


def test_text_held_back_at_the_end_is_released() -> None:
    stop = StopFilter(["###"])
    assert stop.feed("a##") == "a"
    assert stop.flush() == "##"


def test_the_earliest_of_several_stop_sequences_wins() -> None:
    stop = StopFilter(["xyz", "b"])
    assert stop.feed("abxyz") == "a"
    assert stop.stopped


@given(st.lists(st.text("ab\n", max_size=4), max_size=8), st.lists(st.text("ab\n", min_size=1, max_size=3)))
def test_pieces_show_what_the_whole_text_would(pieces: list[str], stops: list[str]) -> None:
    stop = StopFilter(stops)
    shown = "".join(map(stop.feed, pieces)) + stop.flush()
    text = "".join(pieces)
    cuts = [text.find(each) for each in stops if each in text]
    # The earliest end decides, since the filter cannot look ahead; it never shows a stop sequence.
    assert text.startswith(shown)
    if not cuts:
        assert shown == text
    else:
        assert stop.stopped
        assert not any(each in shown for each in stops)


def _decode(token_ids: list[int]) -> str:
    return bytes(token_ids).decode(errors="replace")


@pytest.mark.parametrize("text", ["ok 👍🏽 done", "Größe", "日本語", "plain"])
def test_characters_split_over_tokens_come_whole(text: str) -> None:
    decoder = TokenDecoder(_decode)
    pieces = [decoder.feed(byte) for byte in text.encode()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_what_a_token_would_complete_is_what_it_completes() -> None:
    decoder = TokenDecoder(_decode)
    for byte in "Größe 👍".encode():
        decoder.peek(ord("x"))
        peeked = decoder.peek(byte)
        assert decoder.feed(byte) == (peeked or "")


def test_bytes_that_are_no_character_do_not_hold_the_stream_for_ever() -> None:
    decoder = TokenDecoder(_decode)
    pieces = [decoder.feed(byte) for byte in b"\xff\xff\xff\xff\xff\xffab"]
    assert "".join(pieces).endswith("ab")
