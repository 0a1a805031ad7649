"""What the model card of a folder says: what its files say of the model, and nothing else."""

import json
import math
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from tokenizers import Tokenizer

from ..model.configuration_bipe import (
    BipeConfigMixin,
    BipeGPTNeoXConfig,
    BipeLlamaConfig,
    own_fields,
    why_unread,
)
from ..model.encodings_bipe import turns_with_token
from ..model.separators_bipe import PRESETS
from ..model.version_bipe import __version__
from ..model.vocabulary_bipe import token_texts
from .origin import read_origin
from .records import EVALUATION_FILE, FIGURE_FILE, TRAINING_FILES, read_record


TEMPLATE = Path(__file__).with_name("card.md.jinja")
"""The text of a card, filled with what [`describe`] finds."""
MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
IDS_ALONE = "separator tokens, with the ids"
"""What a card says where it has found no tokenizer."""

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

# Fields that the encoding, the segments and the levels of a card say.
TOLD = (
    *("inter_encoding", "intra_encoding", "segmentation", "fixed_segment_length"),
    *("separator_token_ids", "inner_separator_token_ids"),
)


def describe(folder: Path, name: str | None, with_records: bool) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The metadata of the card of `folder` and what fills `TEMPLATE`; None where it holds no BiPE configuration.

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
    auto_class, task, use = next(
        (each for ending, each in _TASKS.items() if (config.architectures or [""])[0].endswith(ending)),
        _TASKS["ForCausalLM"],
    )
    training, finetuning, synthetic, evaluation = (
        read_record(folder / file) if with_records else None for file in (*TRAINING_FILES, EVALUATION_FILE)
    )
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": task,
        "tags": ["bipe", config.model_type, "positional-encoding", "length-extrapolation"],
    }
    results = _results(task, training, finetuning, synthetic, evaluation)
    origin = read_origin(folder)
    if origin is not None:
        metadata |= {name: origin[name] for name in ("base_model", "license") if origin[name]}
    if results:
        metadata |= {"model_name": title, "eval_results": results}
    content = {
        "title": title,
        "family": {"bipe_llama": "Llama", "bipe_gpt_neox": "GPT-NeoX"}[config.model_type],
        "encoding": config.encoding_label,
        "facts": _facts(folder, config) | _origin(origin) | _history(training, finetuning, synthetic, origin),
        "name": json.dumps(name),
        "auto_class": auto_class,
        "texts": ('"Who wrote it?", ' if task == "question-answering" else "") + '"A text. And more of it."',
        "use": use,
        "finetuning": finetuning,
        "synthetic": synthetic,
        "evaluation": evaluation,
        "protocol": _protocol,
        "figure": FIGURE_FILE if with_records and (folder / FIGURE_FILE).is_file() else None,
        "version": __version__,
    }
    return metadata, content


