"""Every committed result names what it was made with, in its file and in its tables."""

import json

import pytest
from paths import ROOT

from bipe_hf.lab.common.results import in_words, read_results
from bipe_hf.lab.comparison.plan import parse_comparison
from bipe_hf.lab.comparison.results import FORMAT, ComparisonResults, Row
from bipe_hf.lab.comparison.tables import markdown_tables
from bipe_hf.lab.evaluation import Evaluation


RESULTS = sorted((ROOT / "results").rglob("*.json"))
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


def test_the_tables_of_the_demo_are_those_of_its_numbers(tmp_path):
    file = ROOT / "results" / "demo" / "evaluation.json"
    Evaluation.load(file).save(tmp_path / "again.json")
    assert (tmp_path / "again.md").read_text() == file.with_suffix(".md").read_text()
