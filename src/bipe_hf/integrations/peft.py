"""A LoRA configuration for BiPE models, which says what happens to their learned tables.

PEFT looks up the modules that a method adapts by `model_type`, in one table for each method. It finds `bipe_llama`
there as it has `llama`, and `bipe_gpt_neox` as `gpt_neox`, so that no configuration needs `target_modules`.

Methods that learn a prompt do not know segments: prefix tuning gives the model a cache without segment history, prompt
and p-tuning give it embeddings instead of tokens. It refuses both with a `ValueError`, but takes embeddings where
`segmentation` is `"tokens"` or `"document"`, which read no separators.
"""

from typing import Any, Literal, get_args

from peft import LoraConfig

from ..model.configuration_bipe import BipeGPTNeoXConfig, BipeLlamaConfig
from ..model.errors_bipe import InputError


Intra = Literal["frozen", "trained"]

INTRA_MODULE = "intra_encoding"
"""What every family calls the module of the intra table."""


def lora_config(config: BipeLlamaConfig | BipeGPTNeoXConfig, intra: Intra, **kwargs: Any) -> LoraConfig:
    """A `LoraConfig` that says what happens to the intra table and to those of inner levels, which LoRA itself would
    leave frozen.

    Args:
        config ([`BipeLlamaConfig`] or [`BipeGPTNeoXConfig`]):
            Configuration of the model to adapt.
        intra (`str`):
            `"frozen"` keeps the intra encoding as it is. `"trained"` trains the learned tables as a whole and saves
            them with the adapter: what a model fresh from a stock checkpoint needs, whose tables are zeros.
        kwargs (*optional*):
            Arguments of [`~peft.LoraConfig`]. `target_modules` defaults to those of the stock model: `q_proj` and
            `v_proj`, or `query_key_value`. Modules in `modules_to_save` are trained beside the intra table.

    Returns:
        [`~peft.LoraConfig`]

    Raises:
        ValueError: if the configuration is not that of a BiPE model; if `intra` is neither value; if it is
            `"trained"` and the model has no learned table; if `target_modules` or `modules_to_save` name the table.
    """
    if not isinstance(config, (BipeLlamaConfig, BipeGPTNeoXConfig)):
        raise InputError(f"config must be a BipeLlamaConfig or BipeGPTNeoXConfig, got {type(config).__name__}")
    if intra not in get_args(Intra):
        raise InputError(f"intra must be one of {', '.join(get_args(Intra))}, got {intra!r}")
    if intra == "trained" and config.intra_encoding != "learned":
        raise InputError(
            f"intra='trained' needs a model with intra_encoding='learned', this one has {config.intra_encoding!r}, "
            "which has nothing to train. Pass intra='frozen'."
        )
    tables = [INTRA_MODULE, *(f"inner_encodings.{at}" for at in range(len(config.inner_separator_token_ids)))]
    for name in ("target_modules", "modules_to_save"):
        for module in tables:
            if module in (kwargs.get(name) or ()):
                raise InputError(f"{name} must not name {module}: pass intra='trained' to train the intra table")
    if intra == "trained":
        kwargs["modules_to_save"] = [*(kwargs.get("modules_to_save") or ()), *tables]
    return LoraConfig(**kwargs)
