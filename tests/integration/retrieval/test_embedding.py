"""The real embedder against plain sentence-transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from cluster.errors import ContextLengthExceeded, InvalidInput
from cluster.references import resolve_model
from retrieval.embedding import Embedder, fingerprint
from retrieval.openvino_sentence_model import OpenVinoSentenceModel, convert
from retrieval.sentence_model import SentenceModel
from retrieval.torch_sentence_model import TorchSentenceModel

LONG = " ".join(["word"] * 600)
TEXTS = ["Paid leave.", "Wie viele Tage Urlaub?", "汉字", "x " * 200, "def f(): return 1", "a", "Paid leave."]


@pytest.fixture(scope="module", params=["torch", "openvino"])
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """The same model by each library."""

    def load(folder: Path, _fingerprint: str) -> SentenceModel:
        model = TorchSentenceModel(folder)
        if request.param == "torch":
            return model
        converted = tmp_path_factory.mktemp("converted")
        convert(model, converted)
        return OpenVinoSentenceModel(converted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAMLET_HOME", str(Path("~/.hamlet").expanduser()))
        patch.setattr("retrieval.embedding.load_sentence_model", load)
        return Embedder("builtin:minilm")


def test_vectors_equal_the_reference_within_a_thousandth_of_cosine(embedder: Embedder) -> None:
    reference = SentenceTransformer(str(resolve_model("builtin:minilm")), device="cpu").encode(TEXTS)
    vectors = embedder.embed_documents(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert ((vectors * reference).sum(axis=1) > 1 - 1e-3).all()
    assert vectors[0] == pytest.approx(vectors[-1], abs=1e-2)


def test_order_and_company_do_not_change_a_vector(embedder: Embedder) -> None:
    alone = np.stack([embedder.embed_documents([text])[0] for text in TEXTS])
    together = embedder.embed_documents(TEXTS[::-1])[::-1]
    assert ((alone * together).sum(axis=1) > 1 - 1e-3).all()


def test_tokens_are_counted_with_the_special_ones(embedder: Embedder) -> None:
    assert embedder.count_tokens(["Paid leave.", "word " * 600]) == [5, 602]
    assert embedder.special_tokens == 2


@pytest.mark.parametrize("texts", [[""], ["a", "  "], ["a", "b", "\n"]])
def test_an_empty_text_is_refused_with_its_index(embedder: Embedder, texts: list[str]) -> None:
    with pytest.raises(InvalidInput, match="empty") as caught:
        embedder.embed_documents(texts)
    assert caught.value.param == f"input[{len(texts) - 1}]"


def test_a_text_past_the_limit_is_refused_or_cut_but_never_in_silence(embedder: Embedder) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"602 tokens.*256") as caught:
        embedder.embed_queries(["a", LONG])
    assert caught.value.param == "input[1]"
    assert embedder.embed_queries([LONG], truncate=True).shape == (1, 384)


def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed_documents([]).shape == (0, 384)


def test_the_fingerprint_follows_the_weights(embedder: Embedder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(resolve_model("builtin:minilm"), copy)
    assert fingerprint(copy) == embedder.fingerprint
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert fingerprint(copy) != embedder.fingerprint
