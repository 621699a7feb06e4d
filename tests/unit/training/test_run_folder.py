from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import Unavailable
from training.config import FinetuneConfig
from training.plots import LOSS, PLOTS, plot_curves, plot_run, points
from training.progress import EpochEvent, NoticeEvent, StepEvent
from training.run_folder import RunFolder, environment
from training.tensorboard import TensorBoard

CONFIG = FinetuneConfig.model_validate(
    {"name": "t", "task": "sft", "model": "builtin:smollm2", "data": {"path": "rows.jsonl"}}
)
STEPS = [StepEvent(n, 4, 1, 1 / n, 5e-5, 1.0, 10.0, 500.0, 0.0) for n in (1, 2, 3)]


@pytest.fixture
def folder() -> Any:
    folder = RunFolder("one")
    folder.open(CONFIG)
    yield folder
    folder.close()


def test_the_resolved_config_and_the_environment_are_written_at_once(folder: RunFolder) -> None:
    assert FinetuneConfig.model_validate(yaml.safe_load((folder.path / "config.yaml").read_text())) == CONFIG
    found = json.loads((folder.path / "environment.json").read_text())
    assert found["packages"]["torch"] == environment()["packages"]["torch"] is not None
    assert folder.exists()


def test_a_run_that_still_runs_is_not_begun_a_second_time(folder: RunFolder) -> None:
    script = (
        "from training.run_folder import RunFolder; from training.config import FinetuneConfig; import sys;"
        "RunFolder('one').open(FinetuneConfig.model_validate_json(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, CONFIG.model_dump_json()],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert "Conflict" in done.stderr
    assert "the run one is running already" in done.stderr


def test_the_folder_is_free_again_once_closed() -> None:
    for _ in range(2):
        folder = RunFolder("two")
        folder.open(CONFIG)
        folder.close()


def test_metrics_hold_one_object_per_event_and_a_cut_off_line_is_left_out(folder: RunFolder) -> None:
    for event in (NoticeEvent("begin"), *STEPS):
        folder.write_event(event)
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')
    events = folder.events()
    assert [event["kind"] for event in events] == ["notice", "step", "step", "step"]
    assert events[1]["loss"] == 1.0
    assert all(event["time"] > 1e9 for event in events)


def test_a_run_that_goes_on_behind_a_cut_off_line_keeps_what_it_writes(folder: RunFolder) -> None:
    folder.write_event(STEPS[0])
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')
    folder.close()
    again = RunFolder(folder.name)
    again.open(CONFIG)
    again.write_event(STEPS[1])
    again.close()
    assert [event["step"] for event in again.events()] == [STEPS[0].step, STEPS[1].step]


def test_a_full_disk_is_told_with_what_goes_on(folder: RunFolder) -> None:
    for name in ("metrics.jsonl", "README.md"):
        (folder.path / name).symlink_to("/dev/full")
    for write in (lambda: folder.write_event(STEPS[0]), lambda: folder.write_text("README.md", "a")):
        with pytest.raises(Unavailable, match=r"\(No space left on device\); .* go on with --resume one"):
            write()


def test_a_figure_that_is_no_number_is_null_in_the_metrics_and_no_point(folder: RunFolder) -> None:
    for event in (replace(STEPS[0], loss=math.nan, grad_norm=math.inf), EpochEvent(1, 1, math.nan, 0.5)):
        folder.write_event(event)
    text = (folder.path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert points(folder.events(), LOSS) == []
    assert plot_run(folder.events(), folder.path) == [
        f"{name}.svg" for name in ("validation_loss", "learning_rate", "throughput")
    ]


def test_a_notice_in_any_language_is_one_line(folder: RunFolder) -> None:
    text = "a\u2028b\x85c\nd"
    folder.write_event(NoticeEvent(text))
    assert [event["text"] for event in folder.events()] == [text]


def test_a_step_that_was_run_twice_is_one_point() -> None:
    events = [{"kind": "step", "step": step, "loss": loss} for step, loss in ((1, 3.0), (2, 2.0), (1, 2.5))]
    assert points(events, LOSS) == [(1, 2.5), (2, 2.0)]


def test_a_run_is_drawn_as_svg_and_png(folder: RunFolder) -> None:
    for event in (*STEPS, EpochEvent(1, 3, 0.5, 0.4)):
        folder.write_event(event)
    names = plot_run(folder.events(), folder.path)
    assert names == [f"{plot.file}.svg" for plot in PLOTS]
    for plot in PLOTS:
        assert (folder.path / f"{plot.file}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (folder.path / f"{plot.file}.svg").read_text()


def test_a_run_without_an_evaluation_has_no_empty_picture(folder: RunFolder) -> None:
    for event in STEPS:
        folder.write_event(event)
    assert "validation_loss.svg" not in plot_run(folder.events(), folder.path)


def test_curves_of_several_runs_are_told_apart_by_name(tmp_path: Path) -> None:
    curves = {"learning_rate=0.1": [(1, 1.0), (2, 0.2)], "learning_rate=0.01": [(1, 1.0), (2, 0.8)]}
    plot_curves(curves, LOSS, tmp_path)
    # Text is drawn as paths; their glyphs are named in comments.
    assert "<!-- learning_rate=0.01 -->" in (tmp_path / "loss.svg").read_text()


def test_tensorboard_finds_an_event_file_in_the_folder(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    for event in (NoticeEvent("begin"), *STEPS, EpochEvent(1, 3, 0.5, 0.4, {"accuracy": 1.0})):
        board(event)
    board.close()
    (file,) = tmp_path.glob("events.out.tfevents.*")
    content = file.read_bytes()
    assert b"train/loss" in content
    assert b"validation/accuracy" in content
