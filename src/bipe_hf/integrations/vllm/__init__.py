"""BiPE models in vLLM: a plug-in, which vLLM finds by the entry point group `vllm.general_plugins`.

`state` keeps the segments of running requests, `encodings` turns them into what the layers need, `attention` applies
it, `llama` and `gpt_neox` are the families, and `checks` refuses what does not go together. Every encoding is the
module that `bipe_hf.model` has for it.

With a version of vLLM that lacks what is imported here, vLLM logs that the plug-in did not load, and runs its own
models.
"""

from vllm import ModelRegistry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP

from .checks import BipeChecks


MODELS = {
    "BipeGPTNeoXForCausalLM": "bipe_hf.integrations.vllm.gpt_neox:BipeGPTNeoXForCausalLM",
    "BipeLlamaForCausalLM": "bipe_hf.integrations.vllm.llama:BipeLlamaForCausalLM",
}
"""Where the model of an architecture stands. vLLM imports it when it is asked for, in the process that runs it."""


def register() -> None:
    """Makes vLLM know the models; vLLM calls it in each of its processes."""
    for architecture, place in MODELS.items():
        ModelRegistry.register_model(architecture, place)
        MODELS_CONFIG_MAP[architecture] = BipeChecks
