"""The README's Python runs as it stands, and its files and commands exist."""

import re
from pathlib import Path

import pytest

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM, BipeTokenizer
from bipe_hf.commands import COMMANDS
from bipe_hf.data import train_tokenizer


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    tokenizer = train_tokenizer(["The return value is a number. It is one.\n"] * 5, vocab_size=300)
    tokenizer = BipeTokenizer.from_tokenizer(tokenizer)
    config = BipeLlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        separator_token_ids=tokenizer.separator_token_ids,
        pad_token_id=tokenizer.pad_token_id,
    )
    for part in (tokenizer, BipeLlamaForCausalLM(config)):
        part.save_pretrained(tmp_path / "runs" / "demo" / "tiny_bipe_rope")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["model"].config.inter_encoding == "alibi"
    assert names["config"].separator_token_ids == tokenizer.separator_token_ids


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_shown(command):
    assert f"bipe-hf {command}" in README


def test_links_and_configs_in_the_readme_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r"configs/\w+\.yaml", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def rows_of(table: str) -> dict[str, list[str]]:
    """Cells of a Markdown table by the title of their row; of a cell its first word."""
    lines = [line.strip("| ").split(" | ") for line in table.strip().split("\n\n")[0].splitlines()[2:]]
    return {title: [cell.split()[0] for cell in cells] for title, *cells in lines}


def test_ratios_to_the_stock_models_are_those_of_the_committed_benchmark():
    report = (ROOT / "results" / "benchmark.md").read_text()
    llama, gpt_neox = (rows_of(report.split(f"## {family}\n")[1]) for family in ("Llama", "GPT-NeoX"))
    stated = rows_of(README.split("limits that we hold ourselves to")[1].split("\n\n", 1)[1])
    assert stated == {title: llama[title][-2:] + gpt_neox[title][-2:] for title in llama}
