"""Import of the authors' checkpoints: their configuration and weights to a `bipe_llama` folder.

The authors' release (github.com/zhenyuhe00/BiPE) is a Llama of transformers 4.3x with fields `rpe_type`,
`train_scale`, `log_scale` and `rope_scaling` in its configuration, one table `model.embeds.0.weight` of intra
positions, and, for ALiBi, a buffer `self_attn.alibi` in every layer.
"""

import re
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from ...hub.origin import describe_origin
from ...model.alibi_bipe import alibi_slopes
from ...model.configuration_bipe import BipeLlamaConfig
from ...model.errors_bipe import InputError, InputNotFoundError
from ...model.modeling_bipe_llama import BipeLlamaForCausalLM
from ...model.tokenization_bipe import BipeTokenizer
from ..common.files import read_json, user_path
from .report import ConversionReport, check_output, make_config, save
from .weights import (
    build_model,
    check_vocabulary,
    check_weights,
    expected_weights,
    read_tokenizer,
    read_weights,
    unknown_key,
)


# Their `rpe_type`: inter encoding, intra encoding, segmentation, factor on the slopes
ENCODINGS = {
    "rope": ("rope", "none", "tokens", 1.0),
    "alibi": ("alibi", "none", "tokens", 1.0),
    "bipe_rope": ("rope", "learned", "separators", 96.0),
    "bipe_alibi": ("alibi", "learned", "separators", 96.0),
}
AUTHORS_SEPARATOR_TOKEN_IDS = (13, 869)
# Their code clamps intra positions here whatever the size of the table, so later rows were never read.
AUTHORS_TABLE_ROWS = 1024
SAME_IN_BOTH = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
)

INTRA_TABLE = "model.embeds.0.weight"
ALIBI_BUFFER = re.compile(r"model\.layers\.\d+\.self_attn\.alibi")
ROTARY_BUFFER = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def convert_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    separator_token_ids: list[int] | None = None,
) -> ConversionReport:
    """Turns a checkpoint of the authors' code (He et al., ICML 2024, arXiv 2401.16421) into a folder that transformers
    loads.

    The folder loads with `AutoModelForCausalLM`.

    Args:
        checkpoint: folder with `config.json` and weights, in one file or sharded, as `.safetensors` or `.bin`. A
            pickle is read as weights only and can run no code.
        output: folder to write; must be empty or new unless `overwrite`.
        overwrite: write into a folder that is not empty.
        separator_token_ids: tokens that end a segment, where the checkpoint was trained with others than the authors'
            released code, which takes 869 and 13 of the Llama tokenizer.

    Returns:
        What became of every key.

    Raises:
        FileNotFoundError: if the folder, its configuration or its weights are not there.
        FileExistsError: if `output` is not empty and `overwrite` is not given.
        ValueError: if the configuration is none of the authors', if a file cannot be read, if a key of the checkpoint
            is unknown, missing or of the wrong shape, or if `output` is the checkpoint.
    """
    checkpoint, output = user_path(checkpoint), user_path(output)
    if not checkpoint.is_dir():
        raise InputNotFoundError(f"checkpoint folder not found: {checkpoint} (a name on the Hub needs --from stock)")
    check_output(output, checkpoint, overwrite)

    source_config = read_json(checkpoint / "config.json")
    weights = read_weights(checkpoint)
    report = ConversionReport(checkpoint, output, encoding=str(source_config.get("rpe_type")), parameters=0)
    config = _convert_config(source_config, weights, separator_token_ids, report)
    tokenizer = _convert_tokenizer(checkpoint, config, report)
    expected = expected_weights(BipeLlamaForCausalLM, config)
    state_dict = _convert_weights(weights, config, set(expected), report)
    check_weights(state_dict, expected, config, checkpoint)
    model = build_model(BipeLlamaForCausalLM, config, state_dict)
    report.parameters = model.num_parameters()
    save(model, tokenizer, describe_origin(checkpoint, checkpoint), output)
    return report


def _convert_tokenizer(
    checkpoint: Path, config: BipeLlamaConfig, report: ConversionReport
) -> PreTrainedTokenizerBase | None:
    """The tokenizer that came with the checkpoint, wrapped where segments end at separators."""
    tokenizer = read_tokenizer(checkpoint)
    if tokenizer is None:
        report.notes.append("no tokenizer.json in the checkpoint: save a tokenizer into the output folder")
        return None
    check_vocabulary(tokenizer, config)
    if config.segmentation == "separators":
        tokenizer = BipeTokenizer.from_tokenizer(tokenizer, separators=config.separator_token_ids)
    report.notes.append(f"tokenizer saved as {type(tokenizer).__name__}")
    return tokenizer


