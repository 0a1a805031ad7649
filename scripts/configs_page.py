"""Write `configs/README.md`: what each configuration is for, its size, what it costs and what comes out.

python scripts/configs_page.py

Parameters and tokens are computed from the files. Seconds and losses are those of `results/`, where the configuration
was run, and words about time those of the comments in the file. A test compares the page with what this script makes.
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bipe_hf.lab.common.tables import markdown
from bipe_hf.lab.comparison import read_comparison
from bipe_hf.lab.finetuning import FinetuneSettings
from bipe_hf.lab.records.arguments import RecordSettings
from bipe_hf.lab.tasks.synthetic.arguments import SyntheticSettings
from bipe_hf.lab.tasks.synthetic.tasks import find_task
from bipe_hf.lab.tasks.synthetic.tokenizer import make_tokenizer
from bipe_hf.lab.training import DataArguments, ModelArguments, PretrainSettings, build_config, build_model


ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
RESULTS = ROOT / "results"
MADE = "<!-- Made by scripts/configs_page.py: change a configuration or its results, then run the script. -->"
NOT_RUN = "not run"
# What the names start with that `bipe-hf pretrain` does not read, or not for a new model.
OTHER_COMMANDS = ("compare_", "continue_", "finetune_", "records", "synthetic_")
COST = re.compile(r"[^.,:;]*\b(?:CPU cores?|H100)\b[^.;]*")
"""A part of a comment that says how long something takes."""
MIB = 2**20


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=CONFIGS / "README.md", help="file (default: configs/README.md)")
    output = parser.parse_args().output
    output.write_text(page(), encoding="utf-8")
    print(f"written: {output}")


def page() -> str:
    """The text of the page."""
    new = [path for path in files("*.yaml") if not path.stem.startswith(OTHER_COMMANDS)]
    parts = [
        "# Configurations",
        MADE,
        "One YAML file is one run. Each file shows the command that reads it, and each key has a comment."
        " [YAML keys](../docs/reference_yaml.md) lists all keys. A file that `extends` another one holds only what"
        " differs.",
        "Parameters and tokens are computed from the files. Time is what the comment of a file says, or the median of"
        " the runs in `results/`. The loss is that of held-out text, in nats a token, over all entries and seeds of"
        " the results that are named. *Not run* says that `results/` has no such run.",
        "## Pretrain",
        "`bipe-hf pretrain configs/NAME.yaml`. " + _cost_of_the_paper(),
        _table(("file", "what for", "parameters", "tokens a step", "tokens", "time", "loss"), map(_pretraining, new)),
        "## Go on from a trained model",
        "The model that they start from decides the parameters. `results/` has no run of them.",
        _table(("file", "what for", "tokens a step", "tokens"), map(_continued, files("continue_*.yaml"))),
        "## Fine-tune",
        "`bipe-hf finetune configs/NAME.yaml`. The model that they start from decides the parameters, the data the"
        " number of steps. `results/` has no run of them.",
        _table(("file", "what for", "rows a step", "data"), map(_finetuning, files("finetune_*.yaml"))),
        "## Records",
        "`bipe-hf records train FILE ... --output RUN --config configs/records.yaml`.",
        _table(
            ("file", "what for", "parameters", "tokens a step", "time", "loss"), [_records(CONFIGS / "records.yaml")]
        ),
        "## Generated tasks",
        "`bipe-hf synthetic configs/NAME.yaml`.",
        _table(
            ("file", "what for", "parameters", "examples", "time", "loss"), map(_synthetic, files("synthetic_*.yaml"))
        ),
        "## Comparisons",
        "`bipe-hf compare configs/NAME.yaml`. Parameters are those of the smallest and the largest entry.",
        _compared(files("compare_*.yaml"), RESULTS),
        "## Kinds of text",
        "`bipe-hf kinds configs/compare_kinds` runs all of them, and `--only NAME` one. The text is made by"
        " `scripts/kinds_of_text.py`.",
        _compared(files("compare_kinds/*.yaml"), RESULTS / "kinds"),
        "`bipe-hf kinds configs/compare_kinds_rates` has two of them once more, each encoding with its other learning"
        " rate.",
        _compared(files("compare_kinds_rates/*.yaml"), RESULTS / "kinds_rates"),
        "## Relatives",
        "`bipe-hf kinds configs/compare_relatives`.",
        _compared(files("compare_relatives/*.yaml"), RESULTS / "relatives"),
        "## Several GPUs",
        "`accelerate launch --config_file configs/accelerate/NAME.yaml -m bipe_hf.commands pretrain ...`. They were"
        " tested with CPU processes, not on GPUs.",
        _table(("file", "what for"), ((_file(path), _what(path)) for path in files("accelerate/*.yaml"))),
        "## What several files share",
        _table(("file", "what for"), ((_file(path), _what(path)) for path in files("base/*.yaml"))),
    ]
    return "\n\n".join(parts) + "\n"


def files(pattern: str) -> list[Path]:
    """The configurations whose names fit."""
    return sorted(CONFIGS.glob(pattern))


def parameters(model: ModelArguments, data: DataArguments, vocab_size: int) -> int:
    """How many numbers a model of these settings learns."""
    config = build_config(model, data)
    config.vocab_size = vocab_size
    if config.segmentation == "separators":
        config.separator_token_ids = [0]  # which ones there are changes no size
        config.inner_separator_token_ids = [[at] for at in range(1, len(data.levels or [1]))]
    with torch.device("meta"):
        return build_model(model, config).num_parameters()


def _pretraining(path: Path) -> Sequence[str]:
    settings = PretrainSettings.read(path, [])
    return (
        _file(path),
        _what(path),
        f"{parameters(settings.model, settings.data, settings.data.vocab_size):,}",
        *_tokens(settings),
        _time(path) or NOT_RUN,
        _loss_of_the_demo(path),
    )


def _continued(path: Path) -> Sequence[str]:
    return _file(path), _what(path), *_tokens(PretrainSettings.read(path, []))


def _finetuning(path: Path) -> Sequence[str]:
    settings = FinetuneSettings.read(path, [])
    return _file(path), _what(path), f"{_batch(settings.training):,}", f"`{settings.rows.data}`"


def _records(path: Path) -> Sequence[str]:
    settings = RecordSettings.read(path, [], "runs/records")
    model, records = settings.model.spelt_out(settings.records.train_length), settings.records
    levels = DataArguments(train_length=records.train_length, levels=["lines", "fields"])
    count = f"{parameters(model, levels, records.vocab_size):,} with two levels"
    loss = "[records](../results/records/peer.md)"
    return _file(path), _what(path), count, f"about {records.tokens_per_step:,}", _time(path), loss


def _synthetic(path: Path) -> Sequence[str]:
    settings = SyntheticSettings.read(path, [])
    examples = _batch(settings.training) * settings.training["max_steps"]
    count = _of_generated(settings)
    return _file(path), _what(path), f"{count:,}", f"{examples:,}", _time(path) or NOT_RUN, NOT_RUN


def _of_generated(settings: SyntheticSettings) -> int:
    task = find_task(settings.generator.task)
    data = DataArguments(train_length=task.longest(settings.generator.max_operators))
    return parameters(settings.model, data, len(make_tokenizer(task)))


def _compared(paths: Iterable[Path], results: Path) -> str:
    titles = ("file", "what for", "entries", "runs", "parameters", "tokens a run", "time", "loss")
    return _table(titles, (_comparison(path, results / path.stem / "comparison.json") for path in paths))


def _comparison(path: Path, results: Path) -> Sequence[str]:
    comparison = read_comparison(path)
    entries = [entry for entry in comparison.entries.values() if entry.trained_as is None]
    counts, seen = [], set()
    for entry in entries:
        settings = entry.settings
        if comparison.task == "text":
            counts.append(parameters(settings.model, settings.data, settings.data.vocab_size))
            seen.add(_tokens(settings)[1])
        else:
            counts.append(_of_generated(settings))
            seen.add(f"{_batch(settings.training) * settings.training['max_steps']:,} examples")
    found = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {"runs": [], "calls": []}
    runs = found["runs"]
    losses = [run["eval_loss"] for run in runs if run["eval_loss"] is not None]
    measured = (
        f"median {median(run['seconds'] for run in runs):.0f} s a run ({_devices(found['calls'])})" if runs else ""
    )
    where = f"[{results.parent.name}](../{results.parent.relative_to(ROOT).as_posix()}/comparison.md)"
    return (
        _file(path),
        _what(path),
        str(len(comparison.entries)),
        str(sum(len(entry.seeds) for entry in entries)),
        _range(f"{count:,}" for count in sorted(counts)),
        _range(sorted(seen, key=lambda text: int(re.sub(r"\D", "", text)))),
        "; ".join(filter(None, (_time(path), measured))) or NOT_RUN,
        f"{_range(f'{loss:.2f}' for loss in sorted(losses))}, {where}" if losses else NOT_RUN,
    )


def _tokens(settings: PretrainSettings) -> tuple[str, str]:
    """Tokens of a step, and of the whole training."""
    step = _batch(settings.training) * settings.data.train_length
    return f"{step:,}", f"{step * settings.training['max_steps']:,}"


def _batch(training: dict[str, Any]) -> int:
    return training.get("per_device_train_batch_size", 8) * training.get("gradient_accumulation_steps", 1)


def _devices(calls: list[dict[str, Any]]) -> str:
    names = {call["environment"]["device"] for call in calls}
    return ", ".join(sorted("CPU" if name == "cpu" else name for name in names))


def _range(texts: Iterable[str]) -> str:
    texts = list(texts)
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _comment(path: Path) -> str:
    """The first paragraph of a file."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    return " ".join(lines)


