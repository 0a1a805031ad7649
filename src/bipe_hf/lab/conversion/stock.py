"""A BiPE model from a stock Llama or GPT-NeoX (Pythia) checkpoint, to continue its pretraining.

The parameters of a BiPE model have the names of its parent's, so all weights are taken over. New is the table of the
learned intra encoding: zeros by default, which change no hidden state, so that training starts from the weights as
they are.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ...hub.origin import describe_origin
from ...model.configuration_bipe import (
    SEGMENTATIONS,
    BipeConfigMixin,
    BipeGPTNeoXConfig,
    BipeLlamaConfig,
    why_unread,
)
from ...model.encodings_bipe import ENCODING_NAMES, ENCODINGS, encoding_levels
from ...model.errors_bipe import InputError, did_you_mean
from ...model.modeling_bipe_gpt_neox import BipeGPTNeoXForCausalLM
from ...model.modeling_bipe_llama import BipeLlamaForCausalLM
from ...model.tokenization_bipe import BipeTokenizer
from ..common.checkpoints import checkpoint_folder
from ..common.encoding_options import encoding_options, spelt_out
from ..common.files import read_json, user_path
from ..common.separators import check_levels
from .report import ConversionReport, check_output, make_config, save
from .scaling import SCALINGS, check_factor, scaled
from .step_zero import measure_step_zero, read_sample
from .weights import (
    build_model,
    check_vocabulary,
    check_weights,
    common_dtype,
    expected_weights,
    read_tokenizer,
    read_weights,
    unknown_key,
)


# Their `model_type`: our classes
FAMILIES = {
    "llama": (BipeLlamaConfig, BipeLlamaForCausalLM),
    "gpt_neox": (BipeGPTNeoXConfig, BipeGPTNeoXForCausalLM),
}
STOCK_CLASSES = {BipeLlamaForCausalLM: LlamaForCausalLM, BipeGPTNeoXForCausalLM: GPTNeoXForCausalLM}
INTRA_INITS = ("zeros", "normal")

# What a config.json says about the file, the library or the class, not about the model; and what we decide
NOT_CARRIED = {
    *("_name_or_path", "architectures", "auto_map", "dtype", "model_type", "torch_dtype", "transformers_version"),
    *BipeConfigMixin.__annotations__,
}
# In a file the head of a GPT-NeoX is called as it always was; from_pretrained renames it. Our class: file to model
RENAMED = {BipeGPTNeoXForCausalLM: {"embed_out.weight": "lm_head.weight"}, BipeLlamaForCausalLM: {}}
# In files of older versions; today these buffers are not saved.
COMPUTED = re.compile(r".+\.rotary_emb\.inv_freq|gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias)")
SEPARATORS_SHOWN = 12


# Those that add no weights that would have to be learnt first.
STOCK_ENCODINGS = ("rope", "xpos", "alibi", "hybrid", "hirope", "dca", "none")
# Those that reach beyond the length of the checkpoint without training.
TRAINING_FREE = ("hirope", "dca")
# The most that ALiBi may take from a logit, within the length of the checkpoint, where an encoding is named.
FIRST_BIAS = 0.1
# Where a schedule leads that scale: more costs SmolLM2 more than some dozen steps bring back.
LAST_ALIBI_SCALE = 0.02
# What step 0 may cost without a word of advice.
CHEAP = 0.01
ACCEPTED = {"inter_encoding": STOCK_ENCODINGS, "segmentation": SEGMENTATIONS}
STOCK_NAMES = tuple(
    name for name, encoding in ENCODINGS.items() if encoding.fields["inter_encoding"] in STOCK_ENCODINGS
)
# What is no field, and the one that it decides.
DECIDES = {
    "separators": "separator_token_ids",
    "levels": "inner_separator_token_ids",
    "intra_init": "intra_initializer_range",
}


def convert_stock_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    encoding: str | None = None,
    factor: float | None = None,
    separators: str | Sequence[int | str] | None = None,
    levels: Sequence[str | Sequence[int | str]] | None = None,
    intra_init: str | None = None,
    revision: str | None = None,
    text: str | Path | None = None,
    overwrite: bool = False,
    **fields: Any,
) -> ConversionReport:
    """Turns a stock Llama or GPT-NeoX checkpoint into a folder with a BiPE model, ready for continued pretraining.

    All weights are taken over bit for bit. With `intra_encoding="learned"` there is a new table of shape
    `(max_segment_length, hidden_size)`. With `segmentation="tokens"`, `intra_encoding="none"` and
    `inter_encoding="rope"` the model computes exactly what the stock one does.

    Args:
        checkpoint: folder, or name on the Hub, of a checkpoint whose `model_type` is `llama` or `gpt_neox`: weights in
            one file or sharded, as `.safetensors` or `.bin`. A pickle is read as weights only and can run no code.
        output: folder to write; must be empty or new unless `overwrite`.
        encoding (`str`, *optional*):
            Name of a positional encoding, whose fields hold as [`BipeLlamaConfig.for_encoding`] has them, derived from
            the length that the checkpoint is declared for, but for those of [`first_fields`]: where the maths allows
            the model starts as the stock one, and `encoding_schedule` of `bipe-hf pretrain` leads it to the encoding.
            Or `"linear"`, `"dynamic"` or `"yarn"`: RoPE over tokens with that scaling in `rope_parameters`.
        factor (`float`, *optional*):
            Of these three: how many times longer texts shall be than `max_position_embeddings`, which moves with it;
            of `"dynamic"`, which follows the length of a text, how much more than that (1 by default).
        separators (`str` or a list of `int` and `str`, *optional*):
            Tokens that end a segment, for `segmentation="separators"`, as [`BipeTokenizer.from_tokenizer`] takes them;
            by default those of `encoding`, or `"sentences"`. Must be token ids where the checkpoint has no
            `tokenizer.json`.
        levels (list, *optional*):
            Instead of `separators`: those of segments and of each level inside them, coarse to fine. Every inner level
            has a new table of shape `(max_inner_index, hidden_size)`.
        intra_init (`str`, *optional*, defaults to `"zeros"`):
            What the tables of `intra_encoding="learned"` hold: `"zeros"`, or `"normal"` for a normal distribution with
            `intra_initializer_range`, or else the `initializer_range` of the checkpoint, the same in every run.
        revision: branch, tag or commit of a checkpoint on the Hub.
        text: file of text to measure the stock and the converted model on, up to the length that the checkpoint is
            declared for; by default 1,024 tokens of the documentation that comes with Python.
        overwrite: write into a folder that is not empty.
        fields: fields of [`BipeLlamaConfig`], whose defaults hold; they win over those of `encoding`. Encodings that
            need weights which no stock model has (all but `STOCK_ENCODINGS`) are refused.

    Returns:
        [`ConversionReport`]

    Raises:
        FileNotFoundError: if the checkpoint, its configuration or its weights are not there.
        FileExistsError: if `output` is not empty and `overwrite` is not given.
        ValueError: if the checkpoint is of another type, if a file cannot be read, if a key is unknown, missing, of
            the wrong shape or quantized, if no separators can be found, if an argument is not accepted or nothing
            would read it, or if `output` is the checkpoint.
    """
    # Before anything is downloaded, from where the length is known.
    names = (*ENCODING_NAMES, *SCALINGS)
    if encoding is not None and encoding not in names:
        hint = did_you_mean(encoding, names)
        raise InputError(f"encoding: {encoding!r} is none{hint} (accepted: {', '.join(names)})")
    factor, scaling = check_factor(encoding, factor), None
    if encoding in SCALINGS:
        encoding, scaling = "rope", encoding
    if separators is not None and levels is not None:
        raise InputError("separators and levels: the first of the levels are the separators; give levels alone")
    if encoding is not None:
        check_levels(encoding, separators, levels)
    given = {"separators": separators, "levels": levels, "intra_init": intra_init}
    _check_settings(_spelt_out(encoding, fields, train_length=1), fields | given)
    name, output = user_path(checkpoint), user_path(output)
    check_output(output, name, overwrite)
    sample = read_sample(text)
    folder = checkpoint_folder(checkpoint, revision, "checkpoint")

    source = read_json(folder / "config.json")
    config_class, model_class = _family(source, name)
    carried = {key: value for key, value in source.items() if key not in NOT_CARRIED}
    no_padding = isinstance(carried.get("pad_token_id"), int) and carried["pad_token_id"] < 0
    if no_padding:
        del carried["pad_token_id"]
    length = source.get("max_position_embeddings", config_class.max_position_embeddings)
    own = _spelt_out(encoding, fields, length)
    if own["segmentation"] == "separators":
        own["separator_token_ids"] = [0]  # holds the place of those that the tokenizer has
        if separators is None and levels is None:
            levels = (encoding and encoding_levels(encoding)) or ["sentences"]
    config = make_config(config_class, carried | own)
    described = f"{config.inter_encoding} over {config.segmentation}, intra encoding {config.intra_encoding}"
    report = ConversionReport(name, output, described, parameters=0)
    if scaling is not None:
        config, note = scaled(config, scaling, factor)
        report.notes.append(note)
    if no_padding:
        report.notes.append(f"pad_token_id {source['pad_token_id']} is not carried over: it is no token")
    chosen = {"separators": separators} if levels is None else {"levels": levels}
    tokenizer = _tokenizer(folder, chosen, config, report)
    generation_config = _generation_config(folder, source, config)

    weights = _weights(folder, name, model_class, config, intra_init or "zeros", report)
    _note_positions(config, report)
    report.notes.append(f"weights kept in {str(common_dtype(weights)).removeprefix('torch.')}")
    model = build_model(model_class, config, weights)
    model.generation_config = generation_config
    report.parameters = model.num_parameters()
    save(model, tokenizer, describe_origin(checkpoint, folder), output)
    if tokenizer is not None:
        stock_weights = {key: value for key, value in weights.items() if key not in report.created}
        stock_class = STOCK_CLASSES[model_class]
        stock = build_model(stock_class, make_config(stock_class.config_class, carried), stock_weights)
        report.step_zero = measure_step_zero(stock, model, tokenizer, sample, text)
    note_step_zero(config, report)
    return report


def _spelt_out(encoding: str | None, fields: dict[str, Any], train_length: int) -> dict[str, Any]:
    """All fields of the positional encoding, those that nobody gives at their defaults."""
    for name in fields:
        if name not in encoding_options():
            raise InputError(f"{name}: there is no such field to set{did_you_mean(name, encoding_options())}")
    defaults = {name: field.default for name, field in encoding_options().items()}
    if encoding is None:
        return defaults | fields
    named = defaults | spelt_out(encoding, train_length, fields)
    return named | first_fields(named, train_length) | fields


def stock_options() -> dict[str, Field]:
    """The fields that a model of stock weights may have another value of than the default, by name."""
    return {
        name: field
        for name, field in encoding_options().items()
        if set(field.metadata["read_by"].get("inter_encoding", STOCK_ENCODINGS)) & set(STOCK_ENCODINGS)
    }


def first_fields(fields: dict[str, Any], length: int) -> dict[str, Any]:
    """What a named encoding starts with in place of its own, so that the first logits are those of the stock model.

    Rotary pairs turn with the token (`token_share=1`), of a hybrid the slow ones too, whose ALiBi over at most
    `length` segments takes at most `FIRST_BIAS` from a logit. What drops the rotary encoding, or adds to the word
    embeddings, has no such start.
    """
    first = {}
    if fields["inter_encoding"] in ("rope", "hybrid") and fields["segmentation"] != "tokens":
        first["token_share"] = 1.0
    if fields["inter_encoding"] == "hybrid":
        scale = max(1e-6, float(f"{FIRST_BIAS / length:.1g}"))
        first |= {"hybrid_slow_pairs": "segments", "hybrid_alibi_scale": scale}
    return first


def _check_settings(settings: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuses what a stock checkpoint has no weights for and what nothing would read; the configuration checks the
    rest.

    Args:
        settings: all fields of the positional encoding.
        given: those of them that the user gave, and `separators`, `levels` and `intra_init`, None where they were not.
    """
    for name, accepted in ACCEPTED.items():
        if settings[name] not in accepted:
            raise InputError(f"{name} must be one of {', '.join(accepted)}, got {settings[name]!r}")
    for name, value in given.items():
        reason = why_unread(DECIDES.get(name, name), settings)
        if value is not None and reason is not None:
            raise InputError(f"{name}: {value!r} given, but {reason}")
    if given["intra_init"] not in (None, *INTRA_INITS):
        raise InputError(f"intra_init must be one of {', '.join(INTRA_INITS)}, got {given['intra_init']!r}")
    if given.get("intra_initializer_range") is not None and given["intra_init"] != "normal":
        raise InputError("intra_initializer_range: the table starts at zero, only intra_init normal reads it")


