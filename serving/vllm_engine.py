"""Generation by vLLM's `AsyncLLM`: continuous batching, prefix caching, LoRA adapters at run time.

With `vllm_lora` and `vllm_tools`, the only file that names vLLM. Our own deployment around `AsyncLLM` rather than
`ray.serve.llm`, which is slower on the same machine and is never scheduled on 2 CPUs.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from cluster.errors import HamletError, InvalidInput, Unavailable
from cluster.storage import local_folder
from serving.adapters import HOST_ADAPTERS_PER_SLOT, WEIGHTS_FILE, require_fit
from serving.config import GeneratorConfig
from serving.engine import Adapter, Delta, FinishReason, Sampling, TokenLogprob, weights_dtype
from serving.metrics import Metrics
from serving.threads import set_thread_variable
from serving.vllm_tools import ToolParsers, ToolReader, refusals

log = logging.getLogger(__name__)

# The model in the process of the engine: vLLM's word for it, "uni", is overruled on a CPU.
ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
# Reasons of vLLM for an end that is none: its grammar compiler failed, or it was stopped. Who left reads none of them.
GIVEN_UP = frozenset({"abort", "error"})


class VllmEngine:
    """One vLLM engine; its core runs in a process of its own."""

    def __init__(self, config: GeneratorConfig, model: Path, metrics: Metrics) -> None:
        _set_environment(config)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        on_cpu = current_platform.is_cpu()
        arguments = AsyncEngineArgs(
            model=str(model),
            # On a GPU vLLM's own `auto` says the same, and asks in the process that uses the GPU.
            dtype=weights_dtype(config.dtype, on_gpu=False) if on_cpu else config.dtype,
            max_model_len=config.max_model_len_tokens,
            max_num_seqs=config.max_num_seqs,
            gpu_memory_utilization=config.memory_utilization or (0.15 if on_cpu else 0.9),
            # Compiled bfloat16 graphs of the CPU build of 0.32 generate wrong text.
            enforce_eager=on_cpu,
            enable_lora=True,
            max_loras=config.max_loras,
            max_cpu_loras=config.max_loras * HOST_ADAPTERS_PER_SLOT,
            max_lora_rank=config.max_lora_rank,
            # Small products are several times faster in float32 on CPU; adapters are small.
            lora_dtype=torch.float32 if on_cpu else "auto",
            worker_cls="serving.vllm_lora.LoraCpuWorker" if on_cpu else "auto",
            distributed_executor_backend=ONE_PROCESS if on_cpu and _has_one_memory_node() else None,
            enable_prefix_caching=True,
            disable_log_stats=True,
        )
        self._config = config
        self._metrics = metrics
        self._model = model
        self._tools = ToolParsers(config.tool_parser, model) if config.tool_parser else None
        self._llm: Any = AsyncLLM.from_engine_args(arguments)
        self._adapter_folders: dict[str, Path] = {}
        self._adapter_ids: dict[str, int] = {}
        self._next_adapter_id = count(1)

    @property
    def max_model_len_tokens(self) -> int:
        return self._config.max_model_len_tokens

    @property
    def features(self) -> frozenset[str]:
        return frozenset({"logprobs", "json_schema"} | ({"tools"} if self._tools else set()))

    async def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        max_tokens: int,
        sampling: Sampling,
        adapter: Adapter | None,
    ) -> AsyncGenerator[list[Delta]]:
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        readers: list[ToolReader] = []
        if sampling.tools is not None:
            assert self._tools is not None  # the generator asks what the engine offers
            readers = [self._tools.reader(sampling.tools, sampling.json_schema) for _ in range(sampling.n)]
        stream = self._llm.generate(
            {"prompt_token_ids": prompt_token_ids},
            _sampling_params(max_tokens, sampling, readers[0].sampling if readers else {}),
            request_id,
            lora_request=await self._lora_request(adapter) if adapter else None,
        )
        try:
            has_begun = False
            async for output in stream:
                if any(part.finish_reason in GIVEN_UP for part in output.outputs):
                    raise _given_up(sampling, has_begun)
                if not has_begun:
                    self._metrics.count("cached_tokens", {}, output.num_cached_tokens or 0)
                has_begun = True
                deltas = [_delta(part, sampling.num_top_logprobs or 0) for part in output.outputs]
                if readers:
                    deltas = [
                        _with_calls(delta, list(part.token_ids), prompt_token_ids, readers[delta.index])
                        for delta, part in zip(deltas, output.outputs, strict=True)
                    ]
                yield [delta for delta in deltas if delta.text or delta.num_tokens or delta.finish_reason]
        except (EngineDeadError, EngineGenerateError) as exc:
            reason = "the generation engine failed; it is being restarted"
            raise Unavailable(reason, retry_after_s=10) from exc
        except refusals() as exc:
            # vLLM validates late: a schema that makes no grammar and a token id that no token has end up here.
            raise InvalidInput(
                f"the engine refuses the request: {exc}", _field(sampling) or "prompt"
            ) from exc
        finally:
            # Ends the request inside vLLM; without it an abandoned answer is generated to its end.
            await stream.aclose()

    async def check_health(self) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._llm.check_health()
        except EngineDeadError as exc:
            raise Unavailable("the generation engine has died") from exc

    async def close(self) -> None:
        self._llm.shutdown()

    async def _lora_request(self, adapter: Adapter) -> Any:
        from vllm.lora.request import LoRARequest

        if adapter.rank > self._config.max_lora_rank:
            raise InvalidInput(
                f"{adapter.name} has LoRA rank {adapter.rank}, this server takes up to "
                f"{self._config.max_lora_rank}; raise max_lora_rank of its generator",
                "model",
            )
        folder = self._adapter_folders.get(adapter.name)
        # Storage is asked once: it may be far away, or down. vLLM reads the folder again for one that had left memory.
        if folder is None or not (folder / WEIGHTS_FILE).is_file():
            folder = await asyncio.to_thread(local_folder, adapter.weights_uri)
            # vLLM itself would leave out what does not fit, or die of it.
            await asyncio.to_thread(require_fit, lambda: _causal_model(self._model), folder, adapter.name)
            self._adapter_folders[adapter.name] = folder
        # vLLM tells adapters apart by this number, so a name keeps its own for as long as the process lives.
        number = self._adapter_ids.setdefault(adapter.name, next(self._next_adapter_id))
        return LoRARequest(lora_name=adapter.name, lora_int_id=number, lora_path=str(folder))


def _has_one_memory_node() -> bool:
    """Whether all cores are equally near to all memory, so that no thread has to be bound to some of them.

    vLLM binds them in a process of its own for the model, which takes 10 s more to start and half a GiB.
    """
    from vllm.utils.cpu_resource_utils import get_visible_memory_node

    return len(get_visible_memory_node()) == 1


def _causal_model(folder: Path) -> Any:
    """A fresh model like the one in `folder`, as training makes it: adapters' weights are named after its modules."""
    from transformers import AutoConfig, AutoModelForCausalLM

    # Without a type it would change torch's default one for a moment, which other threads share.
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)


