"""BipeTokenizer: which tokens end a segment, and the segment ids that follow from it."""

# ruff: noqa: RUF001 -- text in many scripts holds characters that look like others

import json
import logging
import pickle
import unicodedata
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    DataCollatorWithPadding,
    LlamaConfig,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
)

from bipe_hf import BipeLlamaConfig, BipeTokenizer
from bipe_hf.model.marks_bipe import PRESET_PATTERNS
from bipe_hf.model.segmentation_bipe import document_starts, segment_tokens
from bipe_hf.model.separators_bipe import PRESETS as ALL_PRESETS


PRESETS = ("sentences", "lines", "clauses")

LINES = [
    'He said: "It is late." She (who knew) left at 3.14, by example.com!\n',
    "Where to? Nowhere; the end...\nNext line,\tplease.\n",
    "今天天气很好。你呢？「好，走吧！」\n",
    "यह सच है। क्यों?\n",
    "\u0647\u0644 \u0647\u0630\u0627 \u0635\u062d\u064a\u062d\u061f \u0646\u0639\u0645\u060c \u0647\u0630\u0627.\n",
    "Это правда. Да!\n",
]


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's kind: byte alphabet, eos before each text, a chat template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(LINES * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<eos> $A", pair="<eos> $A <eos> $B", special_tokens=[("<eos>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<eos>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=64,
        padding_side="left",
        truncation_side="left",
        chat_template="{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}",
    )


