"""Generation by transformers, where vLLM cannot be installed. Slower: requests take turns, token by token.

Each request computes its own `n` rows of one prompt, so no row is ever padded and every row equals what
it would be alone. The steps of all requests run on one thread, in the order in which they are asked for.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from cluster.errors import InvalidInput, Unavailable, Unprocessable
from cluster.storage import local_folder
from serving.adapters import HOST_ADAPTERS_PER_SLOT, require_fit
from serving.config import GeneratorConfig
from serving.engine import Adapter, Delta, FinishReason, Sampling, TokenLogprob, weights_dtype
from serving.stops import StopFilter, TokenDecoder

Result = TypeVar("Result")

# vLLM's too: what is divided by less may become infinite.
LEAST_TEMPERATURE = 0.01


@dataclass
class _Row:
    """One of the `n` answers of a request."""

    decoder: TokenDecoder
    stop: StopFilter
    num_tokens: int = 0
    finished: bool = False


@dataclass
class _Running:
    """One request between two steps. `input_ids`: [n, new], int64; `counts`: [n, vocabulary] of the answer."""

    input_ids: torch.Tensor
    max_tokens: int
    sampling: Sampling
    adapter: Adapter | None
    rows: list[_Row]
    counts: torch.Tensor
    random: torch.Generator
    cache: Any = None

    @property
    def finished(self) -> bool:
        return all(row.finished for row in self.rows)


class TransformersEngine:
    """One causal language model in this process."""

    features = frozenset({"logprobs"})

    def __init__(self, config: GeneratorConfig, model: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._config = config
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        dtype = getattr(torch, weights_dtype(config.dtype, self._device == "cuda"))
        whole: Any
        whole, info = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, output_loading_info=True)
        if info["missing_keys"]:
            raise Unprocessable(
                f"{model} lacks weights {sorted(info['missing_keys'])}, which would be random; "
                "fetch or export it again",
                "model",
            )
        self._model: Any = whole.to(self._device).eval()
        self._vocabulary_size = int(self._model.config.vocab_size)
        self._special_ids = frozenset(self._tokenizer.all_special_ids)
        self._end_ids = _end_ids(self._model, self._tokenizer)
        # The least recently used first; as many as vLLM keeps on the host.
        self._adapters: OrderedDict[str, None] = OrderedDict()
        self._num_running = Counter[str]()  # requests in progress, by their adapters' names
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers-engine")

    @property
    def max_model_len_tokens(self) -> int:
        # A model computes nonsense behind its last position, or fails.
        configured = self._config.max_model_len_tokens
        return min(configured, getattr(self._model.config, "max_position_embeddings", configured))

    async def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        max_tokens: int,
        sampling: Sampling,
        adapter: Adapter | None,
    ) -> AsyncGenerator[list[Delta]]:
        with self._held(adapter.name) if adapter else nullcontext():
            if adapter is not None:
                await self._make_ready(adapter)
            running = self._start(prompt_token_ids, max_tokens, sampling, adapter)
            while not running.finished:
                # A reader that leaves between two steps drops `running`, and with it the cache.
                yield await self._run(lambda: self._step(running))

    async def check_health(self) -> None:
        """Nothing to check: the model lives in this process."""

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except torch.OutOfMemoryError as exc:
            raise Unavailable("the generation engine is out of memory; try again shortly") from exc

    @contextmanager
    def _held(self, name: str) -> Iterator[None]:
        """An adapter stays in memory while this is entered."""
        self._num_running[name] += 1
        try:
            yield
        finally:
            self._num_running[name] -= 1

    async def _make_ready(self, adapter: Adapter) -> None:
        """Load an adapter unless it is in memory."""
        # Asked on the engine's thread, on which it may just be leaving for another.
        if not await self._run(lambda: self._load(adapter, None)):
            # Fetched beside that thread, on which the steps of the other requests run.
            folder = await asyncio.to_thread(local_folder, adapter.weights_uri)
            await self._run(lambda: self._load(adapter, folder))

    def _load(self, adapter: Adapter, folder: Path | None) -> bool:
        """Make an adapter the one used last, from its folder where it is not in memory; False where that is needed."""
        if adapter.name not in self._adapters:
            if folder is None:
                return False
            self._add(adapter, folder)
        self._adapters.move_to_end(adapter.name)
        self._model.set_adapter(_module_name(adapter.name))  # peft warns of an active one that is deleted
        idle = [name for name in self._adapters if not self._num_running[name]]
        most = self._config.max_loras * HOST_ADAPTERS_PER_SLOT
        for name in idle[: max(0, len(self._adapters) - most)]:
            self._model.delete_adapter(_module_name(name))
            del self._adapters[name]
        return True

    def _add(self, adapter: Adapter, folder: Path) -> None:
        base = self._model.get_base_model() if self._adapters else self._model
        require_fit(lambda: type(base)(base.config), folder, adapter.name)
        if self._adapters:
            self._model.load_adapter(folder, adapter_name=_module_name(adapter.name))
        else:
            from peft import PeftModel

            self._model = PeftModel.from_pretrained(
                self._model, folder, adapter_name=_module_name(adapter.name)
            )
            self._model.eval()
        self._adapters[adapter.name] = None

    def _start(
        self, prompt_token_ids: list[int], max_tokens: int, sampling: Sampling, adapter: Adapter | None
    ) -> _Running:
        _require_in_vocabulary(prompt_token_ids, self._vocabulary_size)
        random = torch.Generator(self._device)
        if sampling.seed is None:
            random.seed()
        else:
            random.manual_seed(sampling.seed)
        return _Running(
            input_ids=torch.tensor([prompt_token_ids] * sampling.n, device=self._device),
            max_tokens=max_tokens,
            sampling=sampling,
            adapter=adapter,
            rows=[_Row(TokenDecoder(self._decode), StopFilter(sampling.stop)) for _ in range(sampling.n)],
            counts=torch.zeros(sampling.n, self._vocabulary_size, device=self._device),
            random=random,
        )

    def _decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    @torch.inference_mode()
    def _step(self, running: _Running) -> list[Delta]:
        output = self._forward(running)
        running.cache = output.past_key_values
        logits = output.logits[:, -1].float()
        chosen = choose_tokens(logits, running.counts, running.sampling, running.random)
        running.counts.scatter_add_(1, chosen[:, None], torch.ones_like(chosen[:, None], dtype=torch.float))
        running.input_ids = chosen[:, None]
        logprobs = logits.log_softmax(dim=-1) if running.sampling.num_top_logprobs is not None else None
        return [
            self._advance(running, index, token_id, None if logprobs is None else logprobs[index])
            for index, token_id in enumerate(chosen.tolist())
            if not running.rows[index].finished
        ]

    def _forward(self, running: _Running) -> Any:
        inputs = {"input_ids": running.input_ids, "past_key_values": running.cache, "use_cache": True}
        if not self._adapters:
            return self._model(**inputs, logits_to_keep=1)
        if running.adapter is None:
            with self._model.disable_adapter():
                return self._model(**inputs, logits_to_keep=1)
        self._model.set_adapter(_module_name(running.adapter.name))
        return self._model(**inputs, logits_to_keep=1)

    def _advance(self, running: _Running, index: int, token_id: int, logprobs: torch.Tensor | None) -> Delta:
        row = running.rows[index]
        row.num_tokens += 1
        # Before the token is fed: what it and its alternatives add is seen from there.
        shown = () if logprobs is None else (self._logprob(row, token_id, logprobs, running.sampling),)
        ended = token_id in self._end_ids
        text = "" if ended else row.stop.feed(row.decoder.feed(token_id))
        finish: FinishReason | None = None
        if ended or row.stop.stopped:
            finish = "stop"
        elif row.num_tokens == running.max_tokens:
            finish = "length"
        if finish:
            row.finished = True
            text += row.stop.flush()
        return Delta(index, text, 1, finish, shown)

    def _logprob(self, row: _Row, token_id: int, logprobs: torch.Tensor, sampling: Sampling) -> TokenLogprob:
        values, ids = logprobs.topk(sampling.num_top_logprobs or 0)
        alternatives = zip(ids.tolist(), values.tolist(), strict=True)
        top = tuple((self._token_text(row, alternative), value) for alternative, value in alternatives)
        return TokenLogprob(self._token_text(row, token_id), float(logprobs[token_id]), top)

    def _token_text(self, row: _Row, token_id: int) -> str:
        """What a token adds to the text: nothing where it leaves a character unfinished, as vLLM tells it too.

        The last token of a character has all of its bytes, so that the bytes of all tokens are the text's.
        """
        if token_id in self._special_ids:  # no text, such as the end: told by its name
            return str(self._tokenizer.decode([token_id]))
        return row.decoder.peek(token_id) or ""


def _require_in_vocabulary(token_ids: Sequence[int], vocabulary_size: int) -> None:
    """Raises InvalidInput for an id that no token of the vocabulary has."""
    unknown = next((token_id for token_id in token_ids if not 0 <= token_id < vocabulary_size), None)
    if unknown is not None:
        raise InvalidInput(
            f"prompt has the token id {unknown}; the model's ids are 0 to {vocabulary_size - 1}", "prompt"
        )


def choose_tokens(
    logits: torch.Tensor, counts: torch.Tensor, sampling: Sampling, random: torch.Generator
) -> torch.Tensor:
    """The next token of each row, [n], int64.

    `logits` and `counts` are [n, vocabulary], float32; `counts` says how often a token was generated
    already. Penalties are OpenAI's: `presence` once per token used, `frequency` for each use.
    """
    logits = logits - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = (logits / max(sampling.temperature, LEAST_TEMPERATURE)).softmax(dim=-1)
    if sampling.top_p < 1:
        ordered, ids = probabilities.sort(dim=-1, descending=True)
        # The token that crosses the bound stays, so at least one always does.
        beyond = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
        probabilities = probabilities.scatter(1, ids, ordered.masked_fill(beyond, 0.0))
    return torch.multinomial(probabilities, 1, generator=random)[:, 0]


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(end for end in [*listed, tokenizer.eos_token_id] if end is not None)


def _module_name(adapter: str) -> str:
    # Names of modules may hold no dots.
    return adapter.replace(".", "_")
