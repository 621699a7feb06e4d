from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from cluster.errors import DataError, Unavailable
from training.__main__ import app
from training.config import DataConfig, TaskName
from training.sources import read_rows
from training.tokenizer import FolderTokenizer
from training.validation import Options, Report, validate
from training.validation_view import excerpt, show_report

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chat(question: str, answer: str = "b", **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]
    }


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def check(path: Path, task: TaskName | None = None, validation: Path | None = None, **more: Any) -> Report:
    return validate(path, Options(DataConfig(path=path), task, **more), validation)


def places(report: Report) -> list[tuple[int | None, int | None]]:
    return [(finding.fault.line, finding.fault.message_index) for finding in report.errors]


def warned(report: Report) -> list[str]:
    return [finding.fault.reason for finding in report.warnings]


TWELVE = [chat(f"question {number}") for number in range(12)]


def test_every_fault_is_reported_with_line_message_and_reason(tmp_path: Path) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    row_a = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "r"},
            {"role": "assistant", "content": "done"},
        ]
    }
    row_b = {
        "messages": [
            {"role": "tool", "tool_call_id": "c9", "content": "r"},
            {"role": "assistant", "content": "x"},
        ]
    }
    row_c = {"messages": [{"role": "user", "content": "q"}]}
    row_d = {"messages": [{"role": "bot", "content": "q"}, {"role": "assistant", "content": "x"}]}
    row_e = {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "x"}]}
    report = check(write(tmp_path / "rows.jsonl", row_a, row_b, row_c, row_d, row_e))
    assert places(report) == [(2, 0), (3, 0), (4, 0), (5, 0)]
    assert (report.rows, report.num_errors, report.task) == (5, 4, TaskName.SFT)


def test_what_validate_lists_first_is_what_a_run_raises(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *TWELVE[:2], '{"messages": [{"role": "user", "content": "a"}]]}')
    (finding,) = check(path).errors
    with pytest.raises(DataError) as raised:
        list(read_rows(path))
    fault = finding.fault
    assert str(raised.value) == f"{path}, line 3, column {fault.column}: {fault.reason}; {fault.remedy}"


def test_a_cut_upload_names_its_last_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "rows.jsonl", *TWELVE).read_text()
    report = check(write(tmp_path / "cut.jsonl", whole[:-20]))
    assert places(report) == [(12, None)]
    assert "half-written" in report.errors[0].fault.reason


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.jsonl", *TWELVE)
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
    assert check(marked).statistics == check(plain).statistics
    assert check(marked).num_errors == 0


def test_a_row_over_several_lines_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(TWELVE[0], indent=2))
    report = check(path)
    assert [finding.fault.reason for finding in report.errors] == [
        "a row is spread over several lines; JSONL holds one whole object in each line"
    ]


def test_only_the_listed_errors_are_capped(tmp_path: Path) -> None:
    report = check(write(tmp_path / "rows.jsonl", *["{"] * 1, *["[]"] * 7), max_listed=3)
    assert report.num_errors == 1
    report = check(write(tmp_path / "rows.jsonl", *["[]"] * 7), max_listed=3)
    assert (report.num_errors, len(report.errors)) == (7, 3)


def test_equal_rows_and_few_rows_are_warned_of(tmp_path: Path) -> None:
    reordered = {"messages": [dict(reversed(m.items())) for m in TWELVE[0]["messages"]]}
    report = check(write(tmp_path / "rows.jsonl", *TWELVE[:3], reordered, TWELVE[1]))
    assert warned(report) == ["2 rows are equal to an earlier row (lines 4, 5)", "5 examples are few"]
    assert report.num_errors == 0