def llama_vocabulary() -> dict[str, int]:
    """Ids as in Llama's where it matters: three special tokens, 256 bytes, and a detached dot at 869."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", ".", '."', ".com", "!"]
    tokens += [chr(code) for code in (*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1))]
    tokens += [f"filler{number}" for number in range(869 - len(tokens))]
    return {token: number for number, token in enumerate([*tokens, "▁."])}


@cache
def llama_like() -> PreTrainedTokenizerFast:
    """Llama's kind: metaspaces, bytes for what is not in the vocabulary, bos before each text."""
    merges = [("▁", ".")]
    backend = Tokenizer(models.BPE(llama_vocabulary(), merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@cache
def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece's kind with metaspaces and no bytes."""
    pieces = ["<unk>", "</s>", "▁", ".", "▁.", "。", "।", "\n", "?", "!", ",", '"', ".com", "...", "▁the"]
    letters = sorted({letter for line in LINES for letter in line if letter not in pieces and letter != " "})
    backend = Tokenizer(models.Unigram([(piece, -float(len(piece))) for piece in pieces + letters], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="</s>")


@cache
def word_piece() -> PreTrainedTokenizerFast:
    """BERT's kind: continuations, token types, special tokens on both ends."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    backend.train_from_iterator(LINES, trainer)
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


KINDS = {"byte_level": byte_level, "llama_like": llama_like, "unigram": unigram, "word_piece": word_piece}


@cache
def wrapped(kind: str, segmentation: str = "sentences") -> BipeTokenizer:
    return BipeTokenizer.from_tokenizer(KINDS[kind](), segmentation)


def vocabulary_of(*tokens: str) -> PreTrainedTokenizerFast:
    """A vocabulary of exactly these tokens, each standing for itself."""
    backend = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def separators(tokenizer: PreTrainedTokenizerFast, segmentation) -> set[str]:
    """The separators as they stand in the vocabulary."""
    ids = BipeTokenizer.from_tokenizer(tokenizer, segmentation).separator_token_ids
    return set(tokenizer.convert_ids_to_tokens(ids))


def naive_segment_ids(tokenizer: BipeTokenizer, input_ids, attention_mask) -> list[int]:
    """The definition, token by token: how many real separators stand strictly before it."""
    ids, mask = list(map(int, input_ids)), list(map(int, attention_mask))
    return [
        sum(mask[u] and ids[u] in tokenizer.separator_token_ids for u in range(t)) if mask[t] else -1
        for t in range(len(ids))
    ]


def assert_segments_are_counted(tokenizer: BipeTokenizer, encoded) -> None:
    rows = zip(encoded["input_ids"], encoded["attention_mask"], encoded["segment_ids"], strict=True)
    for input_ids, attention_mask, segment_ids in rows:
        assert list(segment_ids) == naive_segment_ids(tokenizer, input_ids, attention_mask)


# Which tokens end a segment


# fmt: off
ENDINGS = [
    ".", " .", "!", "?", "...", "?!", "…", '."', ".'", ".”", ".»", "?)", ".]", '!")', "etc.", "1.", ". ", ". The",
    "。", "。」", "！", "。但", "।", "\u061f \u0646", '."\n', "\n", "});\n",
    ".**", "!**", "?*", ".***", ".)**", '**."', ".~~", ".~", "!~~", ".`", ").`", ".[", ".[^", ".</", "!</", "?</",
    ".</p", ".<", ".](", "…**", "\v", "\f",
]
NO_ENDINGS = [
    ".com", "3.14", "../", ".,", "!=", "?>", ".(", ".\ufffd", "…and", ",", ";", ":", '"', "\t", "a", " ", "、",
    "![", "?[", "<!--", "._", ".__", "**", "`", ".**x", "?:", "!~", "](", ":**",
]
SENTENCE_MARKS = {
    "Latin": ".", "Greek": "\u037e", "Armenian": "։", "Hebrew verse": "\u05c3", "Arabic": "\u061f", "Urdu": "\u06d4",
    "Syriac": "\u0700", "N'Ko": "\u07f9", "Devanagari": "।", "Devanagari verse": "॥", "Tibetan": "།", "Burmese": "။",
    "Ethiopic": "።", "Ethiopic question": "፧", "Canadian syllabics": "᙮", "Khmer": "។", "Khmer end of text": "៕",
    "Mongolian": "᠃", "Ol Chiki": "᱾", "Lisu": "꓿", "Vai": "꘎", "Javanese": "꧉", "Meetei Mayek": "꯫",
    "Chinese and Japanese": "。", "half-width": "｡", "full-width dot": "．", "full-width exclamation": "！",
    "full-width question": "？",
}
# fmt: on


@pytest.mark.parametrize("token", ENDINGS)
def test_a_token_that_ends_a_sentence_separates_sentences(token):
    assert separators(vocabulary_of(token, "x"), "sentences") == {token}


@pytest.mark.parametrize("token", NO_ENDINGS)
def test_a_token_that_goes_on_after_the_mark_does_not_separate_sentences(token):
    assert separators(vocabulary_of(token, "."), "sentences") == {"."}


@pytest.mark.parametrize("script", SENTENCE_MARKS)
def test_full_stops_of_the_worlds_scripts_separate_sentences(script):
    mark = SENTENCE_MARKS[script]
    assert separators(vocabulary_of(mark, "x"), "sentences") == {mark}


@pytest.mark.parametrize(
    "newline", ["\n", "\v", "\f", "\r", "\r\n", "\x85", "\u2028", "\u2029", "\n\n    ", "}\n", "\nThe"]
)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_token_that_holds_a_newline_separates_in_every_preset(preset, newline):
    assert separators(vocabulary_of(newline, "x"), preset) == {newline}


def test_lines_are_separated_by_newlines_alone():
    assert separators(vocabulary_of("\n", ".", "。", ",", "\t", "\x1c", "a"), "lines") == {"\n"}


def test_clauses_are_separated_by_commas_colons_quotes_and_tabs_of_many_scripts():
    marks = {",", ";", ":", '"', "'", "\t", "“", "”", "’", "«", "»", "「", "」"}
    marks |= {
        "，",
        "、",
        "；",
        "：",
        "\u060c",
        "\u061b",
        "፣",
        "፤",
        "፥",
        "՝",
        "៖",
    }
    marks |= {",”", "':", " (),", 'x="', "，但", ".", "!?", "。", "।", "\n", ":**", ",*", ";</", ",~~", ".`"}
    others = {"'s", '"name', "1,000", "12:30", "a", "-", "(", "*", "http://", "፡", ":`", ",[", "**"}
    assert separators(vocabulary_of(*sorted(marks | others)), "clauses") == marks


@pytest.mark.parametrize("kind", KINDS)
def test_lines_are_among_sentences_and_sentences_among_clauses(kind):
    lines, sentences, clauses = (set(wrapped(kind, preset).separator_token_ids) for preset in ("lines", *PRESETS[::2]))
    assert lines <= sentences < clauses


def byte_level_vocabulary(*merged: str, decoder: bool = True) -> PreTrainedTokenizerFast:
    """All bytes, and each text of `merged` as one more token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = backend.get_vocab()
    merges = []
    for text in merged:
        first, *rest = backend.pre_tokenizer.pre_tokenize_str(text)[0][0]
        for letter in rest:
            merges.append((first, letter))
            first += letter
            vocabulary.setdefault(first, len(vocabulary))
    backend.model = models.BPE(vocabulary, merges)
    if decoder:
        backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("decoder", [True, False])
def test_byte_level_tokens_are_read_as_the_bytes_they_stand_for(decoder):
    tokenizer = byte_level_vocabulary("。", " .", ".com", ".\n", decoder=decoder)
    found = BipeTokenizer.from_tokenizer(tokenizer, "sentences").separator_token_ids
    texts = ("。", " .", ".\n", ".", "!", "?", "\n", "\v", "\f", "\r")
    expected = {id_ for text in texts for id_ in tokenizer.encode(text)}
    assert set(found) == expected
    assert len(expected) == 10


def test_a_mark_split_over_byte_tokens_is_no_separator():
    tokenizer = byte_level_vocabulary()
    assert len(tokenizer.encode("。")) == 3
    assert not set(tokenizer.encode("。")) & set(BipeTokenizer.from_tokenizer(tokenizer).separator_token_ids)


def ends_in_one_token(*texts: str) -> PreTrainedTokenizerFast:
    """All bytes; the last two bytes of each text are one token, and all of its bytes but for those of the first."""
    tokenizer = byte_level_vocabulary()
    vocabulary, merges = tokenizer.get_vocab(), []
    for text in texts:
        *begin, one, two = tokenizer.tokenize(text)
        merges.append((one, two))
        ending = one + two
        for letter in reversed(begin if text is not texts[0] else []):
            merges.append((letter, ending))
            ending = letter + ending
    for one, two in merges:
        vocabulary.setdefault(one + two, len(vocabulary))
    tokenizer.backend_tokenizer.model = models.BPE(vocabulary, list(dict.fromkeys(merges)))
    return tokenizer


# Every character of two planes whose UTF-8 ends with the last two bytes of the Amharic full stop.
SAME_ENDING = [chr(code) for code in range(0x800, 0x20000) if code & 0xFFF == ord("።") & 0xFFF and code != ord("።")]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("preset", ["sentences", "clauses", ["sentences", 1]])
def test_the_last_bytes_of_a_split_mark_count_where_no_other_character_has_them(preset, padded, caplog):
    plain = ends_in_one_token("።", *SAME_ENDING)
    if padded:
        plain.pad_token = "a"
        plain("a", padding="max_length", truncation=True, max_length=1)  # stays with the backend
    before = plain.backend_tokenizer.to_str()
    with caplog.at_level(logging.WARNING):
        ours = BipeTokenizer.from_tokenizer(plain, preset)
    assert plain.backend_tokenizer.to_str() == before
    assert "Amharic" not in caplog.text
    assert "Burmese" in caplog.text
    assert ours("a።b", padding=False, truncation=False)["segment_ids"] == [0, 0, 0, 1]
    assert max(ours("".join(SAME_ENDING), padding=False, truncation=False)["segment_ids"]) == 0


@pytest.mark.parametrize("other", SAME_ENDING)
def test_the_last_bytes_of_a_split_mark_end_nothing_where_another_character_has_them(other, caplog):
    assigned = unicodedata.category(other) not in ("Cn", "Co", "Cs")
    plain = ends_in_one_token("።", *(each for each in SAME_ENDING if each != other))
    with caplog.at_level(logging.WARNING):
        ours = BipeTokenizer.from_tokenizer(plain)
    assert ("Amharic" in caplog.text) == assigned
    assert max(ours("a።b", padding=False, truncation=False)["segment_ids"]) == int(not assigned)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from("۔።։。ዐԱ䀂ー\u0fbeᄂ"), max_size=6, unique=True),
    st.characters(min_codepoint=0x80, max_codepoint=0x1FFFF, exclude_categories=("C", "Z")),
)
def test_a_last_byte_that_counts_stands_in_marks_alone(merged, character):
    tokenizer = byte_level_vocabulary(*merged)
    found = set(BipeTokenizer.from_tokenizer(tokenizer).separator_token_ids)
    if not PRESET_PATTERNS["sentences"].search(character):
        assert not found & set(tokenizer.encode(character))


STOPS = {
    "Amharic": "።",
    "Arabic": "\u061f",
    "Armenian": "։",
    "Burmese": "။",
    "Chinese and Japanese": "。",
    "Hindi": "।",
    "Khmer": "។",
    "Tibetan": "།",
    "Urdu": "۔",
}


@pytest.mark.parametrize("kept", STOPS)
def test_languages_whose_full_stop_is_lost_are_named(kept, caplog):
    with caplog.at_level(logging.WARNING):
        BipeTokenizer.from_tokenizer(byte_level_vocabulary(STOPS[kept]), levels=["sentences", "clauses"])
    (record,) = caplog.records
    assert "ends nothing" in record.message
    lost = {name for name, stop in STOPS.items() if f"{name} (U+{ord(stop):04X})" in record.message}
    assert lost == STOPS.keys() - {kept}


@pytest.mark.parametrize("preset", ["lines", "fields", "words", [13]])
def test_no_full_stop_is_missed_by_separators_that_are_none(preset, caplog):
    with caplog.at_level(logging.WARNING):
        BipeTokenizer.from_tokenizer(byte_level_vocabulary(), preset)
    assert not caplog.records


def test_an_incomplete_character_beside_a_mark_does_not_hide_it():
    tokenizer = byte_level_vocabulary()
    vocabulary, (_, last_byte) = tokenizer.get_vocab(), tokenizer.tokenize("é")
    tokenizer.backend_tokenizer.model = models.BPE({**vocabulary, last_byte + ".": 256}, [(last_byte, ".")])
    assert tokenizer.encode("é.")[1:] == [256]
    assert 256 in BipeTokenizer.from_tokenizer(tokenizer).separator_token_ids


def test_sentencepiece_tokens_are_read_with_their_spaces_and_bytes():
    found = separators(llama_like(), "sentences")
    lines = {"<0x0A>", "<0x0B>", "<0x0C>", "<0x0D>", "</s>"}
    assert found == {".", "▁.", '."', "!", "<0x21>", "<0x2E>", "<0x3F>"} | lines
    assert separators(llama_like(), "lines") == lines
    assert separators(unigram(), "sentences") == {
        ".",
        "▁.",
        "。",
        "।",
        "\n",
        "?",
        "!",
        "...",
        "？",
        "！",
        "\u061f",
        "</s>",
    }


def test_word_piece_continuations_are_read_without_their_prefix():
    backend = Tokenizer(
        models.WordPiece({"[UNK]": 0, "a": 1, "##a": 2, "##.": 3, ".": 4, "##.a": 5}, unk_token="[UNK]")
    )
    backend.decoder = decoders.WordPiece()
    assert separators(PreTrainedTokenizerFast(tokenizer_object=backend), "sentences") == {"##.", "."}


def test_special_tokens_that_end_nothing_are_no_separators_of_a_preset():
    tokenizer = vocabulary_of("a", ".", "!", "?")
    tokenizer.pad_token = "!"
    tokenizer.add_special_tokens({"eos_token": "end."})
    tokenizer.backend_tokenizer.add_special_tokens(["reserved?"])
    tokenizer.add_tokens(["ordinary."])
    assert separators(tokenizer, "sentences") == {".", "?", "ordinary.", "end."}
    assert separators(tokenizer, ["sentences", "-turns"]) == {".", "?", "ordinary."}


# fmt: off
TURN_ENDS = [
    "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<end_of_turn>",
    "<|END_OF_TURN_TOKEN|>", "<|end|>", "<|return|>", "<|call|>", "<｜end▁of▁sentence｜>", "<|EOT|>", "[/INST]",
    "</s>", "<eos>", "<eoa>", "[EOS]",
]
NO_TURN_ENDS = [
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|end_of_role|>", "<|im_start|>",
    "<start_of_turn>", "<|vision_end|>", "<|box_end|>", "<|quad_end|>", "<|object_ref_end|>", "<tool_call>",
    "</tool_call>", "</think>", "<end_of_image>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁end｜>", "<｜fim▁end｜>",
    "<|endofprompt|>", "<|channel|>", "<META_END>", "<|message|>", "[INST]",
    "[/AVAILABLE_TOOLS]", "<unk>", "<pad>", "the end",
    "<|friend|>",
]
# fmt: on


@pytest.mark.parametrize("preset", [name for name in ALL_PRESETS if name != "authors"])
def test_what_ends_a_turn_or_a_document_ends_a_segment_of_every_preset(preset):
    tokenizer = vocabulary_of("a", "{x},|\n\n", "<eod>")
    tokenizer.eos_token = "<eod>"  # an ordinary entry
    tokenizer.add_special_tokens({"extra_special_tokens": [*TURN_ENDS, *NO_TURN_ENDS]})
    assert separators(tokenizer, preset) - {"{x},|\n\n"} == {*TURN_ENDS, "<eod>"}
    assert separators(tokenizer, [preset, "-turns"]) == (set() if preset == "turns" else {"{x},|\n\n"})


def test_an_answer_without_a_full_stop_does_not_run_on_into_the_next_turn():
    tokenizer = vocabulary_of("yes", "no")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|eot_id|>"]})
    ours = BipeTokenizer.from_tokenizer(tokenizer, "sentences")
    assert ours("yes <|eot_id|> no")["segment_ids"] == [0, 0, 1]
    ours = BipeTokenizer.from_tokenizer(tokenizer, ["sentences", "-turns"])
    assert ours("yes <|eot_id|> no")["segment_ids"] == [0, 0, 0]


def test_authors_preset_is_their_two_ids():
    tokenizer = BipeTokenizer.from_tokenizer(llama_like(), "authors")
    assert tokenizer.separator_token_ids == [13, 869]
    encoded = tokenizer("ab. c .\nd")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"])[3:] == [
        "b",
        ".",
        "▁",
        "c",
        "▁.",
        "<0x0A>",
        "d",
    ]
    assert encoded["segment_ids"] == [0, 0, 0, 0, 0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize("kind", ["byte_level", "unigram"])
def test_authors_preset_needs_the_llama_tokenizer(kind):
    with pytest.raises(ValueError, match=r"'authors'.*869.*13"):
        wrapped(kind, "authors")


def test_an_explicit_list_mixes_ids_tokens_and_texts():
    tokenizer = BipeTokenizer.from_tokenizer(llama_like(), [2, "▁.", "\n", "a", 869])
    assert tokenizer.separator_token_ids == sorted({2, 869, 13, llama_vocabulary()["a"]})
    assert tokenizer.separators == [2, "▁.", "\n", "a", 869]


@pytest.mark.parametrize("form", [list, tuple])
def test_a_list_holds_presets_ids_and_strings_together(form):
    plain = llama_like()
    lines, sentences, clauses = (separators(plain, each) for each in ("lines", "sentences", "clauses"))
    assert separators(plain, form(["sentences", "a", 0])) == sentences | {"a", "<unk>"}
    assert separators(plain, form([0, "lines", "a"])) == lines | {"a", "<unk>"}
    assert separators(plain, form(["authors", "turns"])) == {"▁.", "<0x0A>", "</s>"}
    assert separators(plain, form(["clauses", "-sentences", "a"])) == (clauses - sentences) | {"a"}
    ours = BipeTokenizer.from_tokenizer(plain, levels=["turns", form(["lines", "a"]), "sentences"])
    ids = [ours.separator_token_ids, *ours.inner_separator_token_ids]
    assert [set(plain.convert_ids_to_tokens(each)) for each in ids] == [{"</s>"}, lines | {"a"}, sentences]
    assert ours.levels == ["turns", ["lines", "a"], "sentences"]


def test_the_name_of_a_preset_is_no_entry_of_the_vocabulary():
    tokenizer = vocabulary_of("sentences", ".", "json", "end")
    assert separators(tokenizer, ["sentences", "end"]) == {".", "end"}
    assert separators(tokenizer, [0]) == {"sentences"}
    with pytest.raises(ValueError, match="'json' stands for several levels.*give its id"):
        separators(tokenizer, ["json"])


def test_levels_may_be_a_name_of_several():
    tokenizer = vocabulary_of("}", ",", "\n")
    assert BipeTokenizer.from_tokenizer(tokenizer, levels="json").levels == ["objects", "values"]
    with pytest.raises(ValueError, match="levels: 'lines' is not accepted"):
        BipeTokenizer.from_tokenizer(tokenizer, levels="lines")


def test_a_preset_of_a_list_that_finds_nothing_is_said(caplog):
    tokenizer = vocabulary_of("a", "</s>")
    tokenizer.eos_token = "</s>"
    with caplog.at_level(logging.WARNING):
        ours = BipeTokenizer.from_tokenizer(tokenizer, ["lines", "a"])
    assert ours.separator_token_ids == [0, 1]
    assert [record.message.split(" in this")[0] for record in caplog.records] == [
        "separators='lines' finds no separator"
    ]


@pytest.mark.parametrize("level", ["lines", ["lines"], ["lines", "-turns"], []])
def test_an_inner_level_that_nothing_but_turns_ends_is_refused(level):
    tokenizer = vocabulary_of("a", "</s>")
    tokenizer.eos_token = "</s>"
    with pytest.raises(ValueError, match="finds no separator in this vocabulary, so it is no level"):
        BipeTokenizer.from_tokenizer(tokenizer, levels=["turns", level])
    ours = BipeTokenizer.from_tokenizer(tokenizer, levels=["turns", [*([level] if level == "lines" else level), "a"]])
    assert 0 in ours.inner_separator_token_ids[0]


def test_a_string_of_the_list_is_a_token_before_it_is_a_text():
    # "." is an entry, and the byte token <0x2E> stands for the same text.
    assert separators(llama_like(), ["."]) == {"."}
    assert separators(llama_like(), ["<0x2E>"]) == {"<0x2E>"}
    assert separators(llama_like(), [" ."]) == {"▁."}
    assert separators(byte_level_vocabulary(" ."), [" .", "\n"]) == {"Ġ.", "Ċ"}


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("paragraph", "'paragraph' is not accepted.*'sentences', 'lines', 'clauses', .*'authors', or a list"),
        (".", "'.' is not accepted"),
        (None, "None is not accepted"),
        (13, "13 is not accepted"),
        (["no such token"], "'no such token' is not one token"),
        (["sentence"], "'sentence' is not one token.*did you mean sentences"),
        ([13, "ab"], "'ab' is not one token"),
        ([870], "token id 870 is out of range; the vocabulary has 870 tokens"),
        ([-1], "token id -1 is out of range"),
        ([1.0], "1.0 is neither"),
        ([True], "True is neither"),
    ],
)
def test_a_segmentation_that_does_not_fit_is_an_error_that_says_why(segmentation, message):
    with pytest.raises(ValueError, match=message):
        BipeTokenizer.from_tokenizer(llama_like(), segmentation)


