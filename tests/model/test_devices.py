"""Models that do not stand on one device: offloaded layers, and terms that travel from device to device."""

import copy

import pytest
import torch
from accelerate.utils import send_to_device
from transformers import AutoModelForCausalLM, GenerationMixin


@pytest.fixture(params=["rope", "alibi"])
def model(request, family, tiny_model):
    return tiny_model(family, inter_encoding=request.param, num_hidden_layers=4)


def batch():
    """Two rows of which the second is padded on the left."""
    ids = torch.randint(1, 60, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_layers_offloaded_to_disk_change_nothing(model, tmp_path):
    """`device_map="auto"` with room for less than the model, as on a GPU too small for it."""
    model.save_pretrained(tmp_path / "model")
    size = sum(parameter.nbytes for parameter in model.parameters())
    offloaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model",
        device_map="auto",
        max_memory={"cpu": size // 2},
        offload_folder=tmp_path / "offload",
    ).eval()
    assert {"cpu", "disk"} <= set(offloaded.hf_device_map.values())
    with torch.inference_mode():
        expected, actual = model(**batch()).logits, offloaded(**batch()).logits
    assert torch.equal(actual, expected)
    kwargs = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
    expected, actual = model.generate(**batch(), **kwargs), offloaded.generate(**batch(), **kwargs)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("on_disk", ["embedding", "intra_encoding"])
def test_an_offloaded_table_changes_nothing(model, on_disk, tmp_path):
    model.save_pretrained(tmp_path / "model")
    names = {module: name for name, module in model.named_modules()}
    table = model.get_input_embeddings() if on_disk == "embedding" else model.base_model.intra_encoding
    device_map = {names[module]: "cpu" for module in (*model.base_model.children(), model.lm_head)}
    device_map |= {names[table]: "disk"}
    offloaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    ).eval()
    with torch.inference_mode():
        assert torch.equal(offloaded(**batch()).logits, model(**batch()).logits)


def test_terms_travel_with_a_layer_that_stands_on_another_device(model):
    """accelerate's hooks move what a layer receives; a tensor that stayed behind would fail on two GPUs."""
    base = model.base_model
    inputs, _ = base.bilevel_inputs(
        batch()["input_ids"], base.get_input_embeddings()(batch()["input_ids"]), None, None, None, None
    )
    moved = send_to_device(inputs.inter_terms, "meta")
    assert type(moved) is type(inputs.inter_terms)
    tensors = [*(moved.rotary or ()), *((moved.columns.query, moved.columns.key) if moved.columns else ())]
    assert len(tensors) == 2
    assert all(tensor.device.type == "meta" for tensor in tensors)


def test_segments_follow_the_prompt_to_the_device_of_the_model(model, monkeypatch):
    """`generate` moves the ids of a prompt to the model, and so must go what is found of the mask and of given ids."""
    prepare = GenerationMixin.prepare_inputs_for_generation

    def prepare_and_move(*args, **kwargs):  # as it does between any two devices but this one
        return send_to_device(prepare(*args, **kwargs), "meta")

    monkeypatch.setattr(GenerationMixin, "prepare_inputs_for_generation", prepare_and_move)
    prompt = {"attention_mask": batch()["attention_mask"], "segment_ids": torch.zeros(2, 12, dtype=torch.long)}
    elsewhere = copy.deepcopy(model).to("meta")
    inputs = elsewhere.prepare_inputs_for_generation(batch()["input_ids"], is_first_iteration=True, **prompt)
    assert inputs["input_ids"].device.type == inputs["segment_ids"].device.type == "meta"
