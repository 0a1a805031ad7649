"""Every way of decoding against the same sequence in one forward without a cache."""

import contextlib
import copy

import pytest
import torch
from every_encoding import ENCODINGS, shape_for
from families import FAMILIES, family_of, pairs
from tiny import LEVELS
from transformers import DataCollatorWithFlattening, DynamicCache, StaticCache
from transformers import set_seed as seed_everything

from bipe_hf.model.cache_bipe import write_segment_history
from bipe_hf.model.compatibility_bipe import CACHE_NAME


VOCABULARY_SIZE, SEPARATORS = 60, [3, 7, 11, 19]  # those of `tiny_model`
REPEATING = torch.tensor([[5, 3, 9, 12, 7] * 3])  # two segments over and over, so that there is something to look up
NEW_TOKENS = 9
STATIC = {"cache_implementation": "static", "disable_compile": True}
WAYS_TO_CACHE = {
    "dynamic": {},
    "chunked_prefill": {"prefill_chunk_size": 4},
    "chunks_of_one": {"prefill_chunk_size": 1},
    "static": STATIC,
    "static_chunked_prefill": {**STATIC, "prefill_chunk_size": 4},
    "static_chunks_of_one": {**STATIC, "prefill_chunk_size": 1},
}


@pytest.fixture(params=pairs(ENCODINGS))
def model(request, tiny_model):
    family, encoding = request.param
    return tiny_model(family, **ENCODINGS[encoding], **shape_for(family, encoding))


@pytest.fixture(params=[{}, {"attn_implementation": "eager"}], ids=["sdpa", "eager"])
def model_of_each_backend(request, model, tiny_relative):
    return tiny_relative(model, **request.param)


