"""`torch.export`: one program for every batch and length, equal to eager, with and without a cache."""

import copy

import pytest
import torch
from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter


BATCH, LENGTH = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=4096)
SHAPES = [(1, 2), (1, 5), (3, 40)]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def inputs_of(names, batch_size, length):
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(1, 60, (batch_size, length), generator=generator)
    column = torch.arange(length).expand(batch_size, -1)
    every = {
        "input_ids": ids,
        "attention_mask": (column >= torch.arange(batch_size)[:, None]).long(),  # one more padding in each row
        "position_ids": torch.where(column < length // 2, column, column - length // 2),  # two packed documents
        "segment_ids": column // 3,
    }
    return {name: every[name] for name in ("input_ids", *names)}


@pytest.mark.parametrize(
    "names",
    [(), ("attention_mask",), ("attention_mask", "position_ids"), ("segment_ids",)],
    ids=["tokens_alone", "padding", "packed_documents_and_padding", "given_segments"],
)
def test_one_program_serves_every_batch_and_length(model, names):
    inputs = inputs_of(names, 2, 12)
    program = torch.export.export(
        model,
        (),
        {**inputs, "use_cache": False},
        dynamic_shapes={**{name: {0: BATCH, 1: LENGTH} for name in inputs}, "use_cache": None},
    ).module()
    for shape in SHAPES:
        inputs = inputs_of(names, *shape)
        logits, expected = (call(**inputs, use_cache=False).logits for call in (program, model))
        is_token = inputs.get("attention_mask", torch.ones(shape)).bool()
        torch.testing.assert_close(logits[is_token], expected[is_token], atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", ["prefill", "decode"])
def test_transformers_exports_a_step_with_its_cache(model, step):
    """The segment history goes in and out with the keys, so an exported step and an eager one may take turns."""

    def inputs_of_step(batch_size, length):
        inputs = inputs_of(("attention_mask",), batch_size, length)
        if step == "prefill":
            return inputs
        past = {name: value[:, :-1] for name, value in inputs.items()}
        return {**inputs, "input_ids": inputs["input_ids"][:, -1:], "past_key_values": model(**past).past_key_values}

    inputs = inputs_of_step(2, 12)
    program = DynamoExporter().export(model, copy.deepcopy(inputs), config=DynamoConfig(dynamic=True))
    if step == "decode":  # an exporter takes all that it finds in a cache: a second way to a layer is a stale copy
        cache = inputs["past_key_values"]
        tensors = 2 * model.config.num_hidden_layers + 1 + len(cache.layers[-1].layer_states)
        signature = program.program.graph_signature
        assert len(signature.user_inputs) == len(inputs) - 1 + tensors
        assert len(signature.user_outputs) == 1 + tensors  # logits first
    for shape in ((2, 12), (3, 40)):
        inputs = inputs_of_step(*shape)
        exported, expected = program(**copy.deepcopy(inputs)), model(**copy.deepcopy(inputs))
        torch.testing.assert_close(exported.logits[:, -1], expected.logits[:, -1], atol=1e-5, rtol=0)
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        token = torch.full((shape[0], 1), 5)
        after_exported, after_expected = (
            model(token, attention_mask=mask, past_key_values=output.past_key_values).logits
            for output in (exported, expected)
        )
        torch.testing.assert_close(after_exported, after_expected, atol=1e-5, rtol=0)
