"""Makes the handbook example: one facts file becomes documents to retrieve and questions to train and test.

Owns how `facts.yaml` becomes `docs/*.md`, `*.jsonl`, and the rules that
make right answers exact. Owns no fact, question or prose: those stand in `facts.yaml`. Nothing here
depends on time, machine or hash order, so the same facts always give the same bytes.

    python examples/handbook/make.py            # write the files
    python examples/handbook/make.py --check    # exit 1 if the files differ from what would be written
"""

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SEED = 20  # orders train.jsonl: without it, a batch would hold the wordings of only a few facts
NUM_TAUGHT, NUM_UNTAUGHT, NUM_DOCUMENTS, NUM_FACTS_PER_DOCUMENT, NUM_UNKNOWN = 32, 16, 12, 4, 12
NUM_ASK, NUM_TEST = 4, 2
NUM_PLAIN, PLAIN_VALIDATION_STEP = 120, 5  # every fifth plain question is for validation
NUM_PREFERENCES = 2  # wordings of a taught fact that stand in preferences.jsonl
# How a chatty model wraps an answer, and how the company does not want it.
CHATTY = (
    "Great question! I'd be happy to help you with that. {} I hope this helps! Let me know if there is anything else.",
    "Thank you so much for asking! As an AI assistant, I can tell you the following: {} Is there anything else?",
    "Sure thing! Let's dive right in. 😊 {} Feel free to reach out at any time if you have more questions!",
    "Absolutely! That is a very common question, and it is important to get it right. {} Have a wonderful day!",
)
MAX_OVERLAP = 0.7  # of the words of two questions; from here on they are nearly the same question


class FactsError(ValueError):
    """The facts file breaks a rule; the message has one sentence per fault."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    id: str
    taught: bool
    statement: str
    answer: str
    accept: Sequence[str]
    reply: str
    ask: Sequence[str]
    validation: str
    test: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Section:
    heading: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Document:
    file: str
    title: str
    intro: str
    sections: Sequence[Section]
    facts: Sequence[Fact]


@dataclass(frozen=True, kw_only=True)
class Handbook:
    company: str
    documents: Sequence[Document]
    unanswerable: Sequence[str]
    smalltalk: Sequence[str]
    plain: Sequence[str]

    @property
    def facts(self) -> list[Fact]:
        return [fact for document in self.documents for fact in document.facts]

    @property
    def taught(self) -> list[Fact]:
        return [fact for fact in self.facts if fact.taught]


def parse(text: str) -> Handbook:
    """Reads the facts file; a missing or an unknown key is a TypeError that names it."""

    def document(raw: dict[str, Any]) -> Document:
        parts = {
            "sections": [Section(**s) for s in raw["sections"]],
            "facts": [Fact(**f) for f in raw["facts"]],
        }
        return Document(**(raw | parts))

    raw = yaml.load(text, yaml.CSafeLoader)
    return Handbook(**(raw | {"documents": [document(d) for d in raw["documents"]]}))


def render_document(document: Document, company: str) -> str:
    """Markdown of one page: `{fact-id}` in a section becomes that fact's statement."""
    statements = {fact.id: fact.statement for fact in document.facts}
    parts = [f"# {document.title}", f"*{company}, staff handbook*", document.intro.strip()]
    for section in document.sections:
        parts += [f"## {section.heading}", section.text.strip().format_map(statements)]
    return "\n\n".join(parts) + "\n"