@pytest.fixture(params=WAYS_TO_CACHE)
def way_to_cache(request):
    return WAYS_TO_CACHE[request.param]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def tokens(batch_size, length, seed=1):
    """Random ids, three in ten of them separators; 0 is left out, it pads."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY_SIZE, (batch_size, length), generator=generator)
    chosen = torch.randint(len(SEPARATORS), (batch_size, length), generator=generator)
    separators = torch.tensor(SEPARATORS)[chosen]
    return torch.where(torch.rand(batch_size, length, generator=generator) < 0.3, separators, ids)


def padded(rows, side):
    """A batch of rows of unequal length and its mask; padding is words and separators, neither of which may count."""
    length = max(row.shape[0] for row in rows)
    ids = tokens(len(rows), length, seed=99)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        columns = slice(length - row.shape[0], None) if side == "left" else slice(row.shape[0])
        ids[i, columns], mask[i, columns] = row, 1
    return ids, mask


def rows_of_unequal_length():
    return [tokens(1, length, seed)[0] for length, seed in ((13, 2), (6, 3), (1, 4))]


def logits_of(model, ids, **kwargs):
    """The truth: one forward over everything, no cache."""
    return model(ids, use_cache=False, **kwargs).logits


def assert_same(logits, expected):
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def assert_generated_as_uncached(model, output, prompt_length, padding=(), segment_ids=None):
    """Each generated token and its logits are those of one forward over the row, without its left padding."""
    for i, row in enumerate(output.sequences):
        start = padding[i] if len(padding) else 0
        ids_given = {} if segment_ids is None else {"segment_ids": segment_ids[i, start : row.shape[0] - 1][None]}
        expected = logits_of(model, row[None, start:-1], **ids_given)[0, prompt_length - 1 - start :]
        assert_same(torch.stack(output.logits, dim=1)[i], expected)
        assert row[prompt_length:].tolist() == expected.argmax(-1).tolist()


def generate(model, ids, **kwargs):
    """Greedy, with the logits and the cache."""
    kwargs = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **kwargs}
    return model.generate(ids, return_dict_in_generate=True, output_logits=True, **kwargs)


def continue_with(model, cache, ids, chunk_sizes):
    """Feeds `ids` to a filled cache in chunks and nothing but the cache; the logits of all of them."""
    chunks = ids.split(chunk_sizes, dim=1)
    return torch.cat([model(chunk, past_key_values=cache).logits for chunk in chunks], dim=1)


# Hand-written loops


def test_the_tiny_model_feels_every_position(model):
    """Otherwise the tests below would prove nothing: one separator less, early on, moves even the last logits."""
    ids = tokens(2, 16)
    segment_ids = model.get_decoder().segment(ids).ids()
    segment_ids.view(2, 16, -1)[..., 0].sub_(1).clamp_(min=0)
    embeddings = model.get_input_embeddings()(ids)
    changed = logits_of(model, None, inputs_embeds=embeddings, segment_ids=segment_ids)
    assert (logits_of(model, ids) - changed)[:, -1].abs().amax(-1).min() > 1e-2


@pytest.mark.parametrize(
    "ids",
    [
        tokens(2, 16),
        torch.tensor([[5, 9, 3], [3, 5, 7]]),
        torch.tensor([[3, 7, 7, 3, 11]]),
        torch.tensor([[5, 9, 12, 13, 14, 15, 16, 17, 18, 20]]),
    ],
    ids=["random", "separator_last", "nothing_but_separators", "no_separator"],
)
def test_token_by_token_with_nothing_but_the_cache(model_of_each_backend, ids):
    model = model_of_each_backend
    cache, steps = None, []
    for token in ids.split(1, dim=1):
        outputs = model(token, past_key_values=cache)
        cache = outputs.past_key_values
        steps.append(outputs.logits)
    assert_same(torch.cat(steps, dim=1), logits_of(model, ids))


@pytest.mark.parametrize("chunk_sizes", [[16], [1, 15], [5, 1, 1, 6, 3], [15, 1], [4, 4, 4, 4]], ids=str)
@pytest.mark.parametrize("kind", ["made_from_config", "made_without_config", "static"])
def test_chunks_into_a_cache_made_by_hand(model, kind, chunk_sizes):
    ids = tokens(2, 16)
    cache = {
        "made_from_config": lambda: DynamicCache(config=model.config),
        "made_without_config": DynamicCache,
        "static": lambda: StaticCache(model.config, max_cache_len=20),
    }[kind]()
    assert_same(continue_with(model, cache, ids, chunk_sizes), logits_of(model, ids))


@pytest.mark.parametrize(
    "fields",
    [
        {"segmentation": "tokens"},
        {"segmentation": "document"},
        {"intra_encoding": "sinusoidal"},
        {"intra_encoding": "none"},
        {"log_scale_train_length": 4},
    ],
    ids=str,
)
def test_chunks_under_every_other_encoding(model, tiny_relative, fields):
    model = tiny_relative(model, **fields)
    ids = tokens(2, 16)
    assert_same(continue_with(model, DynamicCache(), ids, [3, 1, 7, 5]), logits_of(model, ids))


@pytest.mark.parametrize("chunk_sizes", [[13], [3, 1, 1, 8], [1] * 13, [6, 7]], ids=str)
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_chunks_of_a_left_padded_batch(model_of_each_backend, kind, chunk_sizes):
    """The mask grows with the cache; a first chunk may hold nothing but padding in some rows."""
    model = model_of_each_backend
    rows = rows_of_unequal_length()
    ids, mask = padded(rows, "left")
    cache = DynamicCache() if kind == "dynamic" else StaticCache(model.config, max_cache_len=16)
    steps, seen = [], 0
    for chunk in ids.split(chunk_sizes, dim=1):
        seen += chunk.shape[1]
        steps.append(model(chunk, attention_mask=mask[:, :seen], past_key_values=cache).logits)
    logits = torch.cat(steps, dim=1)
    for i, row in enumerate(rows):
        assert_same(logits[i, -row.shape[0] :], logits_of(model, row[None])[0])


# Padding and packing without a cache


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_each_sequence_alone(model_of_each_backend, side):
    rows = rows_of_unequal_length()
    ids, mask = padded(rows, side)
    logits = logits_of(model_of_each_backend, ids, attention_mask=mask)
    for i, row in enumerate(rows):
        assert_same(logits[i, mask[i].bool()], logits_of(model_of_each_backend, row[None])[0])


def looks_at_neighbours(model):
    """Whether tokens are counted by their columns, so that padding between them is refused."""
    config = model.config
    return config.inter_encoding == "dape_v2" or "local" in (config.layer_encodings or [])


def test_padding_in_the_middle_moves_no_token(model_of_each_backend):
    ids = tokens(2, 14)
    mask = torch.tensor([[0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0], [1, 0, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1, 1, 1]])
    if looks_at_neighbours(model_of_each_backend):
        with pytest.raises(ValueError, match="Put padding before or behind them"):
            logits_of(model_of_each_backend, ids, attention_mask=mask)
        return
    logits = logits_of(model_of_each_backend, ids, attention_mask=mask)
    for i, is_token in enumerate(mask.bool()):
        assert_same(logits[i, is_token], logits_of(model_of_each_backend, ids[i, is_token][None])[0])


PACKED_LENGTHS = [(6, 3, 1, 4), (2, 10, 2)]


@pytest.mark.parametrize("mask_is", ["missing", "all_ones", "zero_on_the_right", "zero_on_the_left"])
def test_packed_documents_equal_each_alone(model_of_each_backend, mask_is):
    model = model_of_each_backend
    ids = tokens(2, 14)
    positions = torch.stack([torch.cat([torch.arange(n) for n in lengths]) for lengths in PACKED_LENGTHS])
    mask = {
        "missing": None,
        "all_ones": torch.ones_like(ids),
        "zero_on_the_right": (torch.arange(14) < torch.tensor([[12], [13]])).long(),
        "zero_on_the_left": (torch.arange(14) >= torch.tensor([[2], [1]])).long(),
    }[mask_is]
    logits = logits_of(model, ids, attention_mask=mask, position_ids=positions)
    for i, lengths in enumerate(PACKED_LENGTHS):
        start = 0
        for length in lengths:
            is_token = torch.zeros(14, dtype=torch.bool)
            is_token[start : start + length] = True
            if mask is not None:
                is_token &= mask[i].bool()
            if is_token.any():
                assert_same(logits[i, is_token], logits_of(model, ids[i, is_token][None])[0])
            start += length


def test_packed_documents_with_one_row_of_positions_for_the_batch(model):
    ids = tokens(2, 14)
    positions = torch.cat([torch.arange(5), torch.arange(9)])[None]
    logits = logits_of(model, ids, position_ids=positions)
    assert_same(logits[:, :5], logits_of(model, ids[:, :5]))
    assert_same(logits[:, 5:], logits_of(model, ids[:, 5:]))


def test_padding_inside_a_packed_document_moves_no_token(model_of_each_backend):
    ids = tokens(1, 14)
    mask = torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1]])
    positions = torch.cat([torch.arange(6), torch.arange(8)])[None]
    if looks_at_neighbours(model_of_each_backend):
        with pytest.raises(ValueError, match="Put padding before or behind them"):
            logits_of(model_of_each_backend, ids, attention_mask=mask, position_ids=positions)
        return
    logits = logits_of(model_of_each_backend, ids, attention_mask=mask, position_ids=positions)
    for columns in ([0, 1, 3, 4, 5], [6, 7, 10, 11, 12, 13]):
        assert_same(logits[:, columns], logits_of(model_of_each_backend, ids[:, columns]))


# generate


@pytest.mark.parametrize("last", [5, SEPARATORS[1]], ids=["word_last", "separator_last"])
def test_greedy_generation(model, way_to_cache, last):
    ids = tokens(2, 13)
    ids[:, -1] = last
    assert_generated_as_uncached(model, generate(model, ids, **way_to_cache), 13)


def test_greedy_generation_of_a_left_padded_batch(model, way_to_cache):
    rows = rows_of_unequal_length()
    ids, mask = padded(rows, "left")
    output = generate(model, ids, attention_mask=mask, **way_to_cache)
    assert_generated_as_uncached(model, output, 13, padding=[13 - row.shape[0] for row in rows])


def test_generation_without_a_cache(model):
    rows = rows_of_unequal_length()
    ids, mask = padded(rows, "left")
    output = generate(model, ids, attention_mask=mask, use_cache=False)
    assert_generated_as_uncached(model, output, 13, padding=[13 - row.shape[0] for row in rows])


SEARCHES = {
    "sampling": {"do_sample": True},
    "several_samples": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "sampled_beams": {"num_beams": 3, "do_sample": True},
}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("cache", ["dynamic", "chunked_prefill", "static"])
def test_search_finds_the_same_as_without_a_cache(model, cache, search):
    ids, mask = padded([*tokens(1, 9), *tokens(1, 5, seed=3)], "left")
    sequences = []
    for kwargs in ({"use_cache": False}, WAYS_TO_CACHE[cache]):
        seed_everything(7)
        output = generate(model, ids, attention_mask=mask, **SEARCHES[search], **kwargs)
        sequences.append(output.sequences.tolist())
    assert sequences[0] == sequences[1]


def diverse_beams(model, input_ids, generation_config, **model_kwargs):
    """Diverse beam search (Vijayakumar et al., 2016), in short: beams of a group avoid the last groups' next tokens.

    transformers has moved its own to the Hub. The rows of the cache are reordered in every step, as there.
    """
    groups, beams, penalty = 2, 2, 0.7
    rows = groups * beams
    input_ids = input_ids.repeat_interleave(rows, dim=0)
    _, model_kwargs = model._expand_inputs_for_generation(rows, **model_kwargs)
    scores = torch.tensor([[0.0, -1e9] * groups] * (input_ids.shape[0] // rows)).flatten()
    for step in range(generation_config.max_new_tokens):
        inputs = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=None if step == 0 else 1, is_first_iteration=step == 0, **model_kwargs
        )
        if not model_kwargs["use_cache"]:
            inputs = {"input_ids": input_ids, "attention_mask": model_kwargs["attention_mask"], "use_cache": False}
        outputs = model(**inputs)
        total = (scores[:, None] + outputs.logits[:, -1].log_softmax(-1)).view(-1, groups, beams * VOCABULARY_SIZE)
        chosen = torch.zeros(total.shape[0], VOCABULARY_SIZE)
        parents, tokens = [], []
        for group in range(groups):
            penalised = total[:, group] - penalty * chosen.repeat(1, beams)
            scores_of_group, index = penalised.topk(beams)
            scores.view(-1, groups, beams)[:, group] = scores_of_group
            chosen.scatter_add_(1, index % VOCABULARY_SIZE, torch.ones_like(scores_of_group))
            first = torch.arange(total.shape[0])[:, None] * rows + group * beams
            parents.append(first + index // VOCABULARY_SIZE)
            tokens.append(index % VOCABULARY_SIZE)
        parents, tokens = (torch.stack(part, dim=1).flatten() for part in (parents, tokens))
        input_ids = torch.cat([input_ids[parents], tokens[:, None]], dim=1)
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        if model_kwargs["use_cache"]:
            model_kwargs[CACHE_NAME].reorder_cache(parents)
    return input_ids


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_diverse_beams_find_the_same_as_without_a_cache(model, cache):
    ids, mask = padded([*tokens(1, 9), *tokens(1, 5, seed=3)], "left")
    kwargs = {"attention_mask": mask, "max_new_tokens": 6, "custom_generate": diverse_beams}
    expected = model.generate(ids, use_cache=False, **kwargs)
    assert len({tuple(row) for row in expected.tolist()}) > 4
    assert model.generate(ids, **kwargs, **WAYS_TO_CACHE[cache]).tolist() == expected.tolist()


def test_contrastive_search_goes_on_from_a_copied_cache(model):
    """Su et al., 2022: each of the k likeliest tokens is tried on a copy of the cache, one of them is kept."""
    k = 3
    ids, mask = padded(rows_of_unequal_length(), "left")
    outputs = model(ids, attention_mask=mask)
    cache, logits = outputs.past_key_values, outputs.logits[:, -1]
    for _ in range(6):
        candidates = logits.topk(k).indices  # (batch, k)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        masks = mask.repeat_interleave(k, dim=0)
        trial = copy.deepcopy(cache)
        trial.batch_repeat_interleave(k)
        tried = model(candidates.reshape(-1, 1), attention_mask=masks, past_key_values=trial)
        longer = torch.cat([ids.repeat_interleave(k, dim=0), candidates.reshape(-1, 1)], dim=1)
        truth = model(longer, attention_mask=masks, use_cache=False, output_hidden_states=True)
        assert_same(tried.logits[:, -1], truth.logits[:, -1])
        # the penalty: how like the candidate's last hidden state is to those before it
        states = torch.nn.functional.normalize(truth.hidden_states[-1], dim=-1)
        likeness = (states[:, :-1] @ states[:, -1:].transpose(1, 2)).masked_fill(masks[:, :-1, None] == 0, -1)
        penalty = likeness.amax(dim=(1, 2)).view(-1, k)
        best = (logits.softmax(-1).gather(1, candidates) - 0.6 * penalty).argmax(dim=1)
        rows = torch.arange(len(best)) * k + best
        trial.batch_select_indices(rows)
        cache, logits, ids = trial, tried.logits[rows, -1], longer[rows]


@pytest.mark.parametrize("draft", ["prompt_lookup", "another_model", "the_model_itself"])
def test_assisted_generation(model, tiny_relative, draft):
    help_of = {
        "prompt_lookup": {"prompt_lookup_num_tokens": 3},
        "another_model": {"assistant_model": tiny_relative(model, num_hidden_layers=1)},
        "the_model_itself": {"assistant_model": model},
    }
    assert_generated_as_uncached(model, generate(model, REPEATING, **help_of[draft]), 15)


# Caches that outlive a call


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_turns_of_a_conversation_share_a_cache(model, chunk_size):
    ids, cache = tokens(2, 6), None
    for turn in range(3):
        output = generate(model, ids, past_key_values=cache, prefill_chunk_size=chunk_size)
        assert_generated_as_uncached(model, output, ids.shape[1])
        cache = output.past_key_values
        ids = torch.cat([output.sequences, tokens(2, 5, seed=turn + 5)], dim=1)


def test_a_turn_may_bring_new_tokens_only(model):
    first = generate(model, tokens(2, 6))
    cached = first.past_key_values.get_seq_length()
    ids = torch.cat([first.sequences, tokens(2, 5, seed=5)], dim=1)
    output = generate(
        model, ids[:, cached:], attention_mask=torch.ones_like(ids), past_key_values=first.past_key_values
    )
    output.sequences = torch.cat([ids[:, :cached], output.sequences], dim=1)
    assert_generated_as_uncached(model, output, ids.shape[1])


def test_turns_of_a_left_padded_batch(model):
    rows = rows_of_unequal_length()
    ids, mask = padded(rows, "left")
    first = generate(model, ids, attention_mask=mask)
    ids = torch.cat([first.sequences, tokens(3, 5, seed=5)], dim=1)
    mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
    output = generate(model, ids, attention_mask=mask, past_key_values=first.past_key_values)
    assert_generated_as_uncached(model, output, ids.shape[1], padding=[13 - row.shape[0] for row in rows])


def filled_cache(model, ids):
    cache = DynamicCache(config=model.config)
    model(ids, past_key_values=cache)
    return cache


@pytest.mark.parametrize("tokens_to_remove", [0, 1, 4, 10])
def test_a_cropped_cache_goes_on_from_where_it_was_cropped(model, tokens_to_remove):
    ids = tokens(2, 16)
    cache = filled_cache(model, ids[:, :10])
    cache.crop(-tokens_to_remove)
    kept = 10 - tokens_to_remove
    other = torch.cat([ids[:, :kept], tokens(2, 6, seed=5)], dim=1)
    assert_same(continue_with(model, cache, other[:, kept:], [1, 5]), logits_of(model, other)[:, kept:])


CHANGES_OF_ROWS = {
    "reorder_cache": (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 2])), [2, 0, 2]),
    "batch_select_indices": (lambda cache: cache.batch_select_indices(torch.tensor([2, 1])), [2, 1]),
    "batch_repeat_interleave": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
}


@pytest.mark.parametrize("change", CHANGES_OF_ROWS)
def test_rows_of_a_cache_move_with_their_segments(model, change):
    ids = tokens(3, 10)
    cache = filled_cache(model, ids)
    do, rows = CHANGES_OF_ROWS[change]
    do(cache)
    longer = torch.cat([ids[rows], tokens(len(rows), 6, seed=5)], dim=1)
    assert_same(continue_with(model, cache, longer[:, 10:], [1, 5]), logits_of(model, longer)[:, 10:])


def test_a_copied_cache_and_its_original_go_separate_ways(model):
    ids = tokens(2, 10)
    cache = filled_cache(model, ids)
    for branch, seed in ((copy.deepcopy(cache), 5), (cache, 6)):
        longer = torch.cat([ids, tokens(2, 6, seed)], dim=1)
        assert_same(continue_with(model, branch, longer[:, 10:], [1, 5]), logits_of(model, longer)[:, 10:])


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_reset_cache_starts_afresh(model, kind):
    cache = DynamicCache() if kind == "dynamic" else StaticCache(model.config, max_cache_len=16)
    for seed in (1, 5, 6):
        ids = tokens(2, 16, seed)
        assert_same(continue_with(model, cache, ids, [9, 1, 6]), logits_of(model, ids))
        cache.reset()


def test_an_offloaded_cache_fetches_the_first_layer_after_the_last(model, monkeypatch):
    """What an offloaded cache does on a GPU, without one: after the last layer with keys comes the first again."""
    num_layers = model.config.num_hidden_layers
    cache = DynamicCache(config=model.config)
    cache.offloading = True  # asked for in its constructor it wants an accelerator
    write_segment_history(cache, model.get_decoder().segment(tokens(2, 10)).state, num_layers)
    fetched = []
    for i, layer in enumerate(cache.layers[:num_layers]):
        monkeypatch.setattr(layer, "prefetch", lambda i=i: fetched.append(i))
    cache.prefetch_stream = contextlib.nullcontext()
    cache.prefetch(num_layers, only_non_sliding=False)
    assert fetched == [0]


# Segment ids given by the caller


def continued(segment_ids, sequences):
    """The prompt's segment ids and those that separators add after it, counted one token at a time."""
    prompt_length = segment_ids.shape[1]
    rows = []
    for known, row in zip(segment_ids.tolist(), sequences.tolist(), strict=True):
        for column in range(prompt_length, len(row)):
            known.append(known[-1] + (row[column - 1] in SEPARATORS))
        rows.append(known)
    return torch.tensor(rows)


