"""What happens to a request changes no token: preempted, with drafts, prepared ahead, among others in any order."""

from collections import Counter

import pytest
from families import FAMILIES
from tiny import LEVELS, TINY
from transformers import LlamaConfig, LlamaForCausalLM
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm_engine import engine, random_prompts, tokens_of, tokens_of_generate

from bipe_hf.integrations.vllm import state
from bipe_hf.integrations.vllm.state import BipeModelState


NGRAMS = {"method": "ngram_gpu", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 2}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, saved):
    """A model with as much state as there is: segments and tokens, two inner levels, and columns."""
    return saved(request.param, inter_encoding="axes", hybrid_max_period=20.0, **LEVELS)


@pytest.fixture
def counted(monkeypatch):
    """How many drafts were accepted and rejected, and how many requests preempted."""
    counts = Counter()
    make_stats, preempt = Scheduler.make_spec_decoding_stats, Scheduler._preempt_request

    def counting_stats(self, stats, num_draft_tokens, num_accepted_tokens, *args, **kwargs):
        counts["accepted"] += num_accepted_tokens
        counts["rejected"] += num_draft_tokens - num_accepted_tokens
        return make_stats(self, stats, num_draft_tokens, num_accepted_tokens, *args, **kwargs)

    def counting_preempt(self, *args, **kwargs):
        counts["preempted"] += 1
        return preempt(self, *args, **kwargs)

    monkeypatch.setattr(Scheduler, "make_spec_decoding_stats", counting_stats)
    monkeypatch.setattr(Scheduler, "_preempt_request", counting_preempt)
    return counts


@pytest.fixture
def scheduling_ahead(monkeypatch):
    """vLLM does not schedule a step before the last one is done on a CPU; here it does."""
    update = CpuPlatform.check_and_update_config.__func__

    def keep_asked(cls, vllm_config):
        asked = vllm_config.scheduler_config.async_scheduling
        update(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = asked

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", classmethod(keep_asked))


def test_a_preempted_request_goes_on_as_it_was(model, counted):
    """Three blocks of 32 tokens for four requests of up to 70."""
    model, folder = model
    prompts = random_prompts(25, 40, 20, 60)
    with engine(folder, num_gpu_blocks_override=5, max_model_len=96) as llm:
        assert tokens_of(llm, prompts) == tokens_of_generate(model, prompts)
    assert counted["preempted"]


@pytest.mark.parametrize("is_ahead", [False, True], ids=["in turn", "ahead"])
def test_drafts_change_no_token(model, counted, is_ahead, scheduling_ahead):
    model, folder = model
    prompts = random_prompts(25, 40, 7, 60)
    with engine(folder, speculative_config=NGRAMS, async_scheduling=is_ahead, disable_log_stats=False) as llm:
        assert isinstance(llm.llm_engine.engine_core.engine_core.scheduler, AsyncScheduler) == is_ahead
        assert tokens_of(llm, prompts, 30) == tokens_of_generate(model, prompts, 30)
    assert counted["accepted"] > 20
    assert counted["rejected"] > 20


def test_a_stock_model_may_draft(model, counted, tmp_path):
    model, folder = model
    stock = {**{name: value for name, value in TINY.items() if name in LlamaConfig().to_dict()}, "head_dim": 32}
    LlamaForCausalLM(LlamaConfig(**stock)).save_pretrained(tmp_path)
    drafts = {"method": "draft_model", "model": str(tmp_path), "num_speculative_tokens": 2}
    prompts = random_prompts(25, 40)
    with engine(folder, speculative_config=drafts, disable_log_stats=False) as llm:
        assert tokens_of(llm, prompts) == tokens_of_generate(model, prompts)
    assert counted["rejected"]


def test_steps_prepared_ahead_change_no_token(model, counted, scheduling_ahead):
    model, folder = model
    prompts = random_prompts(25, 40, 7, 60)
    with engine(folder, async_scheduling=True, num_gpu_blocks_override=5, max_model_len=96) as llm:
        assert tokens_of(llm, prompts) == tokens_of_generate(model, prompts)
    assert counted["preempted"]


def test_without_its_state_every_request_differs(model, monkeypatch):
    """The tests here can see a wrong state."""
    model, folder = model
    prepare = BipeModelState.prepare_inputs

    def forgetful(self, *args):
        self.ring.zero_()
        return prepare(self, *args)

    monkeypatch.setattr(BipeModelState, "prepare_inputs", forgetful)
    prompts = random_prompts(25, 40, 7, 60)
    with engine(folder) as llm:
        both = zip(tokens_of(llm, prompts), tokens_of_generate(model, prompts), strict=True)
        assert all(wrong != right for wrong, right in both)


def test_a_ring_of_one_column_is_too_narrow_for_drafts(model, monkeypatch):
    model, folder = model
    monkeypatch.setattr(state, "ring_width", lambda num_speculative_tokens: 1)
    prompts = random_prompts(25, 40, 7, 60)
    with engine(folder, speculative_config=NGRAMS) as llm:
        assert tokens_of(llm, prompts, 30) != tokens_of_generate(model, prompts, 30)
