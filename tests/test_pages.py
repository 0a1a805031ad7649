"""Every Python block and every command line of the pages in `docs/` runs, or is read where running it is dear.

Python blocks of a page run one after the other, in the folder of the fixture `place`. Command lines run in between:
those of `RUN` with smaller settings, all others of `bipe-hf` as far as reading their words and files goes.
"""

import importlib
import json
import re
import shutil
import sys
import tomllib

import pytest
import yaml
from lm_eval.__main__ import cli_evaluate
from pages import blocks_of, lines_of, run_python
from paths import ROOT
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPTNeoXConfig, GPTNeoXForCausalLM

from bipe_hf import BipeLlamaConfig
from bipe_hf.commands import COMMANDS, main
from bipe_hf.lab.comparison import read_comparison
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.finetuning import FinetuneSettings
from bipe_hf.lab.kinds import read_kinds
from bipe_hf.lab.records import RecordSettings
from bipe_hf.lab.tasks.synthetic import SyntheticSettings
from bipe_hf.lab.training import PretrainSettings
from bipe_hf.lab.training.arguments import check_flags
from bipe_hf.model.configuration_bipe import INTER_ENCODINGS
from bipe_hf.model.encodings_bipe import ENCODINGS


PAGES = {page.stem: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}

# Pages whose blocks another test runs.
ELSEWHERE = {
    "serving": "tests/test_serving_page.py, which starts the server",
    "vllm": "tests/vllm_plugin, in an environment with vLLM",
    "onnx": "tests/test_readme.py, a slow test: the loop takes a minute",
    "records": "tests/lab/test_records_page.py, which compares what the training says line by line",
}

TRAINING = "--data book.txt --max_steps 2 --vocab_size 300 --train_length 32 --num_hidden_layers 1 --hidden_size 16"
TRAINING += " --save_steps 2 --report_to none"
# Beginnings of the command lines that run, and what makes them small; of several that fit, here and in `READ`, the
# longest counts.
RUN = {
    "pretrain configs/tiny_": f"{TRAINING} --intermediate_size 16 --validation_fraction 0.5 --max_validation_blocks 2",
    "finetune configs/finetune_classification.yaml --initial_model": (
        "--max_steps 2 --eval_steps 1 --save_steps 1 --max_length 16 --use_cpu true --report_to none"
    ),
    "evaluate runs/demo/tiny_bipe_rope --tasks": "",
    "evaluate": "--data book.txt --validation-fraction 0.5 --max-tokens 4096",
    "segments": "",
    "plot": "",
    "generate": "",
    "convert EleutherAI/pythia-160m": "--text book.txt",
    "env": "",
}
# What is less in those that run.
LESS = {'"samples": 20': '"samples": 2'}
# Beginnings of those that do not run, and why.
READ = {
    "pretrain": "trains for hours, or starts from a model that another one of these trains",
    "finetune": "starts from such a model; tests/lab/test_configs.py runs each configuration",
    "synthetic": "trains for minutes; tests/lab/test_synthetic.py runs it",
    "records": "tests/lab/test_records_page.py runs every action",
    "compare": "trains for an hour; tests/lab/test_configs.py runs each comparison",
    "kinds": "trains for days; tests/lab/test_kinds.py runs it",
    "scrolls": "needs a model of SCROLLS; tests/lab/test_scrolls.py runs it",
    "convert": "needs a checkpoint of somebody else; tests/lab/test_conversion.py and test_conversion_stock.py run it",
    "push": "tests/hub/test_hub.py runs it against a Hub of its own",
}
# Command lines of other programs that are none of ours to check.
OTHERS = (". .venv/bin/activate", "git clone", "cd ")

SETTINGS = {"pretrain": PretrainSettings, "finetune": FinetuneSettings, "synthetic": SyntheticSettings}

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


