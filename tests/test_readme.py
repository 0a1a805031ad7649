"""The README's Python runs as it stands, and its files and commands exist."""

import json
import re
import shlex
import sys

import pytest
import torch
from lm_eval.__main__ import cli_evaluate
from paths import ROOT
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from bipe_hf.commands import COMMANDS, main


README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").glob("*.md"))


CAPITALS = """
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: tasks/capitals.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{country}} is"
doc_to_choice: ["London", "Paris"]
doc_to_target: "{{capital}}"
"""


def commands(start: str) -> list[list[str]]:
    """The words of each command of the README that starts so."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)).replace("\\\n", " ")
    found = [shlex.split(line, comments=True) for line in blocks.splitlines() if line.startswith(start)]
    assert found, start
    return found


def test_python_blocks_run_one_after_the_other(demo):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 5
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["config"].inter_encoding == "alibi"
    assert names["config"].separator_token_ids == names["tokenizer"].separator_token_ids
    assert AutoModelForCausalLM.from_pretrained("runs/sft/merged").config.model_type == "bipe_llama"


def test_python_blocks_of_the_page_on_levels_run(demo):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "levels.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(compile(block, "levels.md", "exec"), names)
    assert names["config"].encoding_label == "BiPE-RoPE with levels"
    lines, fields = zip(*names["tokenizer"]("a,b\nc")["segment_ids"], strict=True)
    assert (max(lines), max(fields)) == (1, 1)


@pytest.mark.slow
def test_the_loop_of_the_page_on_onnx_makes_what_generate_makes(demo):
    pytest.importorskip("onnxruntime", reason="needs pip install '.[onnx]', which make test does")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "onnx.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(compile(block, "docs/onnx.md", "exec"), names)
    model = names["model"]
    model.generation_config.eos_token_id = None
    expected = model.generate(**names["inputs"], max_new_tokens=20, do_sample=False)
    assert torch.equal(names["ids"], expected)


def test_the_commands_on_segments_and_passkeys_run(demo):
    (demo / "book.txt").write_text("It was late. The night, cold and long, had come!\n" * 200)
    for _, *words in commands("bipe-hf segments"):
        assert main(words) == 0
    for folder in ("segments", "levels"):
        assert "<html" in (demo / "runs" / folder / "segments.html").read_text()
    ((_, *words),) = [words for words in commands("bipe-hf evaluate") if "bipe_passkey" in words]
    assert main(words) == 0
    rows = json.loads((demo / "runs" / "passkey.json").read_text())["results"]
    assert sum(row["metric"] == "found" for row in rows) == 6
    assert (demo / "runs" / "passkey-passkey-tiny_bipe_rope.png").is_file()


def test_the_fine_tuning_command_runs(demo):
    (demo / "reviews.csv").write_text("review,stars\n" + "It is good.,5\nIt is not good.,1\n" * 20)
    ((_, *words),) = [words for words in commands("bipe-hf finetune") if "reviews.csv" in words]
    words[1] = str(ROOT / words[1])
    smaller = {"max_steps": 2, "eval_steps": 1, "save_steps": 1, "max_length": 16, "use_cpu": "true"}
    assert main([*words, *(word for key, value in smaller.items() for word in (f"--{key}", str(value)))]) == 0
    folder = demo / "runs" / "finetune_classification"
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.id2label == {0: "1", 1: "5"}


def test_the_commands_of_the_evaluation_harness_run(demo, monkeypatch):
    (demo / "tasks").mkdir()
    (demo / "tasks" / "capitals.yaml").write_text(CAPITALS)
    rows = [{"country": "France", "capital": "Paris"}, {"country": "England", "capital": "London"}]
    (demo / "tasks" / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours = next(words for words in commands("bipe-hf evaluate") if "capitals" in words)
    assert main(ours[1:]) == 0
    score = next(
        row for row in json.loads((demo / "runs" / "tasks.json").read_text())["results"] if row["metric"] == "acc"
    )
    assert score["value"] in (0.0, 0.5, 1.0)
    (theirs,) = commands("lm_eval")
    monkeypatch.setattr(sys, "argv", [*theirs, "--output_path", "runs/harness.json"])
    cli_evaluate()
    (written,) = (demo / "runs").glob("harness_*.json")
    assert json.loads(written.read_text())["results"]["capitals"]["acc,none"] == score["value"]


def test_the_launch_command_is_that_of_the_configuration():
    (words,) = commands("accelerate launch")
    text = (ROOT / "configs" / "accelerate" / "fsdp2.yaml").read_text().replace("\\\n#", " ")
    assert words in [shlex.split(line.strip("# ")) for line in text.splitlines() if "accelerate launch" in line]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_shown(command):
    assert f"bipe-hf {command}" in README


def test_links_and_configs_in_the_readme_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r"configs/\w+\.yaml", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def rows_of(table: str) -> dict[str, list[str]]:
    """Cells of a Markdown table by the title of their row, both without brackets; of a cell its first word."""
    lines = [line.strip("| ").split(" | ") for line in table.strip().split("\n\n")[0].splitlines()[2:]]
    return {title.split(" (")[0]: [cell.split()[0].strip("*") for cell in cells] for title, *cells in lines}


def test_ratios_to_the_stock_models_are_those_of_the_committed_benchmark():
    report = (ROOT / "results" / "benchmark.md").read_text()
    llama, gpt_neox = (rows_of(report.split(f"## {family}\n")[1]) for family in ("Llama", "GPT-NeoX"))
    stated = rows_of(README.split("limits that we hold ourselves to")[1].split("\n\n", 1)[1])
    assert stated == {title: llama[title][-2:] + gpt_neox[title][-2:] for title in llama}


def test_the_time_of_an_import_is_the_committed_one():
    ratio = json.loads((ROOT / "results" / "import_time.json").read_text())["ratio"]
    assert f"`import bipe_hf` takes {ratio:.2f} times as long" in README


@pytest.mark.parametrize(
    "file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{each.name}" for each in DOCS)]
)
def test_every_path_and_link_of_a_text_is_there(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    paths = re.findall(r"`((?:tests|scripts|configs|docs|results)/[^`*<>{} ]+)`", text)
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    missing = [path for path in paths if not (ROOT / path).exists()]
    missing += [link for link in links if link and not ((ROOT / file).parent / link).exists()]
    assert not missing