def _family(source: dict, checkpoint: Path) -> tuple[type[PreTrainedConfig], type[PreTrainedModel]]:
    """Our classes for the checkpoint with this `config.json`; raises `ValueError` if it is no stock checkpoint."""
    model_type = source.get("model_type")
    if model_type in [config_class.model_type for config_class, _ in FAMILIES.values()]:
        raise InputError(
            f"{checkpoint} already is a BiPE model (model_type {model_type!r} in config.json): train it further with"
            " `bipe-hf pretrain`, initial_model (docs/from_stock.md)"
        )
    if model_type not in list(FAMILIES):  # equality: JSON may hold what has no hash
        raise InputError(
            f"model_type in config.json must be one of {', '.join(FAMILIES)}, got {model_type!r} (docs/from_stock.md)"
        )
    if "rpe_type" in source:
        raise InputError(
            f"{checkpoint} is a checkpoint of the BiPE authors (rpe_type in config.json): `--from authors` imports it"
        )
    if source.get("quantization_config") is not None:
        raise InputError(
            f"{checkpoint} is quantized (quantization_config in config.json); convert the weights that it was made of"
        )
    return FAMILIES[model_type]


def _tokenizer(
    folder: Path, chosen: dict[str, Any], config: PreTrainedConfig, report: ConversionReport
) -> PreTrainedTokenizerBase | None:
    """The tokenizer to save with the model; where segments end at separators, sets these in `config`."""
    tokenizer = read_tokenizer(folder)
    if tokenizer is not None:
        check_vocabulary(tokenizer, config)
    if config.segmentation == "separators":
        tokenizer = _separate(tokenizer, chosen, config, report)
    elif isinstance(tokenizer, BipeTokenizer):  # its segment ids would override the model's own segmentation
        tokenizer = tokenizer.without_segments()
    report.notes.append(
        "no tokenizer.json in the checkpoint: save a tokenizer into the output folder"
        if tokenizer is None
        else f"tokenizer saved as {type(tokenizer).__name__}"
        + ("" if isinstance(tokenizer, BipeTokenizer) else ", without segments, which this model does not read")
    )
    return tokenizer


