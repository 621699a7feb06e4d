"""How many tokens a text has, for a splitter that asks about the same words ten times over."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

# Words whose counts are kept, and the longest of them: some megabytes at most. Base64 and the like never come again.
MAX_WORDS = 1 << 16
MAX_WORD_CHARACTERS = 100


class TokenCounter:
    """Counts without the special tokens, and without the truncation or padding that `tokenizer` may have."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._words = _Words(self._tokenizer) if counts_add_up(self._tokenizer) else None

    def count(self, text: str) -> int:
        if self._words is None:
            return _encoded(self._tokenizer, text)
        # Commas are words of their own: the cells of a row come again, the row does not.
        parted = text.replace("\n", " ").replace("\t", " ").replace(",", " , ")
        return sum(map(self._words.__getitem__, parted.split(" ")))

    def clip(self, text: str, limit: int) -> str:
        """The text's first `limit` tokens."""
        if self.count(text) <= limit:
            return text
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return text[: offsets[limit - 1][1]].rstrip() if limit else ""


class _Words(dict[str, int]):
    """The tokens of each word that was met."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> int:
        count = _encoded(self._tokenizer, word)
        if len(word) <= MAX_WORD_CHARACTERS:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = count
        return count


def counts_add_up(tokenizer: Tokenizer) -> bool:
    """Whether a text has as many tokens as its words and commas, each by itself; what else parts words is no token.

    It does where BERT's rules drop white space and part words at commas before anything is looked up. Others make white
    space a part of tokens.
    """
    return (
        isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and isinstance(tokenizer.normalizer, BertNormalizer | None)
        and not any(
            set(token.content) & set(" \n\t,") for token in tokenizer.get_added_tokens_decoder().values()
        )
    )


def _encoded(tokenizer: Tokenizer, text: str) -> int:
    # Without offsets, which cost a fifth more.
    [encoding] = tokenizer.encode_batch_fast([text], add_special_tokens=False)
    return len(encoding)
