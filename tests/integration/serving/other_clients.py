"""LangChain's and LlamaIndex's classes for OpenAI, unchanged, against a service of ours; prints what they got as JSON.

    PYTHON other_clients.py http://127.0.0.1:8000/v1

Run by a Python of its own that has both: they pin other versions of `openai` than this project.
"""

from __future__ import annotations

import json
import sys
from typing import Any

QUESTION = "The travel agency that arranges our flights: what is it called?"
TEXTS = ["to be", "or not to be"]


def langchain(url: str) -> dict[str, Any]:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    def model(name: str) -> Any:
        return ChatOpenAI(model=name, base_url=url, api_key="unused", temperature=0, max_tokens=24)

    # Else it sends the token ids of OpenAI's own tokenizer.
    embeddings = OpenAIEmbeddings(
        model="minilm", base_url=url, api_key="unused", check_embedding_ctx_length=False
    )
    return {
        "whole": model("smollm2").invoke("Count to ten.").content,
        "streamed": "".join(part.content for part in model("smollm2").stream("Count to ten.")),
        "grounded": model("smollm2+rag").invoke(QUESTION).content,
        "dimensions": [len(vector) for vector in embeddings.embed_documents(TEXTS)],
    }


def llama_index(url: str) -> dict[str, Any]:
    from llama_index.core.llms import ChatMessage
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.llms.openai_like import OpenAILike

    def model(name: str) -> Any:
        return OpenAILike(
            model=name, api_base=url, api_key="unused", is_chat_model=True, temperature=0, max_tokens=24
        )

    def asked(text: str) -> list[ChatMessage]:
        return [ChatMessage(role="user", content=text)]

    embeddings = OpenAILikeEmbedding(model_name="minilm", api_base=url, api_key="unused")
    return {
        "whole": model("smollm2").chat(asked("Count to ten.")).message.content,
        "streamed": "".join(part.delta for part in model("smollm2").stream_chat(asked("Count to ten."))),
        "grounded": model("smollm2+rag").chat(asked(QUESTION)).message.content,
        "dimensions": [len(vector) for vector in embeddings.get_text_embedding_batch(TEXTS)],
    }


if __name__ == "__main__":
    results = {"langchain": langchain(sys.argv[1]), "llama_index": llama_index(sys.argv[1])}
    sys.stdout.write(json.dumps(results))