def _convert_config(
    source: dict, weights: dict[str, torch.Tensor], separator_token_ids: list[int] | None, report: ConversionReport
) -> BipeLlamaConfig:
    rpe_type = source.get("rpe_type")
    if rpe_type not in ENCODINGS:
        raise InputError(
            f"rpe_type in config.json must be one of {', '.join(ENCODINGS)} (the authors' field), got {rpe_type!r};"
            " --from stock takes a stock Llama or GPT-NeoX"
        )
    inter_encoding, intra_encoding, segmentation, slope_scale = ENCODINGS[rpe_type]
    fields = {key: source[key] for key in SAME_IN_BOTH if key in source}
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    if source.get("rope_theta", 10000.0) != 10000.0:
        report.notes.append(f"rope_theta {source['rope_theta']} is not used: the authors' code always takes 10000")
    scaling = source.get("rope_scaling")
    if scaling is not None and inter_encoding != "rope":
        report.notes.append(f"rope_scaling {scaling} is not used: {rpe_type} rotates nothing")
    elif scaling is not None:
        match scaling:
            case {"type": "linear" | "dynamic", "factor": int() | float()}:
                fields["rope_parameters"] |= {"rope_type": scaling["type"], "factor": float(scaling["factor"])}
            case _:
                raise InputError(
                    "rope_scaling in config.json must be null or hold a type, linear or dynamic, and a factor, got "
                    f"{scaling!r}"
                )
        if scaling["type"] == "dynamic" and segmentation == "separators":
            report.notes.append(
                "dynamic scaling grows with the number of segments here, with that of tokens in the authors' code"
            )
    if source.get("pad_token_id") is not None and source["pad_token_id"] >= 0:
        fields["pad_token_id"] = source["pad_token_id"]
    if source.get("log_scale"):
        if "train_scale" not in source:
            raise InputError("config.json has log_scale but no train_scale, the length whose logarithm it divides by")
        fields["log_scale_train_length"] = source["train_scale"]
    if segmentation == "separators":
        fields["separator_token_ids"] = (
            list(AUTHORS_SEPARATOR_TOKEN_IDS) if separator_token_ids is None else separator_token_ids
        )
        if INTRA_TABLE in weights:
            fields["max_segment_length"] = min(len(weights[INTRA_TABLE]), AUTHORS_TABLE_ROWS)
    missing = sorted({"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"} - set(fields))
    if missing:
        raise InputError(f"config.json lacks {', '.join(missing)}")
    fields |= {
        "inter_encoding": inter_encoding,
        "intra_encoding": intra_encoding,
        "segmentation": segmentation,
        "alibi_slope_scale": slope_scale,
    }
    return make_config(BipeLlamaConfig, fields)


def _convert_weights(
    weights: dict[str, torch.Tensor], config: BipeLlamaConfig, expected: set[str], report: ConversionReport
) -> dict[str, torch.Tensor]:
    state_dict = {}
    for key, value in weights.items():
        if key == INTRA_TABLE and config.intra_encoding == "learned":
            target = "model.intra_encoding.weight"
            state_dict[target] = value[: config.max_segment_length]
            dropped = len(value) - config.max_segment_length
            report.used[key] = target + (f" ({dropped} rows that were never read left out)" if dropped else "")
        elif ALIBI_BUFFER.fullmatch(key) and config.inter_encoding == "alibi":
            _check_alibi_buffer(key, value, config)
            report.used[key] = "computed from the configuration (checked: the slopes are the same)"
        elif ROTARY_BUFFER.fullmatch(key):
            report.used[key] = "computed from the configuration"
        elif key in expected:
            state_dict[key] = value
            report.used[key] = key
        else:
            raise unknown_key(key, value)
    return state_dict


def _check_alibi_buffer(key: str, buffer: torch.Tensor, config: BipeLlamaConfig) -> None:
    slopes = config.alibi_slope_scale * torch.tensor(alibi_slopes(config.num_attention_heads), dtype=torch.float64)
    if buffer.ndim != 4 or buffer.shape[1] != len(slopes) or buffer.shape[3] < 2:
        raise InputError(f"{key} must have the shape (1, {len(slopes)}, 1, length), got {tuple(buffer.shape)}")
    stored = buffer[0, :, 0, 1].double()
    if not torch.allclose(stored, slopes, rtol=1e-2):  # the buffer may be stored in 16 bits
        raise InputError(f"{key} holds other slopes than {config.alibi_slope_scale} x those of Press et al.")
