"""A model and a tokenizer that are saved in one folder, loaded from it or trained together are compared."""

import logging

import pytest
import torch
from families import FAMILIES
from tiny import LEVELS, TINY
from transformers import AutoTokenizer, Trainer, TrainingArguments, default_data_collator
from word_tokenizer import make_word_tokenizer

from bipe_hf import BipeTokenizer
from bipe_hf.model.pair_bipe import compare_pair


OTHER = {
    "other_separators": ({}, [[4]]),
    "other_levels": (LEVELS, [TINY["separator_token_ids"], [4]]),
    "no_levels": (LEVELS, [TINY["separator_token_ids"]]),
    "levels": ({}, [TINY["separator_token_ids"], [4]]),
    "tokens": ({"segmentation": "tokens"}, [TINY["separator_token_ids"]]),
    "document": ({"segmentation": "document"}, [TINY["separator_token_ids"]]),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def log(caplog):
    """What transformers says; pytest does not see it otherwise."""
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    logging.getLogger("bipe_hf").addHandler(caplog.handler)
    yield caplog
    library.removeHandler(caplog.handler)
    logging.getLogger("bipe_hf").removeHandler(caplog.handler)


def tokenizer_with(levels):
    return BipeTokenizer.from_tokenizer(make_word_tokenizer(), levels=levels)


def said(log):
    found = [record.message for record in log.records if "the tokenizer ends segments at" in record.message]
    log.clear()
    return found


@pytest.mark.parametrize("case", OTHER)
@pytest.mark.parametrize("first", ["model", "tokenizer"])
def test_another_tokenizer_in_the_folder_is_named_on_saving_and_on_loading(family, case, first, log, tmp_path):
    fields, levels = OTHER[case]
    pair = [family.make_causal_lm(**{**TINY, **fields}), tokenizer_with(levels)]
    for each in pair if first == "model" else reversed(pair):
        assert said(log) == []
        each.save_pretrained(tmp_path)
    remedy = "from_tokenizer" if "segmentation" not in fields else "without_segments"
    (message,) = set(said(log))
    assert remedy in message
    assert str(tmp_path) in message
    assert AutoTokenizer.from_pretrained(tmp_path).levels == levels
    assert set(said(log)) == {message}
    type(pair[0]).from_pretrained(tmp_path)
    assert set(said(log)) == {message}


def test_a_model_that_is_loaded_with_other_separators_is_compared_as_it_is(family, log, tmp_path):
    model = family.make_causal_lm(**TINY)
    model.save_pretrained(tmp_path)
    tokenizer_with([TINY["separator_token_ids"]]).save_pretrained(tmp_path)
    model, _ = type(model).from_pretrained(tmp_path, separator_token_ids=[4], output_loading_info=True)
    assert model.config.separator_token_ids == [4]
    assert said(log) != []


def test_a_tokenizer_of_a_derived_class_is_compared(family, log, tmp_path):
    class Derived(BipeTokenizer):
        pass

    family.make_causal_lm(**TINY).save_pretrained(tmp_path)
    Derived.from_tokenizer(make_word_tokenizer(), levels=[[4]]).save_pretrained(tmp_path)
    assert said(log) != []


@pytest.mark.parametrize("fields", [{}, LEVELS])
def test_a_pair_that_belongs_together_and_a_plain_tokenizer_give_no_warning(family, fields, log, tmp_path):
    model = family.make_causal_lm(**{**TINY, **fields})
    own = tokenizer_with([model.config.separator_token_ids, *model.config.inner_separator_token_ids])
    for name, tokenizer in (("own", own), ("plain", own.without_segments())):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(tmp_path / name)
        type(model).from_pretrained(tmp_path / name)
    assert said(log) == []


def test_a_name_on_the_hub_is_judged_by_the_files_that_were_fetched(family, log, tmp_path):
    repository, commit = tmp_path / "models--alice--model", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    model = family.make_causal_lm(**TINY)
    for each in (model, tokenizer_with([[4]])):
        each.save_pretrained(repository / "snapshots" / commit)
    log.clear()
    for loaded in (AutoTokenizer, type(model)):
        loaded.from_pretrained("alice/model", cache_dir=tmp_path)
        assert {message.split(":")[0] for message in said(log)} == {"alice/model"}


def test_what_is_no_pair_is_not_judged(log, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "config.json").write_text("null")
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    for name in (tmp_path, tmp_path / "file", tmp_path / "missing", "no/such/name/at-all", "nobody/nothing"):
        compare_pair(name, token=None, revision="main")
    assert said(log) == []


def test_a_plain_trainer_names_another_tokenizer_with_its_first_checkpoint(family, log, tmp_path):
    rows = torch.randint(1, 60, (4, 8), generator=torch.Generator().manual_seed(1)).tolist()
    trainer = Trainer(
        family.make_causal_lm(**TINY),
        TrainingArguments(tmp_path, max_steps=1, save_steps=1, report_to="none", use_cpu=True, disable_tqdm=True),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        data_collator=default_data_collator,
        processing_class=tokenizer_with([[4]]),
    )
    trainer.train()
    assert said(log) != []
