"""Capacity, by worked values. Each comment is the arithmetic by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import capacity, speeds
from cluster.__main__ import app
from cluster.capacity import Basis, Part, Plan, plan
from cluster.capacity_load import GIB, Chat, Index, Load, Machines, Model, Texts, Training
from cluster.errors import ConfigError
from cluster.speeds import MEASURED, Speed, with_measured
from cluster.yaml_config import Section, load_yaml_config

REPOSITORY = Path(__file__).parents[3]
LOADS = sorted((REPOSITORY / "examples" / "capacity").glob("*.yaml"))
LLAMA = Model(parameters=8e9, layers=32, kv_heads=8, head_dim=128)


def part(planned: Plan, name: str) -> Part:
    [found] = [part for part in planned.parts if part.name == name]
    return found


def figure(planned: Plan, name: str) -> capacity.Figure:
    [found] = [figure for figure in planned.figures if figure.name == name]
    return found


def test_no_load_is_one_of_each_part() -> None:
    assert {part.replicas for part in plan(Load()).parts if part.name != "Ray heads"} == {1}


@pytest.mark.parametrize(
    ("requests_per_s", "replicas"),
    [
        (1.2, 1),  # 1.2 x 100 / 176 = 0.68 s of work a second <= 0.7
        (1.3, 2),  # 0.74 > 0.7
        (12, 10),  # 6.82 / 0.7 = 9.74
    ],
)
def test_generators_on_cpus_work_within_the_planned_utilisation(requests_per_s: float, replicas: int) -> None:
    load = Load(chat=Chat(requests_per_s=requests_per_s, answer_tokens=100, prompt_tokens=114))
    generator = part(plan(load), "generator")
    assert (generator.replicas, generator.num_cpus, generator.basis) == (replicas, 2, Basis.MEASURED)


def test_longer_prompts_than_measured_cost_time_and_are_a_projection() -> None:
    load = Load(chat=Chat(requests_per_s=1, answer_tokens=100, prompt_tokens=214))
    generator = part(plan(load), "generator")
    assert generator.replicas == 2  # (100 + 214 - 114) / 176 = 1.14 s; / 0.7 = 1.6
    assert generator.basis is Basis.PROJECTED


def test_another_model_on_cpus_is_slower_by_its_bytes() -> None:
    load = Load(model=Model(parameters=1.35e9))
    generation = capacity.generation_of(load, MEASURED)
    assert generation.tokens_per_s == pytest.approx(17.6)
    assert generation.basis is Basis.PROJECTED


def test_a_generator_on_a_gpu_reads_weights_and_cache_at_each_step() -> None:
    load = Load(chat=Chat(answer_tokens=250, prompt_tokens=2000), model=LLAMA, machines=Machines(gpu="h100"))
    generation = capacity.generation_of(load, MEASURED)
    # KV: 2 x 32 x 8 x 128 x 2 B = 131,072 B a token, x 2,250 = 294.9 MB an answer.
    # Room: 72 - 2 - 16 = 54 GB for 183 answers, of which the engine takes 64.
    # A step reads 16 + 64 x 0.2949 = 34.87 GB at 3350 x 0.6 = 2010 GB/s: 17.35 ms; 64 / 0.01735 = 3,689.
    assert generation.batch == 64
    assert generation.tokens_per_s == pytest.approx(3689, abs=1)
    # 989e12 x 0.4 / 16e9 = 24,725 prompt tokens a second.
    assert generation.prompt_tokens_per_s == pytest.approx(24_725)
    assert generation.seconds_per_answer(250) == pytest.approx(2000 / 24_725 + 250 / 3689, rel=1e-3)


def test_a_small_gpu_holds_fewer_answers_at_once() -> None:
    chat = Chat(answer_tokens=250, prompt_tokens=2000, concurrent_generations=20)
    load = Load(chat=chat, model=LLAMA, machines=Machines(gpu="l4"))
    # 24 x 0.9 - 2 - 16 = 3.6 GB / 294.9 MB = 12 answers; 20 need 2 replicas.
    assert capacity.generation_of(load, MEASURED).batch == 12
    assert part(plan(load), "generator").replicas == 2
    assert figure(plan(load), "answers in progress").basis is Basis.SET


def test_weights_that_do_not_fit_are_refused_with_both_sizes() -> None:
    load = Load(model=Model(parameters=70e9), machines=Machines(gpu="h100"))
    with pytest.raises(ConfigError, match=r"140 GB of weights .* one h100 of 80 GB"):
        plan(load)


def test_a_speed_of_ones_own_takes_the_place_of_the_projection() -> None:
    chat = Chat(requests_per_s=10, answer_tokens=100, prompt_tokens=4000)
    own = Model(parameters=8e9, tokens_per_s=2000, batch=32)
    generator = part(plan(Load(chat=chat, model=own, machines=Machines(gpu="h100"))), "generator")
    assert (generator.replicas, generator.basis) == (1, Basis.SET)  # 10 x 100 / 2000 = 0.5 <= 0.7


def test_the_router_pays_for_each_token_it_passes_on() -> None:
    # (1/176 - 1/213) x 2 cores = 1.974 ms a token.
    # 5 x (4.6 + 200 x 1.974) ms + 100 x 0.91 ms = 2.09 s of work a second; / 0.7 = 2.98.
    load = Load(chat=Chat(requests_per_s=5, answer_tokens=200), texts=Texts(embeddings_per_s=100))
    assert part(plan(load), "router").replicas == 3
    bare = MEASURED | {"generate_tps_16": Speed(value=213, unit="tokens/s", num_cpus=2, where="")}
    assert part(plan(load, bare), "router").replicas == 1  # 0.114


def test_embedder_and_retriever_share_the_searches_of_chats() -> None:
    load = Load(
        chat=Chat(requests_per_s=100, retrieving_share=0.5, answer_tokens=1),
        texts=Texts(embeddings_per_s=535, searches_per_s=127),
        index=Index(chunks=100_000),
    )
    planned = plan(load)
    assert part(planned, "embedder").replicas == 3  # (535 / 535 + 177 / 177) / 0.7 = 2.86
    retriever = part(planned, "retriever")
    assert retriever.replicas == 1  # 177 x 1.3 ms = 0.23
    assert retriever.basis is Basis.MEASURED


def test_a_search_grows_by_the_logarithm_of_the_chunks() -> None:
    load = Load(texts=Texts(searches_per_s=500), index=Index(chunks=10_000_000))
    retriever = part(plan(load), "retriever")
    assert retriever.replicas == 2  # 1.3 ms x 7 / 5 = 1.82 ms; x 500 = 0.91; / 0.7 = 1.3
    assert retriever.basis is Basis.PROJECTED


def test_the_index_takes_its_vectors_and_links_on_every_server() -> None:
    # 10,000,000 x (4 x 384 + 8 x 24) x 1.5 = 25.92 GB
    vectors = part(plan(Load(index=Index(chunks=10_000_000, copies=3))), "Qdrant")
    assert (vectors.replicas, vectors.memory_bytes) == (3, pytest.approx(25.92e9))
    assert plan(Load(index=Index(chunks=10, copies=3))).nodes >= 3


def test_training_ends_within_its_window() -> None:
    # 100,000 x 100 x 3 = 30 M tokens; 254 x 28,800 s x 0.7 = 5.12 M a worker: 6.
    load = Load(training=Training(rows_per_night=100_000, tokens_per_row=100, epochs=3))
    training = plan(load).training
    assert training is not None
    assert (training.replicas, training.basis) == (6, Basis.PROJECTED)
    # 0.5 GiB of float32 weights beside the 3.6 GiB of the process
    assert training.memory_bytes / GIB == pytest.approx(4.1, abs=0.01)


def test_training_on_gpus_is_cut_over_as_many_as_hold_its_weights() -> None:
    load = Load(model=LLAMA, training=Training(rows_per_night=100), machines=Machines(gpu="l4"))
    training = plan(load).training
    assert training is not None
    assert training.replicas == 2  # 32 GB of float32 weights / (24 x 0.9 - 4)


def test_the_object_store_holds_the_tokenised_rows() -> None:
    small = plan(Load(training=Training(rows_per_night=1000)))
    assert figure(small, "Ray object store of a worker").value == GIB
    # 2,000,000 rows x 200 tokens x 10 bytes = 4 GB
    large = plan(Load(training=Training(rows_per_night=2_000_000)))
    assert figure(large, "Ray object store of a worker").value == 4e9


def test_cost_is_nodes_by_hours_and_unknown_without_a_price() -> None:
    load = Load(training=Training(rows_per_night=1000), machines=Machines(node_price_per_hour=0.5))
    planned = plan(load)
    assert (planned.nodes, planned.gpu_nodes, planned.training_nodes) == (2, 0, 1)
    # 2 x 0.5 x 730 + 1 x 0.5 x 8 h x 730 / 24 nights
    assert planned.cost_per_month == pytest.approx(730 + 121.67, abs=0.01)
    assert plan(Load(machines=Machines(gpu="l4", node_price_per_hour=0.5))).cost_per_month is None


def test_nodes_too_small_for_a_part_are_refused() -> None:
    with pytest.raises(ConfigError, match="take larger nodes"):
        plan(Load(index=Index(chunks=100_000_000), machines=Machines(node_memory_gib=64)))


def test_more_load_never_needs_less() -> None:
    before = 0
    for rate in (0, 0.1, 1, 3, 10, 100):
        load = Load(chat=Chat(requests_per_s=rate), texts=Texts(classifications_per_s=10 * rate))
        total = sum(part.replicas for part in plan(load).parts)
        assert total >= before
        before = total


def test_a_report_of_a_benchmark_takes_the_place_of_the_figures(tmp_path: Path) -> None:
    report = {
        "machine": {"processor": "EPYC", "cores": 16},
        "metrics": [
            {"metric": "classify_rps_vs_ceiling", "value": 1000.0, "unit": "texts/s", "baseline": None},
            {"metric": "cold_start", "value": 20.0, "unit": "s", "baseline": None},
        ],
    }
    (tmp_path / "serve.json").write_text(json.dumps(report))
    known = with_measured(MEASURED, [tmp_path / "serve.json"])
    assert known["classify_rps_vs_ceiling"].num_cpus == 16
    assert known.keys() == MEASURED.keys()
    classifier = part(plan(Load(texts=Texts(classifications_per_s=600)), known), "classifier")
    assert (classifier.replicas, classifier.num_cpus) == (1, 16)  # 0.6 <= 0.7


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"machine": {"processor": "x", "cores": 2}}'])
def test_a_file_that_is_no_report_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ConfigError, match="no report of ours"):
        with_measured(MEASURED, [tmp_path / "x.json"])


def test_the_figures_are_those_that_the_documentation_publishes() -> None:
    serving = (REPOSITORY / "docs/serving.md").read_text()
    for metric in ("embed_rps_vs_ceiling", "classify_rps_vs_ceiling", "router_share_p50", "echo_p50"):
        assert re.search(rf"`{metric}` \| {MEASURED[metric].value:g} ", serving), metric
    assert f"130, {MEASURED['generate_tps_16'].value:g} | vLLM's server: 25, 89, 162, 213" in serving
    assert f"| {MEASURED['sft_vs_trl'].value:g} tokens/s |" in (REPOSITORY / "docs/training.md").read_text()
    assert "| 100,000 | 128 | 1.30 ms" in (REPOSITORY / "docs/retrieval.md").read_text()


def test_a_misspelt_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key chat.reqs"):
        load_yaml_config(Load, None, ["chat.reqs=1"])
    (tmp_path / "load.yaml").write_text("chat: {requests_per_s: fast}")
    with pytest.raises(ConfigError, match=r"chat.requests_per_s: .* \(got 'fast'\)"):
        load_yaml_config(Load, tmp_path / "load.yaml")


@pytest.mark.parametrize("value", [".inf", ".nan", "-1", "1e300", "", "[1]"])
def test_a_rate_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"chat\.requests_per_s"):
        load_yaml_config(Load, None, [f"chat.requests_per_s={value}"])


def test_every_key_is_in_the_help_of_the_command() -> None:
    text = CliRunner().invoke(app, ["capacity", "--help"], env={"COLUMNS": "200"}).stdout
    for name, field in Load.model_fields.items():
        assert name in text
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            assert [key for key in field.annotation.model_fields if key not in text] == []


def test_keys_count_more_than_the_file_and_json_has_all_of_it() -> None:
    result = CliRunner().invoke(app, ["capacity", str(LOADS[0]), "chat.requests_per_s=7", "--json"])
    answered = json.loads(result.stdout)
    assert answered["load"]["chat"]["requests_per_s"] == 7
    assert {"parts", "figures", "nodes", "cost_per_month"} <= answered.keys()


@pytest.mark.parametrize("file", LOADS, ids=lambda file: file.stem)
def test_the_table_of_the_documentation_is_what_is_computed(file: Path) -> None:
    planned = plan(load_yaml_config(Load, file))
    names = ("router", "generator", "embedder", "retriever", "classifier")
    replicas = " | ".join(str(part(planned, name).replicas) for name in names)
    night = planned.training.replicas if planned.training else 0
    gpus = sum(part.replicas * part.num_gpus for part in planned.parts)
    nodes = f"{planned.nodes} + {planned.gpu_nodes} + {planned.training_nodes}"
    memory = part(planned, "Qdrant").memory_bytes / GIB
    cost = f"{planned.cost_per_month:,.0f}"
    row = f"| `{file.stem}` | {replicas} | {gpus} | {memory:.1f} GiB | {night} | {nodes} | {cost} |"
    assert row in (REPOSITORY / "docs/operations.md").read_text(), row


def test_every_measured_figure_says_where() -> None:
    assert all(speed.where and speed.num_cpus for speed in speeds.MEASURED.values())
