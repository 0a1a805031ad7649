"""Every committed result names what it was made with, in its file and in its tables."""

import json

import pytest
from paths import ROOT

from bipe_hf.lab.common.results import in_words, read_results
from bipe_hf.lab.comparison.losses import UnitLosses
from bipe_hf.lab.comparison.plan import parse_comparison
from bipe_hf.lab.comparison.results import FORMAT, ComparisonResults, Row
from bipe_hf.lab.comparison.tables import markdown_tables
from bipe_hf.lab.evaluation import Evaluation
from bipe_hf.lab.kinds import read_kinds
from bipe_hf.lab.kinds.map import read_map
from bipe_hf.lab.kinds.tables import markdown_map


LOSSES = sorted((ROOT / "results").rglob("losses.json"))  # a part of the comparison beside each
MAPS = sorted((ROOT / "results").rglob("kinds.md"))
RESULTS = sorted({*(ROOT / "results").rglob("*.json")} - {*LOSSES})
COMPARISONS = [file for file in RESULTS if file.name == "comparison.json"]
VERSIONS = {"python", "torch", "transformers"}


def environments_of(content: dict) -> list[dict]:
    """Those of a comparison's calls and trainings, or the one of anything else."""
    if "calls" in content:
        return [each["environment"] for each in content["calls"]] + [run["versions"] for run in content["runs"]]
    return [content["environment"] if "environment" in content else content["versions"]]


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.relative_to(ROOT / "results").as_posix())
def test_every_result_names_its_versions(file):
    environments = environments_of(json.loads(file.read_text()))
    assert environments
    tables = file.with_suffix(".md")
    for environment in environments:
        assert environment.keys() >= VERSIONS
        if tables.exists():
            assert in_words(environment) in tables.read_text()


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda file: file.parent.name)
def test_the_tables_of_a_comparison_are_those_of_its_numbers(file):
    results = read_results(file, FORMAT, ComparisonResults, Row, "compare")
    tables = markdown_tables(results, parse_comparison(file.parent.name, results.config))
    assert file.with_suffix(".md").read_text() == tables


@pytest.mark.parametrize("file", LOSSES, ids=lambda file: file.parent.name)
def test_the_losses_of_documents_are_those_of_the_results(file):
    losses = UnitLosses.read(file.parent)
    rows = json.loads(file.with_name("comparison.json").read_text())["results"]
    assert losses.nats.keys() == {(row["entry"], row["seed"], row["size"]) for row in rows}
    for row in rows:
        tokens = losses.tokens[row["size"]].sum()
        assert tokens == row["measured"]["tokens_scored"]
        mean = losses.nats[row["entry"], row["seed"], row["size"]].sum() / tokens
        assert mean == pytest.approx(row["measured"]["nll"], rel=1e-6)


@pytest.mark.parametrize("file", MAPS, ids=lambda file: file.parent.name)
def test_the_map_is_that_of_the_results(file):
    found = read_map(file.parent, read_kinds(ROOT / "configs" / f"compare_{file.parent.name}"))
    assert file.read_text() == markdown_map(found)


def test_the_tables_of_the_demo_are_those_of_its_numbers(tmp_path):
    file = ROOT / "results" / "demo" / "evaluation.json"
    Evaluation.load(file).save(tmp_path / "again.json")
    assert (tmp_path / "again.md").read_text() == file.with_suffix(".md").read_text()