def doubled_segment_ids(model, ids):
    """Segment ids that nobody would derive."""
    return 2 * model.get_decoder().segment(ids).segment_ids


def test_given_segment_ids_equal_to_the_derived_ones_change_nothing(model):
    rows = rows_of_unequal_length()
    ids, mask = padded(rows, "left")
    segment_ids = torch.full_like(ids, -1)
    for i, row in enumerate(rows):
        segment_ids[i, -row.shape[0] :] = model.get_decoder().segment(row[None]).segment_ids
    expected = logits_of(model, ids, attention_mask=mask)
    assert torch.equal(logits_of(model, ids, attention_mask=mask, segment_ids=segment_ids), expected)
    sequences = generate(model, ids, attention_mask=mask).sequences
    given = generate(model, ids, attention_mask=mask, segment_ids=segment_ids).sequences
    assert sequences.tolist() == given.tolist()


PLACES_UNREAD = {("bipe_llama", "none"), ("bipe_gpt_neox", "none"), ("bipe_gpt_neox", "hirope")}


def test_given_segment_ids_override_the_derived_ones(model):
    ids = tokens(2, 13)
    segment_ids = doubled_segment_ids(model, ids)
    logits = logits_of(model, ids, segment_ids=segment_ids)
    differences = (logits - logits_of(model, ids)).abs().amax(-1)[:, -1]
    # Twice the id is another place to all encodings but these: no position, and the one pair of a head turns by token.
    if (model.config.model_type, model.config.inter_encoding) in PLACES_UNREAD:
        assert differences.max() == 0
    else:  # FIRE divides distances by how far the query stands, which twice the id changes as well
        assert differences.min() > (1e-3 if model.config.inter_encoding == "fire" else 1e-2)
    cache, steps = DynamicCache(), []
    for start, stop in ((0, 4), (4, 5), (5, 13)):
        step = model(ids[:, start:stop], segment_ids=segment_ids[:, start:stop], past_key_values=cache)
        steps.append(step.logits)
    assert_same(torch.cat(steps, dim=1), logits)


