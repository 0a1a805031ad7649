"""PaTH: its formula token by token, limits, and its factors in a cache."""

from itertools import pairwise

import pytest
import torch
from families import FAMILIES
from two_rows import (
    CACHES,
    IDS,
    assert_a_cache_goes_on,
    assert_documents_are_alone,
    assert_rows_are_repeated_selected_and_reset,
)

from bipe_hf.model import logits_bipe, path_bipe
from bipe_hf.model.index_steps_bipe import IndexSteps
from bipe_hf.model.inter_terms_bipe import PairIds
from bipe_hf.model.logits_bipe import attention_with_logits
from bipe_hf.model.path_bipe import PathLogits


VARIANTS = {
    "segments": {},
    "segments, with gates": {"path_gates": "fox"},
    "tokens": {"segmentation": "tokens"},
    "tokens, with gates": {"path_gates": "fox", "segmentation": "tokens"},
}
SEGMENTS = [0, 0, 1, 1, 1, 2, 4, 4, 7]


def make_path(**fields):
    """The module of a layer with four heads and two key heads."""
    config = FAMILIES["llama"].make_config(
        hidden_size=16, num_attention_heads=4, separator_token_ids=[0], inter_encoding="path", **fields
    )
    module = PathLogits(config, 4, 2).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return module


def naive_factors(module, x):
    """Vector and strength of each token, lists of key heads."""
    mapped = [module.up @ (module.down @ token) for token in x]
    found = []
    for t in range(len(x)):
        total = sum(module.taps[:, 2 - back] * mapped[t - back] for back in range(min(t, 2) + 1))
        heads = (total / (1 + torch.exp(-total))).split(4)
        vectors = [head / torch.sqrt(head @ head + 1e-6) for head in heads]
        strengths = 2 / (1 + torch.exp(-(module.strength.weight @ x[t] + module.strength.bias)))
        found.append((vectors, strengths))
    return found


def naive_logits(module, x, query, key, steps, over_tokens, scaling):
    """Of one row; `steps` says by how much the segment of each token is above that of the one before."""
    heads, length, _ = query.shape
    factors = naive_factors(module, x)
    rows = []
    for head in range(heads):
        of_key = head * len(key) // heads
        for i in range(length):
            row = []
            for j in range(length):
                if j > i:
                    row.append(torch.tensor(-torch.inf, dtype=torch.float64))
                    continue
                changed, gates = key[of_key, j], 0.0
                for t in range(j + 1, i + 1):
                    source = t if over_tokens else t - 1
                    w, beta = factors[source][0][of_key], factors[source][1][of_key]
                    if steps[t]:
                        changed = changed - beta * (w @ changed) * w
                    if module.gate is not None:
                        gate = module.gate.weight[head] @ x[source] + module.gate.bias[head]
                        gates = gates - steps[t] * torch.log(1 + torch.exp(-gate))
                row.append((query[head, i] @ changed + gates) * scaling)
            rows.append(torch.stack(row))
    return torch.stack(rows).unflatten(0, (heads, length))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_gradients_are_those_of_the_formula(variant, monkeypatch):
    """In blocks of queries and chunks of keys, and all at once."""
    module, length = make_path(**VARIANTS[variant]), len(SEGMENTS)
    over_tokens = variant.startswith("tokens")
    segments = list(range(length)) if over_tokens else SEGMENTS
    sizes = [0] + [after - before for before, after in pairwise(segments)]
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, length, 16), (1, 4, length, 4), (1, 2, length, 4), (1, 2, length, 4), (1, length, 4, 4)]
    *leaves, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    x, query, key, value = (each.requires_grad_() for each in leaves)
    parameters = list(module.parameters())

    def found(output):
        gradients = torch.autograd.grad((output * upstream).sum(), [x, query, key, value, *parameters])
        return [output.detach(), *gradients]

    logits = naive_logits(module, x[0], query[0], key[0], sizes, over_tokens, scaling=0.5)
    output = logits.softmax(-1) @ value[0].repeat_interleave(2, dim=0)
    expected = found(output.transpose(0, 1)[None])
    ids = PairIds(torch.tensor([segments]), torch.tensor([segments]))
    for backend, size, chunk in (("eager", 99, 64), ("eager", 99, 4), ("sdpa", 4, 3), ("sdpa", 2, 4)):
        monkeypatch.setattr(logits_bipe, "QUERIES_IN_A_BLOCK", size)
        monkeypatch.setattr(path_bipe, "KEYS_IN_A_CHUNK", chunk)
        own = module.own_keys(x, IndexSteps(torch.tensor([sizes])), None)
        given = {"scaling": 0.5, "dropout": 0.0, "backend": backend, "own_queries": own}
        output, _ = attention_with_logits(module, query, key, value, own, None, ids, **given)
        torch.testing.assert_close(found(output), expected, rtol=1e-6, atol=1e-8)


@torch.no_grad()
def assert_same_logits(model, other):
    other.load_state_dict({name: each for name, each in model.state_dict().items() if "layer_logits" not in name})
    torch.testing.assert_close(model(IDS).logits, other(IDS).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("segmentation", ["separators", "tokens"])
def test_factors_without_strength_are_no_encoding(tiny_model, family, segmentation):
    config = tiny_model(family).config.to_diff_dict() | {"segmentation": segmentation}
    model = FAMILIES[family].make_causal_lm(**config | {"inter_encoding": "path"}).eval()
    for module in model.modules():
        if isinstance(module, PathLogits):
            module.strength.weight.data.zero_()
            module.strength.bias.data.fill_(-100.0)
    assert_same_logits(model, FAMILIES[family].make_causal_lm(**config | {"inter_encoding": "none"}).eval())


@pytest.fixture(params=["segments, with gates", "tokens"])
def model(request, tiny_model, family, monkeypatch):
    monkeypatch.setattr(logits_bipe, "QUERIES_IN_A_BLOCK", 8)
    monkeypatch.setattr(path_bipe, "KEYS_IN_A_CHUNK", 8)
    return tiny_model(family, inter_encoding="path", **VARIANTS[request.param])


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_goes_on_over_padding_after_crops_and_reordering(model, kind):
    assert_a_cache_goes_on(model, kind)


def test_padding_and_packing_are_documents_alone(model):
    """Padding in all places; documents shorter than the convolution, with padding inside."""
    assert_documents_are_alone(model)


def test_rows_of_a_cache_are_repeated_selected_and_reset(model):
    assert_rows_are_repeated_selected_and_reset(model)


@torch.no_grad()
def test_factors_stay_exact_over_a_long_text():
    """2,000 reflections, of strength 2, keep the length of a key: float32 against float64."""
    module = make_path(segmentation="tokens")
    module.strength.weight.zero_()
    module.strength.bias.fill_(100.0)
    x = torch.randn(1, 2000, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    query, key = (x[..., at : at + 4][:, None].expand(-1, heads, -1, -1) for at, heads in ((0, 4), (4, 2)))
    outputs = []
    for dtype in (torch.float64, torch.float32):
        own = module.to(dtype).own_keys(x.to(dtype), IndexSteps(torch.ones(1, 2000, dtype=torch.long)), None)
        given = {"scaling": 0.5, "dropout": 0.0, "backend": "sdpa", "own_queries": own}
        ids = PairIds(torch.arange(2000)[None], torch.arange(2000)[None])
        query, key = query.to(dtype), key.to(dtype)
        outputs.append(attention_with_logits(module, query, key, key, own, None, ids, **given)[0])
    torch.testing.assert_close(outputs[1].double(), outputs[0], rtol=0, atol=1e-4)