def _separate(
    tokenizer: PreTrainedTokenizerBase | None,
    chosen: dict[str, Any],
    config: PreTrainedConfig,
    report: ConversionReport,
) -> PreTrainedTokenizerBase | None:
    """Sets the separators in `config`, and returns the tokenizer with segments, where there is one.

    `chosen` has the `separators` or the `levels` that [`BipeTokenizer.from_tokenizer`] takes.
    """
    levels = chosen.get("levels", [chosen.get("separators")])
    for separators in levels if tokenizer is None else ():
        if isinstance(separators, str) or any(isinstance(item, str) for item in separators):
            raise InputError(
                f"separators: there is no tokenizer.json in {report.source} to find {separators!r} in; give token ids"
                " (--separator-token-ids)"
            )
    if tokenizer is not None:
        tokenizer = BipeTokenizer.from_tokenizer(tokenizer, **chosen)
        levels = [tokenizer.separator_token_ids, *tokenizer.inner_separator_token_ids]
    config.separator_token_ids, config.inner_separator_token_ids = levels[0], levels[1:]
    config.validate_bipe_fields()
    if not config.separator_token_ids:
        raise InputError(
            f"separators: {levels[0]!r} names no token; give others, or segmentation='document' if a whole text shall"
            " be one segment (docs/levels.md has the presets)"
        )
    named = {"a segment": config.separator_token_ids}
    named |= {f"a unit of inner level {at}": ids for at, ids in enumerate(config.inner_separator_token_ids, 1)}
    for name, ids in named.items():
        texts = {} if tokenizer is None else {each: f" {tokenizer.decode([each])!r}" for each in ids}
        shown = [f"{token_id}{texts.get(token_id, '')}" for token_id in ids[:SEPARATORS_SHOWN]]
        rest = f" and {len(ids) - len(shown)} more" if len(ids) > len(shown) else ""
        report.notes.append(f"tokens that end {name}: {', '.join(shown)}{rest}")
    return tokenizer


