"""transformers' continuous batching against `generate` of each prompt by itself: the same tokens."""

import copy
import gc

import pytest
import torch
from families import all_key_heads, pairs
from paged import HOLDS
from tiny import LEVELS, TINY
from transformers import CompileConfig, ContinuousBatchingConfig, DynamicCache, GenerationConfig
from transformers.generation.continuous_batching import (
    ContinuousBatchingManager,
    PagedAttentionCache,
    offloading_manager,
)
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM
from bipe_hf.model.batching_bipe import SegmentArguments
from bipe_hf.model.segmentation_bipe import Segmenter, SegmentInputs


NUM_NEW = 12
LIKELIEST = {"do_sample": True, "top_k": 1}  # draws among one token, since transformers forks draws alone


@pytest.fixture(autouse=True, scope="module")
def quick_collection():
    """A manager that stops collects garbage twice: among what tests before this one left, that takes a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def prompts():
    """Of mixed length, two of them with one beginning."""
    generator = torch.Generator().manual_seed(0)
    *alone, shared = (
        torch.randint(1, 59, (length,), generator=generator).tolist() for length in (5, 17, 1, 40, 9, 21)
    )
    return [*alone, [*shared, 5, 6], [*shared, 9]]


@pytest.fixture(params=pairs(HOLDS))
def held(request, tiny_model):
    """A tiny model of each family with each encoding that a paged cache holds."""
    family, name = request.param
    return tiny_model(family, **HOLDS[name])


@pytest.fixture(params=[("llama", "levels"), ("gpt_neox", "alibi")], ids="-".join)
def quick(request, tiny_model):
    family, name = request.param
    return tiny_model(family, **HOLDS[name])


def outputs(model, prompts, *, eos=-1, sampling=None, **config):
    """What `generate_batch` gives, children of forks in front of their parents."""
    config = {"num_blocks": 64, "page_size": 4, "max_batch_tokens": 32, **config}
    found = model.generate_batch(
        prompts,
        generation_config=GenerationConfig(
            max_new_tokens=NUM_NEW, eos_token_id=eos, **(sampling or {"do_sample": False})
        ),
        continuous_batching_config=ContinuousBatchingConfig(**config),
    )
    assert not [output.error for output in found.values() if output.error]
    return list(found.values())


def batch(model, prompts, **given):
    """The answers of `generate_batch`."""
    return [output.generated_tokens for output in outputs(model, prompts, **given)]


def alone(model, prompts):
    """The answers of `generate`."""
    return [
        model.generate(torch.tensor([prompt]), max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0)[
            0, len(prompt) :
        ].tolist()
        for prompt in prompts
    ]


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_a_batch_has_the_tokens_of_each_prompt_by_itself(held, backend, prompts):
    expected = alone(held, prompts)
    held.set_attn_implementation(backend)
    try:
        assert batch(held, prompts) == expected
        assert held.config._attn_implementation == backend
    finally:
        held.set_attn_implementation("sdpa")


SCHEDULES = {
    "prompts in pieces of 8 tokens": {"max_batch_tokens": 8},
    "prompts first": {"max_batch_tokens": 8, "scheduler_type": "prefill_first"},
    "no shared blocks": {"allow_block_sharing": False},
    "one request at a time": {"max_requests_per_batch": 1},
    "so few blocks that requests start again": {"num_blocks": 16},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_has_the_same_tokens(quick, schedule, prompts):
    assert batch(quick, prompts, **SCHEDULES[schedule]) == alone(quick, prompts)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_has_the_same_tokens_with_every_encoding(held, schedule, prompts):
    assert batch(held, prompts, **SCHEDULES[schedule]) == alone(held, prompts)


@pytest.fixture
def started_again(monkeypatch):
    """Counts the requests that lose their keys and start again."""
    create, count = RequestState.create_equivalent_initial_request, []

    def counted(self):
        count.append(self.request_id)
        return create(self)

    monkeypatch.setattr(RequestState, "create_equivalent_initial_request", counted)
    return count


def test_few_blocks_do_make_requests_start_again(quick, prompts, started_again):
    batch(quick, prompts, num_blocks=64)
    assert not started_again
    batch(quick, prompts, num_blocks=16)
    assert started_again


def test_a_beginning_that_two_prompts_share_is_read_once(quick, prompts, monkeypatch):
    """So the tokens of the second one go on from the state of the first."""
    search, found = PagedAttentionCache.search_prefix_match, []

    def counted(self, *args):
        found.append(search(self, *args))
        return found[-1]

    monkeypatch.setattr(PagedAttentionCache, "search_prefix_match", counted)
    assert batch(quick, prompts, max_requests_per_batch=1) == alone(quick, prompts)
    assert max(found) >= 20  # five blocks of the 21 tokens
    found.clear()
    batch(quick, prompts, max_requests_per_batch=1, allow_block_sharing=False)
    assert not any(found)


@pytest.fixture
def forked(monkeypatch):
    """Counts the requests that are forked from another one."""
    fork, count = RequestState.fork, []

    def counted(self, request_id):
        count.append(request_id)
        return fork(self, request_id)

    monkeypatch.setattr(RequestState, "fork", counted)
    return count


def check_forks(model, prompts, forked):
    twice = {**LIKELIEST, "num_return_sequences": 2}
    expected = [answer for answer in alone(model, prompts) for _ in range(2)]
    assert batch(model, prompts, sampling=twice) == expected
    assert len(forked) == len(prompts)
    assert batch(model, prompts, sampling=twice, num_blocks=20) == expected  # some children find no room


@pytest.mark.slow
def test_forks_go_on_where_their_parent_was_with_every_encoding(held, prompts, forked):
    check_forks(held, prompts, forked)


def test_forks_go_on_where_their_parent_was(quick, prompts, forked, started_again):
    check_forks(quick, prompts, forked)
    assert started_again


@pytest.fixture
def restored(monkeypatch):
    """Collects the requests whose keys come back from host memory, which needs no pinned memory here."""
    empty, found = torch.empty, []
    monkeypatch.setattr(torch, "empty", lambda *args, pin_memory=False, **kwargs: empty(*args, **kwargs))
    restore = offloading_manager.OffloadingManager.restore_scheduled_requests

    def counted(self, requests):
        found.extend(each for each in requests if each.state.is_cpu_offloaded)
        return restore(self, requests)

    monkeypatch.setattr(offloading_manager.OffloadingManager, "restore_scheduled_requests", counted)
    return found


SPACE = {"num_blocks": 16, "cpu_offload_space": 0.001, "cpu_offload_space_safety_threshold": 1.0}


def test_keys_in_host_memory_come_back(quick, prompts, restored, started_again):
    assert batch(quick, prompts, **SPACE) == alone(quick, prompts)
    assert restored
    assert not started_again


@pytest.mark.slow
def test_keys_in_host_memory_come_back_with_every_encoding(held, prompts, restored):
    assert batch(held, prompts, **SPACE) == alone(held, prompts)
    assert restored


PADDED = {"q_padding_interval_size": 32, "kv_padding_interval_size": 256}


@pytest.mark.slow
def test_padded_steps_under_dynamo_have_the_same_tokens(quick, prompts):
    """As on an accelerator, where each step has one of a few shapes."""
    compiled = CompileConfig(backend="eager", mode=None, dynamic=False)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    assert batch(quick, prompts, varlen_compile_config=compiled, **PADDED) == alone(quick, prompts)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_padding_of_a_step_changes_nothing(quick, prompts, monkeypatch):
    """The same shapes without dynamo, which takes half a minute."""
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: function)
    expected, lengths = alone(quick, prompts), []
    hook = quick.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        assert batch(quick, prompts, varlen_compile_config=CompileConfig(), **PADDED) == expected
    finally:
        hook.remove()
    assert set(lengths) == {32}


def test_an_answer_ends_at_the_end_of_text(quick, prompts):
    whole = alone(quick, prompts)
    eos = whole[0][4]
    cut = [answer[: answer.index(eos) + 1] if eos in answer else answer for answer in whole]
    assert batch(quick, prompts, eos=eos) == cut


def test_processors_of_logits_stay(quick, prompts):
    """Their arguments stand in front of those of segments."""
    outputs = batch(
        quick, prompts, sampling={**LIKELIEST, "temperature": 0.7, "top_p": 0.9}, per_request_processors=True
    )
    assert outputs == alone(quick, prompts)


def test_a_manager_takes_requests_one_after_the_other(quick, prompts):
    config = GenerationConfig(max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=-1)
    blocks = ContinuousBatchingConfig(num_blocks=64, page_size=4, max_batch_tokens=32, allow_block_sharing=False)
    found = {}
    with quick.continuous_batching_context_manager(config, continuous_batching_config=blocks) as manager:
        for prompt in prompts:
            request = manager.add_request(prompt)
            found[request] = next(manager.request_id_iter(request)).generated_tokens
        assert manager.batch_processor.cache.compute_free_capacity() == 1
    assert list(found.values()) == alone(quick, prompts)


def test_a_request_that_starts_again_is_answered_though_the_others_are_cancelled(quick, prompts, monkeypatch):
    offload = offloading_manager.OffloadingManager.offload_requests
    cancelled = []

    def cancel_the_others(self):
        found = offload(self)
        if self.scheduler.block_new_requests and not cancelled:
            cancelled.extend(self.scheduler.active_requests)
            for request in cancelled:
                self.scheduler.set_request_cancellation(request)
        return found

    monkeypatch.setattr(offloading_manager.OffloadingManager, "offload_requests", cancel_the_others)
    config = GenerationConfig(max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=-1)
    blocks = ContinuousBatchingConfig(num_blocks=8, page_size=4, max_batch_tokens=32, allow_block_sharing=False)
    given = [prompts[1][:12], prompts[3][:12]]
    with quick.continuous_batching_context_manager(config, continuous_batching_config=blocks) as manager:
        requests = manager.add_requests(given)
        output = manager.get_result(timeout=20)
        manager.stop(hard_stop=True)  # or it would wait for a request that nobody answers
    assert cancelled
    (again,) = set(requests) - set(cancelled)
    assert output.request_id == again
    assert output.generated_tokens == alone(quick, given)[requests.index(again)]


def test_a_manager_is_kept(quick, prompts):
    config = GenerationConfig(max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=-1)
    blocks = ContinuousBatchingConfig(num_blocks=64, page_size=4, max_batch_tokens=32)
    given = {"generation_config": config, "continuous_batching_config": blocks, "persistent_manager": True}
    try:
        for _ in range(2):
            answers = [each.generated_tokens for each in quick.generate_batch(prompts, **given).values()]
            assert answers == alone(quick, prompts)
    finally:
        quick.destroy_cached_continuous_batching_manager()


def test_without_the_state_every_answer_is_another(held, prompts, monkeypatch):
    """All prompts come in pieces: a state that says otherwise must show in each, in probabilities if not in tokens."""
    prompts = [prompt for prompt in prompts if len(prompt) > 16]
    in_pieces = {"max_batch_tokens": 8, "return_logprobs": True}
    right = outputs(held, prompts, **in_pieces)
    prepare = SegmentArguments.prepare_tensor_args

    def zeroed(self, requests_in_batch, arg_storage):
        storage = prepare(self, requests_in_batch, arg_storage)
        storage[-len(self.before_any) :].zero_()
        return storage

    monkeypatch.setattr(SegmentArguments, "prepare_tensor_args", zeroed)
    for wrong, expected in zip(outputs(held, prompts, **in_pieces), right, strict=True):
        assert (torch.tensor(wrong.logprobs) - torch.tensor(expected.logprobs)).abs().max() > 1e-2


@pytest.fixture
def counted():
    """The arguments of a model with levels, 30 token ids and the state before each and after the last."""
    config = BipeLlamaConfig(**TINY, **LEVELS)
    ids = torch.randint(1, 59, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    found = Segmenter(config)(SegmentInputs(torch.tensor([ids]))).state.columns()
    arguments = (
        BipeLlamaForCausalLM(config)
        .init_continuous_batching(GenerationConfig(eos_token_id=-1), ContinuousBatchingConfig(num_blocks=4))
        .logit_processor
    )
    return arguments, ids, [arguments.before_any, *torch.stack(found, dim=-1)[0].tolist()]


def state_before(arguments, request, start, length):
    request.position_offset = start + length
    return arguments._states_before([FutureRequestState(request, True, {}, length)])[0]


def test_states_in_front_of_pieces_are_those_of_the_whole_text(counted):
    """A request goes on by pieces, is put back by one token and starts again."""
    arguments, ids, expected = counted
    request = RequestState("one", ids[:20], generated_tokens=ids[20:])
    for start, length in [(0, 7), (7, 1), (8, 14), (21, 1), (22, 8), (29, 1), (0, 3), (3, 26)]:
        assert state_before(arguments, request, start, length) == expected[start]


def test_the_newest_token_need_not_be_known(counted):
    """With asynchronous batching a step is prepared while the one before it runs."""
    arguments, ids, expected = counted
    request = RequestState("one", ids[:20])
    assert state_before(arguments, request, 0, 20) == expected[0]
    for at in range(20, 29):
        assert state_before(arguments, request, at, 1) == expected[at]
        request.generated_tokens.append(ids[at])


def test_a_token_that_nobody_knows_is_an_error(counted):
    arguments, ids, _ = counted
    with pytest.raises(RuntimeError, match="behind tokens that the host does not know yet"):
        state_before(arguments, RequestState("one", ids[:20]), 21, 1)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_texts_in_float16_do_not_see_each_other_over_any_number_of_segments(backend):
    """A bias between texts has either sign and leaves float16; with the mask it must still be as good as minus
    infinity."""
    torch.manual_seed(0)
    fields = {"inter_encoding": "alibi", "segmentation": "tokens", "intra_encoding": "none", "alibi_slope_scale": 96.0}
    model = BipeLlamaForCausalLM(BipeLlamaConfig(**{**TINY, **fields})).eval()
    prompts = [[5] * 3000, [9, 4]]
    expected = [model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1) for prompt in prompts]
    model.half().set_attn_implementation(backend)
    found = model.generate_batch(
        prompts,
        generation_config=GenerationConfig(max_new_tokens=1, do_sample=False, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=32, max_batch_tokens=3002, return_logprobs=True
        ),
    )
    for output, logprobs in zip(found.values(), expected, strict=True):
        assert abs(output.logprobs[0] - float(logprobs[output.generated_tokens[0]])) < 0.02


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inter_encoding": "xpos"}, "'xpos' leaves the range of float16: use bfloat16"),
        ({"inter_encoding": "alibi", "alibi_slope_scale": 1e4}, "too large for float16.*Use bfloat16"),
    ],
    ids=["xpos", "alibi"],
)
def test_a_dtype_that_an_encoding_leaves_is_refused_before_any_request(family, fields, message, tiny_model):
    model = copy.deepcopy(tiny_model(family, **fields)).half()
    with pytest.raises(ValueError, match=message):
        model.init_continuous_batching()
    model.float().init_continuous_batching()


@pytest.mark.parametrize("encoding", ["kerple", "dape", "fox"])
def test_what_no_paged_cache_holds_is_refused(family, encoding, tiny_model):
    model = tiny_model(family, inter_encoding=encoding, **all_key_heads(family))
    for refused in (
        lambda: model.generate_batch([[1, 2, 3]]),
        lambda: model.init_continuous_batching(),
        lambda: model.continuous_batching_context_manager().__enter__(),
    ):
        with pytest.raises(ValueError, match=r"generate_batch.*: inter_encoding=.* Use generate with a padded batch"):
            refused()


@pytest.mark.parametrize("name", ["segment_ids", "inputs_embeds", "attention_mask", "position_ids"])
def test_what_says_more_than_token_ids_is_refused(quick, name):
    with pytest.raises(ValueError, match=f"{name}: generate_batch takes token ids alone.*generate with a padded"):
        quick.generate_batch([[1, 2, 3]], **{name: torch.ones(1, 3, dtype=torch.long)})


def test_generate_with_a_paged_cache_is_refused(quick):
    """transformers would take the padding of its rows for text."""
    with pytest.raises(ValueError, match="cache_implementation='paged' takes padding for text. Call generate_batch"):
        quick.generate(torch.tensor([[1, 2, 3]]), cache_implementation="paged")


def test_a_stock_manager_is_refused(quick, prompts, caplog):
    manager = ContinuousBatchingManager(
        quick,
        GenerationConfig(max_new_tokens=2, do_sample=False, eos_token_id=-1),
        ContinuousBatchingConfig(num_blocks=64, page_size=4, max_batch_tokens=32),
    )
    manager.start()
    request = manager.add_request(prompts[0])
    output = manager.get_result(request, timeout=20)
    manager.stop()
    assert "without the segments of its requests" in output.error


def test_an_ordinary_cache_is_none_of_this(quick, prompts):
    cache = DynamicCache()
    quick(torch.tensor([prompts[1]]), past_key_values=cache)
    assert cache.get_seq_length() == 17
