"""Levels inside segments: indices against a text that is split again and again, and what the model makes of them."""

import gc
from itertools import pairwise

import numpy as np
import pytest
import torch
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LEVELS, TINY
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from bipe_hf import BipeLlamaConfig, BipeTokenizer
from bipe_hf.model.encodings_bipe import encoding_label
from bipe_hf.model.segmentation_bipe import Segmenter, SegmentInputs, segment_tokens


# One letter a token: "w" a word, ".", "," and ";" separators of segments and of two levels in them, "W" the first
# token of a packed document, "_" padding.
LETTERS = "w.,;W_"
SEPARATORS = (".", ",", ";")
property_test = settings(max_examples=200, deadline=None)


def batches(alphabet=LETTERS, max_length=16):
    """Lists of equally long rows of letters."""
    return st.integers(1, max_length).flatmap(
        lambda length: st.lists(st.text(alphabet, min_size=length, max_size=length), min_size=1, max_size=3)
    )


def split(columns, row, separator):
    """Divides columns into runs that end with a separator."""
    runs = [[]]
    for column in columns:
        runs[-1].append(column)
        if row[column] == separator:
            runs.append([])
    return [run for run in runs if run]


def naive_row(row):
    """For each column its index at every level and its place in the innermost unit; -1 and 0 at padding."""
    levels, places = [[-1] * len(SEPARATORS) for _ in row], [0] * len(row)
    documents = [[]]
    for column, letter in enumerate(row):
        if letter == "W":
            documents.append([])
        if letter != "_":
            documents[-1].append(column)

    def number(units, level):
        for index, unit in enumerate(units):
            for column in unit:
                levels[column][level] = index
            if level + 1 < len(SEPARATORS):
                number(split(unit, row, SEPARATORS[level + 1]), level + 1)
            else:
                for place, column in enumerate(unit):
                    places[column] = place

    for document in documents:
        number(split(document, row, SEPARATORS[0]), 0)
    return levels, places


def marks(rows, letters):
    return torch.tensor([[letter in letters for letter in row] for row in rows])


def arguments(rows):
    """What `segment_tokens` is called with; a padding token may well be a separator."""
    return {
        "ends_segment": marks(rows, "._"),
        "inner_ends": (marks(rows, ",_"), marks(rows, ";_")),
        "is_token": marks(rows, "w.,;W"),
        "starts_document": marks(rows, "W"),
    }


def columns_of(named, start, stop):
    cut = {name: value[:, start:stop] for name, value in named.items() if name != "inner_ends"}
    return {**cut, "inner_ends": tuple(ends[:, start:stop] for ends in named["inner_ends"])}


def assert_levels(segments, rows):
    levels, places = zip(*map(naive_row, rows), strict=True)
    assert segments.ids().tolist() == list(levels)
    assert segments.intra_positions.tolist() == list(places)


@pytest.mark.parametrize(
    ("row", "levels", "places"),
    [
        ("w,w.w", [[0, 0], [0, 0], [0, 1], [0, 1], [1, 0]], [0, 1, 0, 1, 0]),
        (",,.,", [[0, 0], [0, 1], [0, 2], [1, 0]], [0, 0, 0, 0]),
        ("w.,w", [[0, 0], [0, 0], [1, 0], [1, 1]], [0, 1, 0, 0]),
        ("ww_,w", [[0, 0], [0, 0], [-1, -1], [0, 0], [0, 1]], [0, 1, 0, 2, 0]),
        ("w,_w", [[0, 0], [0, 0], [-1, -1], [0, 1]], [0, 1, 0, 0]),
        ("w,Ww", [[0, 0], [0, 0], [0, 0], [0, 0]], [0, 1, 0, 1]),
    ],
)
def test_levels_counted_by_hand(row, levels, places):
    named = arguments([row])
    segments = segment_tokens(**{**named, "inner_ends": named["inner_ends"][:1]})
    assert segments.ids().tolist() == [levels]
    assert segments.intra_positions.tolist() == [places]


@property_test
@given(batches())
def test_levels_follow_the_definition(rows):
    assert_levels(segment_tokens(**arguments(rows)), rows)