def test_the_published_name_of_the_separators_is_taken(tmp_path):
    expected = BipeTokenizer.from_tokenizer(llama_like(), separators="lines")
    assert BipeTokenizer.from_tokenizer(llama_like(), segmentation="lines").separators == "lines"
    assert BipeTokenizer.from_tokenizer(llama_like(), "lines").separator_token_ids == expected.separator_token_ids
    for separators in ("lines", "sentences", ["."]):
        with pytest.raises(ValueError, match="are two names of one argument: give the first alone"):
            BipeTokenizer.from_tokenizer(llama_like(), separators, segmentation="lines")


@pytest.mark.parametrize("loader", [AutoTokenizer, BipeTokenizer])
def test_a_tokenizer_that_was_saved_with_the_published_name_loads(tmp_path, loader):
    tokenizer = wrapped("byte_level", "clauses")
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    saved = json.loads(path.read_text())
    saved["segmentation"] = saved.pop("separators")
    path.write_text(json.dumps(saved))
    loaded = loader.from_pretrained(tmp_path)
    assert (loaded.separators, loaded.separator_token_ids) == ("clauses", tokenizer.separator_token_ids)
    loaded.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert again["separators"] == "clauses"
    assert "segmentation" not in again


@given(
    texts=st.lists(st.text("ab .\n!", max_size=12), min_size=1, max_size=5),
    side=st.sampled_from(["left", "right"]),
    padding=st.booleans(),
    tensors=st.booleans(),
)
def test_segments_of_a_batch_are_those_of_each_text(texts, side, padding, tensors):
    tokenizer = wrapped("word_piece")
    options = {"padding_side": side, "padding": padding or tensors, "return_tensors": "pt" if tensors else None}
    batch = tokenizer(texts, **options)
    assert_segments_are_counted(
        tokenizer, {name: np.asarray(each).tolist() for name, each in batch.items()} if tensors else batch
    )
    alone = tokenizer(texts[0])
    expected = naive_segment_ids(tokenizer, alone["input_ids"], alone["attention_mask"])
    assert alone["segment_ids"] == expected


