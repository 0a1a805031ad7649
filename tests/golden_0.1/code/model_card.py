"""What the model card of a folder says: what its files say of the model, and nothing else."""

import json
import math
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from tokenizers import Tokenizer

from .configuration_bipe import BipeConfigMixin, BipeGPTNeoXConfig, BipeLlamaConfig
from .version import __version__
from .vocabulary import token_texts


MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
TRAINING_FILES = ("training.json", "finetuning.json", "synthetic.json")
EVALUATION_FILE, FIGURE_FILE = "evaluation.json", "evaluation.png"
RECORD_FILES = (*TRAINING_FILES, EVALUATION_FILE, FIGURE_FILE)
"""What `bipe-hf` writes of a training, on a text, for a task or on a generated one, and of an evaluation."""
EVALUATION_FORMAT = "bipe-hf evaluation 1"
IDS_ALONE = "separator tokens, with the ids"
"""What a card says where it has found no tokenizer."""

# By what the records of `bipe-hf` are known.
_RECORD_FIELDS = {
    "training": {"versions", "train_length", "data", "tokens_seen", "parameters", "eval_loss"},
    "finetuning": {"versions", "task", "data", "examples", "parameters", "metrics"},
    "synthetic": {"versions", "task", "max_operators", "examples_seen", "parameters", "accuracy"},
    "evaluation": {"format", "data", "results"},
}
_SHOWN_SEPARATORS = 40

# Ending of the architecture -> Auto class, task of the Hub, and what to do with the outputs of a text.
_TASKS = {
    "ForCausalLM": (
        "AutoModelForCausalLM",
        "text-generation",
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0], skip_special_tokens=True))",
    ),
    "ForSequenceClassification": (
        "AutoModelForSequenceClassification",
        "text-classification",
        "print(model.config.id2label[model(**inputs).logits.argmax().item()])",
    ),
    "ForTokenClassification": (
        "AutoModelForTokenClassification",
        "token-classification",
        "print([model.config.id2label[label] for label in model(**inputs).logits[0].argmax(-1).tolist()])",
    ),
    "ForQuestionAnswering": (
        "AutoModelForQuestionAnswering",
        "question-answering",
        "print(model(**inputs).start_logits.shape)",
    ),
    "Model": ("AutoModel", "feature-extraction", "print(model(**inputs).last_hidden_state.shape)"),
}
_METRICS = ("accuracy", "exact_match", "f1", "perplexity")  # those that the Hub knows


def describe(folder: Path, name: str | None, with_records: bool) -> tuple[dict[str, Any], str] | None:
    """The metadata and the text of the card of `folder`; None where it holds no BiPE configuration.

    Args:
        folder: with `config.json`, and the files of a tokenizer where there is one.
        name: of the repository, for the title and the usage example; by default the folder's.
        with_records: tell of the files in `RECORD_FILES` too, which must speak of the weights that are there.
    """
    config = _read_config(folder)
    if config is None:
        return None
    name = name or f"path/to/{folder.resolve().name}"
    title = name.rpartition("/")[2]
    task = next(
        (each for ending, each in _TASKS.items() if (config.architectures or [""])[0].endswith(ending)),
        _TASKS["ForCausalLM"],
    )
    records = {record: read_record(folder / f"{record}.json") if with_records else None for record in _RECORD_FIELDS}
    figure = f"![perplexity against test length]({FIGURE_FILE})"
    has_figure = with_records and (folder / FIGURE_FILE).is_file()
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": task[1],
        "tags": ["bipe", config.model_type, "positional-encoding", "length-extrapolation"],
    }
    results = _results(records, task[1])
    if results:
        metadata |= {"model_name": title, "eval_results": results}
    sections = [
        f"# {title}",
        _summary(config),
        _facts(folder, config, records),
        _usage(name, *task),
        _evaluation(records, figure if has_figure else None),
        _CITATION,
        f"Saved by `bipe-hf` {__version__}.",
    ]
    return metadata, "\n\n".join(filter(None, sections))


def read_record(file: Path) -> dict[str, Any] | None:
    """What `bipe-hf` wrote into one of the `RECORD_FILES`, the figure excepted.

    None without the file, where another program wrote it, or where it tells of several models, or of this one with
    other config fields.
    """
    try:
        content = _read_json(file)
    except ValueError:
        return None
    if not isinstance(content, dict) or not _RECORD_FIELDS[file.stem] <= content.keys():
        return None
    if file.stem == "evaluation":
        of_one_model = len({row["model"] for row in content["results"]}) == 1
        as_it_is = not any(row.get("config_fields") for row in content["results"])
        return content if content["format"] == EVALUATION_FORMAT and of_one_model and as_it_is else None
    return content if "bipe-hf" in content["versions"] else None


