"""What a forward does beyond a stock model's: positions once, for all layers, and nothing on the host."""

import pytest
import torch
from families import FAMILIES
from operations import READS_A_VALUE, Operations


SHAPE = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
IDS = torch.randint(1, 60, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def operations_of(model, step):
    """How often each operation runs in one step."""
    model.train(step == "training")
    cache = model(IDS).past_key_values if step == "decoding" else None
    with Operations() as operations:
        if step == "training":
            model(IDS, labels=IDS, use_cache=False).loss.backward()
        else:
            model(IDS[:, :1], attention_mask=torch.ones(2, 25, dtype=torch.long), past_key_values=cache)
    return operations.counts


def model_of(family, encoding, layers):
    if encoding == "stock":
        return family.make_stock_causal_lm(**SHAPE, num_hidden_layers=layers)
    bipe = {"inter_encoding": encoding, "separator_token_ids": [3, 7, 11]}
    if encoding == "levels":
        bipe |= {"inter_encoding": "rope", "inner_separator_token_ids": [[2, 5], [8]]}
    if encoding == "hybrid":
        bipe |= {"hybrid_max_period": 16.0}
    return family.make_causal_lm(**SHAPE, num_hidden_layers=layers, **bipe)


@pytest.mark.parametrize("step", ["training", "decoding"])
def test_a_layer_does_no_more_than_one_of_the_stock_model(family, step):
    """Each added layer adds as many operations as in a stock model; with ALiBi fewer, as nothing is rotated."""
    added = {}
    for encoding in ("stock", "rope", "alibi"):
        few, many = (operations_of(model_of(family, encoding, layers), step).total() for layers in (2, 5))
        added[encoding] = many - few
    assert added["rope"] <= added["stock"]
    assert added["alibi"] < added["stock"]


@pytest.mark.parametrize("step", ["training", "decoding"])
@pytest.mark.parametrize("encoding", ["rope", "alibi"])
def test_no_value_is_read_on_the_host_that_a_stock_model_does_not_read(family, encoding, step):
    """On a GPU that would wait for all that was queued before.

    A stock model asks whether a mask is all ones and, to train, whether positions are packed.
    """
    stock, ours = (operations_of(model_of(family, each, 2), step)[READS_A_VALUE] for each in ("stock", encoding))
    assert stock == 1
    assert ours == (1 if step == "decoding" else 0)


def test_the_operations_of_segmentation_run_once(family):
    counts = operations_of(model_of(family, "rope", 5), "training")
    assert counts["aten.cummax.default"] == 1
    assert counts["aten.cos.default"] == 1


@pytest.mark.parametrize(("encoding", "most"), [("rope", 24), ("alibi", 24), ("hybrid", 70), ("levels", 48)])
def test_a_step_of_decoding_runs_few_operations_beyond_those_of_the_stock_model(family, encoding, most):
    """At two layers, where each shows; with a mask, which `generate` hands over."""
    stock, ours = (operations_of(model_of(family, each, 2), "decoding").total() for each in ("stock", encoding))
    assert ours <= stock + most