@pytest.fixture
def place(demo, own_datasets_cache):
    """The folder of the demo, and all that the pages have in theirs: models, a book, tables, a task, `configs`."""
    model = demo / "runs" / "demo" / "tiny_bipe_rope"
    for name in ("demo/tiny_rope", "demo/tiny_alibi", "bipe_rope"):
        shutil.copytree(model, demo / "runs" / name)
    book = ("It was late. The night, cold and long, had come!\n" * 20 + "\n") * 10
    (demo / "book.txt").write_text(book)
    (demo / "reviews.csv").write_text("review,stars\n" + "It is good.,5\nIt is not good.,1\n" * 20)
    (demo / "tasks").mkdir()
    (demo / "tasks" / "capitals.yaml").write_text(CAPITALS)
    rows = [{"country": "France", "capital": "Paris"}, {"country": "England", "capital": "London"}]
    (demo / "tasks" / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (demo / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(ROOT / "results" / "compare_python", demo / "results" / "compare_python")
    tokenizer = train_tokenizer([book], vocab_size=300)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    stock = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **size))
    for part in (tokenizer, stock):
        part.save_pretrained(demo / "EleutherAI" / "pythia-160m")
    return demo


def read_command(words: list[str], monkeypatch) -> None:
    """The parser takes the words of `bipe-hf`, and the files of settings that they name hold what is accepted."""
    seen = []
    command = importlib.import_module(f"bipe_hf.commands.{words[0]}")
    with monkeypatch.context() as patch:
        patch.setattr(command, "run", seen.append)
        assert main(words) == 0
    (arguments,) = seen
    if words[0] in SETTINGS:
        settings = SETTINGS[words[0]].read(arguments.config, arguments.overrides)
        if words[0] != "finetune":
            check_flags(settings.model, SETTINGS[words[0]].flagged(arguments.overrides))
    elif words[:2] == ["records", "train"]:
        RecordSettings.read(arguments.config, arguments.overrides, arguments.output)
    elif words[0] == "compare":
        read_comparison(arguments.config)
    elif words[0] == "kinds":
        read_kinds(arguments.folder)


def run_or_read_command(words: list[str], monkeypatch) -> bool:
    """Whether it ran."""
    line = " ".join(words)
    start = max((start for start in RUN.keys() | READ.keys() if line.startswith(start)), key=len, default=None)
    assert start is not None, f"say in RUN or READ how to check: bipe-hf {line}"
    if start in READ:
        if words[0] in COMMANDS:
            read_command(words, monkeypatch)
        return False
    for much, little in LESS.items():
        words = [word.replace(much, little) for word in words]
    assert main([*words, *RUN[start].split()]) == 0, line
    return True


def check_line(words: list[str], monkeypatch) -> bool:
    """Runs or reads one command line; whether it ran."""
    program, *rest = words
    line = " ".join(words)
    if program == "bipe-hf":
        return run_or_read_command([word for word in rest if word != "--debug"], monkeypatch)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = [word for word in rest if "=" not in word]
        assert all(re.search(f"^{target}:", makefile, flags=re.MULTILINE) for target in targets), line
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for named in re.findall(r"\[([\w,-]+)\]", line):
            assert set(named.split(",")) <= extras.keys(), line
    elif program in ("python", "bash"):
        assert (ROOT / rest[0]).is_file(), line
    elif program == "accelerate":
        config = ROOT / rest[rest.index("--config_file") + 1]
        assert yaml.safe_load(config.read_text())["num_processes"]
        read_command(rest[rest.index("bipe_hf.commands") + 1 :], monkeypatch)
    elif program == "lm_eval":
        monkeypatch.setattr(sys, "argv", [*words, "--output_path", "runs/harness.json"])
        cli_evaluate()
        return True
    else:
        assert line.startswith(OTHERS), f"say in OTHERS or check_line how to check: {line}"
    return False


def check_settings(text, place, where):
    """Reads a block of settings, of a training or of a comparison."""
    content = yaml.safe_load(text)
    if "entries" not in content:
        assert PretrainSettings.parse(content, [], where, None)
        return
    file = place / "compare_of_the_page.yaml"
    file.write_text(text.replace("extends: base/", "extends: configs/base/"))
    assert set(read_comparison(file).entries) == set(content["entries"])


# The page that starts the harness twice takes half a minute.
RUNNING = [
    pytest.param(page, marks=[pytest.mark.slow] if page == "evaluate" else [])
    for page in sorted(PAGES.keys() - ELSEWHERE.keys())
]


