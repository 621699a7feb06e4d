from __future__ import annotations

import errno
import json
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from datasets.exceptions import DatasetGenerationError
from datasets.table import CastError
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DataError, HubUnreachable, NotFound
from cluster.settings import settings
from training import sources
from training.config import DataConfig
from training.faults import Fault
from training.row_files import Row, scan
from training.sources import load_rows, read_rows, split_by_hash

CHAT = [{"messages": [{"role": "user", "content": f"question {number}"}]} for number in range(12)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_file(path: Path | str) -> list[Row]:
    return list(read_rows(path))


def columns(path: Path | str) -> list[dict[str, Any]]:
    return [row.columns for row in read_file(path)]


def test_a_byte_order_mark_at_the_start_is_dropped_and_one_inside_text_is_kept(tmp_path: Path) -> None:
    rows = [*CHAT[:9], {"messages": [{"role": "user", "content": "\ufeffbegins with a mark"}]}]
    plain = write(tmp_path / "plain.jsonl", jsonl(rows))
    marked = write(tmp_path / "marked.jsonl", b"\xef\xbb\xbf" + jsonl(rows).encode())
    assert read_file(marked) == read_file(plain)
    assert columns(marked) == rows


def test_a_half_written_last_line_is_refused_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.jsonl", jsonl(CHAT)[:-20])
    with pytest.raises(
        DataError, match=r"cut\.jsonl, line 12, column \d+: the JSON ends in the middle \(half-written"
    ):
        read_file(path)


def test_an_inner_quote_is_refused_with_line_and_column(tmp_path: Path) -> None:
    lines = jsonl(CHAT).splitlines()
    lines[6] = '{"messages":[{"role":"user","content":"say "hi" now"}]}'
    path = write(tmp_path / "quote.jsonl", "\n".join(lines))
    column = lines[6].index('"hi') + 1
    with pytest.raises(DataError, match=f"line 7, column {column}: a quotation mark inside the text"):
        read_file(path)


def test_half_of_a_character_is_refused_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "half.jsonl", '{"text": "\\ud83d\\ude00 whole"}\n{"text": "\\ud83d half"}\n')
    with pytest.raises(DataError, match="line 2, column 11: holds half of a character"):
        read_file(path)
    with pytest.raises(DataError, match="line 1, column 12: holds half of a character"):
        read_file(write(tmp_path / "half.json", '[{"text": "\\ud83d half"}]'))


@pytest.mark.parametrize("line", ["[1, 2]", '"text"', "7", "null"])
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "rows.jsonl", '{"a": 1}\n' + line)
    with pytest.raises(DataError, match="line 2: expected an object, found"):
        read_file(path)


def test_windows_line_ends_and_blank_lines_change_nothing_but_line_numbers(tmp_path: Path) -> None:
    for name, text in {
        "rows.jsonl": '{"a": "x"}\r\n\r\n{"a": "y"}\r\n',
        "rows.csv": "a\r\nx\r\n\r\ny\r\n",
        "rows.tsv": "a\r\nx\r\n\r\ny",
    }.items():
        assert columns(write(tmp_path / name, text)) == [{"a": "x"}, {"a": "y"}]
    assert [row.line for row in read_file(tmp_path / "rows.jsonl")] == [1, 3]
    assert [row.line for row in read_file(tmp_path / "rows.csv")] == [2, 4]


def test_a_line_separator_inside_json_text_does_not_end_the_row(tmp_path: Path) -> None:
    rows = [{"a": "one\u2028still one\u0085and one"}, {"a": "two"}]
    assert columns(write(tmp_path / "rows.jsonl", jsonl(rows))) == rows


def test_a_csv_row_is_named_by_the_line_it_begins_at(tmp_path: Path) -> None:
    text = 'text,label\n"two\nlines, ""quoted""",0\nplain,1\n"three\n\nlines",1\n'
    rows = read_file(write(tmp_path / "rows.csv", text))
    assert [(row.line, row.columns["text"]) for row in rows] == [
        (2, 'two\nlines, "quoted"'),
        (4, "plain"),
        (5, "three\n\nlines"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('text,label\nfine,0\n"left open,1\nmore,0\n', "line 3: "),
        ("text,label\nfine,0\na,b,1\n", "line 3: 3 fields, but the header has 2"),
        ("text,label\nfine\n", "line 2: 1 fields, but the header has 2"),
        ("text,text,label\na,b,1\n", "line 1: .*text.* twice"),
    ],
)
def test_a_table_that_does_not_fit_its_header_is_refused_by_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        read_file(write(tmp_path / "rows.csv", text))