def test_rows_of_the_training_file_are_found_among_validation_rows(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", *TWELVE)
    held_out = write(tmp_path / "validation.jsonl", chat("new"), TWELVE[5], chat("newer"), "[]")
    report = check(train, validation=held_out)
    assert warned(report) == ["1 row is in the training file too (line 2)"]
    assert [(f.file, f.fault.line) for f in report.errors] == [(str(held_out), 4)]


def test_rows_without_a_trained_answer_are_warned_of(tmp_path: Path) -> None:
    report = check(write(tmp_path / "rows.jsonl", *TWELVE, chat("x", weight=0)))
    assert warned(report) == [
        "1 row is without a trained answer (weight 0 throughout), and left out (line 13)"
    ]


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., PreTrainedTokenizerFast], tmp_path: Path) -> FolderTokenizer:
    make_tokenizer(CHATML).save_pretrained(tmp_path / "model")
    return FolderTokenizer(tmp_path / "model")


def test_tokens_are_those_of_training_and_weights_do_not_change_their_number(
    tokenizer: FolderTokenizer, tmp_path: Path
) -> None:
    rows = [chat("q", "w1 w2"), chat("q", "w1 w2", weight=0), chat("q", "w1 w2", weight=1)]
    report = check(write(tmp_path / "rows.jsonl", *rows), tokenizer=tokenizer)
    tokens, trained = report.statistics["tokens"], report.statistics["trained_tokens"]
    assert tokens["min"] == tokens["max"]
    answer = len(tokenizer.encode("w1 w2")) + 1
    assert (trained["min"], trained["max"], trained["total"]) == (0, answer, 2 * answer)


def test_rows_over_the_limit_are_warned_of(tokenizer: FolderTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *TWELVE, chat("word " * 300))
    for more in ({"tokenizer": tokenizer, "max_length_tokens": 200}, {"max_length_tokens": 200}):
        (reason,) = warned(check(path, **more))
        assert reason.startswith("1 row is longer than ")
        assert reason.endswith("200 tokens, and left out or cut (line 13)")


def test_a_template_that_leaves_tool_calls_out_is_an_error_of_the_row(
    tokenizer: FolderTokenizer, tmp_path: Path
) -> None:
    row = chat("q")
    row["messages"][1] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    (finding,) = check(write(tmp_path / "rows.jsonl", *TWELVE, row), tokenizer=tokenizer).errors
    assert finding.fault.line == 13
    assert "leaves tool calls out" in finding.fault.reason


def table(path: Path, *rows: str, header: str = "text,label") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_a_second_header_row_is_named_and_text_labels_are_classes(tmp_path: Path) -> None:
    rows = [f"text number {n},{('pos', 'neg')[n % 2]}" for n in range(12)]
    report = check(table(tmp_path / "rows.csv", *rows[:9], "text,label", *rows[9:]))
    assert places(report) == [(11, None)]
    assert report.statistics["classes"] == {"neg": 6, "pos": 6}
    assert report.task == TaskName.CLASSIFICATION


def test_unlabelled_rows_are_counted_in_one_error(tmp_path: Path) -> None:
    rows = [f"text number {n},{-1 if n in (3, 7, 9) else n % 2}" for n in range(20)]
    (finding,) = check(table(tmp_path / "rows.csv", *rows)).errors
    assert finding.fault.reason == "3 rows have label -1 (unlabelled?), the first at line 5"


def test_classes_one_to_four_keep_their_numbers(tmp_path: Path) -> None:
    rows = [f"text number {n},{n % 4 + 1}" for n in range(20)]
    report = check(table(tmp_path / "rows.csv", *rows))
    assert report.num_errors == 0
    assert report.statistics["classes"] == {"1": 5, "2": 5, "3": 5, "4": 5}


def test_uneven_classes_contradictions_and_near_empty_texts_are_warned_of(tmp_path: Path) -> None:
    rows = [*(f"text number {n},a" for n in range(30)), "text number 3,b", "x,b"]
    assert warned(check(table(tmp_path / "rows.csv", *rows))) == [
        "1 row is shorter than 3 characters (line 33)",
        "the classes are uneven: 30 rows of 'a', 2 of 'b'",
        "1 row is equal to another row but for the label (line 32)",
    ]


