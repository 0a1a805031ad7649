"""Tables in which other libraries look up a model by the name of its class or by its `model_type`.

A model that stands in none gets a default without a word, which may be wrong: Trainer does not shift the labels for
`label_smoothing_factor`, Liger applies nothing. So a family is entered beside its parent in each table that means the
same for it, and refused where a library would leave out the encoding or what the user asked for. A library that is
not imported is not imported here: its table is entered as soon as somebody else imports it.
"""

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from .errors_bipe import InputError
from .liger_bipe import liger_for


Join = Callable[[ModuleType], None]
"""Enters a family in a table of an imported module."""

# Read by Trainer, its model cards, pipelines, `transformers serve` and lm-eval.
NAMES_OF_CLASSES = {
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForQuestionAnswering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
}


def register_family(config_class: type[PreTrainedConfig], auto_classes: dict[str, type[PreTrainedModel]]) -> None:
    """Enters a family in the tables of transformers and in those of the libraries that somebody imports.

    Args:
        config_class: that of the family, whose `model_type` is `bipe_` and that of its parent.
        auto_classes: the models of the family, by the name of the Auto class that builds each.
    """
    model_type = config_class.model_type
    for auto_class, model_class in auto_classes.items():
        NAMES_OF_CLASSES[auto_class][model_type] = model_class.__name__
    when_imported("transformers.integrations.awq", lambda awq: _as_parent(awq.AWQ_SCALES_MAPPINGS, model_type))
    when_imported("peft.utils.constants", lambda constants: _join_peft(constants, model_type))
    when_imported("liger_kernel.transformers.monkey_patch", lambda liger: _join_liger(liger, model_type))
    when_imported("accelerate.utils.dataclasses", lambda accelerate: _refuse_megatron(accelerate, model_type))


def _as_parent(table: dict, model_type: str) -> None:
    """Gives the family what its parent has, if the parent has something."""
    parent = model_type.removeprefix("bipe_")
    if parent in table:
        table[model_type] = table[parent]


def _join_peft(constants: ModuleType, model_type: str) -> None:
    """PEFT has a table of modules to adapt for each of its methods."""
    for name, table in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and name.endswith("_MODULES_MAPPING"):
            _as_parent(table, model_type)


def _join_liger(liger: ModuleType, model_type: str) -> None:
    """Liger passes over a model type that it does not know, with a line that nobody sees."""
    liger.MODEL_TYPE_TO_APPLY_LIGER_FN[model_type] = liger_for(model_type, liger)


def _refuse_megatron(accelerate: ModuleType, model_type: str) -> None:
    """Megatron would build a model of its own, a plain Llama. accelerate takes the first entry whose name is a part of
    the model type, so this one comes before that of the parent.
    """

    def refuse(*args) -> None:
        raise InputError(
            f"Megatron has no bilevel encoding and would train a plain model: {model_type} needs FSDP or DDP"
        )

    parsers = accelerate.MODEL_CONFIGS_TO_MEGATRON_PARSERS
    others = {name: parser for name, parser in parsers.items() if name != model_type}
    parsers.clear()
    parsers.update({model_type: refuse, **others})


def when_imported(name: str, join: Join) -> None:
    """Calls `join` with a module: now if it is imported, else right behind its import, if there is one.

    Args:
        name: of the module, in full.
        join: takes the module.
    """
    if name in sys.modules:
        join(sys.modules[name])
    else:
        _FINDER.waiting.setdefault(name, []).append(join)


class _FinderOfWaited:
    """Stands in `sys.meta_path`, finds nothing itself, and calls who waits for a module when others load it."""

    def __init__(self):
        self.waiting: dict[str, list[Join]] = {}

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        joins = self.waiting.pop(name, None)  # the search below comes here again
        if joins is None:
            return None
        spec = importlib.util.find_spec(name)
        self.waiting[name] = joins  # somebody may only want to know whether the module is there
        if spec is not None:
            load = spec.loader.exec_module

            def load_and_join(module: ModuleType) -> None:
                load(module)
                for join in self.waiting.pop(name, ()):
                    join(module)

            spec.loader.exec_module = load_and_join
        return spec


_FINDER = _FinderOfWaited()
sys.meta_path.insert(0, _FINDER)
