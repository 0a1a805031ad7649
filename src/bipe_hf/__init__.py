"""Bilevel Positional Encoding (BiPE) for Hugging Face Transformers.

Importing this package registers its configurations, models and tokenizer with the Auto classes.
"""

from . import interrupted  # noqa: F401, I001  first: what follows takes seconds
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from .hub.card_file import write_card_of_model, write_card_of_tokenizer
from .model.configuration_bipe import BipeGPTNeoXConfig, BipeLlamaConfig
from .model.edit_bipe import edit_cache
from .model.modeling_bipe import BipePreTrainedMixin
from .model.modeling_bipe_gpt_neox import (
    BipeGPTNeoXForCausalLM,
    BipeGPTNeoXForQuestionAnswering,
    BipeGPTNeoXForSequenceClassification,
    BipeGPTNeoXForTokenClassification,
    BipeGPTNeoXModel,
)
from .model.modeling_bipe_llama import (
    BipeLlamaForCausalLM,
    BipeLlamaForQuestionAnswering,
    BipeLlamaForSequenceClassification,
    BipeLlamaForTokenClassification,
    BipeLlamaModel,
)
from .model.sepllm_cache_bipe import SepLLMCache
from .model.tokenization_bipe import BipeTokenizer
from .model.version_bipe import __version__ as __version__


__all__ = [
    "BipeGPTNeoXConfig",
    "BipeGPTNeoXForCausalLM",
    "BipeGPTNeoXForQuestionAnswering",
    "BipeGPTNeoXForSequenceClassification",
    "BipeGPTNeoXForTokenClassification",
    "BipeGPTNeoXModel",
    "BipeLlamaConfig",
    "BipeLlamaForCausalLM",
    "BipeLlamaForQuestionAnswering",
    "BipeLlamaForSequenceClassification",
    "BipeLlamaForTokenClassification",
    "BipeLlamaModel",
    "BipeTokenizer",
    "SepLLMCache",
    "edit_cache",
]

AutoConfig.register("bipe_llama", BipeLlamaConfig)
AutoModel.register(BipeLlamaConfig, BipeLlamaModel)
AutoModelForCausalLM.register(BipeLlamaConfig, BipeLlamaForCausalLM)
AutoModelForSequenceClassification.register(BipeLlamaConfig, BipeLlamaForSequenceClassification)
AutoModelForTokenClassification.register(BipeLlamaConfig, BipeLlamaForTokenClassification)
AutoModelForQuestionAnswering.register(BipeLlamaConfig, BipeLlamaForQuestionAnswering)
AutoTokenizer.register(BipeLlamaConfig, fast_tokenizer_class=BipeTokenizer)

AutoConfig.register("bipe_gpt_neox", BipeGPTNeoXConfig)
AutoModel.register(BipeGPTNeoXConfig, BipeGPTNeoXModel)
AutoModelForCausalLM.register(BipeGPTNeoXConfig, BipeGPTNeoXForCausalLM)
AutoModelForSequenceClassification.register(BipeGPTNeoXConfig, BipeGPTNeoXForSequenceClassification)
AutoModelForTokenClassification.register(BipeGPTNeoXConfig, BipeGPTNeoXForTokenClassification)
AutoModelForQuestionAnswering.register(BipeGPTNeoXConfig, BipeGPTNeoXForQuestionAnswering)
AutoTokenizer.register(BipeGPTNeoXConfig, fast_tokenizer_class=BipeTokenizer)

# What is pushed gets the model card of this package; code that travels with a checkpoint knows none.
BipePreTrainedMixin.write_card = staticmethod(write_card_of_model)
BipeTokenizer.write_card = staticmethod(write_card_of_tokenizer)
