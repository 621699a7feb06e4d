"""A GGUF file as a folder of bfloat16 safetensors, which training and serving load.

python -m cluster.gguf MODEL.gguf FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def convert(gguf: Path, target: Path) -> None:
    """Write the model and its tokenizer to the folder `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    # transformers 5.19 refuses to save a model that was loaded from GGUF while these are set.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers 5.17 takes the first token for the end token as well; the model's own config has it right.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:3]))
