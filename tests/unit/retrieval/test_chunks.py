from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ConfigError
from retrieval.chunks import MAX_CHARACTERS_PER_TOKEN, Chunk, Chunker
from retrieval.documents import Content, Document, Section, Table
from retrieval.readers.markdown import parse_markdown
from retrieval.readers.records import read_json
from retrieval.vectorizer import HashEmbedder

EMBEDDER = HashEmbedder()


def chunker(chunk_tokens: int = 60, overlap: int = 10, context_tokens: int = 20) -> Chunker:
    return Chunker(EMBEDDER.tokenizer, 256, chunk_tokens, overlap, context_tokens, special_tokens=2)


def document(content: Content | str, title: str = "T") -> Document:
    if isinstance(content, str):
        content = Content(content, (Section(0, len(content)),))
    return Document("d", title, "d.txt", content)


def require_sound(document: Document, chunks: list[Chunk], limit: int = 60) -> None:
    """What holds for the chunks of any document."""
    cutter = chunker()
    covered = bytearray(len(document.text))
    for position, chunk in enumerate(chunks):
        assert chunk.position == position
        assert document.text[chunk.start : chunk.end] == chunk.text
        assert cutter.count(chunk.text) <= limit
        assert len(chunk.text) <= limit * MAX_CHARACTERS_PER_TOKEN
        assert cutter.count(chunk.context) <= 20
        covered[chunk.start : chunk.end] = b"\x01" * len(chunk.text)
    for before, after in pairwise(chunks):
        assert before.start < after.start, "in order"
        assert before.end < after.end, "never inside one another"
    lost = [character for character, seen in zip(document.text, covered, strict=True) if not seen]
    assert not "".join(lost).strip(), "only white space lies outside of chunks"