@property_test
@given(batches("w.,;"))
def test_without_masks_every_token_counts(rows):
    named = arguments(rows)
    assert_levels(segment_tokens(named["ends_segment"], inner_ends=named["inner_ends"]), rows)


@property_test
@given(batches(), st.data())
def test_chunks_continue_from_the_state_before_them(rows, data):
    """Single tokens too, which take a way of their own."""
    named, length = arguments(rows), len(rows[0])
    borders = sorted(data.draw(st.sets(st.integers(1, length))) | {0, length})
    whole, past, chunks = segment_tokens(**named), None, []
    for start, stop in pairwise(borders):
        cut = columns_of(named, start, stop)
        if not cut["starts_document"].any():
            del cut["starts_document"]
        chunk = segment_tokens(**cut, past=past)
        past = chunk.state.last()
        chunks.append(chunk)
    for at, column in enumerate(whole.state.columns()):
        assert torch.equal(torch.cat([chunk.state.columns()[at] for chunk in chunks], dim=1), column)
    assert torch.equal(torch.cat([chunk.ids() for chunk in chunks], dim=1), whole.ids())
    assert torch.equal(torch.cat([chunk.intra_positions for chunk in chunks], dim=1), whole.intra_positions)


@property_test
@given(batches())
def test_given_ids_equal_to_the_derived_ones_change_nothing(rows):
    named = arguments(rows)
    derived = segment_tokens(**named)
    for ids in (derived.segment_ids, derived.ids()):
        repeated = segment_tokens(**named, segment_ids=ids)
        assert torch.equal(repeated.ids(), derived.ids())
        assert torch.equal(repeated.intra_positions, derived.intra_positions)
        assert all(map(torch.equal, repeated.state.columns(), derived.state.columns()))


@property_test
@given(batches("w.,;"), st.data())
def test_given_ids_of_all_levels_override_every_separator(rows, data):
    index = st.integers(0, 2)
    ids = torch.tensor([[[data.draw(index) for _ in SEPARATORS] for _ in row] for row in rows])
    named = arguments(rows)
    segments = segment_tokens(named["ends_segment"], inner_ends=named["inner_ends"], segment_ids=ids)
    assert torch.equal(segments.ids(), ids)
    for given_row, places in zip(ids.tolist(), segments.intra_positions.tolist(), strict=True):
        expected = 0
        for at, place in enumerate(places):
            expected = expected + 1 if at > 0 and given_row[at] == given_row[at - 1] else 0
            assert place == expected


# The tokenizer


VOCABULARY = {letter: at for at, letter in enumerate("w.,;_")}


@pytest.fixture(scope="module")
def tokenizer():
    backend = Tokenizer(models.BPE(VOCABULARY, []))
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="_")
    return BipeTokenizer.from_tokenizer(plain, levels=[["."], [","], [";"]])


@property_test
@given(
    texts=st.lists(st.text("w.,;", max_size=12), min_size=1, max_size=4).filter(any),
    side=st.sampled_from(["left", "right"]),
    tensors=st.booleans(),
)
def test_tokenizer_model_and_definition_agree(tokenizer, texts, side, tensors):
    batch = tokenizer(texts, padding=True, padding_side=side, return_tensors="pt" if tensors else None)
    ids, mask = torch.as_tensor(batch["input_ids"]), torch.as_tensor(batch["attention_mask"])
    config = BipeLlamaConfig(
        vocab_size=5,
        separator_token_ids=tokenizer.separator_token_ids,
        inner_separator_token_ids=tokenizer.inner_separator_token_ids,
    )
    segments = Segmenter(config)(SegmentInputs(ids, mask.bool()))
    longest = max(map(len, texts))
    rows = [text.rjust(longest, "_") if side == "left" else text.ljust(longest, "_") for text in texts]
    assert_levels(segments, rows)
    assert np.asarray(batch["segment_ids"]).tolist() == segments.ids().tolist()
    alone = tokenizer(texts[0])["segment_ids"]
    assert alone == naive_row(texts[0])[0]