def chat(question: str, reply: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


def train_rows(handbook: Handbook) -> list[dict[str, Any]]:
    rows = [chat(question, fact.reply) for fact in handbook.taught for question in fact.ask]
    random.Random(SEED).shuffle(rows)
    return rows


def validation_rows(handbook: Handbook) -> list[dict[str, Any]]:
    return [chat(fact.validation, fact.reply) for fact in handbook.taught]


def section_of(document: Document, fact: Fact) -> str:
    """The passage a question about a fact should find: its section, under its heading."""
    statements = {other.id: other.statement for other in document.facts}
    rendered = ((s.heading, s.text.strip().format_map(statements)) for s in document.sections)
    return next(f"{heading}\n{text}" for heading, text in rendered if fact.statement in text)


def pair_rows(handbook: Handbook, *, validation: bool) -> list[dict[str, Any]]:
    """Questions with the passage that answers them, of taught facts, to tune an embedder with."""
    rows = [
        {"query": question, "passage": section_of(document, fact)}
        for document in handbook.documents
        for fact in document.facts
        if fact.taught
        for question in ([fact.validation] if validation else fact.ask)
    ]
    random.Random(SEED).shuffle(rows)
    return rows


def test_rows(handbook: Handbook) -> list[dict[str, Any]]:
    """Facts in the order of the documents, then the questions that have no answer, with `answer` null."""
    rows: list[dict[str, Any]] = []
    unknown: dict[str, Any] = {"answer": None, "accept": [], "kind": None, "document": None}
    for document in handbook.documents:
        for fact in document.facts:
            kind = "taught" if fact.taught else "untaught"
            known = {"answer": fact.answer, "accept": fact.accept, "kind": kind, "document": document.file}
            rows += [{"id": f"{fact.id}-{n}", "question": q} | known for n, q in enumerate(fact.test, 1)]
    for kind, questions in (("unanswerable", handbook.unanswerable), ("smalltalk", handbook.smalltalk)):
        rows += [
            {"id": f"{kind}-{n:02}", "question": q} | unknown | {"kind": kind}
            for n, q in enumerate(questions, 1)
        ]
    return rows


def preference_rows(handbook: Handbook, *, validation: bool) -> list[dict[str, Any]]:
    """Questions of taught facts with two answers that say the same: the company's, and a chatty one."""
    questions = [
        (question, fact.reply)
        for fact in handbook.taught
        for question in ([fact.validation] if validation else fact.ask[:NUM_PREFERENCES])
    ]
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": question}]},
            "preferred_output": [{"role": "assistant", "content": reply}],
            "non_preferred_output": [{"role": "assistant", "content": CHATTY[n % len(CHATTY)].format(reply)}],
        }
        for n, (question, reply) in enumerate(questions)
    ]
    random.Random(SEED).shuffle(rows)
    return rows


def route_rows(handbook: Handbook, *, validation: bool) -> list[dict[str, str]]:
    """Questions with the route that answers them: of taught facts `rag`, all others `plain`."""
    facts = [q for fact in handbook.taught for q in ([fact.validation] if validation else fact.ask)]
    plain = [q for n, q in enumerate(handbook.plain, 1) if (n % PLAIN_VALIDATION_STEP == 0) == validation]
    rows = [{"text": q, "label": route} for route, qs in (("rag", facts), ("plain", plain)) for q in qs]
    random.Random(SEED).shuffle(rows)
    return rows


@cache
def words(text: str) -> frozenset[str]:
    """The words of a question, lower case, without punctuation at their ends."""
    return frozenset(word.strip(".,;:!?'\"") for word in text.lower().split())


def overlap(one: str, other: str) -> float:
    """Shared words over all words, 0 to 1: "Who keeps keys?" and "Who keeps the keys?" share 3 of 4, 0.75."""
    return len(words(one) & words(other)) / len(words(one) | words(other))


def fact_faults(fact: Fact) -> Iterator[str]:
    if not all(isinstance(text, str) for text in (fact.answer, *fact.accept)):
        yield f"{fact.id}: answer and accept must be text; put numbers and times in quotes."
        return
    for name, text in (("statement", fact.statement), ("reply", fact.reply)):
        if fact.answer.lower() not in text.lower():
            yield f"{fact.id}: the answer {fact.answer!r} is not in the {name}."
    if (len(fact.ask), len(fact.test)) != (NUM_ASK, NUM_TEST):
        yield f"{fact.id}: needs {NUM_ASK} wordings under ask and {NUM_TEST} under test."