@pytest.mark.parametrize("last", [5, SEPARATORS[1]], ids=["word_last", "separator_last"])
@pytest.mark.parametrize("way", ["uncached", *WAYS_TO_CACHE, "prompt_lookup"])
def test_generation_goes_on_from_given_segment_ids(model, way, last):
    kwargs = {"uncached": {"use_cache": False}, "prompt_lookup": {"prompt_lookup_num_tokens": 3}, **WAYS_TO_CACHE}[way]
    ids = REPEATING.clone()
    ids[:, -1] = last
    segment_ids = doubled_segment_ids(model, ids)
    output = generate(model, ids, segment_ids=segment_ids, **kwargs)
    assert_generated_as_uncached(model, output, 15, segment_ids=continued(segment_ids, output.sequences))


def test_a_draft_model_goes_on_from_given_segment_ids(model, tiny_relative):
    ids = tokens(1, 13)
    segment_ids = doubled_segment_ids(model, ids)
    output = generate(model, ids, segment_ids=segment_ids, assistant_model=tiny_relative(model, num_hidden_layers=1))
    assert_generated_as_uncached(model, output, 13, segment_ids=continued(segment_ids, output.sequences))


@pytest.mark.parametrize("id_at_padding", [-1, 0])
def test_generation_of_a_left_padded_batch_goes_on_from_given_segment_ids(model, way_to_cache, id_at_padding):
    rows = rows_of_unequal_length()
    ids, mask = padded(rows, "left")
    segment_ids = doubled_segment_ids(model, ids).masked_fill(mask == 0, id_at_padding)
    output = generate(model, ids, attention_mask=mask, segment_ids=segment_ids, **way_to_cache)
    assert_generated_as_uncached(
        model,
        output,
        13,
        padding=[13 - row.shape[0] for row in rows],
        segment_ids=continued(segment_ids, output.sequences),
    )