@cache
def with_levels(kind: str, levels: tuple[str, ...]) -> BipeTokenizer:
    return BipeTokenizer.from_tokenizer(KINDS[kind](), levels=levels)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text("ab .\n!", max_size=12), min_size=1, max_size=5),
    levels=st.sampled_from([("sentences",), ("sentences", "clauses"), ("turns", "sentences", "clauses")]),
    side=st.sampled_from(["left", "right"]),
    kind=st.sampled_from(["byte_level", "llama_like", "unigram"]),
)
def test_tensors_hold_what_lists_hold_at_every_level(texts, levels, side, kind):
    tokenizer = with_levels(kind, levels)
    options = {"padding": True, "padding_side": side}
    lists = tokenizer(texts, **options)
    if any(lists["input_ids"]):
        for tensors in ("pt", "np"):
            assert tokenizer(texts, return_tensors=tensors, **options)["segment_ids"].tolist() == lists["segment_ids"]
    ends = [tokenizer.separator_token_ids, *tokenizer.inner_separator_token_ids]
    rows = zip(lists["input_ids"], lists["attention_mask"], lists["segment_ids"], strict=True)
    for input_ids, mask, found in rows:
        indices = [0] * len(levels)
        for token_id, is_token, segment in zip(input_ids, mask, found, strict=True):
            expected = indices if is_token else [-1] * len(levels)
            assert segment == (expected if len(levels) > 1 else expected[0])
            level = next((at for at, ids in enumerate(ends) if token_id in ids), None)
            if is_token and level is not None:
                indices = [*indices[:level], indices[level] + 1, *[0] * (len(levels) - level - 1)]


