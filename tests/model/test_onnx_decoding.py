"""Decoding on ONNX Runtime with what transformers' own exporter makes, against `generate`."""

import copy

import pytest
import torch
from families import all_key_heads
from tiny import LEVELS


ENCODINGS = {
    "rope": {"inter_encoding": "rope"},
    "alibi": {"inter_encoding": "alibi"},
    "levels": {"inter_encoding": "alibi", **LEVELS},
}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def prompts(batch_size, length):
    """Ids and mask, with one more padding on the left of each row."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(1, 60, (batch_size, length), generator=generator)
    mask = (torch.arange(length) >= torch.arange(batch_size)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def step_after(model, inputs):
    """What a step takes whose token is the last of these."""
    past = {name: value[:, :-1] for name, value in inputs.items()}
    return {**inputs, "input_ids": inputs["input_ids"][:, -1:], "past_key_values": model(**past).past_key_values}


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_loop_on_onnx_runtime_makes_what_generate_makes(encoding, family, tiny_model):
    onnx = pytest.importorskip("transformers.exporters.exporter_onnx")
    pytest.importorskip("onnxruntime", reason="needs pip install '.[onnx]', which make test does")
    model = tiny_model(family, **ENCODINGS[encoding], **all_key_heads(family))
    config = onnx.OnnxConfig(dynamic=True)
    first = onnx.OnnxExporter().export(model, prompts(2, 12), config=config)
    step = onnx.OnnxExporter().export(model, step_after(model, prompts(2, 12)), config=config)

    inputs = prompts(3, 23)
    expected = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    output, ids, mask = first(**copy.deepcopy(inputs)), inputs["input_ids"], inputs["attention_mask"]
    for _ in range(12):
        token = output.logits[:, -1:].argmax(dim=-1)
        ids = torch.cat([ids, token], dim=1)
        mask = torch.cat([mask, torch.ones_like(token)], dim=1)
        output = step(input_ids=token, attention_mask=mask, past_key_values=output.past_key_values)
    assert torch.equal(ids, expected)
