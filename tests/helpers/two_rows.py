"""Two rows of tokens, and what a tiny model must make of them whatever its encoding: the same in every cache."""

from copy import deepcopy

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


def assert_a_cache_goes_on(model, kind):
    """Over padding in all places: pieces end in padding and before it, rows change places, tokens are taken off."""
    pieces = ((0, 3), (3, 12), (12, 13), (13, 24))
    crop = 0 if kind == "static" else 5  # whose keys cannot be cropped
    assert_pieces_are_one_forward(model, CACHES[kind](model.config), padding_in_all_places(), pieces, crop)


@torch.no_grad()
def assert_documents_are_alone(model):
    """Padded in all places; packed, one document of a single token, without padding and with padding inside."""
    assert_padding_moves_no_token(model)
    lengths = [(12, 18), (2, 1, 27)]
    positions = torch.tensor([[at for length in each for at in range(length)] for each in lengths])
    for given in ({}, {"attention_mask": padding_in_all_places()}):
        logits = model(IDS, position_ids=positions, use_cache=False, **given).logits
        is_token = given.get("attention_mask", torch.ones_like(IDS)).bool()
        for row, each in enumerate(lengths):
            documents = zip(*(of_row[row].split(each) for of_row in (IDS, is_token, logits)), strict=True)
            for ids, place, found in documents:
                alone = model(ids[place][None]).logits[0]
                torch.testing.assert_close(found[place], alone, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def assert_whole_documents_are_alone(model):
    """Packed, and with padding beside them, where padding between tokens is refused."""
    alone = [model(IDS[:1, :12]).logits[0], model(IDS[1:, :18]).logits[0]]
    packed = torch.cat([IDS[0, :12], IDS[1, :18]])[None]
    positions = torch.tensor([[*range(12), *range(18)]])
    logits = model(packed, position_ids=positions, use_cache=False).logits[0]
    torch.testing.assert_close(logits, torch.cat(alone), rtol=1e-4, atol=2e-5)
    for left in (0, 2, 6):  # the rest of the padding is on the right
        rows = torch.stack([torch.cat([IDS[0, :left], IDS[0, :12], IDS[0, 12 : 18 - left]]), IDS[1, :18]])
        mask = torch.ones_like(rows)
        mask[0, :left] = mask[0, left + 12 :] = 0
        padded = model(rows, attention_mask=mask, use_cache=False).logits
        torch.testing.assert_close(padded[0, left : left + 12], alone[0], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(padded[1], alone[1], rtol=1e-4, atol=2e-5)


def gradients_of_a_step(model, use_reentrant=None):
    """Of every parameter by its name; with checkpointed layers unless `use_reentrant` is None."""
    if use_reentrant is not None:
        model.train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
        model.enable_input_require_grads()
    model(IDS, labels=IDS, use_cache=False).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@torch.no_grad()
def assert_16_bits_are_near_float32(model, dtype):
    """With weights of that dtype, also from a cache, and under autocast."""
    exact = model(IDS).logits
    rounded = deepcopy(model).to(dtype)
    found = [rounded(IDS, use_cache=False).logits]
    start = rounded(IDS[:, :20], use_cache=True)
    found.append(torch.cat([start.logits, rounded(IDS[:, 20:], **{CACHE_NAME: start[CACHE_NAME]}).logits], dim=1))
    with torch.autocast("cpu", dtype):
        found.append(model(IDS).logits)
    for logits in found:
        assert (logits.float() - exact).norm() < 32 * torch.finfo(dtype).eps * exact.norm()


@torch.no_grad()
def assert_one_graph_and_one_program(model):
    """The forward is compiled as one graph; the exported program serves every batch and length."""
    ids = IDS[:, :12].clone()  # an exported program would serve the strides of a view alone
    compiled = torch.compile(model.__call__, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids, use_cache=False).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    dimensions = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=4096)}
    program = torch.export.export(
        model,
        (),
        {"input_ids": ids, "use_cache": False},
        dynamic_shapes={"input_ids": dimensions, "use_cache": None},
    ).module()
    for shape in ((1, 2), (3, 300)):
        ids = torch.randint(0, 60, shape, generator=torch.Generator().manual_seed(0))
        logits = program(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(logits, model(ids, use_cache=False).logits, rtol=1e-4, atol=2e-5)
    torch._dynamo.reset()


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
