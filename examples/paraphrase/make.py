"""Write train.tsv and test.tsv, the paraphrase pairs, from seeds.tsv.

Owns the seed format, the split and the order in a pair; not the sentences, which people edit in seeds.tsv.
Nothing is random: split and order come from SHA-256 of the text, so that adding a seed moves no other pair.

    python examples/paraphrase/make.py            write both files
    python examples/paraphrase/make.py --check    exit 1 if a file differs from what would be written
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SEED_COLUMNS = ("sentence", "paraphrase", "near_miss")
PAIR_COLUMNS = ("sentence1", "sentence2", "label")
TEST_PERCENT = 20


class SeedError(ValueError):
    """A fault in seeds.tsv; the message names the line."""


@dataclass(frozen=True)
class Seed:
    """One row of seeds.tsv: `paraphrase` says what `sentence` says, `near_miss` does not."""

    sentence: str
    paraphrase: str
    near_miss: str


@dataclass(frozen=True)
class Pair:
    """One row of train.tsv or test.tsv; label 1 is equivalent, 0 is not_equivalent."""

    sentence1: str
    sentence2: str
    label: int


def parse_seeds(text: str) -> list[Seed]:
    """Read the text of seeds.tsv. Raises SeedError, with the line number, at the first fault."""
    lines = text.removesuffix("\n").split("\n")
    if tuple(lines[0].split("\t")) != SEED_COLUMNS:
        raise SeedError(f"line 1: the header must be {', '.join(SEED_COLUMNS)}, separated by tabs.")
    seeds: list[Seed] = []
    line_of: dict[str, int] = {}  # normalised sentence -> the line that has it
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(SEED_COLUMNS):
            raise SeedError(
                f"line {number}: {len(cells)} columns where 3 belong; a sentence must not hold a tab."
            )
        for cell in cells:
            if not cell or cell != " ".join(cell.split()):
                raise SeedError(f"line {number}: empty, or with stray white space: {cell!r}.")
            # Case and the closing full stop do not make another sentence, and would hide a leak.
            key = cell.casefold().rstrip(".!?")
            if key in line_of:
                raise SeedError(f"line {number}: this sentence is already on line {line_of[key]}: {cell!r}.")
            line_of[key] = number
        seeds.append(Seed(*cells))
    return seeds


def bucket(text: str, num_buckets: int) -> int:
    """A number below num_buckets from the text alone (`hash` would be salted in each process)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % num_buckets


def is_test(seed: Seed) -> bool:
    """Whether both pairs of the seed are test pairs: by seed, so that no sentence is on both sides."""
    return bucket(f"side {seed.sentence}", 100) < TEST_PERCENT


def pair_of(first: str, second: str, label: int) -> Pair:
    """The pair in either order; the label has no say in the order."""
    if bucket(f"order {first} {second}", 2):
        first, second = second, first
    return Pair(first, second, label)


def pairs_of(seed: Seed) -> tuple[Pair, Pair]:
    """One equivalent and one not_equivalent pair, so that every split is balanced."""
    return pair_of(seed.sentence, seed.paraphrase, 1), pair_of(seed.sentence, seed.near_miss, 0)


def render(pairs: Sequence[Pair]) -> str:
    """The text of a pair file: header, then a row for each pair."""
    rows = ["\t".join(PAIR_COLUMNS)]
    rows += [f"{pair.sentence1}\t{pair.sentence2}\t{pair.label}" for pair in pairs]
    return "\n".join(rows) + "\n"


def make(seed_text: str) -> dict[str, str]:
    """File name -> content, from the text of seeds.tsv."""
    seeds = parse_seeds(seed_text)
    return {
        "train.tsv": render([pair for seed in seeds if not is_test(seed) for pair in pairs_of(seed)]),
        "test.tsv": render([pair for seed in seeds if is_test(seed) for pair in pairs_of(seed)]),
    }


def stale_files(files: dict[str, str], folder: Path) -> list[str]:
    """Names of the files that are missing from the folder or differ there, to the byte."""
    return [
        name
        for name, content in files.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content.encode()
    ]


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """Write the files, or check them. Returns the exit code: 0, or 1 with a sentence on stderr."""
    parser = argparse.ArgumentParser(description="Write train.tsv and test.tsv from seeds.tsv.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    check = parser.parse_args(arguments).check
    try:
        files = make((folder / "seeds.tsv").read_bytes().decode())
    except (SeedError, UnicodeDecodeError, FileNotFoundError) as fault:
        print(f"seeds.tsv cannot be used: {fault}", file=sys.stderr)
        return 1
    stale = stale_files(files, folder)
    if check and stale:
        print(
            f"{' and '.join(stale)} differ from what seeds.tsv gives; run make.py and commit.",
            file=sys.stderr,
        )
        return 1
    if not check:
        for name, content in files.items():
            (folder / name).write_bytes(content.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
