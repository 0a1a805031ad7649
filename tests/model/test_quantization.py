"""torchao's int8 weights, on a CPU."""

import pytest
import torch
from families import FAMILIES, HEADS
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, TorchAoConfig


SHAPE = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.1,
}
BIPE = {"separator_token_ids": [3, 7, 11, 19], "max_segment_length": 6, "alibi_slope_scale": 4.0}


def quantized(folder, **options):
    config = TorchAoConfig(Int8WeightOnlyConfig(), **options)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32).eval()


def exact_and_rounded(model, folder):
    model.save_pretrained(folder)
    ids = torch.randint(1, 60, (4, 48), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(ids).logits, quantized(folder)(ids).logits


def pair(family, **fields):
    torch.manual_seed(0)
    stock = FAMILIES[family].make_stock_causal_lm(**SHAPE).eval()
    ours = FAMILIES[family].make_causal_lm(**SHAPE, **BIPE, **fields).eval()
    ours.load_state_dict(stock.state_dict(), strict=False)
    return stock, ours


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_logits_of_plain_rope_are_those_of_the_stock_model(family, tmp_path):
    stock, ours = pair(family, segmentation="tokens", intra_encoding="none")
    expected, actual = exact_and_rounded(stock, tmp_path / "stock"), exact_and_rounded(ours, tmp_path / "ours")
    assert torch.equal(actual[1], expected[1])
    assert not torch.equal(actual[1], actual[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inter_encoding", ["rope", "alibi"])
def test_int8_weights_round_the_logits_as_little_as_in_the_stock_model(family, inter_encoding, tmp_path):
    """Other encodings make another function of the same weights, so the errors are alike and not equal."""
    errors = []
    for name, model in zip(("stock", "ours"), pair(family, inter_encoding=inter_encoding), strict=True):
        exact, rounded = exact_and_rounded(model, tmp_path / name)
        errors.append((rounded - exact).norm() / exact.norm())
    assert 0 < errors[1] < 1.5 * errors[0] < 0.05


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"include_input_output_embeddings": True}], ids=["default", "embeddings_too"])
def test_the_intra_table_is_left_alone(family, options, tmp_path):
    model = FAMILIES[family].make_causal_lm(**SHAPE, **BIPE)
    model.save_pretrained(tmp_path)
    loaded = quantized(tmp_path, **options)
    kinds = {name: type(value).__name__ for name, value in loaded.named_parameters()}
    assert sum(kind == "Int8Tensor" for kind in kinds.values()) >= 4 * SHAPE["num_hidden_layers"]
    name = next(name for name in kinds if "intra_encoding" in name)
    assert kinds[name] == "Parameter"
    assert torch.equal(loaded.get_parameter(name), model.get_parameter(name))


def test_a_quantized_model_saves_loads_and_generates(tmp_path):
    FAMILIES["llama"].make_causal_lm(**SHAPE, **BIPE, eos_token_id=None).save_pretrained(tmp_path / "float")
    model = quantized(tmp_path / "float")
    model.save_pretrained(tmp_path / "int8")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "int8").eval()
    assert type(loaded) is FAMILIES["llama"].head(HEADS[1])
    ids = torch.tensor([[5, 3, 9, 12, 7, 2]])
    sequences = [each.generate(ids, max_new_tokens=8, do_sample=False).tolist() for each in (model, loaded)]
    assert sequences[0] == sequences[1]
    assert len(sequences[0][0]) == 14
