from __future__ import annotations

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from retrieval import token_counter
from retrieval.token_counter import TokenCounter, counts_add_up


def bert() -> Tokenizer:
    """Pieces of one and two letters, so that most words have several tokens."""
    letters = [*string.ascii_lowercase, *string.digits, "é", "ß", "ab", "the"]
    pieces = ["[UNK]", "[SEP]", *letters, *(f"##{piece}" for piece in letters), *string.punctuation, "汉"]
    tokenizer = Tokenizer(
        models.WordPiece({piece: id_ for id_, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[SEP]"])
    return tokenizer


def byte_level() -> Tokenizer:
    """A space is a part of the word behind it, and the byte of a line feed is a token."""
    vocabulary = {byte: id_ for id_, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {"Ġt": 256, "Ġa": 257, "he": 258, "ĠĠ": 259}
    merges = [("Ġ", "t"), ("Ġ", "a"), ("h", "e"), ("Ġ", "Ġ")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


# Separators that only look like white space to one side, marks that join what stands before them, and a special token.
any_text = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "the",
                "abab ",
                " ",
                "\n",
                "\t",
                "\x0c",
                "\x85",
                "\u2028",
                "\u0301",
                "\u200b",
                "İ",
                ",",
                "a,b",
                "[SEP]",
            ]
        ),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    ),
    max_size=40,
).map("".join)


@pytest.mark.parametrize("tokenizer", [bert(), byte_level()], ids=["bert", "byte level"])
def test_a_text_has_as_many_tokens_as_its_tokenizer_makes_of_it(tokenizer: Tokenizer) -> None:
    counter = TokenCounter(tokenizer)

    @settings(max_examples=200)
    @given(any_text)
    def check(text: str) -> None:
        assert counter.count(text) == len(tokenizer.encode(text, add_special_tokens=False))

    check()


def test_a_tokenizer_that_truncates_and_pads_is_counted_without_and_left_as_it_was() -> None:
    tokenizer = bert()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    assert [TokenCounter(tokenizer).count("a b c d e f"[:length]) for length in (1, 11)] == [1, 6]
    assert tokenizer.truncation is not None
    assert tokenizer.padding is not None


def test_more_words_than_are_kept_are_counted_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_counter, "MAX_WORDS", 3)
    tokenizer, draw = bert(), random.Random(0)
    counter = TokenCounter(tokenizer)
    for _ in range(50):
        text = " ".join("".join(draw.choices("abc-", k=draw.randrange(150))) for _ in range(5))
        assert counter.count(text) == len(tokenizer.encode(text, add_special_tokens=False))


def test_words_add_up_only_where_no_token_has_white_space_or_commas_in_it() -> None:
    with_two_words = bert()
    with_two_words.add_tokens([AddedToken("new york")])
    with_a_comma = bert()
    with_a_comma.add_tokens([AddedToken("1,000")])
    assert counts_add_up(bert())
    assert not counts_add_up(with_a_comma)
    assert not counts_add_up(with_two_words)
    assert not counts_add_up(byte_level())
    assert TokenCounter(with_two_words).count("to new york") == 3