@pytest.mark.parametrize("search", SEARCHES)
def test_search_goes_on_from_given_segment_ids(model, search):
    ids = tokens(2, 9)
    segment_ids = doubled_segment_ids(model, ids)
    sequences = []
    for kwargs in ({"use_cache": False}, {}, STATIC):
        seed_everything(7)
        output = generate(model, ids, segment_ids=segment_ids, **SEARCHES[search], **kwargs)
        sequences.append(output.sequences.tolist())
    assert sequences[0] == sequences[1] == sequences[2]


@pytest.mark.parametrize("new_tokens_only", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_a_second_turn_with_segment_ids_for_all_of_it(model, chunk_size, new_tokens_only):
    ids = tokens(2, 13)
    segment_ids = doubled_segment_ids(model, ids)
    cache = DynamicCache()
    model(ids[:, :8], segment_ids=segment_ids[:, :8], past_key_values=cache)
    output = generate(
        model,
        ids[:, 8:] if new_tokens_only else ids,
        attention_mask=torch.ones_like(ids),
        segment_ids=segment_ids,
        past_key_values=cache,
        prefill_chunk_size=None if new_tokens_only else chunk_size,
    )
    if new_tokens_only:
        output.sequences = torch.cat([ids[:, :8], output.sequences], dim=1)
    assert_generated_as_uncached(model, output, 13, segment_ids=continued(segment_ids, output.sequences))


# Embeddings in place of tokens


def test_embeddings_with_segment_ids_equal_tokens(model):
    ids = tokens(2, 13)
    embeddings = model.get_input_embeddings()(ids)
    segment_ids = model.get_decoder().segment(ids).ids()
    logits = logits_of(model, None, inputs_embeds=embeddings, segment_ids=segment_ids)
    assert torch.equal(logits, logits_of(model, ids))


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_from_embeddings_with_segment_ids(model, cache):
    ids = tokens(2, 13)
    ids[:, -1] = 5  # whether the last token was a separator, segment ids alone do not say
    output = generate(
        model,
        None,
        inputs_embeds=model.get_input_embeddings()(ids),
        segment_ids=model.get_decoder().segment(ids).ids(),
        **WAYS_TO_CACHE[cache],
    )
    output.sequences = torch.cat([ids, output.sequences], dim=1)
    assert_generated_as_uncached(model, output, 13)


@pytest.mark.parametrize("segmentation", ["tokens", "document"])
def test_embeddings_need_no_segment_ids_where_no_separator_is_read(model, tiny_relative, segmentation):
    model = tiny_relative(model, segmentation=segmentation, inner_separator_token_ids=[])
    ids = tokens(2, 13)
    embeddings = model.get_input_embeddings()(ids)
    assert torch.equal(logits_of(model, None, inputs_embeds=embeddings), logits_of(model, ids))
    output = generate(model, None, inputs_embeds=embeddings)
    output.sequences = torch.cat([ids, output.sequences], dim=1)
    assert_generated_as_uncached(model, output, 13)


# Errors


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_cache_that_another_model_filled_is_refused(model, kind):
    shape = {name: getattr(model.config, name) for name in ("vocab_size", "hidden_size", "num_hidden_layers")}
    stock = FAMILIES[family_of(model)].make_stock_causal_lm(**shape, num_attention_heads=4, intermediate_size=64)
    cache = DynamicCache() if kind == "dynamic" else StaticCache(stock.config, max_cache_len=8)
    stock(tokens(1, 5), past_key_values=cache)
    with pytest.raises(ValueError, match=f"{CACHE_NAME} holds 5 tokens but no segment history"):
        model(tokens(1, 1), past_key_values=cache)


def test_a_cache_whose_keys_were_cropped_alone_is_refused(model):
    cache = filled_cache(model, tokens(1, 5))
    for layer in cache.layers[:2]:
        layer.crop(-2)
    with pytest.raises(ValueError, match=f"{CACHE_NAME} holds 3 tokens, its segment history 5"):
        model(tokens(1, 1), past_key_values=cache)


def test_embeddings_without_segment_ids_are_refused(model):
    embeddings = model.get_input_embeddings()(tokens(1, 5))
    with pytest.raises(ValueError, match="inputs_embeds was given without segment_ids"):
        model(inputs_embeds=embeddings)
    with pytest.raises(ValueError, match="inputs_embeds was given without segment_ids"):
        generate(model, None, inputs_embeds=embeddings)


@pytest.mark.parametrize("shape", [(1, 5), (2, 4), (2, 6), (10,), (2, 5, 1)], ids=str)
@pytest.mark.parametrize("mask", [None, torch.ones(2, 5, dtype=torch.long)], ids=["no_mask", "mask"])
def test_segment_ids_of_the_wrong_shape_are_refused(model, shape, mask):
    with pytest.raises(ValueError, match=r"segment_ids must have one id for each token, shape \(2, 5\)"):
        model(tokens(2, 5), attention_mask=mask, segment_ids=torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_segment_ids_that_are_no_integers_are_refused(model, dtype):
    with pytest.raises(ValueError, match="segment_ids must be integers"):
        model(tokens(2, 5), segment_ids=torch.zeros(2, 5, dtype=dtype))


@pytest.mark.parametrize("way", ["uncached", *WAYS_TO_CACHE])
def test_segment_ids_that_do_not_cover_the_prompt_are_refused(model, way):
    kwargs = {"uncached": {"use_cache": False}, **WAYS_TO_CACHE}[way]
    with pytest.raises(ValueError, match="segment_ids must cover all 6 tokens"):
        generate(model, tokens(2, 6), segment_ids=torch.zeros(2, 5, dtype=torch.long), **kwargs)


def test_segment_ids_of_the_new_turn_alone_are_refused(model):
    ids = tokens(2, 12)
    cache = filled_cache(model, ids[:, :4])
    with pytest.raises(ValueError, match="segment_ids must cover all 12 tokens"):
        generate(model, ids, segment_ids=torch.zeros(2, 8, dtype=torch.long), past_key_values=cache)


@pytest.mark.parametrize("kind", ["empty", "filled"])
def test_packed_documents_with_a_cache_are_refused(model, kind):
    cache = DynamicCache() if kind == "empty" else filled_cache(model, tokens(1, 3))
    with pytest.raises(ValueError, match="position_ids restart inside the sequence"):
        model(tokens(1, 5), position_ids=torch.tensor([[0, 1, 0, 1, 2]]), past_key_values=cache)


@pytest.mark.parametrize("cache", ["dynamic", "chunked_prefill", "static", "static_chunked_prefill"])
def test_generation_from_packed_documents_is_refused(model, cache):
    ids, positions = tokens(1, 8), torch.tensor([[0, 1, 0, 1, 2, 3, 4, 5]])
    with pytest.raises(ValueError, match="position_ids restart inside the sequence"):
        generate(model, ids, position_ids=positions, **WAYS_TO_CACHE[cache])


def test_packed_documents_make_no_cache(model):
    """A next token would attend to all of them."""
    position_ids = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])
    assert model(tokens(2, 6), position_ids=position_ids, use_cache=True).past_key_values is None
    assert model(tokens(2, 6), position_ids=torch.arange(6)[None], use_cache=True).past_key_values is not None