def test_empty_and_invisible_texts_are_errors(tmp_path: Path) -> None:
    report = check(table(tmp_path / "rows.csv", '"",a', '"\u200b \ufeff",b', "fine text,", "fine text,a"))
    assert [finding.fault.line for finding in report.errors] == [2, 3, 4]


def test_a_validation_label_that_training_lacks_is_an_error(tmp_path: Path) -> None:
    train = table(tmp_path / "train.csv", *(f"text {n},{n % 2}" for n in range(12)))
    (finding,) = check(train, validation=table(tmp_path / "v.csv", "other text,0", "more text,2")).errors
    assert (finding.fault.line, "label '2' does not occur" in finding.fault.reason) == (3, True)


def test_missing_columns_are_one_error(tmp_path: Path) -> None:
    path = table(tmp_path / "rows.csv", "a,b", "c,d", header="one,two")
    (finding,) = check(path, TaskName.CLASSIFICATION).errors
    assert finding.fault.reason == "no text columns among one, two"


def test_people_see_the_line_with_a_caret_under_the_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *TWELVE, '{"messages": [{"role": "user", "content": "a"}]]}')
    console = Console(record=True, width=200, file=(tmp_path / "out").open("w"))
    show_report(check(path), console)
    shown = console.export_text().splitlines()
    at = next(index for index, line in enumerate(shown) if line.endswith("]]}"))
    assert shown[at - 1].endswith("the line ends in `]]}` where `]}` is due: one `]` too many")
    assert shown[at + 1].index("^") == shown[at].index("]]}") + 1
    assert shown[-1].startswith(f"{path}: 13 rows for sft, 1 error, 0 warnings")


def test_an_excerpt_keeps_the_column_in_sight() -> None:
    text = "".join(chr(ord("a") + n % 26) for n in range(500))
    for column in (1, 40, 250, 499, 500):
        line, caret = excerpt(text, column)
        assert caret is not None
        assert line[caret] == text[column - 1]
        assert len(line) <= 80


def test_the_command_prints_one_json_object_and_exits_with_1_on_errors(tmp_path: Path) -> None:
    bad = write(tmp_path / "rows.jsonl", *TWELVE, "{")
    result = CliRunner().invoke(app, ["validate", str(bad), "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["errors"][0] == {
        "line": 13,
        "column": 2,
        "message_index": None,
        "param": None,
        "reason": "the JSON ends in the middle (half-written, cut off?): } is missing at its end",
        "remedy": "complete it or remove it",
    }
    assert report["statistics"]["messages"]["total"] == 24
    assert CliRunner().invoke(app, ["validate", str(write(bad, *TWELVE))]).exit_code == 0


def test_validating_never_imports_torch(tmp_path: Path, tokenizer: FolderTokenizer) -> None:
    path = write(tmp_path / "rows.jsonl", *TWELVE)
    code = (
        "import sys; from typer.testing import CliRunner; from training.__main__ import app; "
        f"result = CliRunner().invoke(app, ['validate', {str(path)!r}]); assert result.exit_code == 0, result.output; "
        "assert not {'torch', 'ray', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_classes_are_shown_as_they_are_called(tmp_path: Path) -> None:
    rows = write(
        tmp_path / "rows.jsonl",
        *(json.dumps({"text": f"row {n}", "label": ["[/b]", "[red]:smile:"][n % 2]}) for n in range(12)),
    )
    result = CliRunner().invoke(app, ["validate", str(rows)], catch_exceptions=False)
    assert "classes  [/b] 6, [red]:smile: 6" in result.stdout


def test_an_error_is_one_json_object_too() -> None:
    result = CliRunner().invoke(app, ["validate", "nosuch://rows.jsonl", "--json"])
    assert isinstance(result.exception, Unavailable)
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["code"]) == ("service_unavailable", "unavailable")
    assert error["message"] == str(result.exception)
