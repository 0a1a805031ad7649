"""Decoding with drafts gives the tokens of decoding without, or says in one line why not; the model lives on."""

import pytest
import torch
from families import FAMILIES
from tiny import LEVELS, TINY
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from word_tokenizer import make_word_tokenizer

from bipe_hf import BipeTokenizer


ENCODINGS = {
    "rope": {"inter_encoding": "rope"},
    "alibi": {"inter_encoding": "alibi"},
    "hybrid": {"inter_encoding": "hybrid", "hybrid_max_period": 16},
    "kerple": {"inter_encoding": "kerple"},
    "fox": {"inter_encoding": "fox"},
    "levels": LEVELS,
}
SHAPE = {name: TINY[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")}
SHAPE |= {"num_hidden_layers": 3, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
IDS = torch.tensor([[5, 3, 9, 12, 7, 5, 3, 9, 12]])


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def make(family, **fields):
    torch.manual_seed(0)
    return family.make_causal_lm(**{**TINY, **SHAPE, **fields}).eval()


def make_stock(family, **fields):
    torch.manual_seed(0)
    return family.make_stock_causal_lm(**{**SHAPE, "initializer_range": 0.3, **fields}).eval()


@pytest.fixture(params=ENCODINGS)
def model(request, family):
    return make(family, **ENCODINGS[request.param])


def prompt(model):
    """What a `BipeTokenizer` of the model returns."""
    segment_ids = model.get_decoder().segment(IDS).ids()
    return {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "segment_ids": segment_ids}


def generate(model, **kwargs):
    return model.generate(**kwargs, max_new_tokens=12, do_sample=False).tolist()


@pytest.mark.parametrize("drafts", ["stock", "other_segments", "early_exit", "prompt_lookup"])
def test_drafts_change_no_token(family, model, drafts):
    given = prompt(model)
    greedy = generate(model, input_ids=IDS)
    for other in FAMILIES.values():
        how = {
            "stock": {"assistant_model": make_stock(other)},
            "other_segments": {"assistant_model": make(other, separator_token_ids=[5], intra_encoding="none")},
            "early_exit": {"assistant_early_exit": 1},
            "prompt_lookup": {"prompt_lookup_num_tokens": 3},
        }[drafts]
        assert generate(model, **given, **how) == greedy
    assert generate(model, **given) == greedy


def test_a_stock_model_takes_drafts_of_ours(family, model):
    stock = make_stock(family)
    given = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    assert generate(stock, **given, assistant_model=model) == generate(stock, **given)


def test_indices_of_a_longer_text_go_on_beside_drafts(family):
    model = make(family)
    given = prompt(model)
    given["segment_ids"] = given["segment_ids"] * 7
    expected = generate(model, **given)
    assert expected != generate(model, input_ids=IDS)
    for how in ({"assistant_model": make_stock(family)}, {"assistant_early_exit": 2}):
        assert generate(model, **given, **how) == expected


@pytest.mark.parametrize("layers", [0, 4])
def test_an_exit_at_no_layer_is_refused_and_the_model_lives_on(family, layers):
    model = make(family)
    greedy = generate(model, input_ids=IDS)
    with pytest.raises(ValueError, match=f"assistant_early_exit must lie between 1 and 3, .* got {layers}"):
        generate(model, input_ids=IDS, assistant_early_exit=layers)
    assert generate(model, input_ids=IDS) == greedy


def test_an_early_exit_that_is_interrupted_leaves_the_model_whole(family):
    model = make(family)
    greedy = generate(model, input_ids=IDS)

    def interrupt(*args):
        raise KeyboardInterrupt

    hook = model.get_decoder().layers[0].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(model, input_ids=IDS, assistant_early_exit=1)
    hook.remove()
    assert model.config.num_hidden_layers == 3
    assert generate(model, input_ids=IDS) == greedy


def reversed_tokenizer():
    """The words of the tiny tokenizer under other ids."""
    words = make_word_tokenizer().get_vocab()
    backend = Tokenizer(models.WordLevel({word: 59 - at for word, at in words.items()}, unk_token="w00"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return BipeTokenizer.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), [56])


@pytest.mark.parametrize("assistant", ["ours", "stock"])
def test_drafts_in_another_vocabulary_change_no_token(family, assistant):
    model, tokenizer = make(family), make_word_tokenizer()
    given = dict(tokenizer("w05 w03 w09 w12 w07 w05", return_tensors="pt"))
    how = {
        "assistant_model": (make if assistant == "ours" else make_stock)(family, vocab_size=61),
        "tokenizer": tokenizer,
        "assistant_tokenizer": reversed_tokenizer(),
    }
    assert generate(model, **given, **how) == generate(model, **given)