def test_padding_later_is_padding_at_once(tokenizer):
    texts = ["w,w;w.w", "w"]
    later = tokenizer.pad([tokenizer(text) for text in texts])
    assert later["segment_ids"] == tokenizer(texts, padding=True)["segment_ids"]
    without = [{"input_ids": tokenizer(text)["input_ids"]} for text in texts]
    assert tokenizer.pad(without)["segment_ids"] == later["segment_ids"]


@property_test
@given(st.text(LETTERS, min_size=1, max_size=16))
def test_packed_documents_and_padding_in_between_are_found_when_padding(tokenizer, row):
    positions = [0]
    for letter in row[1:]:
        positions.append(0 if letter == "W" else positions[-1] + (letter != "_"))
    example = {
        "input_ids": [VOCABULARY[letter.lower()] for letter in row],
        "attention_mask": [int(letter != "_") for letter in row],
        "position_ids": positions,
    }
    assert tokenizer.pad([example])["segment_ids"] == [naive_row(row)[0]]


def test_tokens_of_a_unit_share_their_indices(tokenizer):
    """A list for each token took twice as long as tokenizing, most of it in Python's collector of garbage."""
    ids = tokenizer(["w,w;www.", "ww"])["segment_ids"]
    assert [len({id(indices) for indices in each}) for each in ids] == [3, 1]  # "w,", "w;", "www."; "ww"
    ids = tokenizer(["ww,w"] * 50)["segment_ids"]
    assert len({id(indices) for each in ids for indices in each}) == 2
    assert ids == [tokenizer("ww,w")["segment_ids"]] * 50


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_collector_of_garbage_is_left_as_it_was(tokenizer, is_enabled):
    (gc.enable if is_enabled else gc.disable)()
    try:
        tokenizer("w,w;w.")
        assert gc.isenabled() == is_enabled
    finally:
        gc.enable()


def test_levels_are_saved_and_loaded(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, BipeTokenizer)
    assert loaded.levels == tokenizer.levels == [["."], [","], [";"]]
    assert loaded.inner_separator_token_ids == [[2], [3]]
    assert loaded("w,w;w.w")["segment_ids"] == tokenizer("w,w;w.w")["segment_ids"]
    assert "segment_ids" not in loaded.without_segments()("w,w")


def test_one_level_is_what_separators_are(tokenizer):
    one, same = (
        BipeTokenizer.from_tokenizer(tokenizer, **given) for given in ({"levels": [["."]]}, {"separators": ["."]})
    )
    assert one("w.w,w") == same("w.w,w")
    assert one.inner_separator_token_ids == same.inner_separator_token_ids == []


def presets_of(*tokens, special=(), **named):
    """For each level preset, the tokens of a vocabulary that end its units."""
    backend = Tokenizer(models.WordLevel({token: at for at, token in enumerate((*tokens, *special))}))
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=list(special), **named)

    def ends(preset):
        ids = BipeTokenizer.from_tokenizer(plain, levels=[preset]).separator_token_ids
        return set(plain.convert_ids_to_tokens(ids))

    return ends


def test_presets_by_hand():
    tokens = ["a", " b", ",", "x,y", "\t", ";", "|", ":", "}", "}\n", "\n", "\r\n", "\n\n", "\n  \n", "\f", '",', '":']
    ends = presets_of(*tokens)
    lines = {"}\n", "\n", "\r\n", "\n\n", "\n  \n", "\f"}
    assert ends("lines") == lines
    assert ends("paragraphs") == {"\n\n", "\n  \n", "\f"}
    assert ends("objects") == lines | {"}"}
    assert ends("fields") == lines | {",", "x,y", "\t", ";", "|", '",'}
    assert ends("values") == lines | {",", "x,y", ":", '",', '":'}
    assert ends("words") == lines | {" b", "\t"}


def test_turns_end_at_the_tokens_of_chat_templates():
    ends_turn = [
        "<|im_end|>",
        "<|eot_id|>",
        "<end_of_turn>",
        "<|end|>",
        "<|return|>",
        "<|endoftext|>",
        "</s>",
        "[/INST]",
    ]
    goes_on = [
        "<|im_start|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<start_of_turn>",
        "<pad>",
        "[INST]",
        "</think>",
    ]
    ends = presets_of("a", "end", special=(*ends_turn, *goes_on))
    assert ends("turns") == ends("words") == set(ends_turn)
    assert presets_of("a", "<stop>", eos_token="<stop>")("turns") == {"<stop>"}