def _what(path: Path) -> str:
    """The first sentence of a file, without what it says of time."""
    text = re.sub(r" \((?:He|Peng) et al\.[^)]*\)", "", _comment(path))
    sentence = re.split(r"\. (?=[A-Z])", text)[0].rstrip(".")
    sentence = re.sub(rf":{COST.pattern}$", "", sentence)
    return re.sub(r"`configs/([\w.]+)`", r"[\1](\1)", sentence)


def _time(path: Path) -> str:
    found = COST.search(_comment(path))
    return "" if found is None else found.group().strip()


def _loss_of_the_demo(path: Path) -> str:
    """Of those that `make demo` trains."""
    file = RESULTS / "demo" / "evaluation.json"
    for row in json.loads(file.read_text(encoding="utf-8"))["results"]:
        if row["name"] == path.stem and row["length"] == row["train_length"]:
            return f"{row['nll']:.2f}, [demo](../results/demo/evaluation.md)"
    return NOT_RUN


def _cost_of_the_paper() -> str:
    """What a step of the paper's size takes, as the benchmark has it."""
    report = json.loads((RESULTS / "benchmark.json").read_text(encoding="utf-8"))
    found = report["results"]["llama"]
    seconds = found["train_1024"]["models"]["bipe_rope"]["seconds"]
    memory = found["memory_train_1024"]["models"]["bipe_rope"]["bytes"] / MIB
    return (
        f"The paper's size (`bipe_rope.yaml` and its like) takes {seconds:.1f} s and {memory:,.0f} MiB for a training"
        f" step of one block of 1,024 tokens in float32 on {report['environment']['processor']}"
        " ([benchmark](../results/benchmark.md)). Memory was measured for no other file."
    )


def _file(path: Path) -> str:
    name = path.relative_to(CONFIGS).as_posix()
    return f"[`{name}`]({name})"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown([titles, *([cell.replace("|", "-") for cell in row] for row in rows)], left=len(titles))


if __name__ == "__main__":
    main()
