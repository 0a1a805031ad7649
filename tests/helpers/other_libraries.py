"""What other libraries do with a model whose class or type they look up by name; imports nothing of this package."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import Trainer, TrainingArguments


LIGER = '''
import inspect
from types import MethodType
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama import modeling_llama


class LigerRMSNorm(modeling_llama.LlamaRMSNorm): ...


class LigerSwiGLUMLP(modeling_llama.LlamaMLP): ...


def lce_forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None,
                inputs_embeds=None, labels=None, use_cache=None, output_attentions=None, logits_to_keep=0, **kwargs):
    """Trains without logits of all tokens at a time."""
    hidden_states = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                               past_key_values=past_key_values, inputs_embeds=inputs_embeds, use_cache=use_cache,
                               output_attentions=output_attentions, return_dict=True, cache_position=None, **kwargs)[0]
    loss = F.cross_entropy(self.lm_head(hidden_states)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    return CausalLMOutputWithPast(loss=loss)


def apply_liger_kernel_to_llama(rope=True, cross_entropy=False, fused_linear_cross_entropy=True, rms_norm=True,
                                swiglu=True, model=None):
    assert not rope and not cross_entropy
    modeling_llama.LlamaRMSNorm = LigerRMSNorm
    modeling_llama.LlamaMLP = LigerSwiGLUMLP
    if fused_linear_cross_entropy:
        model.forward = MethodType(lce_forward, model)
    for module in model.modules():
        if rms_norm and type(module).__name__ == "LlamaRMSNorm":
            module.forward = MethodType(LigerRMSNorm.forward, module)
        if swiglu and type(module).__name__ == "LlamaMLP":
            module.forward = MethodType(LigerSwiGLUMLP.forward, module)


MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": apply_liger_kernel_to_llama}


def _apply_liger_kernel_to_instance(model, **kwargs):
    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return  # with a line at the level INFO
    apply = MODEL_TYPE_TO_APPLY_LIGER_FN[model.config.model_type]
    apply(model=model, **{key: kwargs[key] for key in kwargs if key in inspect.signature(apply).parameters})
'''
"""How Liger finds what it applies, and what that does to a Llama, by its contract; the kernels need Triton."""


def trainer_of(model, folder, **arguments) -> Trainer:
    data = [{"input_ids": list(range(20)), "labels": list(range(20))}]
    settings = {"max_steps": 1, "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    return Trainer(model, TrainingArguments(str(folder), **settings, **arguments), train_dataset=data)


def smoothed_loss(model, folder, **inputs) -> float:
    """The loss of Trainer with `label_smoothing_factor`, which looks up whether to shift the labels."""
    return trainer_of(model, folder, label_smoothing_factor=0.1).compute_loss(model.eval(), inputs).item()


def error_of_liger(model, folder, **config) -> str:
    """What a training with `use_liger_kernel` ends with; nothing where it goes through."""
    package = Path(folder) / "packages" / "liger_kernel"
    (package / "transformers").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "transformers" / "monkey_patch.py").write_text(LIGER)
    (package / "transformers" / "__init__.py").write_text(
        "from .monkey_patch import _apply_liger_kernel_to_instance, MODEL_TYPE_TO_APPLY_LIGER_FN"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package.parent)
        patch.setattr(transformers.integrations.liger, "is_liger_kernel_available", lambda: True)
        try:
            trainer_of(model, folder, use_liger_kernel=True, liger_kernel_config=config).train()
        except ValueError as error:
            return str(error)
    return ""


def scaled_activations(model) -> list[str]:
    """The modules behind which AWQ puts a scale when it loads such a checkpoint."""
    from transformers.integrations.awq import replace_quantization_scales

    class ScaledActivation(torch.nn.Module):
        def __init__(self, module, scales):
            super().__init__()

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gptqmodel", SimpleNamespace())
        for name in ("quantization", "quantization.awq", "quantization.awq.modules"):
            patch.setitem(sys.modules, f"gptqmodel.{name}", SimpleNamespace())
        act = SimpleNamespace(ScaledActivation=ScaledActivation)
        patch.setitem(sys.modules, "gptqmodel.quantization.awq.modules.act", act)
        replace_quantization_scales(model, model.config.model_type)
    return [name for name, module in model.named_modules() if isinstance(module, ScaledActivation)]


def error_of_megatron(model) -> str:
    """What accelerate says when it makes the arguments of a Megatron model."""
    from accelerate.utils import MegatronLMPlugin

    try:
        MegatronLMPlugin().set_network_size_args(model)
    except ValueError as error:
        return str(error)
    return ""


def modules_of_lora(model) -> list[str]:
    """What LoRA adapts without being told."""
    from peft import LoraConfig, get_peft_model

    return sorted(get_peft_model(model, LoraConfig()).peft_config["default"].target_modules)


def report_on(folder: str, output: str) -> dict:
    """All of it for a checkpoint that loads by its own code."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.arange(20)[None]
    return {
        "module": type(model).__module__,
        "smoothed loss": smoothed_loss(model, output, input_ids=ids, labels=ids),
        "Liger": error_of_liger(model, output),
        "AWQ": scaled_activations(model),
        "Megatron": error_of_megatron(model),
        "LoRA": modules_of_lora(model),
    }
