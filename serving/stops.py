"""Stop sequences and characters that arrive in pieces. Pure; shared by the engines that have neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class StopFilter:
    """Passes text on except what may be the beginning of a stop sequence.

    >>> stop = StopFilter(["\\nUser:"])
    >>> stop.feed("4\\nUs"), stop.feed("ed"), stop.feed("\\nUser: hi")
    ('4', '\\nUsed', '')
    >>> stop.stopped
    True
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The part of all text so far that can be shown now and was not before."""
        if self.stopped:
            return ""
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            shown, self._held, self.stopped = self._held[: min(found)], "", True
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back, once it is known that nothing follows."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


class TokenDecoder:
    """Token ids to text, one token at a time, holding back a character whose bytes are not all there.

    `decode` turns a list of token ids into text and shows missing bytes as U+FFFD, as tokenizers do.
    """

    # A character has at most 4 bytes and so at most 4 byte tokens; U+FFFD beyond that is the text itself.
    MAX_HELD_TOKENS = 4

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._token_ids: list[int] = []
        self._context_start = 0  # decoding starts here, so that joining spaces come out right
        self._shown_end = 0  # tokens before this one have been shown

    def feed(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        completed = self.peek(token_id)
        self._token_ids.append(token_id)
        if completed is None:
            return ""
        self._context_start, self._shown_end = self._shown_end, len(self._token_ids)
        return completed

    def peek(self, token_id: int) -> str | None:
        """The text that this token would complete as the next one; None where it would leave a character unfinished."""
        shown = self._decode(self._token_ids[self._context_start : self._shown_end])
        text = self._decode([*self._token_ids[self._context_start :], token_id])
        num_held = len(self._token_ids) + 1 - self._shown_end
        if text.endswith("\ufffd") and num_held < self.MAX_HELD_TOKENS:
            return None
        return text[len(shown) :]
