"""Gradient checkpointing, with and without `use_reentrant`: the gradients are those of a step without it."""

import every_encoding
import pytest
import torch
from families import FAMILIES
from tiny import LEVELS, TINY


ENCODINGS = {
    **every_encoding.ENCODINGS,
    "kerple with levels": {"inter_encoding": "kerple", **LEVELS},
}
IDS = torch.randint(0, 60, (2, 24), generator=torch.Generator().manual_seed(0))


def gradients(family, name, backend, trained="", mask=None, **checkpointing) -> dict[str, torch.Tensor]:
    """Of the parameters whose name holds `trained`; all others are frozen."""
    torch.manual_seed(0)
    model = FAMILIES[family].make_causal_lm(
        **TINY,
        **every_encoding.shape_for(family, name),
        **ENCODINGS[name],
        attn_implementation=backend,
    )
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(trained in parameter_name)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
        model.enable_input_require_grads()
    model(IDS, attention_mask=mask, labels=IDS, use_cache=False).loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ENCODINGS)
def test_every_gradient_is_that_of_a_step_without(family, name, backend, use_reentrant):
    expected = gradients(family, name, backend)
    assert any("inter_encoding" in each for each in expected) == (name.split()[0] in ("kerple", "t5", "fire"))
    found = gradients(family, name, backend, use_reentrant=use_reentrant)
    for unread in found.keys() - expected.keys():  # the last update of TAPE: no gradient, or one of zeros
        assert name == "tape"
        assert not found.pop(unread).any()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["kerple", "t5"])
def test_a_bias_learns_beside_frozen_weights_and_padding(family, name):
    mask = torch.ones_like(IDS)
    mask[0, :5] = 0
    expected = gradients(family, name, "sdpa", "inter_encoding", mask)
    assert expected
    found = gradients(family, name, "sdpa", "inter_encoding", mask, use_reentrant=True)
    torch.testing.assert_close(found, expected)