def _set_environment(config: GeneratorConfig) -> None:
    """What vLLM reads from the environment, set before it is imported."""
    if not torch.cuda.is_available():
        set_thread_variable(config.num_threads)
    defaults = {
        "VLLM_CPU_KVCACHE_SPACE": str(config.kv_cache_gib),
        # The engine shares the cores with the rest; by default it would leave one idle.
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        # Without it vLLM compiles its sampler on the first request for log probabilities: 17 s on 2 cores.
        "TORCHDYNAMO_DISABLE": "0" if torch.cuda.is_available() else "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _sampling_params(max_tokens: int, sampling: Sampling, for_tools: dict[str, Any]) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    schema = sampling.json_schema
    constraint = {"structured_outputs": StructuredOutputsParams(json=schema)} if schema else {}
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        n=sampling.n,
        stop=list(sampling.stop) or None,
        seed=sampling.seed,
        logprobs=sampling.num_top_logprobs,
        output_kind=RequestOutputKind.DELTA,
        **(constraint | for_tools),
    )


def _given_up(sampling: Sampling, has_begun: bool) -> HamletError:
    field = _field(sampling)
    if has_begun or field is None:
        return Unavailable("the generation engine gave the answer up; try again shortly", retry_after_s=1)
    # Grammars are compiled while the request waits, and nothing is told but that it failed.
    return InvalidInput(
        "the engine can make no grammar of the schema that the answer must satisfy; simplify it", field
    )


def _field(sampling: Sampling) -> str | None:
    """The caller's field that a grammar is made of, if any."""
    if sampling.json_schema is not None:
        return "response_format"
    return None if sampling.tools is None else "tools"


def _delta(output: Any, num_top_logprobs: int) -> Delta:
    finish: FinishReason | None = None
    if output.finish_reason is not None:
        finish = "length" if output.finish_reason == "length" else "stop"
    return Delta(
        index=output.index,
        text=output.text,
        num_tokens=len(output.token_ids),
        finish_reason=finish,
        logprobs=_logprobs(output, num_top_logprobs),
    )


def _with_calls(delta: Delta, token_ids: list[int], prompt_token_ids: list[int], reader: ToolReader) -> Delta:
    text, calls = reader.read(delta.text, token_ids, prompt_token_ids, delta.finish_reason is not None)
    ends_by_call = reader.has_calls and delta.finish_reason == "stop"
    return replace(
        delta, text=text, calls=calls, finish_reason="tool_calls" if ends_by_call else delta.finish_reason
    )


def _logprobs(output: Any, num_top: int) -> tuple[TokenLogprob, ...]:
    tokens = []
    for token_id, by_id in zip(output.token_ids, output.logprobs or (), strict=False):
        chosen = by_id[token_id]
        # The token that was chosen stands beside the likeliest ones, at a place of its own.
        ranked = sorted(by_id.values(), key=lambda entry: entry.rank)[:num_top]
        top = tuple((entry.decoded_token, entry.logprob) for entry in ranked)
        tokens.append(TokenLogprob(chosen.decoded_token, chosen.logprob, top))
    return tuple(tokens)
