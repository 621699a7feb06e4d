"""Shapes of what is kept: files, batches, fine-tuning jobs, vector stores, evaluations. For `openapi` alone.

Bodies themselves are made beside the endpoints.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from cluster.batch_records import BatchStatus
from cluster.fine_tuning_records import JobStatus
from cluster.fine_tuning_rows import EventType, Level
from cluster.reports import ReportStatus
from cluster.vector_store_records import FileStatus
from serving.answer_schemas import Created, absent_or

Seconds = int | None
Scalar = str | float | bool


class _List(BaseModel):
    object: Literal["list"]
    has_more: bool = Field(description="Ask again with `after` set to the last id.")


class File(BaseModel):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int = Created
    expires_at: int = absent_or("Unix seconds; absent where it never expires.")
    filename: str
    purpose: str
    status: Literal["processed"]
    hamlet: dict[str, Any] = absent_or("Of a training file: rows, warnings and statistics.")


class FileList(_List):
    data: list[File]
    first_id: str
    last_id: str


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class BatchFault(BaseModel):
    code: str | None
    message: str
    param: str | None
    line: int | None


class BatchFaults(BaseModel):
    object: Literal["list"]
    data: list[BatchFault]


class BatchCounts(BaseModel):
    total: int
    completed: int
    failed: int


class Batch(BaseModel):
    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None = Field(description="The one that all requests name; null where they differ.")
    errors: BatchFaults | None = Field(description="What is wrong with the input, by line.")
    input_file_id: str
    completion_window: Literal["24h"]
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int = Created
    expires_at: int
    in_progress_at: Seconds
    finalizing_at: Seconds
    completed_at: Seconds
    failed_at: Seconds
    expired_at: Seconds
    cancelling_at: Seconds
    cancelled_at: Seconds
    request_counts: BatchCounts
    usage: dict[str, Any]
    metadata: dict[str, str] | None


class BatchList(_List):
    data: list[Batch]
    first_id: str | None
    last_id: str | None


class JobError(BaseModel):
    code: str
    message: str
    param: str | None


class JobExtension(BaseModel):
    step: int | None
    total_steps: int | None
    attempt: int
    num_losses: int = Field(description="Times that its process was lost and begun again.")
    waits_for: str | None = Field(description="Why it is queued and not started yet.")
    plan: dict[str, Any] | None = Field(description="Tokens, time, memory and cost, as forecast.")


class FineTuningJob(BaseModel):
    id: str
    object: Literal["fine_tuning.job"]
    created_at: int = Created
    finished_at: Seconds
    estimated_finish: Seconds
    status: JobStatus
    model: str
    fine_tuned_model: str | None = Field(description="The name to call, once it has succeeded.")
    organization_id: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    error: JobError | None
    seed: int
    method: dict[str, Any]
    hyperparameters: dict[str, Any] = Field(description="With `auto` decided.")
    metadata: dict[str, str] | None
    integrations: list[Any]
    hamlet: JobExtension


class FineTuningJobList(_List):
    data: list[FineTuningJob]


class FineTuningEvent(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"]
    created_at: int = Created
    level: Level
    type: EventType
    message: str
    data: dict[str, Any] | None


class FineTuningEventList(_List):
    data: list[FineTuningEvent]


class FineTuningCheckpoint(BaseModel):
    id: str
    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int = Created
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str = Field(description="A model that can be called at once.")
    step_number: int
    metrics: dict[str, float | None]


class FineTuningCheckpointList(_List):
    data: list[FineTuningCheckpoint]
    first_id: str | None
    last_id: str | None


class FineTuningPlan(BaseModel):
    """What a job would take. Nothing is started."""

    object: Literal["fine_tuning.plan"]
    model: str
    hyperparameters: dict[str, Any]
    plan: dict[str, Any] = Field(description="Steps, tokens, time, memory and cost.")


class FileCounts(BaseModel):
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class ExpiresAfterUse(BaseModel):
    anchor: Literal["last_active_at"]
    days: int


class CollectionExtension(BaseModel):
    """Of a collection that was filled by `python -m retrieval ingest`."""

    collection: str
    read_only: bool


class VectorStore(BaseModel):
    id: str
    object: Literal["vector_store"]
    created_at: int = Created
    name: str
    description: str = absent_or("As given.")
    usage_bytes: int
    file_counts: FileCounts
    status: Literal["in_progress", "completed", "expired"]
    expires_after: ExpiresAfterUse = absent_or("Absent where it never expires.")
    expires_at: Seconds
    last_active_at: int
    metadata: dict[str, str]
    hamlet: CollectionExtension = absent_or("Of a collection alone.")


class VectorStoreList(_List):
    data: list[VectorStore]
    first_id: str
    last_id: str


class DeletedVectorStore(BaseModel):
    id: str
    object: Literal["vector_store.deleted"]
    deleted: Literal[True]


class ReadingError(BaseModel):
    code: str
    message: str


class ChunkTokens(BaseModel):
    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class StaticChunks(BaseModel):
    type: Literal["static"]
    static: ChunkTokens


class OtherChunks(BaseModel):
    type: Literal["other"]


class FileExtension(BaseModel):
    filename: str


class VectorStoreFile(BaseModel):
    id: str
    object: Literal["vector_store.file"]
    usage_bytes: int
    created_at: int = Created
    vector_store_id: str
    status: FileStatus
    last_error: ReadingError | None
    chunking_strategy: StaticChunks | OtherChunks
    attributes: dict[str, Scalar]
    hamlet: FileExtension


class VectorStoreFileList(_List):
    data: list[VectorStoreFile]
    first_id: str
    last_id: str


class DeletedVectorStoreFile(BaseModel):
    id: str
    object: Literal["vector_store.file.deleted"]
    deleted: Literal[True]


class VectorStoreFileBatch(BaseModel):
    id: str
    object: Literal["vector_store.files_batch"]
    created_at: int = Created
    vector_store_id: str
    status: FileStatus
    file_counts: FileCounts


class ChunkPlace(BaseModel):
    """Where a chunk stands; `start` and `end` are characters of the file's text."""

    chunk_id: str
    position: int
    start: int
    end: int
    page: int | None
    headings: list[str]
    context: str


class ExplainedPlace(ChunkPlace):
    scores: dict[str, float | None] = Field(description="What each stage gave.")


class ChunkText(BaseModel):
    type: Literal["text"]
    text: str


class PlacedText(ChunkText):
    hamlet: ChunkPlace


class SearchResult(BaseModel):
    file_id: str
    filename: str
    score: float = Field(ge=0, le=1, description="Similarity of chunk and question.")
    attributes: dict[str, Scalar]
    content: list[ChunkText]


class ExplainedResult(SearchResult):
    hamlet: ExplainedPlace


class StageTimes(BaseModel):
    stage_ms: dict[str, float]


class SearchResults(BaseModel):
    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[ExplainedResult | SearchResult]
    has_more: bool
    next_page: None
    hamlet: StageTimes = absent_or("With hamlet.explain.")


class FileContent(BaseModel):
    object: Literal["vector_store.file_content.page"]
    data: list[PlacedText] = Field(description="The chunks as they are searched.")
    has_more: bool
    next_page: None


class Evaluation(BaseModel):
    id: str
    object: Literal["evaluation"]
    name: str
    status: ReportStatus
    stage: str
    verdict: str | None
    error: str | None
    created_at: int = Created
    finished_at: Seconds
    url: str | None = Field(description="Path of the report, once it is there.")


class EvaluationList(BaseModel):
    object: Literal["list"]
    data: list[Evaluation]
