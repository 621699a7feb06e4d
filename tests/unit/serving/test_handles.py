from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    OwnerDiedError,
    RayError,
    RaySystemError,
    RayTaskError,
    TaskUnschedulableError,
    UnserializableException,
    WorkerCrashedError,
)
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

from cluster.cards import ModelCard
from cluster.errors import ContextLengthExceeded, Unavailable
from serving import handles
from serving.backends import Classified, Embedded
from serving.config import ClassifierConfig, EmbedderConfig
from serving.handles import TEXTS_PER_CALL, ClassifierHandle, EmbedderCalls, EmbedderHandle, translate


def test_an_error_of_ours_that_crossed_a_process_is_told_as_it_is() -> None:
    cause = pickle.loads(pickle.dumps(ContextLengthExceeded("too long", "messages")))
    told = translate(RayTaskError("complete", "traceback", cause), "generator")
    assert told is cause
    assert isinstance(told, ContextLengthExceeded)
    assert told.param == "messages"


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        WorkerCrashedError(),
        NodeDiedError("the node died"),
        OutOfMemoryError("killed by the memory monitor"),
        ObjectLostError("00" * 28, None, ""),
        OwnerDiedError("00" * 28, None, ""),
        RaySystemError("the raylet died"),
        TaskUnschedulableError("no such node"),
        RayTaskError("search", "traceback", OutOfMemoryError("of a part that the replica had called")),
        DeploymentUnavailableError(DeploymentID("generator")),
        BackPressureError(9, 8),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_was_lost_and_a_full_queue_are_unavailable_for_a_while(error: Exception) -> None:
    told = translate(error, "generator")
    assert isinstance(told, Unavailable)
    assert told.retry_after_s
    assert "generator" in told.message


@pytest.mark.parametrize(
    "fault",
    [
        RayTaskError("complete", "traceback", ZeroDivisionError()),
        RayTaskError("complete", "traceback", RayError("an error that cannot be pickled")),
        UnserializableException("an error that cannot be unpickled"),
        RequestCancelledError("request-1"),
    ],
    ids=str,
)
def test_a_fault_of_the_code_and_a_caller_who_left_stay_what_they_are(fault: Exception) -> None:
    assert translate(fault, "generator") is fault


class NoReplica:
    """A handle whose calls wait for ever; counts them."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.ping = self.embed = self

    def remote(self, *_args: object) -> asyncio.Future[None]:
        self.num_calls += 1
        return asyncio.get_running_loop().create_future()


def test_a_part_that_starts_on_demand_is_started_by_requests_and_never_by_probes() -> None:
    handle = NoReplica()
    asyncio.run(EmbedderHandle(handle, "embedder", 0.01, EmbedderConfig(min_replicas=0)).check_health())
    assert handle.num_calls == 0
    with pytest.raises(Unavailable):
        asyncio.run(EmbedderHandle(handle, "embedder", 0.01, EmbedderConfig()).check_health())
    assert handle.num_calls == 1


@pytest.mark.parametrize(("min_replicas", "waits_s"), [(0, 0.2), (1, 0.01)])
def test_a_request_waits_longer_where_no_replica_is_kept(
    monkeypatch: pytest.MonkeyPatch, min_replicas: int, waits_s: float
) -> None:
    monkeypatch.setattr(handles, "START_S", 0.2)
    embedder = EmbedderHandle(NoReplica(), "embedder", 0.01, EmbedderConfig(min_replicas=min_replicas))
    with pytest.raises(Unavailable, match=f"within {waits_s:g} s") as refused:
        asyncio.run(embedder.embed(["a"]))
    assert refused.value.retry_after_s


MANY = 2048


class SlowReplica:
    """A handle that takes a millisecond for each text, as one that is busy all the time; `too long` is refused."""

    def __init__(self) -> None:
        self.num_texts: list[int] = []
        self.num_running = self.most_running = 0
        self.num_cancelled = 0
        self.embed, self.classify = _Method(self._embed), _Method(self._classify)

    async def _embed(self, texts: Sequence[str], is_query: bool) -> Embedded:
        await self._work(len(texts))
        for index, text in enumerate(texts):
            if text == "too long":
                raise ContextLengthExceeded(f"input[{index}] is too long", f"input[{index}]")
        vectors = np.array([[float(text)] for text in texts], dtype=np.float32)
        return Embedded(vectors, (1,) * len(texts), "fingerprint")

    async def _classify(self, card: ModelCard, inputs: Sequence[tuple[str, ...]]) -> list[Classified]:
        await self._work(len(inputs))
        return [Classified(((text, 1.0),), 1, False) for (text,) in inputs]

    async def _work(self, num_texts: int) -> None:
        self.num_texts.append(num_texts)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            await asyncio.sleep(num_texts / 1000)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_running -= 1


class _Method:
    def __init__(self, work: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._work = work

    def remote(self, *args: object) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(self._work(*args))


def _embedder(replica: SlowReplica) -> EmbedderHandle:
    return EmbedderHandle(replica, "embedder", 1.0, EmbedderConfig())


def test_a_list_of_any_length_is_embedded_in_order_by_calls_that_keep_the_limit() -> None:
    replica = SlowReplica()  # all texts take two seconds, twice the limit
    embedded = asyncio.run(_embedder(replica).embed([str(number) for number in range(MANY)]))
    assert embedded.vectors[:, 0].tolist() == list(range(MANY))
    assert (embedded.num_tokens, embedded.fingerprint) == (MANY, "fingerprint")
    assert set(replica.num_texts) == {TEXTS_PER_CALL}
    assert replica.most_running == handles.CALLS_AT_ONCE


def test_a_short_list_is_one_call() -> None:
    replica = SlowReplica()
    asyncio.run(_embedder(replica).embed(["1"] * TEXTS_PER_CALL))
    assert replica.num_texts == [TEXTS_PER_CALL]


def test_small_requests_that_come_while_calls_are_out_go_together_in_the_next() -> None:
    replica = SlowReplica()

    async def main() -> list[Embedded]:
        embedder = _embedder(replica)
        return await asyncio.gather(*(embedder.embed([str(n), str(n + 100)]) for n in range(9)))

    answers = asyncio.run(main())
    assert [answer.vectors[:, 0].tolist() for answer in answers] == [[n, n + 100] for n in range(9)]
    assert {(answer.token_counts, answer.fingerprint) for answer in answers} == {((1, 1), "fingerprint")}
    assert replica.num_texts == [2, 2, 14]


def test_a_request_at_fault_fails_alone_though_others_were_sent_with_it() -> None:
    async def main() -> list[Embedded | BaseException]:
        embedder = _embedder(SlowReplica())
        requests = [embedder.embed([str(n), "too long" if n == 5 else "1"]) for n in range(9)]
        return await asyncio.gather(*requests, return_exceptions=True)

    answers = asyncio.run(main())
    [(place, refused)] = [(n, each) for n, each in enumerate(answers) if isinstance(each, BaseException)]
    assert (place, str(refused)) == (5, "input[1] is too long")


class ServeReplica(SlowReplica):
    """Ends the calls of a request that a client leaves, as Serve does: those made in its context, `request`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, asyncio.Task[Any]]] = []
        self.embed = self

    def remote(self, *args: Any) -> asyncio.Task[Any]:
        call = asyncio.create_task(self._embed(*args))
        self.calls.append((request.get(), call))
        return call

    def end_calls_of(self, name: str) -> None:
        for made_in, call in self.calls:
            if made_in == name:
                call.cancel()