def labelled(counts: dict[str, int]) -> str:
    return jsonl(
        [{"text": f"{name} {n}", "label": name} for name, count in counts.items() for n in range(count)]
    )


def test_a_share_that_is_split_off_never_takes_all_rows_of_a_class(tmp_path: Path) -> None:
    names = {f"class {number}": 1 for number in range(40)}
    path = str(write(tmp_path / "rows.jsonl", labelled({"often": 60, **names, "twice": 2})))
    config = DataConfig(path=path, validation_share=0.5)
    plain, rows = load_rows(config), load_rows(config, "label")
    classes, before = ({row.columns["label"] for row in side.train} for side in (rows, plain))
    assert {row.columns["label"] for row in rows.validation} <= classes
    assert before < classes
    # Nothing is lost or moved but those rows.
    both = [row.line for row in (*plain.train, *plain.validation)]
    assert sorted(row.line for row in (*rows.train, *rows.validation)) == sorted(both)
    kept = [row.columns for row in rows.validation]
    assert kept == [row.columns for row in plain.validation if row.columns["label"] in before]
    assert rows.census == load_rows(config, "label").census


def test_a_validation_file_of_ones_own_is_left_as_it_is(tmp_path: Path) -> None:
    train = str(write(tmp_path / "train.jsonl", labelled({"a": 3, "b": 3})))
    held_out = str(write(tmp_path / "held_out.jsonl", labelled({"c": 2})))
    rows = load_rows(DataConfig(path=train, validation_path=held_out), "label")
    assert [row.columns["label"] for row in rows.validation] == ["c", "c"]
    assert rows.validation_file == "validation file"


def test_the_paraphrase_corpus_is_read_as_it_is_published(tmp_path: Path) -> None:
    text = (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
        '1\t702876\t702977\tHe said "no.\tA "quote" here\r\n'
        "0\t1\t2\tSecond one\tAnother\r\n"
    )
    assert columns(write(tmp_path / "msr.txt", text)) == [
        {
            "label": "1",
            "id1": "702876",
            "id2": "702977",
            "sentence1": 'He said "no.',
            "sentence2": 'A "quote" here',
        },
        {"label": "0", "id1": "1", "id2": "2", "sentence1": "Second one", "sentence2": "Another"},
    ]


def test_the_published_files_have_their_published_sizes(shared: Path) -> None:
    sizes = [len(read_file(shared / "mrpc" / f"msr_paraphrase_{part}.txt")) for part in ("train", "test")]
    assert sizes == [4076, 1725]


@pytest.mark.parametrize(
    ("name", "second", "remedy"),
    [
        ("joined.csv", "text,label", "remove the line$"),
        ("joined.tsv", "text\tlabel", "remove the line$"),
        ("joined.csv", "\ufefftext,label", "remove the line$"),
        ("joined.csv", '\ufeff"text","label"', "remove the line$"),
        ("joined.csv", "Text, LABEL", "remove the line$"),
        ("joined.csv", "label,text", "put the fields of the rows below it in the order text, label$"),
    ],
)
def test_a_second_header_is_refused_by_its_line(tmp_path: Path, name: str, second: str, remedy: str) -> None:
    separator = "\t" if name.endswith(".tsv") else ","
    rows = [f"row {number}{separator}pos" for number in range(9)]
    path = write(tmp_path / name, "\n".join([f"text{separator}label", *rows, second, *rows]))
    with pytest.raises(DataError, match=rf"line 11: the header stands here a second time.*{remedy}"):
        read_file(path)


def test_a_row_of_the_headers_words_in_other_numbers_is_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text,label\nlabel,label\na text,label\n")
    assert [row.columns["text"] for row in read_file(path)] == ["label", "a text"]


