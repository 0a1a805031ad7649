"""What BiPE models do not do is refused with its reason, and what stands beside it works."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from families import FAMILIES, HEADS
from tiny import TINY
from transformers import AttentionInterface, AutoModelForCausalLM, DynamicCache, QuantizedCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward


FP8 = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}


def prompt():
    ids = torch.randint(1, 60, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generate(model, **kwargs):
    return model.generate(**prompt(), do_sample=False, max_new_tokens=8, pad_token_id=0, **kwargs)


@pytest.mark.parametrize("head", HEADS)
def test_a_server_that_asks_is_told_no(family, head):
    """`is_backend_compatible` is what vLLM and SGLang call on the class that `auto_map` names."""
    assert not FAMILIES[family].head(head).is_backend_compatible()
    assert FAMILIES[family].stock_head(head).is_backend_compatible()


@pytest.mark.parametrize(
    "load",
    [
        lambda model, folder, **kwargs: AutoModelForCausalLM.from_config(copy.deepcopy(model.config), **kwargs),
        lambda model, folder, **kwargs: AutoModelForCausalLM.from_pretrained(folder, **kwargs),
        lambda model, folder, attn_implementation: model.set_attn_implementation(attn_implementation),
    ],
    ids=["from_config", "from_pretrained", "set_attn_implementation"],
)
@pytest.mark.parametrize("server", ["vllm", "sglang", "tgi"])
def test_a_server_that_does_not_ask_is_refused_with_its_attention(model, load, server, monkeypatch, tmp_path):
    monkeypatch.setitem(AttentionInterface._global_mapping, server, sdpa_attention_forward)  # as a server registers it
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"attn_implementation='{server}': an inference server decodes without"):
        load(model, tmp_path, attn_implementation=server)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("head", HEADS)
def test_a_gguf_file_is_refused(family, head, tmp_path):
    with pytest.raises(ValueError, match=r"gguf_file='model.gguf': GGUF has no architecture with segments"):
        FAMILIES[family].head(head).from_pretrained(tmp_path, gguf_file="model.gguf")


@pytest.mark.parametrize("inter_encoding", ["alibi", "hybrid"])
def test_a_quantized_cache_is_refused_with_alibi(family, inter_encoding, tiny_model):
    model = tiny_model(family, inter_encoding=inter_encoding, hybrid_max_period=20.0)
    refusal = pytest.raises(
        ValueError, match=f"a quantized cache rounds the columns that inter_encoding='{inter_encoding}'"
    )
    with refusal:
        generate(model, **FP8)
    with refusal:
        model(**prompt(), past_key_values=QuantizedCache("fp8", config=model.config))


def test_a_quantized_cache_works_with_rope_as_in_the_stock_model(family, tiny_model):
    model = tiny_model(family, segmentation="tokens", intra_encoding="none")
    ours = set(model.config.to_dict()) - set(FAMILIES[family].stock_config().to_dict())
    stock = FAMILIES[family].make_stock_causal_lm(**{k: v for k, v in TINY.items() if k not in ours}).eval()
    stock.load_state_dict(model.state_dict())
    assert torch.equal(generate(model, **FP8), generate(stock, **FP8))


def test_segments_stay_exact_in_a_quantized_cache(family, tiny_model):
    """The history is a layer of its own, with integers: a step goes on in the segment where the prompt ended."""
    model = tiny_model(family)
    ids = prompt()["input_ids"]
    cache, plain = QuantizedCache("fp8", config=model.config), DynamicCache(config=model.config)
    with torch.inference_mode():
        for each in (cache, plain):
            model(ids[:, :-1], past_key_values=each)
        assert torch.equal(cache.layers[-1].states, plain.layers[-1].states)
        step = model(ids[:, -1:], past_key_values=cache).logits
        whole = model(ids).logits[:, -1:]
        embeddings = model.get_input_embeddings()(ids)
        wrong = model(inputs_embeds=embeddings, segment_ids=torch.zeros_like(ids)).logits[:, -1:]
    # keys of 8 bits move the logits too, but by far less
    assert (step - whole).abs().max() < 0.25 * (step - wrong).abs().max()


def test_heads_that_are_split_over_devices_are_refused_with_alibi(family):
    model = FAMILIES[family].make_causal_lm(**TINY, inter_encoding="alibi").eval()
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "k_proj", "v_proj", "query_key_value")):
            for parameter in module.parameters():
                parameter.data = parameter.data[: len(parameter) // 2]
    with pytest.raises(ValueError, match="columns for each of 4 heads, attention got 2: tensor parallelism is not"):
        model(prompt()["input_ids"])


IN_TWO_PROCESSES = """
import sys
import torch
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig
import bipe_hf

folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=DistributedConfig(tp_plan="auto")).eval()
assert model.tp_size == 2
inputs = torch.load(f"{folder}/inputs.pt")
generated = model.generate(**inputs, do_sample=False, max_new_tokens=8, pad_token_id=0)
with torch.inference_mode():
    logits = model(**inputs).logits
torch.save((logits, generated), f"{folder}/rank{torch.distributed.get_rank()}.pt")
"""


@pytest.mark.slow
def test_tensor_parallelism_changes_nothing_with_rope(family, tiny_model, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    torch.save(prompt(), tmp_path / "inputs.pt")
    (tmp_path / "load.py").write_text(IN_TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "load.py"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for rank in range(2):
        logits, generated = torch.load(tmp_path / f"rank{rank}.pt")
        with torch.inference_mode():
            expected = model(**prompt()).logits
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(generated, generate(model))
