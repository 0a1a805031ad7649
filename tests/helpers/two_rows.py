"""Two rows of tokens, and what a tiny model must make of them whatever its encoding: the same in every cache."""

import torch
from transformers import DynamicCache, StaticCache

from bipe_hf.model.compatibility_bipe import CACHE_NAME


IDS = torch.randint(0, 60, (2, 30), generator=torch.Generator().manual_seed(1))
CACHES = {
    "dynamic": lambda config: DynamicCache(config=config),
    "made_without_config": lambda config: DynamicCache(),
    "static": lambda config: StaticCache(config=config, max_cache_len=40),
}
WAYS_TO_GENERATE = [{}, {"num_beams": 3}, {"cache_implementation": "static"}]


def padding_in_all_places():
    mask = torch.ones_like(IDS)
    mask[0, :4] = mask[0, 9:13] = mask[1, 11] = mask[1, 20:22] = 0
    return mask


@torch.no_grad()
def assert_pieces_are_one_forward(model, cache, mask, pieces, crop=0):
    """The rows change places after each piece; behind the last `crop` tokens are taken off and the rest follows."""
    full = model(IDS, attention_mask=mask, use_cache=False).logits
    rows = torch.tensor([0, 1])

    def go_on(start, end):
        logits = model(IDS[rows, start:end], attention_mask=mask[rows, :end], **{CACHE_NAME: cache}).logits
        is_token = mask[rows, start:end].bool()
        torch.testing.assert_close(logits[is_token], full[rows, start:end][is_token], rtol=1e-4, atol=2e-5)

    for start, end in pieces:
        go_on(start, end)
        rows = rows.flip(0)
        cache.reorder_cache(torch.tensor([1, 0]))
    if crop:
        cache.crop(-crop)
    start = int(cache.get_seq_length())
    if start < IDS.shape[1]:
        go_on(start, IDS.shape[1])


@torch.no_grad()
def assert_padding_moves_no_token(model):
    mask = padding_in_all_places()
    logits = model(IDS, attention_mask=mask, use_cache=False).logits
    for row in range(2):
        is_token = mask[row].bool()
        alone = model(IDS[row, is_token][None]).logits[0]
        torch.testing.assert_close(logits[row, is_token], alone, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def assert_rows_are_repeated_selected_and_reset(model):
    full = model(IDS, use_cache=False).logits
    cache = DynamicCache(config=model.config)
    model(IDS[:, :17], **{CACHE_NAME: cache})
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 0, 1]))
    logits = model(IDS[[1, 0, 0], 17:], **{CACHE_NAME: cache}).logits
    torch.testing.assert_close(logits, full[[1, 0, 0], 17:], rtol=1e-4, atol=2e-5)
    for fresh in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=40)):
        model(IDS.flip(1)[:, :9], **{CACHE_NAME: fresh})
        fresh.reset()
        torch.testing.assert_close(model(IDS, **{CACHE_NAME: fresh}).logits, full, rtol=1e-4, atol=2e-5)


def assert_generation_is_recomputation(model, options):
    prompt = {"input_ids": IDS[:, :14], "attention_mask": torch.tensor([[0] * 5 + [1] * 9, [1] * 14])}
    shared = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "num_beams": options.get("num_beams", 1)}
    cached = model.generate(**prompt, **{**shared, **options}, disable_compile=True)
    assert torch.equal(cached, model.generate(**prompt, **shared, use_cache=False))


@torch.no_grad()
def assert_states_do_not_depend_on_pieces(model):
    """They are float64: single tokens give what one forward gives, to more digits than float32 has."""
    states = []
    for size in (30, 7, 1):
        cache = DynamicCache(config=model.config)
        for chunk in IDS.split(size, dim=1):
            model(chunk, **{CACHE_NAME: cache})
        states.append(cache.layers[-1].layer_states)
    for other in states[1:]:
        assert other.keys() == states[0].keys() == {0, 1}
        torch.testing.assert_close(other[0], states[0][0], rtol=1e-6, atol=1e-6)
        assert other[0].dtype == torch.float64
