"""Ask the running service one question: `python examples/ask.py "How much is lunch?" [model]`."""

from __future__ import annotations

import os
import sys

from openai import OpenAI

NO_KEY = "none"  # the client wants one, the service only once `python -m cluster keys create` made the first


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    question, model = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "auto"
    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key=os.environ.get("OPENAI_API_KEY", NO_KEY))
    response = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=64, temperature=0
    )
    hamlet = (response.model_extra or {})["hamlet"]
    print(response.choices[0].message.content)
    print(f"route: {hamlet['route']} ({hamlet['reason']})")
    for hit in hamlet["hits"]:
        print(f"[{hit['index']}] {hit['filename']}  {hit['score']:.2f}")


if __name__ == "__main__":
    main()
