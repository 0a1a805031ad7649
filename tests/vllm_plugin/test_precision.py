"""bfloat16 in vLLM is as near to float32 as that of stock Llama."""

import pytest
import torch
from tiny import TINY
from transformers import LlamaConfig, LlamaForCausalLM
from vllm_engine import engine, random_prompts, run


SHAPE = {"num_key_value_heads": 2, "head_dim": 32}  # the narrowest head that vLLM's kernel has
PROMPTS = random_prompts(80, 90, 100, 110)


@torch.no_grad()
def mean_difference(model, folder) -> float:
    """Of log-probabilities of the tokens of the prompts, in vLLM in bfloat16 and in transformers in float32."""
    differences = []
    with engine(folder, dtype="bfloat16") as llm:
        outputs = run(llm, PROMPTS, max_tokens=1, prompt_logprobs=0)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        exact = model(torch.tensor([prompt])).logits[0].log_softmax(-1)[:-1]
        exact = exact.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
        found = [entry[token].logprob for token, entry in zip(prompt[1:], output.prompt_logprobs[1:], strict=True)]
        differences.append((torch.tensor(found) - exact).abs())
    return torch.cat(differences).mean().item()


@pytest.fixture(scope="module")
def stock_difference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    torch.manual_seed(0)
    fields = {name: value for name, value in TINY.items() if name in LlamaConfig().to_dict()}
    model = LlamaForCausalLM(LlamaConfig(**fields, **SHAPE)).eval()
    model.save_pretrained(folder)
    return mean_difference(model, folder)


@pytest.mark.parametrize(
    "fields",
    [{"inter_encoding": "rope"}, {"inter_encoding": "alibi"}, {"inter_encoding": "hybrid", "hybrid_max_period": 20.0}],
    ids=lambda fields: fields["inter_encoding"],
)
def test_bfloat16_is_as_near_to_float32_as_that_of_stock_llama(fields, saved, stock_difference):
    assert mean_difference(*saved("llama", **SHAPE, **fields)) <= stock_difference
