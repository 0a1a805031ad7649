"""The rope scalings of transformers that carry a stock model to longer texts without training."""

import math

from transformers import PreTrainedConfig

from ...model.errors_bipe import InputError
from ..common.checkpoints import with_fields


# By the names that `rope_parameters` has for them: position interpolation (Chen et al. 2023, arXiv 2306.15595),
# dynamic NTK and YaRN (Peng et al., ICLR 2024, arXiv 2309.00071).
SCALINGS = ("linear", "dynamic", "yarn")


def check_factor(encoding: str | None, factor: float | None) -> float | None:
    """The factor of a scaling, None where `encoding` is none.

    Raises `ValueError` where it is missing or below 1, and where nothing would read it.
    """
    if encoding not in SCALINGS:
        if factor is not None:
            raise InputError(f"factor: {factor:g} given, but only encoding {', '.join(SCALINGS)} reads it")
        return None
    if factor is None and encoding == "dynamic":
        return 1.0  # then angles are those of the length that a text has, as the paper defines it
    if factor is None or not 1 <= factor < math.inf:
        raise InputError(
            f"encoding {encoding!r} needs factor, from 1 on: how many times longer texts shall be than those that the"
            f" checkpoint is declared for, got {factor} (docs/from_stock.md)"
        )
    return float(factor)


def scaled(config: PreTrainedConfig, scaling: str, factor: float) -> tuple[PreTrainedConfig, str]:
    """The configuration with scaled rotary angles, and what that says of positions.

    `linear` and `yarn` move `max_position_embeddings` by the factor; `dynamic` reads in it where scaling starts.

    Args:
        config: of RoPE over tokens.
        scaling: one of `SCALINGS`.
        factor: from [`check_factor`].

    Raises:
        ValueError: if the encoding is another one, or if the angles are scaled already.
    """
    if (config.inter_encoding, config.segmentation) != ("rope", "tokens"):
        raise InputError(
            f"encoding {scaling!r} scales RoPE over tokens, got inter_encoding {config.inter_encoding!r} over"
            f" {config.segmentation}"
        )
    rope_type, length = config.rope_parameters["rope_type"], config.max_position_embeddings
    if rope_type != "default":
        raise InputError(
            f"encoding {scaling!r}: the angles of the checkpoint are scaled already, by {rope_type!r}; --segmentation"
            " tokens --intra-encoding none keeps them (docs/choose.md)"
        )
    rope = {"rope_type": scaling, "factor": factor}
    if scaling == "dynamic":
        return with_fields(config, {"rope_parameters": rope}), (
            f"rotary angles are scaled (dynamic, factor {factor:g}) by the longest text of a forward beyond {length:,}"
            " tokens, which max_position_embeddings says; keys in a cache stay as they were turned"
        )
    if scaling == "yarn":
        rope["original_max_position_embeddings"] = length
    longer = int(length * factor)
    return with_fields(config, {"rope_parameters": rope, "max_position_embeddings": longer}), (
        f"rotary angles are scaled ({scaling}, factor {factor:g}) at every length; max_position_embeddings {length:,}"
        f" is {longer:,} now"
    )
