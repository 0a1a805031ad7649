"""Liger's kernels (Hsu et al. 2024, arXiv 2410.10989) in the models: its norm, its MLP and its fused loss."""

from collections.abc import Callable
from types import MethodType, ModuleType

from transformers import PreTrainedModel
from transformers.models.llama import modeling_llama

from .errors_bipe import InputError
from .heads_bipe import BipeCausalLMMixin, takes


# Liger puts its own in the place of these, for every model that is built from then on.
CLASSES_OF_LLAMA = ("LlamaRMSNorm", "LlamaMLP")


def liger_for(model_type: str, liger: ModuleType) -> Callable:
    """What Liger shall do to a model of a family, for its table `MODEL_TYPE_TO_APPLY_LIGER_FN`.

    Args:
        model_type: of the family.
        liger: the module of the table, `liger_kernel.transformers.monkey_patch`.

    Returns:
        A function of the model and of what `liger_kernel_config` of Trainer may hold; one that raises `ValueError`
        for GPT-NeoX, which Liger does not know.
    """
    if model_type != "bipe_llama":

        def refuse(model: PreTrainedModel | None = None) -> None:
            raise InputError(f"Liger has no kernels for {model_type} and would change nothing: use_liger_kernel=False")

        return refuse

    def apply(
        rope: bool = False,
        cross_entropy: bool = False,
        fused_linear_cross_entropy: bool = True,
        rms_norm: bool = True,
        swiglu: bool = True,
        model: PreTrainedModel | None = None,
    ) -> None:
        if model is None:
            raise InputError(
                "Liger can change a BiPE model that is there, not those to come: load it with AutoModelForCausalLM,"
                " and train with use_liger_kernel=True"
            )
        if rope:
            raise InputError(
                "liger_kernel_config: rope=True would turn every pair by its token, which BiPE does in another way."
                " Leave it out"
            )
        if cross_entropy:
            raise InputError(
                "liger_kernel_config: cross_entropy=True would change the loss of every model of this process. Leave"
                " it out; fused_linear_cross_entropy, which is on, takes its place"
            )
        if swiglu and model.config.hidden_act not in ("silu", "swish"):
            raise InputError(
                f"liger_kernel_config: Liger's MLP computes SiLU, hidden_act is {model.config.hidden_act!r}: give"
                " swiglu=False"
            )
        has_fused_loss = fused_linear_cross_entropy and isinstance(model, BipeCausalLMMixin)
        kernels = {"fused_linear_cross_entropy": has_fused_loss, "rms_norm": rms_norm, "swiglu": swiglu}
        classes = {name: getattr(modeling_llama, name) for name in CLASSES_OF_LLAMA}
        try:
            liger.apply_liger_kernel_to_llama(rope=False, cross_entropy=False, model=model, **kernels)
        finally:  # stock models that are built later are none of our business
            for name, class_ in classes.items():
                setattr(modeling_llama, name, class_)
        if has_fused_loss:  # in a forward that does not name `segment_ids`, so Trainer would drop them
            named = takes("labels", "use_cache", "logits_to_keep")(model.forward.__func__)
            model.forward = MethodType(named, model)

    return apply
