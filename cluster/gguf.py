"""A GGUF file as a folder of bfloat16 safetensors, which training and serving load.

python -m cluster.gguf MODEL.gguf FOLDER
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any


def convert(file: Path, target: Path) -> None:
    """Write the model and its tokenizer to the folder `target`."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # transformers reads the file three times, and makes its table of names anew for each part of the model.
    gguf.GGUFReader, gguf.get_tensor_name_map = cache(gguf.GGUFReader), cache(gguf.get_tensor_name_map)

    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    # transformers 5.19 refuses to save a model that was loaded from GGUF while these are set.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # transformers 5.17 takes the first token for the end token as well; the model's own config has it right.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:3]))