def test_a_field_that_is_null_in_200_000_rows_keeps_the_text_of_the_last(tmp_path: Path) -> None:
    path = write(tmp_path / "late.jsonl", '{"name": null}\n' * 200_000 + '{"name": "ann"}\n')
    started = time.process_time()
    rows = read_file(path)
    assert rows[-1] == Row(200_001, {"name": "ann"})
    assert rows[0].columns["name"] is None
    assert time.process_time() - started < 5


def test_json_holds_one_list_of_objects(tmp_path: Path) -> None:
    assert columns(write(tmp_path / "rows.json", '[{"a": 1}, {"a": null}]')) == [{"a": 1}, {"a": None}]
    with pytest.raises(DataError, match="one list of objects"):
        read_file(write(tmp_path / "rows.json", '{"a": 1}'))
    with pytest.raises(DataError, match="line 1: expected an object, found 2"):
        read_file(write(tmp_path / "rows.json", '[{"a": 1}, 2]'))
    with pytest.raises(DataError, match="line 1, column 11: the JSON ends in the middle"):
        read_file(write(tmp_path / "rows.json", '[{"a": 1},\n'))


def test_parquet_keeps_types_and_nulls(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"text": "a", "label": 1}, {"text": None, "label": 2}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert read_file(path) == [Row(1, rows[0]), Row(2, rows[1])]
    write(path, path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"rows\.parquet: not Parquet"):
        read_file(path)


def calling(name: str, arguments: dict[str, Any], *messages: dict[str, Any]) -> dict[str, Any]:
    """A row that calls the function `name`, whose schema has the arguments' keys."""
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    parameters = {"type": "object", "properties": {key: {"type": "string"} for key in arguments}}
    return {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "tool_calls": [call]},
            *messages,
        ],
        "tools": [{"type": "function", "function": {"name": name, "parameters": parameters}}],
    }


CALLS = [
    calling("weather", {"city": "Oslo"}),
    calling("mail", {"to": "Ann"}, {"role": "tool", "tool_call_id": "c1", "content": "sent"}),
]


def test_an_object_in_parquet_has_its_own_keys_and_not_those_of_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(CALLS), path)
    assert columns(path) == columns(write(tmp_path / "rows.jsonl", jsonl(CALLS))) == CALLS


def test_an_object_of_the_hub_has_its_own_keys_and_not_those_of_other_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split = datasets.Dataset.from_list(CALLS)
    monkeypatch.setattr(sources, "hub_is_reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"train": split, "validation": split})
    rows = load_rows(DataConfig(hub="acme/calls"))
    assert [row.columns for row in rows.train] == [row.columns for row in rows.validation] == CALLS


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.xlsx", b"PK", r"unknown form '\.xlsx'; use \.jsonl"),
        ("rows", b"{}", "unknown form 'without suffix'"),
        ("rows.tsv", b"a\tb\nx\ty\nx\t\xe9\n", "line 3, column 3: not UTF-8"),
        ("rows.jsonl", b"\n\n", "holds no rows"),
        ("rows.csv", b"text,label\n", "holds no rows"),
        ("rows.csv", b"", "holds no rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        read_file(write(tmp_path / name, content))


def test_a_missing_file_is_named_with_the_folder_it_was_looked_for_in(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no file absent.tsv.*relative to {Path.cwd()}"):
        read_file(Path("absent.tsv"))


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pyarrow.array([b"ok", b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string()), "utf-8"),
        (pyarrow.array([0, 253402300800 * 10**6], pyarrow.timestamp("us")), "out of range"),
    ],
)
def test_a_parquet_value_that_python_cannot_hold_is_refused(
    tmp_path: Path, column: pyarrow.Array, reason: str
) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"value": column}), path)
    with pytest.raises(
        DataError, match=rf"rows\.parquet: a value after row 0 cannot be read .*{reason}.*UTF-8"
    ):
        read_file(path)


ROWS = st.lists(st.text(max_size=3).map(lambda text: Row(0, {"text": text})), max_size=40)


@given(ROWS, ROWS, st.randoms(use_true_random=False))
def test_a_row_stays_on_its_side_whatever_else_is_in_the_file(
    rows: list[Row], more: list[Row], shuffle: random.Random
) -> None:
    train, held_out = map(list, split_by_hash(rows, 0.3))
    both = [*rows, *more]
    shuffle.shuffle(both)
    train_later, held_out_later = map(list, split_by_hash(both, 0.3))
    assert all(row in train_later for row in train)
    assert all(row in held_out_later for row in held_out)
    assert not [row for row in train_later if row in held_out_later]  # equal rows land together
    assert len(train_later) + len(held_out_later) == len(both)


