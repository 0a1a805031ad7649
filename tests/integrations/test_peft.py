"""PEFT adapters: what is adapted, trained, saved and merged. `bipe_hf.integrations.peft`."""

import copy
import subprocess
import sys

import peft
import pytest
import torch
from families import FAMILIES, pairs
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bipe_hf.integrations.peft import lora_config
from bipe_hf.model.compatibility_bipe import CACHE_NAME, NEW_CACHE_NAME


one_inter_encoding = pytest.mark.parametrize("model", pairs(["rope"]), indirect=True)
"""For what no position can change."""

LABELS = {
    "CAUSAL_LM": ("ForCausalLM", lambda ids: {"labels": ids}),
    "SEQ_CLS": ("ForSequenceClassification", lambda ids: {"labels": ids[:, 0] % 2}),
    "TOKEN_CLS": ("ForTokenClassification", lambda ids: {"labels": ids % 2}),
    "QUESTION_ANS": ("ForQuestionAnswering", lambda ids: {"start_positions": ids[:, 0], "end_positions": ids[:, 1]}),
}
"""What a task is called in PEFT, the head that it goes with, and labels for it."""


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 20, (3, 21), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def base(model, tmp_path):
    """A model of its own, since PEFT changes what it adapts; from a folder, which an adapter remembers."""
    model.save_pretrained(tmp_path / "base")
    return AutoModelForCausalLM.from_pretrained(tmp_path / "base")


def intra_table(model) -> torch.Tensor:
    """The table in use: with an adapter that has its own, that one."""
    return next(p for name, p in reversed(list(model.named_parameters())) if "intra_encoding" in name)


def adapted(base, intra, **options):
    torch.manual_seed(0)
    return get_peft_model(base, lora_config(base.config, intra=intra, task_type="CAUSAL_LM", **options))


def trained(base, intra, ids, **options):
    """A few steps are enough to move every logit."""
    model = adapted(base, intra, **options).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def logits(model, ids):
    return model.eval()(input_ids=ids).logits


