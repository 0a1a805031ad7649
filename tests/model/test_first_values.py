"""First values of what encodings learn: each module has its own, and nothing else depends on them."""

import pytest
import torch
from families import FAMILIES


TINY = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "separator_token_ids": [5, 3],
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def build(family, seed=0, **fields):
    torch.manual_seed(seed)
    return family.make_causal_lm(**TINY, **fields).base_model


def test_the_intra_table_starts_as_it_always_did(family):
    """Computed with version 0.1, whose models the committed results are of."""
    table = build(family).intra_encoding.weight
    first = torch.tensor([-0.0305119175, -0.0150046358, -0.0130796181, -0.0321896933])
    assert torch.equal(table.flatten()[:4], first)
    assert table.double().sum().item() == pytest.approx(-2.42505508284, abs=1e-10)
    assert not torch.equal(build(family, seed=1).intra_encoding.weight, table)


def test_no_two_modules_start_with_the_same_numbers(family):
    """Drawn with one seed, a T5 table was the beginning of the intra table."""
    model = build(family, inter_encoding="t5")
    intra, table = model.intra_encoding.weight.flatten(), model.inter_encoding.table.weight.flatten()
    assert table.std().item() == pytest.approx(intra.std().item(), rel=0.3)
    assert not torch.isclose(table[:16], intra[:16]).any()
    kerple = build(family, inter_encoding="kerple").inter_encoding
    torch.manual_seed(1)  # the number that every module was seeded with
    assert not torch.isclose(kerple.log_r1, torch.empty(2).uniform_(0.01, 2.0).log()).any()
    assert not torch.isclose(kerple.log_r1.exp() / 2, kerple.log_r2.exp(), rtol=0.01).any()


@pytest.mark.parametrize("inter_encoding", ["t5", "kerple"])
def test_first_values_depend_on_the_seed_and_on_nothing_that_was_drawn(family, inter_encoding):
    def learnt(model):
        return [*model.intra_encoding.parameters(), *model.inter_encoding.parameters()]

    expected = learnt(build(family, inter_encoding=inter_encoding))
    torch.manual_seed(0)
    torch.rand(1000)
    again = learnt(family.make_causal_lm(**{**TINY, "num_hidden_layers": 1}, inter_encoding=inter_encoding).base_model)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, expected, strict=True))
    other = learnt(build(family, seed=3, inter_encoding=inter_encoding))
    assert not any(torch.equal(ours, theirs) for ours, theirs in zip(other, expected, strict=True))


@pytest.mark.parametrize("inter_encoding", ["t5", "kerple", "rope"])
def test_encodings_leave_the_other_weights_and_the_random_state_alone(family, inter_encoding):
    plain = build(family, inter_encoding="none", intra_encoding="none").state_dict()
    state = torch.get_rng_state()
    weights = build(family, inter_encoding=inter_encoding).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], expected) for name, expected in plain.items())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("inter_encoding", ["t5", "kerple"])
def test_a_model_that_is_not_on_cuda_does_not_start_cuda(family, device, inter_encoding, monkeypatch):
    def started(*args, **kwargs):
        raise AssertionError("CUDA")

    for name in ("_lazy_init", "get_rng_state", "set_rng_state", "manual_seed", "manual_seed_all", "device_count"):
        monkeypatch.setattr(torch.cuda, name, started)
    monkeypatch.setattr(torch.random, "fork_rng", started)
    with torch.device(device):
        model = family.make_causal_lm(**TINY, inter_encoding=inter_encoding)
    assert {parameter.device.type for parameter in model.parameters()} == {device}
