"""What is indexed: chunks, cut from a document's sections and counted in the embedder's tokens.

The cutting itself is semantic-text-splitter's: at the highest boundary that fits, from blank lines through
sentences and words down to graphemes, in any script. What is added here is where a cut must fall (sections),
what is repeated in front (context), and the guarantee that a chunk is an exact slice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from cluster.errors import ConfigError
from retrieval.documents import Document, Section, Table
from retrieval.token_counter import TokenCounter

# A tokenizer may take a run of any length for one token (BERT: `[UNK]` for a word above 100 characters).
# Prompts are built from chunks with other tokenizers, so a chunk is bounded in characters too.
MAX_CHARACTERS_PER_TOKEN = 16
# Where no sentence ends for long, the splitter reads all that is left of a text for each chunk: 4 MB of a transcript
# without punctuation took a minute. So it reads windows, of so many of the longest chunks each. None of them ends where
# the text does, so that its last chunks are cut again in the next one.
WINDOW_CHUNKS, UNSURE_CHUNKS = 64, 8
# Context lines and text are joined by at most two line feeds, a token each in some vocabularies.
LINE_FEEDS = 2


@dataclass(frozen=True)
class Chunk:
    """A slice of a document: `document.text[start:end] == text`, always.

    `position` counts from 0 within the document. `context` is title, headings and table header: embedded
    and searched together with the text, shown before it, and no part of it.
    """

    document_id: str
    position: int
    text: str
    start: int
    end: int
    headings: tuple[str, ...]
    page: int | None
    context: str

    @property
    def indexed_text(self) -> str:
        """What is embedded and what BM25 sees."""
        return indexed_text(self.context, self.text)


def indexed_text(context: str, text: str) -> str:
    return f"{context}\n{text}" if context else text


class Chunker:
    """Cuts documents for one embedder.

    `max_tokens` is what the embedder takes, `special_tokens` what it adds to a text. Raises ConfigError when
    text and context together would not fit, naming the numbers.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        chunk_tokens: int,
        chunk_overlap_tokens: int,
        context_tokens: int,
        special_tokens: int,
    ) -> None:
        special_tokens += LINE_FEEDS
        needed = chunk_tokens + context_tokens + special_tokens
        if needed > max_tokens:
            raise ConfigError(
                f"chunk_tokens ({chunk_tokens}) + context_tokens ({context_tokens}) + {special_tokens} special"
                f" ones = {needed} do not fit the embedder's {max_tokens} tokens; lower one of them",
                "chunk_tokens",
            )
        self._chunk_tokens = chunk_tokens
        self._context_tokens = context_tokens
        self._cut = [chunk_tokens, chunk_overlap_tokens, context_tokens]
        self._counter = TokenCounter(tokenizer)
        self._by_tokens = TextSplitter.from_callback(self.count, chunk_tokens, chunk_overlap_tokens)
        self._by_characters = TextSplitter(chunk_tokens * MAX_CHARACTERS_PER_TOKEN)

    def cut(self, document: Document) -> list[Chunk]:
        """The chunks of a document, in reading order, none inside another."""
        chunks: list[Chunk] = []
        for section in document.content.sections:
            for start, end, header in self._spans(document.text, section):
                text = document.text[start:end]
                chunks.append(
                    Chunk(
                        document_id=document.id,
                        position=len(chunks),
                        text=text,
                        start=start,
                        end=end,
                        headings=section.headings,
                        page=section.page,
                        context=self._context(document.title, section.headings, header, text),
                    )
                )
        return chunks

    def sha256(self, document: Document) -> str:
        """Hash of what a document's chunks are made of: equal for copies under other names that are cut alike."""
        return hashlib.sha256(json.dumps([document.content_sha256, self._cut]).encode()).hexdigest()

    def count(self, text: str) -> int:
        """Tokens of a text, without the special ones."""
        return self._counter.count(text)

    def _spans(self, text: str, section: Section) -> Iterator[tuple[int, int, str]]:
        """(start, end, what is shown before it of its table) of each chunk of a section."""
        start, end = _stripped(text, section.start, section.end)
        if start == end:
            return
        if self._fits(text[start:end]):
            yield start, end, ""
            return
        for piece_start, piece_end, table in _pieces(section):
            # Once for a table: a header of hundreds of columns takes as long to clip as a chunk to embed.
            first, later = (
                self._counter.clip(table.shown_before(is_beginning=is_beginning), self._context_tokens)
                if table
                else ""
                for is_beginning in (True, False)
            )
            for number, span in enumerate(self._split(text, piece_start, piece_end)):
                yield *span, later if number else first

    def _fits(self, text: str) -> bool:
        limit = self._chunk_tokens
        return len(text) <= limit * MAX_CHARACTERS_PER_TOKEN and self.count(text) <= limit

    def _split(self, text: str, start: int, end: int) -> list[tuple[int, int]]:
        """(start, end) of each chunk of a span, in order, none inside another."""
        spans: list[tuple[int, int]] = []
        for offset, piece in self._fitting(text[start:end]):
            # Where tokens are very long, what neighbouring pieces share may be longer than a chunk.
            for inner, part in self._cut_long(piece):
                first = start + offset + inner
                last = first + len(part)
                while spans and first <= spans[-1][0]:
                    spans.pop()
                if not spans or last > spans[-1][1]:
                    spans.append((first, last))
        return spans

    def _fitting(self, text: str) -> Iterator[tuple[int, str]]:
        """What the splitter makes of a text, of which it is given a window at a time."""
        offset, window = 0, WINDOW_CHUNKS * self._chunk_tokens * MAX_CHARACTERS_PER_TOKEN
        while len(text) - offset > window:
            found = self._by_tokens.chunk_indices(text[offset : offset + window])
            if len(found) <= UNSURE_CHUNKS:
                break
            yield from ((offset + start, piece) for start, piece in found[:-UNSURE_CHUNKS])
            offset += found[-UNSURE_CHUNKS][0]
        yield from ((offset + start, piece) for start, piece in self._by_tokens.chunk_indices(text[offset:]))

    def _cut_long(self, piece: str) -> Sequence[tuple[int, str]]:
        if len(piece) <= self._chunk_tokens * MAX_CHARACTERS_PER_TOKEN:
            return [(0, piece)]
        return self._by_characters.chunk_indices(piece)

    def _context(self, title: str, headings: Sequence[str], header: str, text: str) -> str:
        """Title, headings and table header, which is clipped already, as far as `context_tokens` reach."""
        room = self._context_tokens - self.count(header)
        # A chunk that begins with its heading need not be told it, nor one whose table has its name.
        known = {"", text.split("\n", 1)[0].lstrip("# ").strip(), header.split("\n", 1)[0]}
        path = [part for part in dict.fromkeys([title, *headings]) if part not in known]
        return "\n".join(part for part in (self._counter.clip(" > ".join(path), room), header) if part)


def _pieces(section: Section) -> Iterator[tuple[int, int, Table | None]]:
    """The section cut at its tables: (start, end, the table if it is one)."""
    start = section.start
    for table in section.tables:
        yield start, table.start, None
        yield table.start, table.end, table
        start = table.end
    yield start, section.end, None


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    body = text[start:end]
    return start + len(body) - len(body.lstrip()), start + len(body.rstrip())
