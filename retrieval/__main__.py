"""`python -m retrieval`: fill a collection and search it."""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cluster.cli import run
from cluster.errors import InvalidInput, NotFound
from cluster.tenants import DEFAULT_TENANT, require_tenant
from retrieval.client import CollectionsClient
from retrieval.config import (
    DEFAULT_CHUNK_TOKENS,
    DEFAULT_EMBEDDER,
    DEFAULT_OVERLAP_TOKENS,
    retrieval_config,
)
from retrieval.console import (
    console,
    place,
    print_collections,
    print_documents,
    print_evaluation,
    print_report,
    print_result,
    progress_bar,
)
from retrieval.documents import MetadataValue
from retrieval.owner import open_collections
from retrieval.search import MAX_TOP_K, MIN_CANDIDATES, Mode, SearchRequest, merge_results
from retrieval.sources import find_sources
from retrieval.vectorizer import TextEmbedder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Documents to hits: fill a collection, search it, look into it.

    Example:

        python -m retrieval ingest examples/handbook/docs --collection handbook
        python -m retrieval search "how many days of leave?" --collection handbook
    """,
)
# Not what Python reads beside it: codes that begin with 0, 1_000, digits of other scripts.
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
Paths = Annotated[list[str], typer.Argument(help="Files, folders or fsspec URIs (s3://…).")]
ChunkTokens = Annotated[int, typer.Option(help="Longest chunk, in the embedder's tokens.")]
OverlapTokens = Annotated[int, typer.Option(help="Tokens that neighbouring chunks share.")]
CollectionOption = Annotated[str, typer.Option("--collection", "-c", help="Name of the collection.")]
RerankerOption = Annotated[
    str | None,
    typer.Option(help="Cross-encoder or pair classifier that orders the hits: hub id, folder or name."),
]
AllCollections = Annotated[bool, typer.Option("--all", help="All collections.")]
Project = Annotated[
    str,
    typer.Option("--project", callback=require_tenant, help="Whose documents. No project sees another's."),
]


@app.command()
def ingest(
    paths: Paths,
    collection: CollectionOption,
    embedder: Annotated[
        str | None, typer.Option(help=f"Embedding model; the collection's own, or {DEFAULT_EMBEDDER}.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", "-m", help="KEY=VALUE to filter by; may be repeated.")
    ] = None,
    chunk_tokens: ChunkTokens = DEFAULT_CHUNK_TOKENS,
    chunk_overlap_tokens: OverlapTokens = DEFAULT_OVERLAP_TOKENS,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Embed in this many processes of the cluster, each with a CPU or GPU; in this one by default.",
        ),
    ] = None,
    tenant: Project = DEFAULT_TENANT,
) -> None:
    """Make a collection agree with files: new and changed ones are indexed, vanished ones removed.

    Example: [bold]python -m retrieval ingest examples/handbook/docs --collection handbook[/]
    """
    fields = dict(_key_value(item) for item in metadata or [])
    num_files = sum(len(find_sources(path)) for path in paths)
    with open_collections() as collections:
        config = retrieval_config(
            collection=collection,
            embedder=embedder or _embedder_of(collections, collection),
            chunk_tokens=chunk_tokens,
            chunk_overlap_tokens=chunk_overlap_tokens,
        )
        with progress_bar() as progress:
            task = progress.add_task("loading the embedder", total=num_files)
            from retrieval.ingest import WINDOW_CHUNKS, Ingestor

            with _embedder(config.embedder, workers) as model:
                progress.update(task, description="indexing files")
                ingestor = Ingestor(
                    collections,
                    model,
                    config,
                    tenant,
                    on_document=lambda _: progress.advance(task),
                    window_chunks=WINDOW_CHUNKS * (workers or 1),
                )
                report = ingestor.add_paths(paths, fields)
    print_report(collection, report)


def _embedder(reference: str, workers: int | None) -> AbstractContextManager[TextEmbedder]:
    """The model in this process, or in processes of the cluster."""
    if workers is not None:
        from retrieval.embedding_workers import EmbeddingWorkers

        return EmbeddingWorkers(reference, workers)
    # Imported late: torch takes seconds, and every error before should come at once.
    from retrieval.embedding import Embedder

    return nullcontext(Embedder(reference))


@app.command()
def chunks(
    paths: Paths,
    embedder: Annotated[str, typer.Option(help="Embedding model that they are cut for.")] = DEFAULT_EMBEDDER,
    chunk_tokens: ChunkTokens = DEFAULT_CHUNK_TOKENS,
    chunk_overlap_tokens: OverlapTokens = DEFAULT_OVERLAP_TOKENS,
) -> None:
    """Print what ingest would index, a JSON object for each chunk: document, context, text. Nothing is indexed.

    Example: [bold]python -m retrieval chunks examples/handbook/docs > chunks.jsonl[/]
    """
    from retrieval.embedding import Embedder
    from retrieval.ingest import Skipped, chunker_for, cut_paths

    config = retrieval_config(
        collection="unused",
        embedder=embedder,
        chunk_tokens=chunk_tokens,
        chunk_overlap_tokens=chunk_overlap_tokens,
    )
    skipped: list[Skipped] = []
    for chunk in cut_paths(paths, chunker_for(Embedder(embedder), config), skipped):
        row = {"document": chunk.document_id, "context": chunk.context, "text": chunk.text}
        typer.echo(json.dumps(row, ensure_ascii=False))
    for source in skipped:
        typer.echo(f"skipped {source.uri}: {source.reason}", err=True)


@app.command()
def search(
    question: Annotated[str, typer.Argument(help="What to look for.")],
    collection: Annotated[
        list[str], typer.Option("--collection", "-c", help="Name of the collection; may be repeated.")
    ],
    top_k: Annotated[int, typer.Option(min=1, help="How many hits.")] = 5,
    mode: Annotated[Mode, typer.Option(help="By meaning, by words, or by both.")] = Mode.HYBRID,
    score_threshold: Annotated[
        float | None, typer.Option(help="Only hits at least this similar to the question (-1 to 1).")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", "-m", help="KEY=VALUE that a document must have; may be repeated."),
    ] = None,
    diversity: Annotated[
        float, typer.Option(help="How unlike each other the hits are to be, 0 to 1; 0 takes the best alone.")
    ] = 0.0,
    reranker: RerankerOption = None,
    tenant: Project = DEFAULT_TENANT,
) -> None:
    """The passages that answer a question best.

    Example: [bold]python -m retrieval search "when does leave lapse?" --collection handbook --top-k 3[/]
    """
    wanted = [{"type": "eq", "key": key, "value": value} for key, value in map(_key_value, metadata or [])]
    where = {"type": "and", "filters": wanted} if wanted else None
    num_candidates = top_k if reranker is None else max(top_k, MIN_CANDIDATES)
    request = SearchRequest(question, None, num_candidates, mode, where, score_threshold, diversity)
    with open_collections() as collections:
        results = [
            collections.search(name, _embedded(collections, name, request), tenant) for name in collection
        ]
    result = merge_results(results, num_candidates) if len(results) > 1 else results[0]
    if reranker is not None:
        from retrieval.rerank import CrossEncoder, rerank

        result = rerank(question, result, CrossEncoder(reranker), top_k)
    print_result(result)


@app.command(name="list")
def list_(
    collection: Annotated[str | None, typer.Argument(help="Show the documents of this collection.")] = None,
    tenant: Project = DEFAULT_TENANT,
) -> None:
    """The collections, or the documents of one.

    Example: [bold]python -m retrieval list handbook[/]
    """
    with open_collections() as collections:
        if collection is None:
            print_collections(collections.list_collections())
        else:
            print_documents(collections.documents(collection, tenant))


@app.command()
def delete(
    collection: CollectionOption,
    documents: Annotated[list[str] | None, typer.Argument(help="Ids of documents.")] = None,
    whole: Annotated[
        bool, typer.Option("--whole-collection", help="Remove the collection itself, for all projects.")
    ] = False,
    tenant: Project = DEFAULT_TENANT,
) -> None:
    """Remove documents from a collection, or the collection itself.

    Example: [bold]python -m retrieval delete docs/old.md --collection handbook[/]
    """
    if bool(documents) == whole:
        raise InvalidInput("name documents to delete, or give --whole-collection", "documents")
    with open_collections() as collections:
        if whole:
            collections.drop(collection)
            console.print(f"{collection} is gone")
            return
        known = collections.document_ids(collection, tenant)
        unknown = [id_ for id_ in documents or [] if id_ not in known]
        if unknown:
            raise _unknown_document(collection, unknown[0])
        num_chunks = collections.delete_documents(collection, documents or [], tenant)
    console.print(f"{len(documents or [])} documents with {num_chunks} chunks are gone")


@app.command()
def explain(
    question: Annotated[str, typer.Argument(help="What was looked for.")],
    document: Annotated[str, typer.Argument(help="Id of the document.")],
    collection: CollectionOption,
    reranker: RerankerOption = None,
    tenant: Project = DEFAULT_TENANT,
) -> None:
    """Why a document was found for a question, or was not: what each stage made of it.

    Example: [bold]python -m retrieval explain "when does leave lapse?" docs/leave.md -c handbook[/]
    """
    from retrieval.explain import explain as explain_hit
    from retrieval.rerank import CrossEncoder

    with open_collections() as collections:
        if collections.document(collection, document, tenant) is None:
            raise _unknown_document(collection, document)
        request = _embedded(collections, collection, SearchRequest(question))
        model = CrossEncoder(reranker) if reranker is not None else None
        found = explain_hit(collections, collection, request, document, tenant, model)
    if found is None:
        raise NotFound(
            f"no stage has {document!r} among its first {MAX_TOP_K} chunks; ask with words that stand in it",
            "document",
        )
    for stage, rank in found.ranks.items():
        console.print(f"{stage:6} rank {rank}, score {found.hit.scores.get(stage, 0.0):.3f}")
    console.print(f"words found: {' '.join(found.shared_words) or '-'}", markup=False)
    console.print(f"words missing: {' '.join(found.missing_words) or '-'}", markup=False)
    console.print(f"{escape(place(found.hit))}\n{escape(found.hit.text)}")


@app.command()
def migrate(
    collection: CollectionOption,
    embedder: Annotated[str, typer.Option(help="The embedding model to move to.")],
) -> None:
    """Move a collection to another embedder, while it is being searched.

    Example: [bold]python -m retrieval migrate -c handbook --embedder ft:minilm:hamlet:handbook:1a2b3c4d[/]
    """
    from retrieval.embedding import Embedder
    from retrieval.migrate import migrate as migrate_collection

    with open_collections() as collections, progress_bar() as progress:
        task = progress.add_task("embedding again", total=collections.describe(collection).num_points)
        count = migrate_collection(
            collections, collection, Embedder(embedder), lambda n: progress.advance(task, n)
        )
    console.print(f"{collection} uses {embedder}; {count} chunks were embedded again", markup=False)


@app.command()
def backup(
    target: Annotated[
        str, typer.Argument(help="File or fsspec URI to write (Parquet); with --all a folder.")
    ],
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Name of the collection.")
    ] = None,
    whole: AllCollections = False,
    prune: Annotated[
        bool, typer.Option(help="With --all, then remove the folder's backups of collections that are gone.")
    ] = False,
) -> None:
    """Write a collection to a file, or with --all each to a file of its own.

    Example: [bold]python -m retrieval backup -c handbook handbook.parquet[/]
    """
    from retrieval.backup import back_up, back_up_all

    if (collection is None) != whole:
        raise InvalidInput("name one collection with --collection, or give --all", "collection")
    if prune and not whole:
        raise InvalidInput("--prune removes what --all does not write; give both", "prune")
    with open_collections() as collections:
        if collection is None:
            written = back_up_all(collections, target, prune)
            console.print(f"collections: {len(written)} with {sum(written.values())} chunks")
            return
        count = back_up(collections, collection, target)
    console.print(f"{count} chunks of {collection} are in {target}", markup=False)


@app.command()
def restore(
    source: Annotated[
        str, typer.Argument(help="File or fsspec URI written by backup; with --all the folder.")
    ],
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", help="Name to restore under; by default the one backed up."),
    ] = None,
    whole: AllCollections = False,
) -> None:
    """Make a collection from a backup, in whatever store is configured now; with --all those that are not there.

    Example: [bold]python -m retrieval restore handbook.parquet -c handbook-copy[/]
    """
    from retrieval.backup import restore as restore_collection
    from retrieval.backup import restore_all

    if whole and collection is not None:
        raise InvalidInput(
            "--collection renames one collection; leave it out with --all, or restore its file", "collection"
        )
    with open_collections() as collections:
        if whole:
            restored = restore_all(collections, source)
            console.print(f"collections: {len(restored)} with {sum(restored.values())} chunks")
            return
        count = restore_collection(collections, source, collection)
    console.print(f"{count} chunks restored")


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/test.tsv.")],
    embedder: Annotated[str, typer.Option(help="Embedding model.")] = DEFAULT_EMBEDDER,
    reranker: RerankerOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="File to draw the figures into (PNG, SVG).")
    ] = None,
) -> None:
    """How well dense, BM25, hybrid and reranked search answer questions whose answers are known.

    The corpus is indexed in a temporary collection.

    Example: [bold]python -m retrieval evaluate scifact/ --plot stages.png[/]
    """
    from retrieval import evaluate as evaluation
    from retrieval.beir import read_beir
    from retrieval.embedding import Embedder
    from retrieval.rerank import CrossEncoder

    judged = read_beir(folder)
    model = Embedder(embedder)
    with progress_bar() as progress:
        task = progress.add_task("indexing documents", total=len(judged.documents))
        with evaluation.indexed(judged, model, lambda _: progress.advance(task)) as collections:
            ways = evaluation.searches(
                collections, evaluation.COLLECTION, model, CrossEncoder(reranker) if reranker else None
            )
            asked = progress.add_task("asking questions", total=len(ways))
            results = {}
            for stage, way in ways.items():
                results[stage] = evaluation.evaluate(judged, way)
                progress.advance(asked)
    if as_json:
        typer.echo(json.dumps(evaluation.as_json(results), indent=2))
    else:
        print_evaluation(results, len(judged.questions), len(judged.documents))
    if plot_file is not None:
        evaluation.plot(results, plot_file)


def _embedded(collections: CollectionsClient, collection: str, request: SearchRequest) -> SearchRequest:
    """The request with its question embedded as the collection was, unless words are all that is compared."""
    spec = collections.describe(collection).spec
    if not request.needs_vector:
        return request
    embedder = _embedder_by_name(spec.embedder)
    vector = embedder.embed_queries([request.query_text], truncate=True)[0]
    return replace(request, query_vector=vector, fingerprint=embedder.fingerprint)


@cache  # collections that are searched together mostly have the same one
def _embedder_by_name(reference: str) -> TextEmbedder:
    # Imported late: torch takes seconds, and an unknown collection should be refused at once.
    from retrieval.embedding import Embedder

    return Embedder(reference)


def _unknown_document(collection: str, document: str) -> NotFound:
    return NotFound(
        f"no document {document!r} in {collection!r}; python -m retrieval list {collection} names those there are",
        "document",
    )


def _embedder_of(collections: CollectionsClient, collection: str) -> str:
    try:
        return collections.describe(collection).spec.embedder
    except NotFound:
        return DEFAULT_EMBEDDER


def _key_value(item: str) -> tuple[str, MetadataValue]:
    """`year=2024` -> ("year", 2024): true, false and numbers, as JSON writes them, are taken as such.

    >>> _key_value("open=true"), _key_value("zip=01067")
    (('open', True), ('zip', '01067'))
    """
    key, separator, raw = item.partition("=")
    if not separator or not key:
        raise InvalidInput(f"--metadata {item!r} is not KEY=VALUE", "metadata")
    if raw in ("true", "false"):
        return key, raw == "true"
    if NUMBER.fullmatch(raw):
        return key, float(raw) if "." in raw else int(raw)
    return key, raw


if __name__ == "__main__":
    run(app)