def test_json_stands_for_two_levels():
    backend = Tokenizer(models.WordLevel({token: at for at, token in enumerate(["a", "}", "\n", ":", ","])}))
    tokenizer = BipeTokenizer.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), levels=["json"])
    assert tokenizer.levels == ["objects", "values"]
    assert (tokenizer.separator_token_ids, tokenizer.inner_separator_token_ids) == ([1, 2], [[2, 3, 4]])


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("lines", "levels: 'lines' is not accepted; give a list of separators"),
        ([], "levels: .* is not accepted"),
        (["linse"], "levels: 'linse' is not accepted"),
        ([["."], "lines"], "levels: 'lines' finds no separator in this vocabulary, so it is no level"),
        (
            [[".", ","], ["."]],
            r"levels: \['.'\] ends nothing that no coarser level ends, .*: give levels coarse to fine",
        ),
    ],
)
def test_levels_that_do_not_fit_are_errors(tokenizer, levels, message):
    with pytest.raises(ValueError, match=message):
        BipeTokenizer.from_tokenizer(tokenizer, levels=levels)


def test_separators_beside_levels_are_an_error(tokenizer):
    with pytest.raises(ValueError, match="the first of the levels are the separators"):
        BipeTokenizer.from_tokenizer(tokenizer, separators=["."], levels=[["."]])
    with pytest.raises(ValueError, match="several|`levels` takes it"):
        BipeTokenizer.from_tokenizer(tokenizer, separators="json")


# The configuration


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_keeps_its_levels(family, tmp_path):
    config = FAMILIES[family].make_config(**TINY, **LEVELS)
    assert config.inner_separator_token_ids == LEVELS["inner_separator_token_ids"]
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).inner_separator_token_ids == LEVELS["inner_separator_token_ids"]
    with pytest.raises(ValueError, match="cannot be changed in place"):
        config.inner_separator_token_ids.append([1])
    with pytest.raises(ValueError, match="cannot be changed in place"):
        config.inner_separator_token_ids[0].append(1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inner_separator_token_ids": [[1], []]}, r"inner_separator_token_ids\[1\] is empty"),
        ({"inner_separator_token_ids": [[1], [60]]}, r"inner_separator_token_ids\[1\] must lie in the vocabulary"),
        ({**LEVELS, "max_inner_index": 0}, "max_inner_index must be at least 1 unit, got 0"),
        ({**LEVELS, "segmentation": "tokens"}, "inner_separator_token_ids must be empty here: only segmentation"),
        ({**LEVELS, "intra_encoding": "none"}, "inner_separator_token_ids must be empty here: only intra_encoding"),
    ],
)
def test_levels_that_nothing_could_use_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        BipeLlamaConfig(**{**TINY, **fields})


@pytest.mark.parametrize("name", ["bipe_levels", "bipe_levels_hybrid", "bipe_levels_axes"])
def test_an_encoding_with_levels_takes_them_from_the_tokenizer(name):
    backend = Tokenizer(models.WordLevel({token: at for at, token in enumerate(["a", "\n", ",", ";"])}))
    plain = PreTrainedTokenizerFast(tokenizer_object=backend)
    config = BipeLlamaConfig.for_encoding(name, tokenizer=plain, train_length=64)
    assert (config.separator_token_ids, config.inner_separator_token_ids) == ([1], [[1, 2, 3]])
    assert encoding_label(config).endswith("with levels")
    own = BipeTokenizer.from_tokenizer(plain, levels=[["\n"], [","], [";"]])
    assert BipeLlamaConfig.for_encoding(name, tokenizer=own, train_length=64).inner_separator_token_ids == [[2], [3]]
    with pytest.raises(ValueError, match="has inner levels, the tokenizer none"):
        BipeLlamaConfig.for_encoding(name, tokenizer=BipeTokenizer.from_tokenizer(plain, "lines"), train_length=64)
    with pytest.raises(ValueError, match="has no inner levels, the tokenizer has"):
        BipeLlamaConfig.for_encoding("bipe_rope", tokenizer=own)


