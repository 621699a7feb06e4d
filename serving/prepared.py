"""One chat answer on its way, from its request's route and passages to what is told about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.backends import Classified
from serving.catalogue import ServedModel
from serving.citations import cite
from serving.generator import GenerationJob, PromptReport
from serving.policy import Route
from serving.prompts import Passage
from serving.responses import TextField, annotation
from serving.stages import Stages


@dataclass(slots=True)
class Prepared:
    """One answer on its way.

    `ready` is the answer itself where no language model is needed: the verdict of a classifier, or that
    nothing was found. `verdict` are the classifier's probabilities, `reranker` the model that puts hits in order.
    `instead` answers where the deployment of `model` is down.
    """

    model: ServedModel
    route: Route
    job: GenerationJob
    stages: Stages
    question: str
    reranker: ServedModel | None = None
    ready: str | None = None
    verdict: Classified | None = None
    instead: Prepared | None = None

    @property
    def text_field(self) -> TextField:
        """Where the answer's text stands in a message: in `content` JSON alone is expected where it was asked for."""
        is_refusal = self.ready is not None and self.job.sampling.json_schema is not None
        return "refusal" if is_refusal else "content"

    def annotations(self, text: str, report: PromptReport) -> list[dict[str, Any]]:
        """Citations of one answer; only passages that were really sent can be cited."""
        sent = self.job.passages[: report.num_passages]
        return [annotation(citation, text, sent) for citation in cite(text, sent, self.question)]

    def extension(self, report: PromptReport) -> dict[str, Any]:
        """The `hamlet` object of the response."""
        sent = self.job.passages[: report.num_passages]
        extension: dict[str, Any] = {
            "route": self.route.kind.value,
            "reason": self.route.reason,
            "degraded": self.route.degraded,
            "stages": list(self.stages.ms),
            "stage_ms": self.stages.ms,
            "hits": [_hit(number, passage) for number, passage in enumerate(sent, start=1)],
            "dropped": {
                "hits": len(self.job.passages) - len(sent),
                "turns": report.num_turns_dropped,
            },
        }
        if self.verdict is not None:
            extension["verdict"] = dict(self.verdict.scores)
        return extension


def _hit(number: int, passage: Passage) -> dict[str, Any]:
    return {
        "index": number,
        "file_id": passage.document_id,
        "filename": passage.filename,
        "chunk_id": passage.chunk_id,
        "page": passage.page,
        "score": round(passage.score, 4),
        "text": passage.text,
    }