@pytest.mark.parametrize("page", RUNNING)
def test_the_blocks_of_a_page_run_one_after_the_other(page, place, monkeypatch, capsys):
    names = {}
    for block in blocks_of(PAGES[page]):
        capsys.readouterr()
        where = f"docs/{page}.md:{block.line}"
        ran = []
        if block.language == "python":
            run_python(block, f"docs/{page}.md", names)
        elif block.language == "bash":
            ran = [check_line(words, monkeypatch) for words in lines_of(block.text)]
        elif block.language == "yaml":
            check_settings(block.text, place, where)
        else:
            continue
        if block.output is not None:
            assert all(ran), f"{where}: its output is shown, but not all of it runs here"
            assert capsys.readouterr().out.strip() == block.output.strip(), where
    if page in AFTER:
        AFTER[page](place, names)


def test_the_command_lines_of_the_readme_run_or_are_read(place, monkeypatch):
    """Its Python is in `test_readme.py`. All lines of the book have two commas: `auto` takes it for a table."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [block for block in blocks_of(text) if block.language == "bash"]
    ran = [check_line(words, monkeypatch) for block in blocks for words in lines_of(block.text)]
    assert ran == [False, False, False, True, False]
    config = json.loads((place / "runs" / "mine" / "config.json").read_text())
    assert (config["inter_encoding"], len(config["inner_separator_token_ids"])) == ("axes", 1)


def after_caches(place, names):
    assert names["output"].shape == (1, 32)


def after_levels(place, names):
    assert names["config"].encoding_label == "BiPE-RoPE with levels"
    lines, fields = zip(*names["tokenizer"]("a,b\nc")["segment_ids"], strict=True)
    assert (max(lines), max(fields)) == (1, 1)


def after_evaluate(place, names):
    for folder in ("segments", "levels"):
        assert "<html" in (place / "runs" / folder / "segments.html").read_text()
    rows = json.loads((place / "runs" / "passkey.json").read_text())["results"]
    assert sum(row["metric"] == "found" for row in rows) == 6
    assert (place / "runs" / "passkey-passkey-tiny_bipe_rope.png").is_file()
    assert (place / "runs" / "both.svg").is_file()
    scores = json.loads((place / "runs" / "tasks.json").read_text())["results"]
    (ours,) = [row["value"] for row in scores if row["metric"] == "acc"]
    assert ours in (0.0, 0.5, 1.0)
    (written,) = (place / "runs").glob("harness_*.json")
    assert json.loads(written.read_text())["results"]["capitals"]["acc,none"] == ours


def after_finetune(place, names):
    folder = place / "runs" / "finetune_classification"
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.id2label == {0: "1", 1: "5"}
    assert AutoModelForCausalLM.from_pretrained("runs/merged").config.model_type == "bipe_llama"


# What the blocks of a page have made, looked at.
AFTER = {
    "caches": after_caches,
    "levels": after_levels,
    "evaluate": after_evaluate,
    "finetune": after_finetune,
}


def command_lines() -> list[list[str]]:
    """Of all pages and of those blocks alone that are for a shell."""
    return [
        words
        for text in PAGES.values()
        for block in blocks_of(text)
        if block.language == "bash"
        for words in lines_of(block.text)
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_shown_on_some_page(command):
    assert any(words[:2] == ["bipe-hf", command] for words in command_lines())


def test_the_launch_command_is_that_of_the_configuration():
    text = (ROOT / "configs" / "accelerate" / "fsdp2.yaml").read_text().replace("\\\n#", " ")
    (launch,) = [line.strip("# ").split() for line in text.splitlines() if "accelerate launch" in line]
    assert launch in command_lines()


def test_exceptions_and_checks_are_those_of_pages_and_lines_that_are_there():
    assert ELSEWHERE.keys() <= PAGES.keys()
    assert AFTER.keys() <= PAGES.keys() - ELSEWHERE.keys()
    lines = [" ".join(words) for words in command_lines()]
    for start in (*RUN, *READ):
        assert any(line.replace("--debug ", "").startswith(f"bipe-hf {start}") for line in lines), start
    for much in LESS:
        assert any(much in line for line in lines), much


def rows_of(table: str) -> dict[str, list[str]]:
    """Cells of the first Markdown table by the title of their row, both without brackets; of a cell its first word."""
    lines = re.search(r"(?:^\|.*\n)+", table, flags=re.MULTILINE).group().splitlines()[2:]
    rows = [line.strip("| ").split(" | ") for line in lines]
    return {title.split(" (")[0]: [cell.split()[0].strip("*") for cell in cells] for title, *cells in rows}


def test_ratios_to_the_stock_models_are_those_of_the_committed_benchmark():
    report = (ROOT / "results" / "benchmark.md").read_text()
    llama, gpt_neox = (rows_of(report.split(f"## {family}\n")[1]) for family in ("Llama", "GPT-NeoX"))
    stated = rows_of(PAGES["tested"].split("## As fast as the stock models")[1])
    assert stated == {title: llama[title][-2:] + gpt_neox[title][-2:] for title in llama}


def test_times_of_the_authors_way_are_the_committed_ones():
    rows = rows_of((ROOT / "results" / "benchmark.md").read_text().split("## Llama beside the authors' way\n")[1])
    names = ("training step, 4096 tokens", "decoding a token, 1024 before it")
    step, decoding = ([float(cell) for cell in rows[name][1::2]] for name in names)
    text = " ".join(PAGES["tested"].split())
    assert "takes {:.2f} (RoPE) and {:.2f} (ALiBi) times as long for a training step of 4096".format(*step) in text
    assert "To decode a token after 1024 it takes {:.0f} and {:.0f} times as long".format(*decoding) in text


def test_the_time_of_an_import_is_the_committed_one():
    ratio = json.loads((ROOT / "results" / "import_time.json").read_text())["ratio"]
    assert f"`import bipe_hf` takes {ratio:.2f} times as long" in PAGES["tested"]


def test_shares_of_right_answers_are_those_of_the_committed_comparison():
    right = (
        (ROOT / "results" / "compare_arithmetic" / "comparison.md").read_text().split("Right answers in percent")[1]
    )
    stated = rows_of(PAGES["evaluate"].split("Right answers in percent")[1])
    assert stated == {title: cells[1:5] for title, cells in rows_of(right).items()}


def test_the_tables_of_encodings_have_every_inter_encoding():
    values, memory = PAGES["encodings"].split("## Memory and backends")
    for table in (values, memory.split("## What goes with them")[0]):
        first = " ".join(line.split(" | ")[0] for line in table.splitlines() if line.startswith("| "))
        assert set(re.findall(r"`(\w+)`", first)) - {"inter_encoding"} == set(INTER_ENCODINGS)


def test_every_footgun_says_what_happens_and_what_to_do():
    footguns = PAGES["does_not_work"].split("## Footguns", 1)[1].split("## Versions")[0].split("\n### ")[1:]
    assert footguns
    for footgun in footguns:
        assert footgun.index("**What happens.** ") < footgun.index("**What to do.** "), footgun.splitlines()[0]


def test_every_file_and_name_of_the_glossary_is_in_the_code():
    source = ROOT / "src" / "bipe_hf"
    for line in PAGES["glossary"].splitlines():
        cells = line.strip("| ").split(" | ")
        if not line.startswith("| ") or len(cells) != 4 or cells[0] in ("term", "---"):
            continue
        text = ""
        for named in re.findall(r"`([^`]+)`", cells[3]):
            if named.endswith(".py"):
                text = (ROOT / named if "/" in named else source / "model" / named).read_text()
            else:
                assert re.search(rf"\b{named.split('.')[-1]}\b", text), (cells[0], named)
        fields = set(re.findall(r"`(\w+)(?::[^`]*)?`", cells[2]))
        keys = {*PretrainSettings.all_keys(), *BipeLlamaConfig().to_dict(), *ENCODINGS}
        assert fields <= keys | {"segment_ids", "position_ids", "past_key_values", "fixed"}, (cells[0], fields - keys)


def test_every_heading_that_a_page_links_to_is_there():
    slugs = {}
    for page, text in PAGES.items():
        headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
        slugs[page] = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    for page, text in PAGES.items():
        for target, anchor in re.findall(r"\]\((?:(\w+)\.md)?#([^)]+)\)", text):
            assert anchor in slugs[target or page], f"docs/{page}.md: {target}#{anchor}"