def _read_json(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _read_config(folder: Path) -> BipeConfigMixin | None:
    content = _read_json(folder / "config.json")
    for config_class in (BipeLlamaConfig, BipeGPTNeoXConfig):
        if content is not None and content.get("model_type") == config_class.model_type:
            return config_class.from_pretrained(folder)
    return None


def _summary(config: BipeConfigMixin) -> str:
    family = {"bipe_llama": "Llama", "bipe_gpt_neox": "GPT-NeoX"}[config.model_type]
    text = f"A {family} model of Transformers with the positional encoding **{config.encoding_label}**"
    if not config.encoding_label.startswith("BiPE"):
        return f"{text}, from the package `bipe-hf`."
    return (
        f"{text}: bilevel positional encoding ([He et al., ICML 2024](https://arxiv.org/abs/2401.16421)), which tells"
        " where a token stands inside its segment by an absolute encoding, and which segment it is in by a relative"
        " one."
    )


def _facts(folder: Path, config: BipeConfigMixin, records: dict[str, dict[str, Any] | None]) -> str:
    facts = {"positional encoding": config.encoding_label, "segments": _segments(folder, config)}
    if config.segmentation != "tokens" and config.intra_encoding != "none":
        facts["positions inside a segment"] = f"{config.intra_encoding}, {config.max_segment_length} of them"
    if config.inter_encoding == "alibi" and config.segmentation != "document":
        facts["factor on the ALiBi slopes"] = f"{config.alibi_slope_scale:g}"
    if config.inter_encoding == "hybrid":
        has_segments = config.segmentation != "document"
        turning = "by segment" if config.hybrid_slow_pairs == "segments" and has_segments else "not at all"
        facts["rotary pairs"] = f"up to {config.hybrid_max_period:g} tokens a turn by token, slower ones {turning}"
        if has_segments:
            facts["factor on the ALiBi slopes"] = f"{config.hybrid_alibi_scale:g}"
            facts["power of the ALiBi slopes"] = f"{config.hybrid_alibi_power:g}"
    training, finetuning, synthetic = records["training"], records["finetuning"], records["synthetic"]
    if training is not None:
        facts["train length"] = f"{training['train_length']:,} tokens"
        facts["trained on"] = f"`{training['data']}`, {training['tokens_seen']:,} tokens"
        facts["parameters"] = f"{training['parameters']:,}"
    if finetuning is not None:
        facts["fine-tuned for"] = finetuning["task"].replace("_", " ")
        facts["fine-tuned on"] = f"`{finetuning['data']}`, {finetuning['examples']['train']:,} examples"
        facts["parameters"] = f"{finetuning['parameters']:,}"
    if synthetic is not None:
        examples = f"{synthetic['examples_seen']:,} examples of 1 to {synthetic['max_operators']} operators"
        facts["trained on"] = f"the generated task {synthetic['task']}, {examples}"
        facts["parameters"] = f"{synthetic['parameters']:,}"
    return "\n".join(f"- {key}: {value}" for key, value in facts.items())


def _segments(folder: Path, config: BipeConfigMixin) -> str:
    if config.segmentation != "separators":
        whole = {"tokens": "each token is one of its own", "document": "the whole text is one"}
        return whole.get(config.segmentation, f"each {config.fixed_segment_length} tokens are one")
    ids = config.separator_token_ids
    settings = _read_json(folder / "tokenizer_config.json")
    if settings is None or not (folder / "tokenizer.json").is_file():
        shown = ", ".join(map(str, ids[:_SHOWN_SEPARATORS]))
        return f"end at {len(ids)} {IDS_ALONE} {shown}{_more(ids)}"
    known = token_texts(Tokenizer.from_file(str(folder / "tokenizer.json")))
    texts = [known[each] for each in ids if each in known]
    texts = sorted(texts, key=lambda text: (len(text), text))
    preset = settings.get("segmentation")
    is_of_these = settings.get("separator_token_ids") == ids  # the tokenizer may be saved anew only after the model
    named = f" (`{preset}`)" if isinstance(preset, str) and is_of_these else ""
    shown = " ".join(_as_code(text) for text in texts[:_SHOWN_SEPARATORS])
    return f"end at {len(ids)} separator tokens{named}: {shown}{_more(ids)}"


def _more(ids: list[int]) -> str:
    return f" and {len(ids) - _SHOWN_SEPARATORS} more" if len(ids) > _SHOWN_SEPARATORS else ""


def _as_code(text: str) -> str:
    """The text of a token, white space escaped, as a code span of Markdown."""
    literal = json.dumps(text, ensure_ascii=False)
    return f"`` {literal} ``" if "`" in literal else f"`{literal}`"


def _usage(name: str, auto_class: str, task: str, use: str) -> str:
    question = '"Who wrote it?", ' if task == "question-answering" else ""
    return f"""## Usage

```python
from transformers import {auto_class}, AutoTokenizer

name = {json.dumps(name)}
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
model = {auto_class}.from_pretrained(name, trust_remote_code=True)
inputs = tokenizer({question}"A text. And more of it.", return_tensors="pt")
{use}
```

After `pip install bipe-hf` and `import bipe_hf` no remote code is needed: leave `trust_remote_code` out. Segments are
found by the model itself; the `segment_ids` of the tokenizer say the same."""


def _evaluation(records: dict[str, dict[str, Any] | None], figure: str | None) -> str | None:
    evaluation, finetuning, synthetic = records["evaluation"], records["finetuning"], records["synthetic"]
    parts = []
    if finetuning is not None:
        rows = [f"| {name} | {value:.4f} |" for name, value in finetuning["metrics"].items() if value is not None]
        parts.append("\n".join(["| held-out examples of the fine-tuning | |", "| --- | ---: |", *rows]))
    if synthetic is not None and synthetic["accuracy"]:
        parts.append(f"Answers to new questions of the task {synthetic['task']}:")
        rows = [
            f"| {row['size']} | {row['accuracy']:.4f} | {row['steps_correct']:.4f} | {row['samples']} |"
            for row in synthetic["accuracy"]
        ]
        heading = "| operators | right answers | right steps | questions |"
        parts.append("\n".join([heading, "| ---: | ---: | ---: | ---: |", *rows]))
    if evaluation is not None:
        data = evaluation["data"]
        parts.append(f"Measured on the {data['split']} split of `{data['source']}`:")
        rows = [
            f"| {_protocol(row)} | {row['length']} | {row['perplexity']:.2f} | {row['bits_per_byte']:.4f} |"
            f" {row['tokens_scored']} |"
            for row in evaluation["results"]
        ]
        heading = "| protocol | test length | perplexity | bits per byte | tokens scored |"
        parts.append("\n".join([heading, "| --- | ---: | ---: | ---: | ---: |", *rows]))
    if figure is not None:
        parts.append(figure)
    return "\n\n".join(["## Evaluation", *parts]) if parts else None


def _protocol(row: dict[str, Any]) -> str:
    return row["protocol"] if row["stride"] is None else f"{row['protocol']}, stride {row['stride']}"


def _results(records: dict[str, dict[str, Any] | None], task: str) -> list[EvalResult]:
    """What was measured, as the metadata of the Hub has it; of a run that diverged, nothing."""
    evaluation, finetuning, training = (records[name] for name in ("evaluation", "finetuning", "training"))
    synthetic = records["synthetic"]
    measured = []
    if evaluation is not None:
        for row in evaluation["results"]:
            name = f"perplexity, {_protocol(row)}, {row['length']} tokens"
            measured.append((evaluation["data"], "perplexity", name, row["perplexity"]))
    if synthetic is not None:
        data = {"source": synthetic["task"], "split": "test"}
        measured += [
            (data, "accuracy", f"accuracy, {row['size']} operators", row["accuracy"]) for row in synthetic["accuracy"]
        ]
    if finetuning is not None:
        data = {"source": finetuning["data"], "split": "validation"}
        measured += [(data, name, name.replace("_", " "), finetuning["metrics"].get(name)) for name in _METRICS]
    elif training is not None and evaluation is None:
        data = {"source": training["data"], "split": "validation"}
        name = f"perplexity, blocks, {training['train_length']} tokens"
        loss = training["eval_loss"]
        measured.append((data, "perplexity", name, math.exp(loss) if loss is not None and loss < 700 else None))
    return [_result(task, *each) for each in measured if each[-1] is not None and math.isfinite(each[-1])]


def _result(task: str, data: dict[str, Any], metric: str, name: str, value: float) -> EvalResult:
    source = Path(data["source"]).name
    return EvalResult(
        task_type=task,
        dataset_type=source,
        dataset_name=source,
        dataset_split=data["split"],
        metric_type=metric,
        metric_name=name,
        metric_value=value,
    )


_CITATION = """## Citation

```bibtex
@inproceedings{he2024bipe,
  title     = {Two Stones Hit One Bird: Bilevel Positional Encoding for Better Length Extrapolation},
  author    = {He, Zhenyu and Feng, Guhao and Luo, Shengjie and Yang, Kai and Wang, Liwei and Xu, Jingjing and Zhang, Zhi and Yang, Hongxia and He, Di},
  booktitle = {International Conference on Machine Learning},
  year      = {2024}
}
```"""  # noqa: E501