# The model


def with_levels(family, **fields):
    torch.manual_seed(0)
    return FAMILIES[family].make_causal_lm(**{**TINY, **LEVELS, **fields}).eval()


def naive_intra(model, levels, place):
    """What the levels of one token add to its embedding, in float64."""
    base, config = model.base_model, model.config
    if config.intra_encoding == "learned":
        rows = [table.weight[min(i, 2)] for table, i in zip(base.inner_encodings, levels[1:], strict=True)]
        return sum(row.double() for row in (*rows, base.intra_encoding.weight[min(place, 5)]))
    parts = []
    for index, dimensions, rows in ((levels[1], 10, 3), (levels[2], 10, 3), (place, 12, 6)):
        angles = [min(index, rows - 1) / 10000 ** (2 * i / dimensions) for i in range(dimensions // 2)]
        parts += [np.sin(angles), np.cos(angles)]
    return torch.from_numpy(np.concatenate(parts))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("intra_encoding", ["learned", "sinusoidal"])
def test_every_level_adds_its_vector(family, intra_encoding):
    """The model without intra encoding, given the embeddings with all vectors added, computes the same."""
    model = with_levels(family, intra_encoding=intra_encoding)
    ids = torch.randint(1, 60, (2, 40), generator=torch.Generator().manual_seed(1))
    plain = with_levels(family, intra_encoding="none", inner_separator_token_ids=[])
    plain.load_state_dict({name: each for name, each in model.state_dict().items() if name in plain.state_dict()})
    segments = model.base_model.segment(ids)
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(ids).double()
        for row, levels in enumerate(segments.ids().tolist()):
            for column, each in enumerate(levels):
                place = segments.intra_positions[row, column].item()
                embeddings[row, column] += naive_intra(model, each, place)
        expected = plain(inputs_embeds=embeddings.float(), segment_ids=segments.segment_ids).logits
        assert segments.ids().amax(dim=(0, 1)).min() > 2  # indices beyond the tables are among them
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=0)


def test_segment_ids_of_the_wrong_shape_name_both(tiny_model):
    model = tiny_model(**LEVELS)
    ids = torch.zeros(2, 5, dtype=torch.long)
    with pytest.raises(
        ValueError, match=r"shape \(2, 5\) or one for each of its 3 levels, shape \(2, 5, 3\), got \(2, 5, 2\)"
    ):
        model(ids, segment_ids=torch.zeros(2, 5, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="without the ids of inner levels"):
        model(inputs_embeds=model.get_input_embeddings()(ids), segment_ids=ids)


def test_first_values_do_not_depend_on_levels():
    """Every table draws for itself: models of one seed differ in what levels add and in nothing else."""
    model, plain = with_levels("llama"), with_levels("llama", inner_separator_token_ids=[])
    own, other = model.state_dict(), plain.state_dict()
    assert own.keys() - other.keys() == {"model.inner_encodings.0.weight", "model.inner_encodings.1.weight"}
    assert all(torch.equal(own[name], each) for name, each in other.items())
    first, second = (own[f"model.inner_encodings.{at}.weight"] for at in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_computes_the_same(family, tmp_path):
    model = with_levels(family)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(1, 60, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_table(family):
    model = with_levels(family)
    model.gradient_checkpointing_enable()
    model.train()
    ids = torch.randint(1, 60, (2, 150), generator=torch.Generator().manual_seed(1))
    model(ids, labels=ids).loss.backward()
    for table in model.base_model.inner_encodings:
        assert (table.weight.grad.abs().amax(-1) > 0).all()


def test_a_document_is_a_parent_as_well(tiny_model):
    """Without segments the units of a level are counted over the document."""
    model = tiny_model(segmentation="document", inner_separator_token_ids=[[3]], max_inner_index=8)
    segments = model.base_model.segment(torch.tensor([[5, 3, 3, 5, 5]]))
    assert segments.ids().tolist() == [[[0, 0], [0, 0], [0, 1], [0, 2], [0, 2]]]
    assert segments.intra_positions.tolist() == [[0, 1, 0, 0, 1]]
