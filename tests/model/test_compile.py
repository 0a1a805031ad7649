"""Compiled equals eager, in one graph, and one compilation serves every batch of a shape.

The backend is `aot_eager`: what could go wrong here is tracing, and it needs no C++ compiler.
"""

import pytest
import torch
from transformers import CompileConfig, StaticCache

from bipe_hf.model.segmentation_bipe import document_starts, segment_tokens


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def compiled(function):
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def no_recompilation():
    return torch._dynamo.config.patch(error_on_recompile=True)


def batch(seed):
    """Random tokens, left padding of random length, and positions that restart at a random column."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 60, (2, 12), generator=generator)
    column = torch.arange(12).expand(2, -1)
    start = torch.randint(4, 10, (2, 1), generator=generator)
    mask = (column >= torch.randint(0, 4, (2, 1), generator=generator)).long()
    return ids, mask, torch.where(column < start, column, column - start)


def test_segmentation_compiles():
    def segment(ids, mask, positions):
        is_token = mask.bool()
        starts = document_starts(positions, is_token)
        inner_ends = (ids % 5 == 0, ids % 7 == 0)
        given = {"inner_ends": inner_ends, "is_token": is_token}
        state = segment_tokens(ids % 4 == 0, starts_document=starts, **given).state
        again = segment_tokens(ids % 3 == 0, segment_ids=ids // 9, past=state.last(), **given)
        return *state.columns(), again.ids(), again.intra_positions

    compiled_segment = compiled(segment)
    compiled_segment(*batch(1))
    with no_recompilation():
        for seed in (2, 3):
            for result, expected in zip(compiled_segment(*batch(seed)), segment(*batch(seed)), strict=True):
                assert torch.equal(result, expected)


@pytest.mark.parametrize("arguments", ["tokens_alone", "padding", "packed_documents_and_padding"])
def test_the_forward_compiles(model, arguments):
    def forward(seed, call):
        ids, mask, positions = batch(seed)
        named = {
            "tokens_alone": {},
            "padding": {"attention_mask": mask},
            "packed_documents_and_padding": {"attention_mask": mask, "position_ids": positions},
        }[arguments]
        with torch.no_grad():
            logits = call(ids, use_cache=False, **named).logits
        return logits[mask.bool()] if "attention_mask" in named else logits

    compiled_model = compiled(model.__call__)
    forward(1, compiled_model)
    with no_recompilation():
        for seed in (2, 3):
            torch.testing.assert_close(forward(seed, compiled_model), forward(seed, model), atol=1e-5, rtol=0)


def test_the_training_step_compiles(model):
    def gradients(seed, call):
        ids, mask, _ = batch(seed)
        call(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
        found = [parameter.grad for parameter in model.parameters()]
        model.zero_grad()
        return found

    compiled_model = compiled(model.__call__)
    gradients(1, compiled_model)
    with no_recompilation():
        for found, expected in zip(gradients(2, compiled_model), gradients(2, model), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_decoding_into_a_static_cache_compiles_once(model):
    ids = batch(1)[0]
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        cache = StaticCache(model.config, max_cache_len=16)
        model(ids[:, :5], past_key_values=cache)
        step = compiled(model.__call__)
        logits = [step(ids[:, 5:6], past_key_values=cache).logits]
        with no_recompilation():
            logits += [step(ids[:, i : i + 1], past_key_values=cache).logits for i in range(6, 12)]
    torch.testing.assert_close(torch.cat(logits, dim=1), expected[:, 5:], atol=1e-4, rtol=0)


def test_a_static_cache_with_room_made_early_compiles(family, tiny_model):
    """Compiled from the first token on, as `generate` does where it fills a static cache chunk by chunk."""
    model, ids = tiny_model(family), batch(1)[0]
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        cache = StaticCache(model.config, max_cache_len=16)
        key_heads, head_dim = {"llama": 2, "gpt_neox": 4}[family], 8
        cache.early_initialization(2, key_heads, head_dim, model.dtype, model.device)
        step = compiled(model.__call__)
        logits = [step(ids[:, i : i + 4], past_key_values=cache).logits for i in range(0, 12, 4)]
    torch.testing.assert_close(torch.cat(logits, dim=1), expected, atol=1e-4, rtol=0)


def test_generate_compiles_decoding_into_a_static_cache_once(model):
    """Rows of unequal length; one compilation serves every step, and the next prompt of the same batch size."""
    config = CompileConfig(backend="aot_eager", fullgraph=True, mode=None)
    config._compile_all_devices = True  # transformers compiles on GPUs alone unless told so
    kwargs = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
    kwargs |= {"return_dict_in_generate": True, "output_logits": True}
    static = {"cache_implementation": "static", "compile_config": config}
    seen = set()
    for seed in (1, 2):
        ids, mask, _ = batch(seed)
        expected = model.generate(ids, attention_mask=mask, use_cache=False, **kwargs)
        actual = model.generate(ids, attention_mask=mask, **static, **kwargs)
        assert actual.sequences.tolist() == expected.sequences.tolist()
        torch.testing.assert_close(torch.stack(actual.logits), torch.stack(expected.logits), atol=1e-4, rtol=0)
        seen.add(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert seen == {1}