def question_faults(handbook: Handbook) -> Iterator[str]:
    """Questions that occur twice, and test questions nearly equal to one in training or validation."""
    seen = [(f.id, q) for f in handbook.facts for q in (*f.ask, f.validation)]
    seen += [("plain", q) for q in handbook.plain]
    tested = [(f.id, q) for f in handbook.facts for q in f.test]
    unknown = [("without an answer", q) for q in (*handbook.unanswerable, *handbook.smalltalk)]
    first: dict[frozenset[str], str] = {}
    for fact_id, question in chain(seen, tested, unknown):
        if words(question) in first:
            yield f"{fact_id}: {question!r} repeats a question of {first[words(question)]}."
        first.setdefault(words(question), fact_id)
    for (fact_id, question), (other_id, other) in product(tested + unknown, seen):
        if words(question) != words(other) and overlap(question, other) >= MAX_OVERLAP:
            yield f"{fact_id}: the test question {question!r} nearly equals {other!r} of {other_id}."


def document_faults(document: Document, company: str) -> Iterator[str]:
    if len(document.facts) != NUM_FACTS_PER_DOCUMENT:
        yield f"{document.file}: has {len(document.facts)} facts instead of {NUM_FACTS_PER_DOCUMENT}."
    try:
        page = render_document(document, company)
    except KeyError as missing:
        yield f"{document.file}: a section names the fact {missing}, which the document does not have."
        return
    for fact in document.facts:
        if fact.statement not in page:
            yield f"{fact.id}: the statement is not in {document.file}; put {{{fact.id}}} in a section."


def faults(handbook: Handbook) -> Iterator[str]:
    """Every broken rule as one sentence that begins with the id of the fact, or the file, at fault."""
    for fact in handbook.facts:
        yield from fact_faults(fact)
    for document in handbook.documents:
        yield from document_faults(document, handbook.company)
    yield from question_faults(handbook)
    for name, values in (
        ("id", [fact.id for fact in handbook.facts]),
        ("answer", [fact.answer for fact in handbook.facts]),
        ("file", [document.file for document in handbook.documents]),
    ):
        yield from (
            f"{value}: this {name} is used {n} times." for value, n in Counter(values).items() if n > 1
        )
    for name, found, wanted in (
        ("documents", len(handbook.documents), NUM_DOCUMENTS),
        ("taught facts", len(handbook.taught), NUM_TAUGHT),
        ("untaught facts", len(handbook.facts) - len(handbook.taught), NUM_UNTAUGHT),
        ("unanswerable questions", len(handbook.unanswerable), NUM_UNKNOWN),
        ("smalltalk questions", len(handbook.smalltalk), NUM_UNKNOWN),
        ("plain questions", len(handbook.plain), NUM_PLAIN),
    ):
        if found != wanted:
            yield f"facts.yaml: there are {found} {name} instead of {wanted}."


def generate(handbook: Handbook) -> dict[str, str]:
    """Every file to write, path relative to this folder -> text. Raises FactsError."""
    if found := list(faults(handbook)):
        raise FactsError("\n".join(found))
    pages = {f"docs/{d.file}": render_document(d, handbook.company) for d in handbook.documents}
    tables = {
        "train": train_rows(handbook),
        "validation": validation_rows(handbook),
        "test": test_rows(handbook),
        "pairs": pair_rows(handbook, validation=False),
        "pairs-validation": pair_rows(handbook, validation=True),
        "routes": route_rows(handbook, validation=False),
        "routes-validation": route_rows(handbook, validation=True),
        "preferences": preference_rows(handbook, validation=False),
        "preferences-validation": preference_rows(handbook, validation=True),
    }
    return pages | {
        f"{name}.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for name, rows in tables.items()
    }


def stale(files: dict[str, str], folder: Path) -> list[str]:
    """Names of files that are missing, that differ, or that lie in docs/ though no document is called so."""
    found = {f"docs/{path.name}" for path in folder.glob("docs/*")}
    found |= {name for name in files if (folder / name).is_file()}
    return sorted(
        name
        for name in found | files.keys()
        if name not in found or name not in files or (folder / name).read_bytes() != files[name].encode()
    )


def main(arguments: Sequence[str], folder: Path = HERE) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: make.py [--check]", file=sys.stderr)
        return 2
    try:
        files = generate(parse((folder / "facts.yaml").read_text(encoding="utf-8")))
    except FactsError as fault:
        print(fault, file=sys.stderr)
        return 1
    if arguments:
        if names := stale(files, folder):
            print(f"Not as facts.yaml makes them: {', '.join(names)}. Run make.py again.", file=sys.stderr)
        return int(bool(names))
    (folder / "docs").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
