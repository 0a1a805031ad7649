"""Kernel CABLE: its bias from distances, its gradients and its sums in a cache."""

import pytest
import torch
from families import FAMILIES
from two_rows import (
    CACHES,
    IDS,
    assert_a_cache_goes_on,
    assert_padding_moves_no_token,
    assert_rows_are_repeated_selected_and_reset,
    assert_states_do_not_depend_on_pieces,
)

from bipe_hf.model import logits_bipe
from bipe_hf.model.cable_kernel_bipe import CableKernelLogits
from bipe_hf.model.index_steps_bipe import IndexSteps
from bipe_hf.model.logits_bipe import LogitsBlock


@pytest.fixture(params=["weighted", "released, by token"])
def model(request, tiny_model, family, monkeypatch):
    monkeypatch.setattr(logits_bipe, "QUERIES_IN_A_BLOCK", 8)
    fields = {} if request.param == "weighted" else {"cable_kind": "released", "segmentation": "tokens"}
    return tiny_model(family, inter_encoding="cable_kernel", **fields)


@pytest.mark.parametrize("segmentation", ["separators", "tokens"])
@torch.no_grad()
def test_a_constant_decrement_gives_the_logarithm_of_the_distance(tiny_model, family, segmentation):
    config = tiny_model(family).config.to_diff_dict()
    fields = {"inter_encoding": "cable_kernel", "cable_kind": "unweighted", "segmentation": segmentation}
    model = FAMILIES[family].make_causal_lm(**config | fields).eval()
    seen, slope = [], torch.tensor([0.1, 0.5, 1.0, 3.0])
    for module in model.modules():
        if isinstance(module, CableKernelLogits):
            module.decrements.map.weight.zero_()
            module.decrements.map.bias.copy_(slope)
            module.register_forward_hook(lambda module, given, result: seen.append(result - given[0]))
    model(IDS)
    index = torch.arange(30).expand(2, -1)
    if segmentation == "separators":
        is_separator = torch.isin(IDS, torch.tensor(model.config.separator_token_ids))
        index = is_separator.cumsum(1) - is_separator.long()
    distance = (index[:, :, None] - index[:, None])[:, None]
    expected = -torch.log(1 + (slope[:, None, None] * distance) ** 2)
    assert len(seen) == 2
    for bias in seen:
        torch.testing.assert_close(bias.tril(), expected.tril(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["weighted", "released"])
def test_gradients_are_those_of_differences(kind):
    fields = {"hidden_size": 8, "num_attention_heads": 2, "cable_kind": kind, "inter_encoding": "cable_kernel"}
    config = FAMILIES["llama"].make_config(**fields, separator_token_ids=[0])
    module = CableKernelLogits(config, head_dim=4, num_key_heads=1).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    x, logits = (
        torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((1, 6, 8), (1, 2, 6, 6))
    )
    steps = IndexSteps(torch.tensor([[0, 1, 0, 2, 1, 1]]))
    names, parameters = zip(*module.named_parameters(), strict=True)

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x, logits):
            own = self.module.own_keys(x, steps, None)
            return self.module(logits, LogitsBlock(None, None, None, own, None, None, None, 1.0, own)).tril()

    def result(x, logits, *values):
        given = {f"module.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Whole(), given, (x, logits))

    assert torch.autograd.gradcheck(result, (x, logits, *parameters))


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_goes_on_over_padding_after_crops_and_reordering(model, kind):
    assert_a_cache_goes_on(model, kind)


def test_padding_in_all_places_moves_no_token(model):
    assert_padding_moves_no_token(model)


def test_rows_of_a_cache_are_repeated_selected_and_reset(model):
    assert_rows_are_repeated_selected_and_reset(model)


def test_the_sums_of_a_cache_do_not_depend_on_its_pieces(model):
    assert_states_do_not_depend_on_pieces(model)