def test_peft_knows_the_models_though_bipe_hf_does_not_import_it():
    program = """
import sys, bipe_hf
assert not {"peft", "liger_kernel", "transformers.integrations.awq", "transformers.trainer"} & set(sys.modules)
import peft
size = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
model = bipe_hf.BipeLlamaForCausalLM(bipe_hf.BipeLlamaConfig(**size, segmentation="document"))
print(sorted(peft.get_peft_model(model, peft.LoraConfig()).peft_config["default"].target_modules))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['q_proj', 'v_proj']"


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(task_type="CAUSAL_LM"),
        peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", use_dora=True),
        peft.AdaLoraConfig(task_type="CAUSAL_LM", total_step=9),
        peft.IA3Config(task_type="CAUSAL_LM"),
        peft.LoHaConfig(task_type="CAUSAL_LM"),
        peft.OFTConfig(task_type="CAUSAL_LM", oft_block_size=8),
        peft.VeraConfig(task_type="CAUSAL_LM"),
    ],
    ids=["lora", "dora_all_linear", "adalora", "ia3", "loha", "oft", "vera"],
)
def test_every_method_adapts_what_it_adapts_in_the_stock_model(family, config):
    shape = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    shape |= {"num_hidden_layers": 2}
    makers = FAMILIES[family].make_stock_causal_lm, FAMILIES[family].make_causal_lm
    stock, ours = (get_peft_model(make(**shape), copy.deepcopy(config)) for make in makers)
    expected = {name: p.shape for name, p in stock.named_parameters() if p.requires_grad}
    assert expected
    assert {name: p.shape for name, p in ours.named_parameters() if p.requires_grad} == expected


@pytest.mark.parametrize("intra", ["frozen", "trained"])
@pytest.mark.parametrize("task", LABELS)
def test_only_lora_the_head_and_a_trained_intra_table_get_gradients(family, task, intra, tiny_model, ids):
    head, make_labels = LABELS[task]
    model = FAMILIES[family].head(head)(tiny_model(family, pad_token_id=59).config)
    model = get_peft_model(model, lora_config(model.config, intra=intra, task_type=task))
    model(input_ids=ids, **make_labels(ids)).loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    beyond_lora = {name.split(".modules_to_save")[0].split(".")[-1] for name in with_gradient if "lora_" not in name}
    heads = {"CAUSAL_LM": set(), "QUESTION_ANS": {"qa_outputs"}, "SEQ_CLS": {"score"}}
    heads["TOKEN_CLS"] = {"score"} if family == "llama" else {"classifier"}
    assert beyond_lora == heads[task] | ({"intra_encoding"} if intra == "trained" else set())
    projections = 2 if family == "llama" else 1
    assert sum("lora_" in name for name in with_gradient) == 2 * projections * model.config.num_hidden_layers


@pytest.mark.parametrize("intra", ["frozen", "trained"])
@one_inter_encoding
def test_before_training_the_model_is_the_base_model(base, intra, ids):
    expected = logits(base, ids)
    assert torch.equal(logits(adapted(base, intra), ids), expected)


@pytest.mark.parametrize("intra", ["frozen", "trained"])
def test_an_adapter_loads_onto_its_base_model(model, base, intra, ids, tmp_path):
    tuned = trained(base, intra, ids)
    expected = logits(tuned, ids)
    assert (expected - logits(model, ids)).abs().max() > 0.1
    with tuned.disable_adapter():  # the reference model of TRL's preference trainers
        assert torch.equal(logits(tuned, ids), logits(model, ids))
    tuned.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter")
    assert torch.equal(logits(loaded, ids), expected)
    named_after_the_adapter = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(named_after_the_adapter, ids), expected)


@pytest.mark.parametrize("intra", ["frozen", "trained"])
def test_a_merged_model_is_an_ordinary_model(model, base, intra, ids, tmp_path):
    tuned = trained(base, intra, ids)
    expected = logits(tuned, ids)
    merged = tuned.merge_and_unload()
    assert type(merged) is type(model)
    assert merged.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(logits(merged, ids), expected, atol=1e-4, rtol=1e-4)  # logits are of order 10
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(loaded, ids), logits(merged, ids))


@one_inter_encoding
def test_a_frozen_intra_table_stays_as_it_is_and_out_of_the_adapter(model, base, ids, tmp_path):
    tuned = trained(base, "frozen", ids)
    tuned.save_pretrained(tmp_path / "adapter")
    assert torch.equal(intra_table(tuned), intra_table(model))
    assert all("lora_" in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))


@one_inter_encoding
def test_a_trained_intra_table_is_saved_with_the_adapter_and_merged(model, base, ids, tmp_path):
    tuned = trained(base, "trained", ids, modules_to_save=["lm_head"])
    table = intra_table(tuned).clone()
    assert (table != intra_table(model)).any(dim=1).all()  # tiny.py: some segments are longer than the table
    tuned.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    beyond_lora = {name.split(".")[-2]: value for name, value in saved.items() if "lora_" not in name}
    assert beyond_lora.keys() == {"intra_encoding", "lm_head"}
    assert torch.equal(beyond_lora["intra_encoding"], table)
    assert torch.equal(intra_table(tuned.merge_and_unload()), table)


def test_an_adapted_model_generates_the_same_with_a_cache_and_without(base, ids):
    tuned = trained(base, "trained", ids)
    options = {"input_ids": ids[:, :9], "max_new_tokens": 12, "do_sample": False}
    cached, uncached = (tuned.generate(**options, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(cached, uncached)
    assert cached.shape == (3, 21)


@one_inter_encoding
def test_gradient_checkpointing_gives_an_adapter_the_same_gradients(base, ids):
    model = adapted(base, "trained").train()

    def gradients():
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    expected = gradients()
    model.gradient_checkpointing_enable()
    actual = gradients()
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name])


def test_a_learned_prompt_is_taken_where_no_separators_are_read(family, tiny_model, ids):
    model = copy.deepcopy(tiny_model(family, segmentation="tokens", intra_encoding="none"))
    model = get_peft_model(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    prompted = logits(model, ids)[:, 2:]
    assert (prompted - logits(model.get_base_model(), ids)).abs().max() > 1e-3
    generated = model.generate(input_ids=ids, max_new_tokens=1, do_sample=False)
    assert torch.equal(generated[:, -1], prompted[:, -1].argmax(dim=-1))


@pytest.mark.parametrize("method", [peft.PromptTuningConfig, peft.PromptEncoderConfig, peft.PrefixTuningConfig])
def test_a_learned_prompt_is_refused_for_its_segments_are_unknown(family, method, tiny_model, ids):
    model = get_peft_model(copy.deepcopy(tiny_model(family)), method(task_type="CAUSAL_LM", num_virtual_tokens=2))
    message = "no segment history" if method is peft.PrefixTuningConfig else "inputs_embeds was given without segment"
    with pytest.raises(ValueError, match=message):
        model(input_ids=ids)
    if method is peft.PrefixTuningConfig and CACHE_NAME == NEW_CACHE_NAME:
        # PEFT 0.21 knows the old name of the cache alone: `generate` leaves the prefix out, in any model, and warns.
        with pytest.warns(FutureWarning, match="ignoring deprecated `past_key_values="):
            model.generate(input_ids=ids, max_new_tokens=2)
        return
    with pytest.raises(ValueError, match=message):
        model.generate(input_ids=ids, max_new_tokens=2)


def test_what_cannot_be_meant_is_refused(family, tiny_model):
    config = tiny_model(family).config
    with pytest.raises(ValueError, match="intra must be one of frozen, trained, got 'both'"):
        lora_config(config, intra="both")
    with pytest.raises(ValueError, match="BipeLlamaConfig or BipeGPTNeoXConfig, got (Llama|GPTNeoX)Config"):
        lora_config(FAMILIES[family].stock_config(), intra="frozen")
    sinusoidal = FAMILIES[family].make_config(intra_encoding="sinusoidal", segmentation="document")
    with pytest.raises(ValueError, match="intra='trained' needs a model with intra_encoding='learned'.*'sinusoidal'"):
        lora_config(sinusoidal, intra="trained")
    assert lora_config(sinusoidal, intra="frozen").modules_to_save is None
    for name in ("target_modules", "modules_to_save"):
        with pytest.raises(ValueError, match=f"{name} must not name intra_encoding: pass intra='trained'"):
            lora_config(config, intra="frozen", **{name: ["q_proj", "intra_encoding"]})