def test_a_text_that_several_tokens_stand_for_is_an_error():
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "##b": 1, "<": 2}, unk_token="[UNK]"))
    backend.decoder = decoders.Sequence([decoders.Replace("##", ""), decoders.Replace("<", "b")])
    with pytest.raises(ValueError, match=r"'b' is not one token.*\[1, 2\]"):
        BipeTokenizer.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), ["b"])


def test_a_preset_without_separators_warns_once_and_an_empty_list_does_not(caplog):
    with caplog.at_level(logging.WARNING):
        tokenizer = BipeTokenizer.from_tokenizer(vocabulary_of("a", "b"), "lines")
        tokenizer(["a", "b"])
        BipeTokenizer.from_tokenizer(llama_like(), [])
    assert [record.levelname for record in caplog.records if "finds no separator" in record.message] == ["WARNING"]
    assert len(caplog.records) == 1


def test_an_empty_list_makes_one_segment():
    tokenizer = BipeTokenizer.from_tokenizer(byte_level(), [])
    encoded = tokenizer(LINES, padding=True, return_tensors="pt")
    assert torch.equal(encoded["segment_ids"], encoded["attention_mask"] - 1)


# What can be wrapped, and what is kept


def test_only_fast_tokenizers_are_wrapped():
    for tokenizer in (ByT5Tokenizer(), byte_level().backend_tokenizer, None):
        with pytest.raises(ValueError, match=f"{type(tokenizer).__name__} is not a fast tokenizer"):
            BipeTokenizer.from_tokenizer(tokenizer)


