"""The model card of a folder: what its files say of the model, and nothing else."""

import json
import math
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from tokenizers import Tokenizer

from .configuration_bipe import BipeConfigMixin, BipeGPTNeoXConfig, BipeLlamaConfig
from .version import __version__
from .vocabulary import token_texts


CARD_FILE = "README.md"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
MODEL_FILES = ("config.json", *TOKENIZER_FILES)
RECORD_FILES = ("training.json", "finetuning.json", "evaluation.json", "evaluation.png")
"""What `bipe-hf` writes of a training, a fine-tuning and an evaluation; they speak of the weights beside them."""

# A card with this line is written anew whenever the folder is saved; without it, the card is somebody's own.
MARK = (
    "<!-- Written by bipe-hf from the files of this folder. Delete this line before you edit, to keep your text. -->"
)
# What transformers' own push writes where there is no card.
_STOCK_CARD = "This model card has been automatically generated."
_EVALUATION_FORMAT = "bipe-hf evaluation 1"
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
_METRICS = {"accuracy", "exact_match", "f1", "perplexity"}  # those that the Hub knows


def write_model_card(folder: str | os.PathLike, name: str | None = None) -> None:
    """Writes `README.md` from what the folder holds: configuration, tokenizer, records and a figure.

    Does nothing where there is no BiPE configuration, or a `README.md` that neither this function nor transformers
    wrote. What the files do not say is left out.

    Args:
        folder: with `config.json`; `tokenizer.json` and the files of `RECORD_FILES` where there are any.
        name (`str`, *optional*): of the repository, for the title and the usage example; by default the folder's.
    """
    folder = Path(folder)
    config = _read_config(folder)
    card = folder / CARD_FILE
    if config is None or (card.is_file() and not _is_replaceable(card.read_text(encoding="utf-8"))):
        return
    name = name or f"path/to/{folder.resolve().name}"
    task = next(
        (each for ending, each in _TASKS.items() if (config.architectures or [""])[0].endswith(ending)),
        _TASKS["ForCausalLM"],
    )
    records = _read_records(folder)
    results = _results(records, task[1])
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task[1],
        tags=["bipe", config.model_type, "positional-encoding", "length-extrapolation"],
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        MARK,
        f"# {name.rpartition('/')[2]}",
        _summary(config),
        _facts(folder, config, records),
        _usage(name, *task),
        _evaluation(folder, records),
        _CITATION,
        f"Saved by `bipe-hf` {__version__}.",
    ]
    card.write_text("\n\n".join(filter(None, sections)) + "\n", encoding="utf-8")


def write_card_to_push(
    folder: str | os.PathLike, repo: str, others: Iterable[str], *, token: bool | str | None, revision: str | None
) -> None:
    """Writes the card of a folder that is about to be pushed, made of the files `others` of the repository too.

    A model and its tokenizer are pushed one after the other, and neither says all of the two. Only the card is
    written to `folder`.
    """
    folder = Path(folder)
    with TemporaryDirectory() as temporary:
        whole = Path(temporary)
        for file in others:
            with suppress(EntryNotFoundError, RevisionNotFoundError):
                shutil.copyfile(hf_hub_download(repo, file, token=token, revision=revision), whole / file)
        for file in (*MODEL_FILES, *RECORD_FILES, CARD_FILE):
            if (folder / file).is_file():
                shutil.copyfile(folder / file, whole / file)
        write_model_card(whole, repo)
        if (whole / CARD_FILE).is_file():
            shutil.copyfile(whole / CARD_FILE, folder / CARD_FILE)


def _is_replaceable(text: str) -> bool:
    return MARK in text or _STOCK_CARD in text