def test_document_lengths_without_positions_are_refused(model):
    """Segments could not restart where attention does."""
    with pytest.raises(ValueError, match="cu_seq_lens_q was given without position_ids"):
        model(tokens(1, 6), cu_seq_lens_q=torch.tensor([0, 3, 6]), cu_seq_lens_k=torch.tensor([0, 3, 6]))


def document_lengths(lengths):
    """As flash attention takes them."""
    cumulative = torch.tensor(lengths, dtype=torch.int32)
    return {"cu_seq_lens_q": cumulative, "cu_seq_lens_k": cumulative, "max_length_q": 3, "max_length_k": 3}


@pytest.mark.parametrize("lengths", [[], [0, 6], [0, 2, 6], [0, 3], [0, 3, 5], [0, 3, 4, 6]])
@pytest.mark.parametrize("with_mask", [False, True])
def test_document_lengths_beside_positions_that_say_otherwise_are_refused(model, lengths, with_mask):
    """Stock models attend by the lengths, where they may, and turn by the positions."""
    given = {"position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]]), **document_lengths(lengths)}
    if with_mask:  # of which stock models take no notice where nothing is padding
        given["attention_mask"] = torch.ones(1, 6, dtype=torch.long)
    with pytest.raises(ValueError, match=r"cu_seq_lens_q is \[.*, but by position_ids it is \[0, 3, 6\]"):
        model(tokens(1, 6), **given)


@pytest.mark.parametrize("lengths", [[0, 3, 6], [0, 3, 6, 6], [0, 3, 3, 6]])
def test_document_lengths_of_empty_documents_change_nothing(model, lengths):
    ids, positions = tokens(1, 6), torch.tensor([[0, 1, 2, 0, 1, 2]])
    with torch.inference_mode():
        expected = model(ids, position_ids=positions).logits
        assert torch.equal(model(ids, position_ids=positions, **document_lengths(lengths)).logits, expected)


def test_what_the_flattening_collator_gives_is_one_thing(model):
    """Documents of one token and of several, alone and with the lengths that flash attention takes."""
    texts = [{"input_ids": ids} for ids in ([5], [3, 7, 2], [4], [4, 9])]
    batch = DataCollatorWithFlattening(return_flash_attn_kwargs=True)(texts)
    plain = DataCollatorWithFlattening()(texts)
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, model(**plain).logits)