def test_a_tokenizer_with_encoding_code_of_its_own_is_not_wrapped():
    class Shouting(PreTrainedTokenizerFast):
        def _decode(self, *args, **kwargs):
            return super()._decode(*args, **kwargs).upper()

    tokenizer = Shouting(tokenizer_object=byte_level().backend_tokenizer)
    with pytest.raises(ValueError, match=r"Shouting encodes or decodes with code of its own \(_decode\)"):
        BipeTokenizer.from_tokenizer(tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_the_wrapped_tokenizer_are_kept(kind):
    plain, ours = KINDS[kind](), wrapped(kind)
    assert ours.special_tokens_map == plain.special_tokens_map
    assert ours.all_special_ids == plain.all_special_ids
    assert ours.get_vocab() == plain.get_vocab()
    for name in (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "chat_template",
        "clean_up_tokenization_spaces",
    ):
        assert getattr(ours, name) == getattr(plain, name), name
    assert ours.model_input_names == [*plain.model_input_names, "segment_ids"]


def test_changes_made_after_loading_are_kept():
    plain = PreTrainedTokenizerFast(
        tokenizer_object=llama_like().backend_tokenizer, image_token="filler1", bos_token="<s>"
    )
    plain.padding_side = "left"
    plain.truncation_side = "left"
    plain.model_max_length = 5
    plain.pad_token = "!"  # an ordinary entry, which must not become an added token
    plain.add_tokens([AddedToken("gh", lstrip=True)])
    plain.add_special_tokens({"extra_special_tokens": ["<turn>"]})
    ours = BipeTokenizer.from_tokenizer(plain)
    text = "ab !! c gh<turn> ghd filler1."
    assert ours.encode(text) == plain.encode(text)
    assert ours.decode(ours.encode(text), skip_special_tokens=True) == plain.decode(
        plain.encode(text), skip_special_tokens=True
    )
    assert ours.special_tokens_map == plain.special_tokens_map
    assert ours.image_token == "filler1"
    assert ours.added_tokens_decoder.keys() == plain.added_tokens_decoder.keys()
    assert ours.extra_special_tokens == ["<turn>"]
    shared = plain(["ab !", "c"], padding=True, truncation=True)
    encoded = ours(["ab !", "c"], padding=True, truncation=True)
    assert {name: encoded[name] for name in shared} == dict(shared)


def test_a_model_specific_class_is_wrapped():
    plain = LlamaTokenizer(vocab=llama_vocabulary(), merges=[("▁", ".")], add_bos_token=True, pad_token="</s>")
    ours = BipeTokenizer.from_tokenizer(plain, "authors")
    assert ours.encode("a . b") == plain.encode("a . b")
    assert ours.decode(ours.encode("a . b")) == plain.decode(plain.encode("a . b"))
    assert ours.add_bos_token
    assert ours("a .b")["segment_ids"] == [0, 0, 0, 0, 1]


def test_the_wrapped_tokenizer_is_not_changed():
    plain = PreTrainedTokenizerFast(tokenizer_object=llama_like().backend_tokenizer, pad_token="</s>")
    names, text = list(plain.model_input_names), plain.backend_tokenizer.to_str()
    ours = BipeTokenizer.from_tokenizer(plain)
    ours.add_tokens(["brand new"])
    ours(["a", "b c"], padding=True)
    assert plain.model_input_names == names
    assert plain.backend_tokenizer.to_str() == text


def test_wrapping_again_changes_the_segmentation():
    again = BipeTokenizer.from_tokenizer(wrapped("byte_level", "clauses"), "lines")
    assert again.separator_token_ids == wrapped("byte_level", "lines").separator_token_ids
    assert again.separators == "lines"
    assert again.model_input_names.count("segment_ids") == 1


def test_added_tokens_do_not_change_the_separators():
    tokenizer = BipeTokenizer.from_tokenizer(llama_like())
    before = tokenizer.separator_token_ids
    tokenizer.add_tokens(["stop."])
    assert tokenizer("a stop. b")["input_ids"].count(870) == 1
    assert tokenizer.separator_token_ids == before
    assert BipeTokenizer.from_tokenizer(tokenizer).separator_token_ids == [*before, 870]


def test_training_anew_finds_the_separators_of_the_new_vocabulary():
    trained = wrapped("byte_level").train_new_from_iterator(["A b. C d.\n"], 280)
    assert isinstance(trained, BipeTokenizer)
    assert len(trained) < len(wrapped("byte_level"))
    expected = BipeTokenizer.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=trained.backend_tokenizer))
    assert trained.separator_token_ids == expected.separator_token_ids
    with pytest.raises(ValueError, match=r"\[13\] lists token ids"):
        BipeTokenizer.from_tokenizer(llama_like(), [13]).train_new_from_iterator(["a"], 300)


# Segment ids

SCRIPTS = [
    "abc XYZ",
    ".,;:!?\"'()\n\t",
    "今天好。，？」",
    "यहसच।",
    "\u0646\u0639\u0645\u061f\u060c",
    "Это",
    "…\u2028\U0001f600",
]
texts = st.text(alphabet=st.sampled_from("".join(SCRIPTS)), max_size=40)
kinds = st.sampled_from(sorted(KINDS))
sides = st.sampled_from(["left", "right"])


@settings(max_examples=150, deadline=None)
@given(
    kinds,
    st.sampled_from(PRESETS),
    st.lists(texts, min_size=1, max_size=4),
    sides,
    sides,
    st.none() | st.integers(4, 12),
    st.sampled_from([False, True, "max_length"]),
    st.booleans(),
)
def test_segment_ids_count_the_separators_before_each_token(
    kind, preset, batch, padding_side, truncation_side, max_length, padding, special_tokens
):
    tokenizer = wrapped(kind, preset)
    plain = KINDS[kind]()
    options = {
        "padding": padding,
        "padding_side": padding_side,
        "truncation": max_length is not None,
        "max_length": max_length,
        "add_special_tokens": special_tokens,
    }
    saved = tokenizer.truncation_side, plain.truncation_side
    tokenizer.truncation_side = plain.truncation_side = truncation_side
    encoded, expected = tokenizer(batch, **options), plain(batch, **options)
    tokenizer.truncation_side, plain.truncation_side = saved

    assert_segments_are_counted(tokenizer, encoded)
    assert {name: encoded[name] for name in expected} == dict(expected)
    assert tokenizer.batch_decode(encoded["input_ids"]) == plain.batch_decode(expected["input_ids"])


