"""Preferences by a whole run of two workers, proven and registered as an adapter that serving loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.cards import ModelKind
from cluster.head_record import HeadRecord
from cluster.registry import Registry

REPOSITORY = Path(__file__).parents[3]
TEMPLATE = (
    "{% for m in messages %}{{ m.role + ' ' + m.content + ' [SEP] ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


def row(number: int) -> dict[str, Any]:
    """Upper words are preferred to lower ones, whatever the question."""
    said = [{"role": "assistant", "content": f"w{start + number % 20}"} for start in (60, 20)]
    asked = {"messages": [{"role": "user", "content": f"w{number % 20} w{number % 7}"}]}
    return {"input": asked, "preferred_output": said[:1], "non_preferred_output": said[1:]}


@pytest.mark.soak
def test_a_run_learns_the_preference_and_registers_an_adapter(
    head: HeadRecord, write_llama: Callable[[Path], Path], tmp_path: Path
) -> None:
    base = write_llama(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(base)
    for name, numbers in (("train", range(60)), ("validation", range(3, 18))):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row(n)) for n in numbers))
    config = tmp_path / "run.yaml"
    values = {
        "name": "preferences", "task": "dpo", "method": "lora", "model": str(base), "epochs": 4,
        "data": {"path": f"{tmp_path}/train.jsonl", "validation_path": f"{tmp_path}/validation.jsonl"},
        "learning_rate": 1e-2, "lora": {"rank": 4}, "dpo": {"beta": 0.5}, "precision": "float32",
        "scaling": {"num_workers": 2, "zero_stage": 2}, "output": {"alias": "preferences"},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "training", "run", str(config)]
    done = subprocess.run(command, cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "Epoch  Training Loss  Validation Loss  Reward Accuracy  Reward Margin" in done.stdout
    card = Registry().get("preferences")
    assert (card.kind, card.is_adapter, card.lora_rank) == (ModelKind.GENERATOR, True, 4)
    assert card.parity.passed
    assert card.parity.num_prompts == 15
    assert card.metrics["reward_accuracy"] == 1.0
    assert card.metrics["reward_margin"] > 0.2
    assert card.trained_tokens == 4 * 60 * 2 * 2  # one word and the end token of each answer
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), card.weights_uri)
    prompt = tokenizer("user w3 w3 [SEP] assistant", return_tensors="pt")
    preferred, other = tokenizer.convert_tokens_to_ids(["w63", "w23"])
    with torch.no_grad():
        logits = tuned(input_ids=prompt["input_ids"]).logits[0, -1]
    assert logits[preferred] > logits[other]