any_text = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("a é\n\n .。汉字\t|-#`")),
    max_size=2000,
)
# Each is one token, of more characters than a token's share of a chunk; a hash, a URL, a picture in base64.
long_words = st.lists(
    st.sampled_from(["a" * 128, "b" * 300, "c" * 1500, "word", "End.", "\n", "\n\n"]), min_size=1, max_size=12
).map(lambda words: " ".join(words * (100 // len(words))))


@settings(max_examples=100)
@given(any_text)
def test_chunks_of_any_text_are_exact_small_enough_and_lose_nothing(text: str) -> None:
    plain = document(text)
    require_sound(plain, chunker().cut(plain))


@settings(max_examples=20)
@given(long_words)
def test_chunks_of_very_long_words_are_exact_small_enough_and_lose_nothing(text: str) -> None:
    plain = document(text)
    require_sound(plain, chunker().cut(plain))


@settings(max_examples=100)
@given(st.lists(st.sampled_from(["# A", "## B", "### C c", "a b c. " * 30, "|x|y|", "|-|-|", "", "```"])))
def test_chunks_of_any_markdown_are_exact_small_enough_and_lose_nothing(lines: list[str]) -> None:
    marked = document(parse_markdown("\n".join(lines)))
    require_sound(marked, chunker().cut(marked))


def test_text_without_spaces_is_cut() -> None:
    for text in (
        "汉字没有空格" * 500,
        json.dumps({"key": list(range(3000))}, separators=(",", ":")),
        "a" * 10_000,
    ):
        plain = document(text)
        chunks = chunker().cut(plain)
        require_sound(plain, chunks)
        assert len(chunks) > 1


def test_a_text_without_sentences_is_cut_in_windows_as_it_is_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoken = document(" ".join(f"word{n % 97}" for n in range(10_000)))
    monkeypatch.setattr("retrieval.chunks.WINDOW_CHUNKS", 10_000)
    whole = chunker().cut(spoken)
    monkeypatch.setattr("retrieval.chunks.WINDOW_CHUNKS", 8)
    in_windows = chunker().cut(spoken)
    assert in_windows == whole
    require_sound(spoken, in_windows)


def test_lines_of_hashes_are_cut_into_no_more_chunks_than_they_fill() -> None:
    sums = document("\n".join(f"{n:0128x}  file{n}" for n in range(200)))
    chunks = chunker().cut(sums)
    require_sound(sums, chunks)
    assert sum(len(chunk.text) for chunk in chunks) < 2 * len(sums.text)


def test_a_wide_table_ends_and_keeps_every_cell() -> None:
    cells = [[f"r{row}c{column}" for column in range(8)] for row in range(100)]
    rows = ["| " + " | ".join(row) + " |" for row in cells]
    text = "\n".join([rows[0], "|" + "|".join(["-" * 200] * 8) + "|", *rows[1:]])
    table = document(parse_markdown(text))
    chunks = chunker().cut(table)
    require_sound(table, chunks)
    assert all(any(cell in chunk.text for chunk in chunks) for row in cells for cell in row)


def test_every_chunk_of_a_table_is_read_with_its_caption_and_header() -> None:
    rows = "\n".join(f"| Q{1 + n % 4} {2010 + n // 4} | {n * 17} |" for n in range(60))
    text = f"# Report\n\nRevenue 2010-2024\n\n| quarter | euros |\n|---|---|\n{rows}\n\nThe end."
    chunks = chunker().cut(document(parse_markdown(text), title="Report"))
    (first,) = [chunk for chunk in chunks if "| quarter" in chunk.text]
    assert first.context == "Report\nRevenue 2010-2024"
    inside = [chunk for chunk in chunks if "| Q" in chunk.text and "| quarter" not in chunk.text]
    assert len(inside) > 3
    for chunk in inside:
        assert "Revenue 2010-2024\n| quarter | euros |" in chunk.context
        assert "quarter" not in chunk.text


def test_a_table_named_as_its_heading_is_told_it_once() -> None:
    header = "| quarter | euros |\n|---|---|"
    table = header + "".join(f"\n| {n} | {n * 17} |" for n in range(60))
    section = Section(0, len(table), ("Sheet",), tables=(Table(0, len(table), header, "Sheet"),))
    chunks = chunker().cut(document(Content(table, (section,)), title="Book"))
    assert chunks[0].context == "Book\nSheet"
    assert {chunk.context for chunk in chunks[1:]} == {f"Book\nSheet\n{header}"}


def test_chunks_do_not_cross_headings_and_know_theirs() -> None:
    text = "# Guide\n\nIntro.\n\n## Leave\n\nTake it.\n\n### Sick\n\nStay home.\n\n## Pay\n\nMonthly."
    chunks = chunker().cut(document(parse_markdown(text), title="Guide"))
    assert [chunk.headings for chunk in chunks] == [
        ("Guide",),
        ("Guide", "Leave"),
        ("Guide", "Leave", "Sick"),
        ("Guide", "Pay"),
    ]
    assert chunks[2].text == "### Sick\n\nStay home."
    # Its own heading stands in the text already.
    assert chunks[2].context == "Guide > Leave"


def test_neighbours_of_one_section_overlap() -> None:
    words = " ".join(f"w{n}." for n in range(300))
    chunks = chunker().cut(document(words))
    assert all(before.end > after.start for before, after in pairwise(chunks))


def test_equal_pages_stay_two_chunks() -> None:
    page = "The same words on two pages."
    text = f"{page}\n\n{page}"
    sections = (Section(0, len(page), page=3), Section(len(page) + 2, len(text), page=9))
    chunks = chunker().cut(document(Content(text, sections)))
    assert [(chunk.page, chunk.text) for chunk in chunks] == [(3, page), (9, page)]


def test_a_title_longer_than_its_budget_is_clipped() -> None:
    title = " ".join(["word"] * 300)
    chunks = chunker().cut(document("Some text.", title=title))
    assert chunks[0].context == " ".join(["word"] * 20)
    assert chunks[0].text == "Some text."


def test_minified_json_becomes_lines_that_can_be_found() -> None:
    content = read_json(json.dumps({"a": {"b": 1, "c": ["x", "y"]}, "d": None}).encode())
    assert content.text == "a.b: 1\na.c: x, y"


def test_chunk_and_context_that_do_not_fit_the_embedder_are_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"chunk_tokens \(240\) \+ context_tokens \(48\).*256"):
        Chunker(EMBEDDER.tokenizer, 256, 240, 0, 48, special_tokens=2)