@settings(max_examples=100, deadline=None)
@given(kinds, st.sampled_from(PRESETS), st.lists(texts, min_size=1, max_size=4), sides)
def test_segment_ids_are_those_that_the_model_derives(kind, preset, batch, padding_side):
    tokenizer = wrapped(kind, preset)
    encoded = tokenizer(batch, padding=True, padding_side=padding_side, return_tensors="pt")
    ends_segment = torch.isin(encoded["input_ids"], torch.tensor(tokenizer.separator_token_ids))
    derived = segment_tokens(ends_segment.bool(), is_token=encoded["attention_mask"].bool())
    assert torch.equal(encoded["segment_ids"], derived.segment_ids)


@settings(max_examples=100, deadline=None)
@given(kinds, st.lists(texts, min_size=1, max_size=3), sides)
def test_padding_afterwards_equals_padding_at_once(kind, batch, padding_side):
    tokenizer = wrapped(kind)
    features = [tokenizer(text) for text in batch]
    at_once = tokenizer(batch, padding=True, padding_side=padding_side, pad_to_multiple_of=4)
    assert dict(tokenizer.pad(features, padding_side=padding_side, pad_to_multiple_of=4)) == dict(at_once)
    without = [{"input_ids": feature["input_ids"]} for feature in features]
    derived = tokenizer.pad(without, padding_side=padding_side, pad_to_multiple_of=4)
    assert derived["segment_ids"] == at_once["segment_ids"]


def test_a_separator_belongs_to_the_segment_that_it_ends():
    tokenizer = BipeTokenizer.from_tokenizer(llama_like(), ["."])
    encoded = tokenizer("a.b..", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["▁", "a", ".", "b", ".", "."]
    assert encoded["segment_ids"] == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_belongs_to_no_segment(side):
    tokenizer = BipeTokenizer.from_tokenizer(llama_like(), ["."])
    encoded = tokenizer(["a.b", "a"], padding=True, padding_side=side, pad_to_multiple_of=8)
    first, second = encoded["segment_ids"]
    assert first == ([-1, -1, -1, 0, 0, 0, 0, 1] if side == "left" else [0, 0, 0, 0, 1, -1, -1, -1])
    assert second == ([-1] * 5 + [0] * 3 if side == "left" else [0] * 3 + [-1] * 5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_segments_count_from_the_first_token_that_truncation_leaves(side):
    tokenizer = BipeTokenizer.from_tokenizer(llama_like(), ["."])
    tokenizer.truncation_side = side
    encoded = tokenizer("a.b.c", truncation=True, max_length=4)
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert tokens == (["<s>", "b", ".", "c"] if side == "left" else ["<s>", "▁", "a", "."])
    assert encoded["segment_ids"] == ([0, 0, 0, 1] if side == "left" else [0, 0, 0, 0])


def test_pairs_are_one_sequence():
    tokenizer = wrapped("word_piece")
    encoded = tokenizer("late. she", "the end. line", return_special_tokens_mask=True)
    assert encoded["token_type_ids"][-1] == 1
    assert encoded["segment_ids"] == naive_segment_ids(tokenizer, encoded["input_ids"], encoded["attention_mask"])
    assert encoded["segment_ids"][-1] == 2
    batch = tokenizer([("late. she", "the end"), ("a", "b. c")], padding=True)
    assert_segments_are_counted(tokenizer, batch)


def test_every_overflowing_piece_counts_for_itself():
    tokenizer = wrapped("byte_level")
    encoded = tokenizer(
        LINES, truncation=True, max_length=10, stride=2, return_overflowing_tokens=True, padding="max_length"
    )
    assert len(encoded["input_ids"]) > len(LINES)
    assert len(encoded["overflow_to_sample_mapping"]) == len(encoded["segment_ids"])
    assert_segments_are_counted(tokenizer, encoded)


def test_words_given_one_by_one_are_counted_too():
    tokenizer = wrapped("byte_level")
    encoded = tokenizer([["One", ".", "Two", "!"], ["Three"]], is_split_into_words=True, padding=True)
    assert_segments_are_counted(tokenizer, encoded)
    assert max(encoded["segment_ids"][0]) == 2
    assert encoded["segment_ids"][0][-1] == 2


@pytest.mark.parametrize(("return_tensors", "dtype"), [("pt", torch.int64), ("np", np.int64)])
def test_tensors_are_long(return_tensors, dtype):
    tokenizer = wrapped("byte_level")
    encoded = tokenizer(LINES[0], return_tensors=return_tensors)
    assert encoded["segment_ids"].dtype == dtype
    assert encoded["segment_ids"].shape == encoded["input_ids"].shape
    assert_segments_are_counted(tokenizer, encoded)
    batch = tokenizer(LINES, return_tensors=return_tensors, padding=True)
    assert batch["segment_ids"].shape == batch["input_ids"].shape
    assert_segments_are_counted(tokenizer, batch)


def test_a_chat_is_counted():
    tokenizer = wrapped("byte_level")
    chat = [{"role": "user", "content": "Where to? There."}, {"role": "bot", "content": "No."}]
    encoded = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)
    assert encoded["segment_ids"] == naive_segment_ids(tokenizer, encoded["input_ids"], encoded["attention_mask"])
    # Two marks and a newline, then a mark and a newline, which ends the last segment.
    assert encoded["segment_ids"][-1] == 4


def test_model_input_names_decide_whether_segment_ids_are_returned():
    tokenizer = BipeTokenizer.from_tokenizer(byte_level())
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert set(tokenizer("a.")) == {"input_ids", "attention_mask"}
    assert set(tokenizer.pad([{"input_ids": [5, 6]}, {"input_ids": [7]}])) == {"input_ids", "attention_mask"}
    assert "segment_ids" in wrapped("byte_level")("a.", return_attention_mask=False)


def test_a_collator_pads_segment_ids():
    tokenizer = wrapped("byte_level")
    features = [{**tokenizer(line), "labels": 1} for line in LINES]
    batch = DataCollatorWithPadding(tokenizer)(features)
    assert_segments_are_counted(tokenizer, batch)
    assert batch["segment_ids"].shape == batch["input_ids"].shape


@pytest.mark.parametrize("array", [torch.tensor, np.array])
def test_padding_derives_missing_segment_ids_from_real_tokens_alone(array):
    tokenizer = BipeTokenizer.from_tokenizer(llama_like(), [7])
    features = [
        {"input_ids": array([7, 3, 7, 4]), "attention_mask": array([0, 1, 1, 1])},
        {"input_ids": array([7, 4]), "attention_mask": array([1, 1])},
    ]
    batch = tokenizer.pad(features, padding_side="right")
    assert batch["segment_ids"].tolist() == [[-1, 0, 0, 1], [0, 1, -1, -1]]
    assert tokenizer.pad({"input_ids": [7, 7, 3]})["segment_ids"] == [0, 1, 2]


@pytest.mark.parametrize("first_has_them", [True, False])
def test_padding_of_rows_of_which_some_have_segment_ids_derives_the_others(first_has_them):
    tokenizer = wrapped("byte_level")
    given = {"input_ids": tokenizer("It ran. It sat.")["input_ids"]}
    given |= {"segment_ids": [7] * len(given["input_ids"])}
    derived = {"input_ids": tokenizer("It ran. It sat. It ran off.")["input_ids"]}
    rows = [given, derived] if first_has_them else [derived, given]
    padded = tokenizer.pad(rows, padding_side="right")["segment_ids"]
    alone = [tokenizer.pad([row])["segment_ids"][0] for row in rows]
    assert [ids[: len(row)] for ids, row in zip(padded, alone, strict=True)] == alone
    assert "segment_ids" not in derived


def test_padding_keeps_given_segment_ids():
    tokenizer = BipeTokenizer.from_tokenizer(llama_like(), [7])
    batch = tokenizer.pad({"input_ids": [[7, 3], [7]], "segment_ids": [[5, 6], [9]]}, padding_side="left")
    assert batch["segment_ids"] == [[5, 6], [-1, 9]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(5, 8), min_size=1, max_size=6), min_size=1, max_size=4))