def test_a_mask_of_the_new_tokens_alone_is_refused(model):
    """It would have to cover the cached ones as well."""
    cache = filled_cache(model, tokens(2, 6))
    with pytest.raises(ValueError, match="attention_mask must cover all 7 tokens, the 6 cached ones included, got 1"):
        model(tokens(2, 1), attention_mask=torch.ones(2, 1), past_key_values=cache)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_of_a_model_with_other_levels_is_refused(family, tiny_model):
    plain, levels = tiny_model(family), tiny_model(family, **LEVELS)
    for filled_by, model, found in ((levels, plain, "2 levels .* has 0"), (plain, levels, "0 levels .* has 2")):
        cache = filled_by(tokens(2, 6), use_cache=True).past_key_values
        with pytest.raises(ValueError, match=f"{CACHE_NAME} was filled by a model with {found}"):
            model(tokens(2, 1), past_key_values=cache)
        assert model(tokens(2, 1)).logits.isfinite().all()


def test_a_cache_of_a_shallower_model_is_refused(model, tiny_relative):
    shallow = tiny_relative(model, num_hidden_layers=1)
    with pytest.raises(ValueError, match=f"{CACHE_NAME} was made for a model of 1 layers, this one has 2"):
        model(tokens(2, 6), past_key_values=DynamicCache(config=shallow.config))
    cache = shallow(tokens(2, 6), use_cache=True).past_key_values
    with pytest.raises(ValueError, match=f"{CACHE_NAME} was made for a model of 1 layers, this one has 2"):
        model(tokens(2, 1), past_key_values=cache)
