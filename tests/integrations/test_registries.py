"""Other libraries look a model up by the name of its class or by its type: ours stand there as their parents do, or
are refused where they would become something else without a word."""

import importlib.util
import inspect
import logging
import sys

import pytest
import torch
from families import FAMILIES
from other_libraries import (
    error_of_liger,
    error_of_megatron,
    scaled_activations,
    smoothed_loss,
    trainer_of,
)
from peft import LoraConfig, get_peft_model
from transformers import pipeline
from transformers.models.llama import modeling_llama
from word_tokenizer import make_word_tokenizer

from bipe_hf.model import registries_bipe
from bipe_hf.model.liger_bipe import liger_for
from bipe_hf.model.registries_bipe import when_imported


SHAPE = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "pad_token_id": 0}
SHAPE |= {"num_hidden_layers": 2, "initializer_range": 0.3}
OVER_TOKENS = {"segmentation": "tokens", "intra_encoding": "none"}
IDS = torch.arange(1, 41).reshape(2, 20)
LABELS = {
    "ForCausalLM": IDS,
    "ForSequenceClassification": torch.tensor([0, 1]),
    "ForTokenClassification": IDS % 2,
}


@pytest.fixture
def pair(family):
    """A function from a head to the stock model and to the one of ours that is the same."""

    def make(head="ForCausalLM"):
        torch.manual_seed(0)
        stock = FAMILIES[family].stock_head(head)(FAMILIES[family].stock_config(**SHAPE)).eval()
        ours = FAMILIES[family].head(head)(FAMILIES[family].config(**SHAPE, **OVER_TOKENS)).eval()
        ours.load_state_dict(stock.state_dict())
        return stock, ours

    return make


@pytest.mark.parametrize("head", LABELS)
def test_label_smoothing_shifts_the_labels_where_it_does_for_the_stock_model(pair, head, tmp_path):
    stock, ours = (smoothed_loss(model, tmp_path, input_ids=IDS, labels=LABELS[head]) for model in pair(head))
    assert ours == stock


def test_label_smoothing_of_an_adapted_model(pair, tmp_path):
    models = (get_peft_model(model, LoraConfig(task_type="CAUSAL_LM")) for model in pair())
    stock, ours = (smoothed_loss(model, tmp_path, input_ids=IDS, labels=IDS) for model in models)
    assert ours == stock


def test_liger_changes_what_it_changes_in_a_llama_and_is_refused_elsewhere(pair, family, tmp_path):
    """A step of training is the same, without logits; the classes of later stock models stay."""
    plain, ours = pair()[1], pair()[1]
    classes = modeling_llama.LlamaRMSNorm, modeling_llama.LlamaMLP
    error = error_of_liger(ours, tmp_path)
    assert (modeling_llama.LlamaRMSNorm, modeling_llama.LlamaMLP) == classes
    if family == "gpt_neox":
        assert "use_liger_kernel=False" in error
        return
    assert not error
    trainer_of(plain, tmp_path).train()
    for changed, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(changed, expected)
    assert ours(IDS, labels=IDS).logits is None
    assert "segment_ids" in inspect.signature(ours.forward).parameters
    patched = [name for name, module in ours.named_modules() if "forward" in vars(module)]
    assert len(patched) == 1 + 1 + 3 * SHAPE["num_hidden_layers"]  # itself, the last norm, two norms and an MLP


def test_liger_leaves_a_classifier_its_forward(tmp_path):
    """Liger's own function would give it one for a language model."""
    llama = FAMILIES["llama"]
    ours = llama.head("ForTokenClassification")(llama.config(**SHAPE, **OVER_TOKENS, num_labels=20))
    assert not error_of_liger(ours, tmp_path)
    assert "forward" not in vars(ours)
    assert "forward" in vars(ours.model.norm)


@pytest.mark.parametrize("family", ["llama"])
def test_what_liger_would_compute_differently_is_refused(pair, tmp_path):
    assert "rope=True would turn every pair by its token" in error_of_liger(pair()[1], tmp_path / "rope", rope=True)
    error = error_of_liger(pair()[1], tmp_path / "loss", cross_entropy=True)
    assert "cross_entropy=True would change the loss of every model" in error
    with pytest.raises(ValueError, match="load it with AutoModelForCausalLM"):
        liger_for("bipe_llama", None)()
    ours = pair()[1]
    ours.config.hidden_act = "gelu"
    assert "hidden_act is 'gelu': give swiglu=False" in error_of_liger(ours, tmp_path / "act")
    assert not error_of_liger(ours, tmp_path / "no_act", swiglu=False)


def test_awq_scales_what_it_scales_in_the_stock_model(pair, family):
    stock, ours = (scaled_activations(model) for model in pair())
    assert ours == stock
    assert bool(ours) == (family == "gpt_neox")


def test_megatron_trains_no_plain_model_instead(pair, family):
    stock, ours = pair()
    assert "no bilevel encoding" in error_of_megatron(ours)
    if family == "llama":
        assert not error_of_megatron(stock)


@pytest.mark.parametrize(
    ("task", "head"), [("text-generation", "ForCausalLM"), ("text-classification", "ForSequenceClassification")]
)
def test_pipelines_have_nothing_against_the_models(pair, task, head, caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)  # which hands nothing on to the root
    try:
        pipeline(task, model=pair(head)[1], tokenizer=make_word_tokenizer(), device="cpu")
    finally:
        logger.removeHandler(caplog.handler)
    assert "is not supported" not in caplog.text


@pytest.fixture
def a_module(tmp_path, monkeypatch):
    """The name of a module that nobody has imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_library").mkdir()
    (tmp_path / "a_library" / "__init__.py").touch()
    (tmp_path / "a_library" / "tables.py").write_text("table = {}")
    yield "a_library.tables"
    for name in ("a_library", "a_library.tables"):
        sys.modules.pop(name, None)


def test_a_table_is_entered_right_behind_its_import(a_module):
    when_imported(a_module, lambda module: module.table.update(first=1))
    when_imported(a_module, lambda module: module.table.update(second=2))
    assert importlib.util.find_spec(a_module)  # somebody only looks whether it is there
    assert a_module not in sys.modules
    module = importlib.import_module(a_module)
    assert module.table == {"first": 1, "second": 2}
    when_imported(a_module, lambda module: module.table.update(third=3))
    assert module.table == {"first": 1, "second": 2, "third": 3}


def test_code_of_several_checkpoints_may_wait_for_one_table(a_module):
    """Each has a copy of this file, as remote code."""
    for path in (registries_bipe.__file__, registries_bipe.__file__):
        spec = importlib.util.spec_from_file_location("bipe_hf.model.registries_copy", path)
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        copy.when_imported(a_module, lambda module: module.table.update(entered=module.table.get("entered", 0) + 1))
    when_imported(a_module, lambda module: module.table.update(entered=module.table.get("entered", 0) + 1))
    assert importlib.import_module(a_module).table == {"entered": 3}
    del sys.meta_path[:2]


def test_a_module_that_is_not_there_stays_so():
    when_imported("no_such_library.tables", lambda module: None)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        importlib.import_module("no_such_library.tables")