def test_about_the_asked_share_is_split_off() -> None:
    _, held_out = split_by_hash([Row(n, {"text": str(n)}) for n in range(10_000)], 0.1)
    assert 900 <= len(list(held_out)) <= 1100


def test_the_line_of_a_row_does_not_move_it() -> None:
    sides = [[row.columns for row in split_by_hash([Row(n, {"a": n // 2})], 0.5)[0]] for n in range(20)]
    assert sides[::2] == sides[1::2]
    assert [] in sides
    assert any(sides)


def test_rows_come_from_the_file_and_its_validation_file(tmp_path: Path) -> None:
    train, validation = (write(tmp_path / f"{name}.csv", f"a\n{name}\n") for name in ("train", "validation"))
    rows = load_rows(DataConfig(path=train, validation_path=validation))
    assert [row.columns["a"] for row in (*rows.train, *rows.validation)] == ["train", "validation"]
    assert rows.description == str(train)


def test_the_digest_follows_the_content_and_not_the_path(tmp_path: Path) -> None:
    def digest(name: str, word: str) -> str:
        path = write(tmp_path / name, f"a\n{word}\n")
        return load_rows(DataConfig(path=path, validation_path=path)).census.sha256

    assert digest("one.csv", "x") == digest("two.csv", "x") != digest("one.csv", "y")


def test_a_file_too_small_to_split_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "one.csv", "a\nx\n")
    with pytest.raises(DataError, match=r"too small to split.*validation_path"):
        load_rows(DataConfig(path=path))


def test_rows_never_lie_in_memory_together(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", "".join(f'{{"text": "{n:02000}"}}\n' for n in range(3000)))
    tracemalloc.start()
    try:
        rows = load_rows(DataConfig(path=str(path)))
        num_rows = sum(1 for side in (rows.train, rows.validation) for _ in side)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_rows == sum(rows.census[:2]) == 3000  # read anew, each on one side
    assert peak_bytes < 2**20  # of 6 MB of text


def test_no_row_behind_the_limit_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", jsonl(CHAT) + "{ half")
    rows = load_rows(DataConfig(path=path, validation_path=path, limit=len(CHAT)))
    assert rows.census.num_train == len(CHAT)


def test_the_limit_takes_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "many.csv", "a\n" + "".join(f"{n}\n" for n in range(100)))
    rows = load_rows(DataConfig(path=path, validation_path=path, limit=3))
    assert [row.columns["a"] for row in rows.train] == ["0", "1", "2"]
    assert rows.census.num_validation == 3


def test_the_fallback_file_stands_in_for_an_unreachable_hub_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "hub_is_reachable", lambda: False)
    path = write(tmp_path / "rows.csv", "a\nx\n")
    rows = load_rows(DataConfig(hub="acme/rows:small", fallback_path=path, fallback_validation_path=path))
    assert rows.census.num_train == 1
    assert rows.description == f"{path} (the hub's acme/rows:small cannot be reached)"


def test_an_unreachable_hub_without_a_fallback_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "hub_is_reachable", lambda: False)
    with pytest.raises(HubUnreachable, match=r"acme/rows; give data.path or data.fallback_path"):
        load_rows(DataConfig(hub="acme/rows"))


HubFolder = Callable[..., str]


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubFolder:
    """`hub_folder(train=20)`: a data set of such splits, as a folder in place of the hub's."""
    monkeypatch.setattr(sources, "hub_is_reachable", lambda: True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(**splits: int) -> str:
        folder = tmp_path / "set"
        folder.mkdir()
        for split, count in splits.items():
            write(folder / f"{split}.jsonl", jsonl([{"text": f"row {number}"} for number in range(count)]))
        return str(folder)

    return make


def test_a_hub_set_is_split_like_a_file(hub_folder: HubFolder) -> None:
    rows = load_rows(DataConfig(hub=hub_folder(train=40), validation_share=0.5))
    assert rows.census.num_train + rows.census.num_validation == 40


def test_a_hub_set_too_small_to_split_is_refused(hub_folder: HubFolder) -> None:
    with pytest.raises(DataError, match=r"too small to split.*1 training and 0 validation.*data\.path"):
        load_rows(DataConfig(hub=hub_folder(train=1), validation_share=1e-9))


def test_a_hub_set_without_training_rows_is_refused(hub_folder: HubFolder) -> None:
    with pytest.raises(DataError, match=r"has no split train, only test; .*data\.path"):
        load_rows(DataConfig(hub=hub_folder(test=20)))


@pytest.mark.parametrize(
    ("config", "reason"), [("", "Config name is missing.*'a', 'b'"), (":c", "'c' not found.*'a', 'b'")]
)
def test_a_hub_set_is_refused_without_one_of_its_configs(
    hub_folder: HubFolder, config: str, reason: str
) -> None:
    folder = hub_folder(one=20, two=20)
    configs = "- config_name: a\n  data_files: one.jsonl\n- config_name: b\n  data_files: two.jsonl\n"
    write(Path(folder) / "README.md", f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(DataError, match=rf"cannot be loaded \(.*{reason}.*\); .*data\.hub=id:config"):
        load_rows(DataConfig(hub=folder + config))


CAST = CastError("Couldn't cast string to null", table_column_names=["a"], requested_column_names=["a"])


def _wrapped(cause: Exception) -> Exception:
    error: Exception = DatasetGenerationError("An error occurred while generating the dataset")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        _wrapped(CAST),
        CAST,
        RuntimeError("Couldn't cast string to null"),
    ],
)
def test_a_hub_set_that_cannot_be_loaded_is_no_fault_of_the_network(
    hub_folder: HubFolder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load_dataset(*_: object) -> None:
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(
        DataError, match=r"acme/rows.*Couldn't cast string.*download the file and give data\.path"
    ):
        load_rows(DataConfig(hub="acme/rows"))


def test_a_folder_is_read_file_by_file_and_a_field_null_throughout_the_first_keeps_its_text(
    tmp_path: Path,
) -> None:
    write(tmp_path / "1.jsonl", jsonl([{"name": None}] * 3))
    write(tmp_path / "2.jsonl", jsonl([{"name": "ann"}]))
    rows = read_file(tmp_path)
    assert rows[-1] == Row(1, {"name": "ann"}, "2.jsonl")
    assert [row.columns["name"] for row in rows] == [None, None, None, "ann"]


def test_a_text_file_is_read_by_paragraphs(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.md", "# Title\n\nTwo\nlines.\n\n\nEnd.")
    assert read_file(path) == [
        Row(1, {"text": "# Title"}),
        Row(3, {"text": "Two\nlines."}),
        Row(7, {"text": "End."}),
    ]


def test_a_uri_is_fetched_once_for_each_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HAMLET_HOME", str(tmp_path))
    settings.cache_clear()
    store = fsspec.filesystem("memory")
    for word in ("one", "two!"):
        store.pipe_file("/bucket/rows.csv", f"a\n{word}\n".encode())
        for _ in range(2):
            assert columns("memory://bucket/rows.csv") == [{"a": word}]
    assert len(list((tmp_path / "cache" / "data").iterdir())) == 2
    settings.cache_clear()
    with pytest.raises(NotFound, match=r"nothing lies at memory://bucket/none.csv"):
        read_file("memory://bucket/none.csv")


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n')

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        DataError, match=r"rows\.jsonl cannot be read \(Permission denied\); check its permissions"
    ):
        list(read_rows(file))


def test_a_carriage_return_inside_a_field_is_named_as_such(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", "text\tlabel\na\rb\tc\nd\te\n")
    bad, good = scan(path)
    assert isinstance(bad.found, Fault)
    assert (bad.found.line, bad.found.reason) == (2, "a carriage return stands inside a field")
    assert isinstance(good.found, Row)


def test_no_row_is_taken_for_a_header_that_cannot_be_read(tmp_path: Path) -> None:
    (only,) = scan(write(tmp_path / "rows.csv", '"text"x,label\na,b\nc,d\n'))
    assert isinstance(only.found, Fault)
    assert only.found.line == 1