def _read_json(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _read_config(folder: Path) -> BipeConfigMixin | None:
    content = _read_json(folder / "config.json")
    for config_class in (BipeLlamaConfig, BipeGPTNeoXConfig):
        if content is not None and content.get("model_type") == config_class.model_type:
            return config_class.from_pretrained(folder)
    return None


def _read_records(folder: Path) -> dict[str, dict[str, Any] | None]:
    """The contents of `training.json`, `finetuning.json` and `evaluation.json`; None without the file.

    None also where other programs wrote it, or where it tells of several models.
    """
    records = {Path(file).stem: _read_json(folder / file) for file in RECORD_FILES if file.endswith(".json")}
    for name in ("training", "finetuning"):
        if records[name] is not None and "bipe-hf" not in records[name].get("versions", {}):
            records[name] = None
    evaluation = records["evaluation"]
    if evaluation is not None and (
        evaluation.get("format") != _EVALUATION_FORMAT or len({row["model"] for row in evaluation["results"]}) != 1
    ):
        records["evaluation"] = None
    return records


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
    training, finetuning = records["training"], records["finetuning"]
    if training is not None:
        facts["train length"] = f"{training['train_length']:,} tokens"
        facts["trained on"] = f"`{training['data']}`, {training['tokens_seen']:,} tokens"
        facts["parameters"] = f"{training['parameters']:,}"
    if finetuning is not None:
        facts["fine-tuned for"] = finetuning["task"].replace("_", " ")
        facts["fine-tuned on"] = f"`{finetuning['data']}`, {finetuning['examples']['train']:,} examples"
        facts["parameters"] = f"{finetuning['parameters']:,}"
    return "\n".join(f"- {key}: {value}" for key, value in facts.items())


def _segments(folder: Path, config: BipeConfigMixin) -> str:
    if config.segmentation != "separators":
        return {"tokens": "each token is one of its own", "document": "the whole text is one"}[config.segmentation]
    ids = config.separator_token_ids
    settings = _read_json(folder / "tokenizer_config.json")
    if settings is None or not (folder / "tokenizer.json").is_file():
        shown = ", ".join(map(str, ids[:_SHOWN_SEPARATORS]))
        return f"end at {len(ids)} separator tokens, with the ids {shown}{_more(ids)}"
    known = token_texts(Tokenizer.from_file(str(folder / "tokenizer.json")))
    texts = [known[each] for each in ids if each in known]
    texts = sorted(texts, key=lambda text: (len(text), text))
    preset = settings.get("segmentation")
    named = f" (`{preset}`)" if isinstance(preset, str) else ""
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

name = "{name}"
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
model = {auto_class}.from_pretrained(name, trust_remote_code=True)
inputs = tokenizer({question}"A text. And more of it.", return_tensors="pt")
{use}
```

After `pip install bipe-hf` and `import bipe_hf` no remote code is needed: leave `trust_remote_code` out. Segments are
found by the model itself; the `segment_ids` of the tokenizer say the same."""


def _evaluation(folder: Path, records: dict[str, dict[str, Any] | None]) -> str | None:
    evaluation, finetuning = records["evaluation"], records["finetuning"]
    parts = []
    if finetuning is not None:
        rows = [f"| {name} | {value:.4f} |" for name, value in finetuning["metrics"].items()]
        parts.append("\n".join(["| held-out examples of the fine-tuning | |", "| --- | ---: |", *rows]))
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
    if (folder / "evaluation.png").is_file():
        parts.append("![perplexity against test length](evaluation.png)")
    return "\n\n".join(["## Evaluation", *parts]) if parts else None


def _protocol(row: dict[str, Any]) -> str:
    return row["protocol"] if row["stride"] is None else f"{row['protocol']}, stride {row['stride']}"


def _results(records: dict[str, dict[str, Any] | None], task: str) -> list[EvalResult]:
    """What was measured, as the metadata of the Hub has it."""
    evaluation, finetuning, training = (records[name] for name in ("evaluation", "finetuning", "training"))
    results = []
    if evaluation is not None:
        for row in evaluation["results"]:
            name = f"perplexity, {_protocol(row)}, {row['length']} tokens"
            results.append(_result(task, evaluation["data"], "perplexity", name, row["perplexity"]))
    if finetuning is not None:
        data = {"source": finetuning["data"], "split": "validation"}
        for name, value in finetuning["metrics"].items():
            if name in _METRICS:
                results.append(_result(task, data, name, name.replace("_", " "), value))
    elif training is not None and evaluation is None:
        data = {"source": training["data"], "split": "validation"}
        name = f"perplexity, blocks, {training['train_length']} tokens"
        results.append(_result(task, data, "perplexity", name, math.exp(training["eval_loss"])))
    return results


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