request = ContextVar[str]("request", default="none")


def test_a_client_who_leaves_a_joined_call_takes_no_other_along() -> None:
    replica = ServeReplica()

    async def main() -> list[Embedded | BaseException]:
        embedder = _embedder(replica)

        async def ask(number: int) -> Embedded:
            request.set(f"request-{number}")
            return await embedder.embed([str(number)])

        requests = [asyncio.create_task(ask(number)) for number in range(9)]
        while len(replica.calls) < 3:
            await asyncio.sleep(0)
        for number in range(9):
            replica.end_calls_of(f"request-{number}")
        requests[2].cancel()
        return await asyncio.gather(*requests, return_exceptions=True)

    answers = asyncio.run(main())
    assert isinstance(answers.pop(2), asyncio.CancelledError)
    assert all(isinstance(answer, Embedded) for answer in answers)


def test_a_call_that_serve_ends_by_itself_is_unavailable_and_leaves_the_request_its_answer() -> None:
    replica = ServeReplica()

    async def main() -> list[Embedded | BaseException]:
        embedder = _embedder(replica)
        requests = [asyncio.create_task(embedder.embed([str(number)])) for number in range(4)]
        while len(replica.calls) < 3:
            await asyncio.sleep(0)
        replica.end_calls_of("none")
        return await asyncio.gather(*requests, return_exceptions=True)

    ended = asyncio.run(main())[2:]
    assert [type(each) for each in ended] == [Unavailable] * 2


class Busy:
    """A handle whose answer does not come, and whose work goes on though its reader is gone, until it is ended."""

    def __init__(self) -> None:
        self.num_ended = 0
        self.ping = self.describe = self

    def remote(self) -> Busy:
        return self

    def result(self, timeout_s: float) -> None:
        raise TimeoutError

    def __await__(self) -> Any:
        return asyncio.shield(asyncio.get_running_loop().create_future()).__await__()

    def cancel(self) -> None:
        self.num_ended += 1


def test_a_call_that_takes_too_long_is_ended_in_the_replica_too() -> None:
    replica = Busy()
    with pytest.raises(Unavailable, match="within"):
        asyncio.run(EmbedderHandle(replica, "embedder", 0.01, EmbedderConfig()).check_health())
    assert replica.num_ended == 1
    with pytest.raises(Unavailable, match="within"):
        EmbedderCalls(replica)
    assert replica.num_ended == 2


def test_a_text_at_fault_is_named_by_its_place_in_the_request_and_ends_the_rest() -> None:
    replica = SlowReplica()
    texts = ["1"] * MANY
    texts[1000] = texts[1030] = "too long"
    with pytest.raises(ContextLengthExceeded, match=r"^input\[1000\] is too long") as refused:
        asyncio.run(_embedder(replica).embed(texts))
    assert refused.value.param == "input[1000]"
    assert sum(replica.num_texts) <= 1000 + 3 * TEXTS_PER_CALL
    assert replica.num_running == 0


def test_a_caller_who_leaves_ends_the_calls_in_progress() -> None:
    replica = SlowReplica()

    async def leave() -> None:
        request = asyncio.create_task(_embedder(replica).embed(["1"] * MANY))
        for _ in range(10):  # until its calls are made
            await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(leave())
    assert replica.num_cancelled == handles.CALLS_AT_ONCE


def test_a_list_of_any_length_is_classified_in_order(make_card: Callable[..., ModelCard]) -> None:
    replica = SlowReplica()
    classifier = ClassifierHandle(replica, "classifier", 1.0, ClassifierConfig())
    verdicts = asyncio.run(classifier.classify(make_card(), [(str(number),) for number in range(MANY)]))
    assert [verdict.scores[0][0] for verdict in verdicts] == [str(number) for number in range(MANY)]