def _read_json(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _read_config(folder: Path) -> BipeConfigMixin | None:
    content = _read_json(folder / "config.json")
    for config_class in (BipeLlamaConfig, BipeGPTNeoXConfig):
        if content is not None and content.get("model_type") == config_class.model_type:
            return config_class.from_pretrained(folder)
    return None


def _facts(folder: Path, config: BipeConfigMixin) -> dict[str, str]:
    """What the configuration says: the encoding, the segments, and each field that they read, by its name."""
    facts = {"positional encoding": config.encoding_label, "segments": _segments(folder, config)}
    if config.inner_separator_token_ids:
        facts["levels inside segments"] = _inner_levels(folder, config)
    given = config.to_dict()
    for name, own in own_fields().items():
        readers = own.metadata["read_by"]
        is_told = name in TOLD
        # One segment has no index, and one token no place in it: what reads them then reads nothing.
        is_idle = (
            config.segmentation == "document" and not turns_with_token(config) and "inter_encoding" in readers
        ) or (config.segmentation == "tokens" and "intra_encoding" in readers)
        is_idle |= name == "sepllm_initial_tokens" and config.sepllm_neighbors is None
        is_idle |= name == "max_inner_index" and not config.inner_separator_token_ids
        is_idle |= name == "token_share" and (config.token_share == 0 or config.segmentation == "tokens")
        if not (is_told or is_idle or given[name] in (None, []) or why_unread(name, given)):
            facts[f"`{name}`"] = f"{given[name]:g}" if isinstance(given[name], float) else str(given[name])
    return facts


def _origin(origin: dict[str, Any] | None) -> dict[str, str]:
    """Whose weights these were before, and what became of them since."""
    if origin is None:
        return {}
    licence = f", license {origin['license']}" if origin["license"] else ""
    facts = {"weights from": f"`{origin['base_model'] or origin['model']}`{licence}"}
    if origin["history"]:
        facts["before"] = "; then ".join(origin["history"])
    return facts


def _history(
    training: dict[str, Any] | None,
    finetuning: dict[str, Any] | None,
    synthetic: dict[str, Any] | None,
    origin: dict[str, Any] | None,
) -> dict[str, str]:
    """What the records say was done here; the weights of another model were trained elsewhere before."""
    trained = "trained on" if origin is None else "trained further on"
    facts = {}
    if training is not None:
        facts["train length"] = f"{training['train_length']:,} tokens"
        facts[trained] = f"`{training['data']}`, {training['tokens_seen']:,} tokens"
        facts["parameters"] = f"{training['parameters']:,}"
    if finetuning is not None:
        facts["fine-tuned for"] = finetuning["task"].replace("_", " ")
        facts["fine-tuned on"] = f"`{finetuning['data']}`, {finetuning['examples']['train']:,} examples"
        facts["parameters"] = f"{finetuning['parameters']:,}"
    if synthetic is not None:
        examples = f"{synthetic['examples_seen']:,} examples of 1 to {synthetic['max_operators']} operators"
        facts[trained] = f"the generated task {synthetic['task']}, {examples}"
        facts["parameters"] = f"{synthetic['parameters']:,}"
    return facts


def _segments(folder: Path, config: BipeConfigMixin) -> str:
    if config.segmentation != "separators":
        whole = {"tokens": "each token is one of its own", "document": "the whole text is one"}
        return whole.get(config.segmentation, f"each {config.fixed_segment_length} tokens are one")
    settings = _read_json(folder / "tokenizer_config.json") or {}
    preset = settings.get("separators", settings.get("segmentation"))  # as version 0.1 called them
    return _ends(folder, config.separator_token_ids, preset, settings.get("separator_token_ids"))


def _inner_levels(folder: Path, config: BipeConfigMixin) -> str:
    settings = _read_json(folder / "tokenizer_config.json") or {}
    levels = config.inner_separator_token_ids
    presets = settings.get("inner_separators", [None] * len(levels))
    preset_ids = settings.get("inner_separator_token_ids", [None] * len(levels))
    described = zip(levels, presets, preset_ids, strict=False)
    return f"{len(levels)}; their units {'; '.join(_ends(folder, *each) for each in described)}"


def _ends(folder: Path, ids: list[int], preset: str | list | None, ids_of_preset: list[int] | None) -> str:
    """At which tokens the units of a level end; the preset is that of the tokenizer in the folder."""
    if not ((folder / "tokenizer_config.json").is_file() and (folder / "tokenizer.json").is_file()):
        shown = ", ".join(map(str, ids[:_SHOWN_SEPARATORS]))
        return f"end at {len(ids)} {IDS_ALONE} {shown}{_more(ids)}"
    known = token_texts(Tokenizer.from_file(str(folder / "tokenizer.json")))
    texts = [known[each] for each in ids if each in known]
    texts = sorted(texts, key=lambda text: (len(text), text))
    # The tokenizer may be saved anew only after the model.
    is_named = isinstance(preset, str) or any(each in PRESETS for each in preset or ())
    named = f" (`{preset}`)" if is_named and ids_of_preset == sorted(set(ids)) else ""
    shown = " ".join(_as_code(text) for text in texts[:_SHOWN_SEPARATORS])
    return f"end at {len(ids)} separator tokens{named}: {shown}{_more(ids)}"


def _more(ids: list[int]) -> str:
    return f" and {len(ids) - _SHOWN_SEPARATORS} more" if len(ids) > _SHOWN_SEPARATORS else ""


def _as_code(text: str) -> str:
    """The text of a token, white space escaped, as a code span of Markdown."""
    literal = json.dumps(text, ensure_ascii=False)
    return f"`` {literal} ``" if "`" in literal else f"`{literal}`"


def _protocol(row: dict[str, Any]) -> str:
    return row["protocol"] if row["stride"] is None else f"{row['protocol']}, stride {row['stride']}"


def _results(
    task: str,
    training: dict[str, Any] | None,
    finetuning: dict[str, Any] | None,
    synthetic: dict[str, Any] | None,
    evaluation: dict[str, Any] | None,
) -> list[EvalResult]:
    """What was measured, as the metadata of the Hub has it; of a run that diverged, nothing."""
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