def test_padding_starts_again_at_each_packed_document_as_the_model_does(documents):
    tokenizer = BipeTokenizer.from_tokenizer(llama_like(), [7])
    input_ids = [token_id for document in documents for token_id in document]
    position_ids = [position for document in documents for position in range(len(document))]
    alone = [
        segment_id
        for document in documents
        for segment_id in naive_segment_ids(tokenizer, document, [1] * len(document))
    ]
    batch = tokenizer.pad([{"input_ids": input_ids, "position_ids": position_ids}], return_tensors="pt")
    assert batch["segment_ids"].tolist() == [alone]
    derived = segment_tokens(batch["input_ids"] == 7, starts_document=document_starts(batch["position_ids"]))
    assert torch.equal(batch["segment_ids"], derived.segment_ids)


# Saving and loading


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("segmentation", ["sentences", "clauses", ["a", 4]])
@pytest.mark.parametrize("loader", [BipeTokenizer, AutoTokenizer])
def test_saving_and_loading_changes_nothing(tmp_path, kind, segmentation, loader):
    tokenizer = BipeTokenizer.from_tokenizer(KINDS[kind](), segmentation)
    tokenizer.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is BipeTokenizer
    assert loaded.separators == segmentation
    assert loaded.separator_token_ids == tokenizer.separator_token_ids
    assert loaded.model_input_names == tokenizer.model_input_names
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.padding_side == tokenizer.padding_side
    assert loaded.truncation_side == tokenizer.truncation_side
    assert loaded.model_max_length == tokenizer.model_max_length
    options = {"padding": True, "truncation": True, "max_length": 16}
    assert dict(loaded(LINES, **options)) == dict(tokenizer(LINES, **options))
    assert loaded.batch_decode(loaded(LINES)["input_ids"]) == tokenizer.batch_decode(tokenizer(LINES)["input_ids"])


@pytest.mark.parametrize("config", [BipeLlamaConfig(separator_token_ids=[0]), LlamaConfig()])
def test_auto_tokenizer_returns_it_beside_a_model(tmp_path, config):
    config.save_pretrained(tmp_path)
    wrapped("byte_level").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "BipeTokenizer"
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is BipeTokenizer


def test_saved_separators_outlive_a_change_of_the_preset(tmp_path):
    wrapped("byte_level").save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    saved = json.loads(path.read_text())
    assert saved["separators"] == "sentences"
    assert saved["separator_token_ids"] == wrapped("byte_level").separator_token_ids
    path.write_text(json.dumps({**saved, "separator_token_ids": [40, 50]}))
    loaded = BipeTokenizer.from_pretrained(tmp_path)
    assert loaded.separator_token_ids == [40, 50]
    loaded.save_pretrained(tmp_path)
    assert json.loads(path.read_text())["separator_token_ids"] == [40, 50]


@pytest.mark.parametrize("argument", [{"segmentation": "lines"}, {"separator_token_ids": [1]}])
@pytest.mark.parametrize("loader", [BipeTokenizer, AutoTokenizer])
def test_the_segmentation_cannot_be_changed_while_loading(tmp_path, loader, argument):
    wrapped("byte_level").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be given when a BipeTokenizer is loaded"):
        loader.from_pretrained(tmp_path, **argument)


def test_a_folder_with_another_tokenizer_is_an_error_that_says_what_to_do(tmp_path):
    byte_level().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"BipeTokenizer\.from_tokenizer"):
        BipeTokenizer.from_pretrained(tmp_path)


def test_it_pickles_for_worker_processes():
    copied = pickle.loads(pickle.dumps(wrapped("byte_level")))
    assert dict(copied(LINES)) == dict(wrapped("byte_level")(LINES))