def _generation_config(folder: Path, source: dict, config: PreTrainedConfig) -> GenerationConfig:
    """That of the checkpoint; before there was a file for it, its fields stood in `config.json`."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return GenerationConfig.from_model_config(source | config.to_dict())
    read_json(path)  # for the message where it is none
    try:
        return GenerationConfig.from_pretrained(folder)
    except (AttributeError, TypeError) as error:
        raise InputError(f"{path} is no generation config: {error}") from error


def _weights(
    folder: Path,
    checkpoint: Path,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    intra_init: str,
    report: ConversionReport,
) -> dict[str, torch.Tensor]:
    """The weights of the checkpoint under their names in a file, and the new tables of the intra encoding."""
    expected = expected_weights(model_class, config)
    names = ["intra_encoding", *(f"inner_encodings.{at}" for at in range(len(config.inner_separator_token_ids)))]
    names = [f"{model_class.base_model_prefix}.{name}.weight" for name in names]
    tables = {name: expected.pop(name) for name in names if name in expected}
    renamed, taken = RENAMED[model_class], {}
    for key, value in read_weights(folder).items():
        target = renamed.get(key, key)
        if target in taken:
            raise InputError(f"{key!r} comes twice: {target} was already taken from another key of {checkpoint}")
        if target in expected:
            taken[target] = value
            report.used[key] = target
        elif COMPUTED.fullmatch(key):
            report.used[key] = "left out: a buffer that is computed"
        else:
            raise unknown_key(key, value)
    check_weights(taken, expected, config, checkpoint)
    generator = torch.Generator().manual_seed(0)
    for name, table in tables.items():
        values = torch.zeros(table.shape)
        if intra_init == "normal":
            scale = config.initializer_range
            if config.intra_initializer_range is not None:
                scale = config.intra_initializer_range
            values = scale * torch.randn(table.shape, generator=generator)
        taken[name] = values.to(common_dtype(taken))
        report.created[name] = f"{intra_init} (new), {len(table)} rows"
    in_a_file = {target: key for key, target in renamed.items()}
    return {in_a_file.get(name, name): value for name, value in taken.items()}


def _note_positions(config: PreTrainedConfig, report: ConversionReport) -> None:
    """Notes how positions differ from those that the weights were trained with."""
    if config.intra_encoding == "sinusoidal":
        report.notes.append("the sinusoidal intra encoding adds to the word embeddings what they were trained without")
    if "local" in config.layer_encodings:
        report.notes.append(
            f"local layers see {config.local_window:,} tokens, where the weights were trained to see all"
        )
    if config.sepllm_neighbors is not None:
        report.notes.append(
            f"tokens see separators and {config.sepllm_neighbors:,} neighbours, where the weights were trained to see"
            " all"
        )
    share = config.token_share
    mixed = f"a mean of token and segment index (token_share {share:g})"
    index = {0: "the segment index", 1: "the token index"}.get(share, mixed)
    if config.inter_encoding == "hybrid":
        slow = "do not turn any more" if config.hybrid_slow_pairs == "none" else f"turn with {index}"
        alibi = (
            f"; ALiBi over segments, slopes to the power of {config.hybrid_alibi_power:g} times"
            f" {config.hybrid_alibi_scale:g}"
        )
        report.notes.append(
            f"rotary pairs of more than {config.hybrid_max_period:g} tokens, with which the weights were trained,"
            f" {slow}{alibi if config.hybrid_alibi_scale else ''}"
        )
    elif config.inter_encoding == "hirope":
        report.notes.append(
            f"rotary pairs of more than {config.hybrid_max_period:g} tokens turn with the segment beyond the window;"
            f" texts of up to {config.hirope_window:,} tokens are what they were to the stock model"
        )
    elif config.inter_encoding == "dca":
        longest, chunk = config.dca_distance_and_chunk
        unit = "tokens" if config.segmentation == "tokens" else "segments, where the weights were trained with tokens"
        same = f"; texts of up to {longest + 1:,} tokens are what they were to the stock model"
        report.notes.append(
            f"rotary angles are those of chunks of {chunk:,}, at most {longest:,} apart, in {unit}"
            + (same if config.segmentation == "tokens" else "")
        )
    elif config.inter_encoding == "xpos":
        report.notes.append(f"rotary angles follow {index}, the decay of xPos segments; the weights know neither")
    elif config.inter_encoding != "rope":
        where = "in the layers with 'inter', " if config.layer_encodings else ""
        report.notes.append(
            f"{where}inter_encoding {config.inter_encoding} drops the rotary encoding that the weights were trained"
            " with" + (f"; ALiBi slopes times {config.alibi_slope_scale}" if config.inter_encoding == "alibi" else "")
        )
    elif config.segmentation != "tokens":
        report.notes.append(f"rotary angles follow {index}; the weights were trained with the token index")
        rope_type = config.rope_parameters["rope_type"]
        if rope_type != "default":
            report.notes.append(
                f"rope scaling of type {rope_type} acts on segments: its lengths, and max_position_embeddings"
                f" ({config.max_position_embeddings}) where it reads it, count segments"
            )


def note_step_zero(config: PreTrainedConfig, report: ConversionReport) -> None:
    """Notes what step 0 costs, and what is to be done about it or after it."""
    if report.step_zero is None:
        report.notes.append("what step 0 costs is not measured: that needs a tokenizer.json and a text of 2 tokens")
        return
    report.notes.append(str(report.step_zero))
    is_scaled = config.inter_encoding == "rope" and config.segmentation == "tokens" and not config.layer_encodings
    if is_scaled or config.inter_encoding in TRAINING_FREE:
        return
    if report.step_zero.cost > CHEAP:
        report.notes.append(
            "--encoding bipe_hybrid or bipe_rope starts where the stock model is, and moves from there while it trains"
        )
    _note_schedule(config, report)


def _note_schedule(config: PreTrainedConfig, report: ConversionReport) -> None:
    """Notes what moves a model that starts as the stock one, or leads an adapter to one that does not."""
    behind = schedule_to(config)
    if behind:
        report.notes.append(
            "an adapter for this model can start as the stock model: scripts/finetune_lora.py --schedule"
            f" '{json.dumps(behind)}' (docs/finetune.md)"
        )
        return
    schedule = {}
    if config.token_share > 0:
        schedule["token_share"] = [config.token_share, 0.0]
    if config.inter_encoding == "hybrid" and 0 < config.hybrid_alibi_scale < LAST_ALIBI_SCALE:
        schedule["hybrid_alibi_scale"] = [config.hybrid_alibi_scale, LAST_ALIBI_SCALE]
    if schedule:
        report.notes.append(
            f"continued pretraining moves it from there: encoding_schedule: {json.dumps(schedule)} (see"
            " configs/continue_from_stock.yaml)"
        )


def schedule_to(config: PreTrainedConfig) -> dict[str, list[float]]:
    """The `encoding_schedule` from what computes about as the stock model does to the encoding of a configuration."""
    if config.inter_encoding == "hybrid" and config.hybrid_slow_pairs != "segments":
        return {}
    own = config.to_dict()
    first = first_fields(own, config.max_position_embeddings)
    moving = {name: first[name] for name in ("token_share", "hybrid_alibi_scale") if name in first}
    return {name: [value, own[name]] for name, value in moving.items() if value != own[name]}
