"""New `rope_parameters` for a model that has some."""

from typing import Any

from transformers import PreTrainedConfig


def replaced_rope_parameters(config: PreTrainedConfig, given: dict[str, Any]) -> dict[str, Any]:
    """`given` with the base and the share of a head that turns of `config`, unless it names them.

    transformers takes given `rope_parameters` for the whole mapping and fills it with defaults.
    """
    own = config.to_dict().get("rope_parameters") or {}
    kept = {key: own[key] for key in ("rope_theta", "partial_rotary_factor") if key in own}
    return kept | given
