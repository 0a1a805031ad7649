"""Pipelines of transformers in padded batches: every text gets what the model gives it alone."""

import pytest
import torch
from families import FAMILIES, family_of
from tiny import TINY
from transformers import pipeline
from word_tokenizer import EOS, make_word_tokenizer, random_words, segment_ids


TEXTS = [random_words(count, seed=count) for count in (3, 14, 1, 8, 25)]
NEW_TOKENS = 10
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] + ' w03 ' }}{% endfor %}w05"
CHATS = [
    [{"role": "user", "content": TEXTS[0]}],
    [{"role": "user", "content": text} for text in TEXTS[1:3]],
]


def make_tokenizer(**settings):
    tokenizer = make_word_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return tokenizer


@pytest.fixture(params=["objects", "folder"])
def make_pipeline(request, tmp_path):
    """A function that makes a pipeline from model and tokenizer, or from a folder where both were saved."""

    def make(task, model, tokenizer, **kwargs):
        if request.param == "objects":
            return pipeline(task, model=model, tokenizer=tokenizer, device="cpu", **kwargs)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return pipeline(task, model=str(tmp_path / "model"), device="cpu", **kwargs)

    return make


def logits(model, ids):
    """Of one sequence alone, without a cache, with segments that are counted here."""
    with torch.inference_mode():
        return model(torch.tensor([ids]), segment_ids=torch.tensor([segment_ids(ids)]), use_cache=False).logits[0]


def greedy_text(model, tokenizer, ids):
    begin = len(ids)
    for _ in range(NEW_TOKENS):
        ids = [*ids, logits(model, ids)[-1].argmax().item()]
    return tokenizer.decode(ids[begin:], skip_special_tokens=True)


def head_of(model, name):
    """A model with that head, of the family and inter encoding of a language model."""
    torch.manual_seed(0)
    encoding = {name: vars(model.config)[name] for name in ("inter_encoding", "hybrid_max_period")}
    fields = {**TINY, **encoding, "pad_token_id": EOS, "num_labels": 5}
    family = FAMILIES[family_of(model)]
    return family.head(name)(family.make_config(**fields)).eval()


def test_generated_texts_are_those_of_one_prompt_at_a_time(model, make_pipeline):
    tokenizer = make_tokenizer()
    generate = make_pipeline("text-generation", model, tokenizer, batch_size=3)
    generated = generate(TEXTS, max_new_tokens=NEW_TOKENS, do_sample=False, return_full_text=False)
    expected = [greedy_text(model, tokenizer, tokenizer(text).input_ids) for text in TEXTS]
    assert [text["generated_text"].split() for (text,) in generated] == [text.split() for text in expected]
    assert len(set(expected)) > len(expected) / 2  # they differ


def test_a_chat_goes_on_from_what_its_template_writes(model, make_pipeline):
    tokenizer = make_tokenizer(chat_template=CHAT_TEMPLATE)
    generate = make_pipeline("text-generation", model, tokenizer, batch_size=2)
    answered = generate(CHATS, max_new_tokens=NEW_TOKENS, do_sample=False)
    for chat, (answer,) in zip(CHATS, answered, strict=True):
        written = "".join(f"{message['content']} w03 " for message in chat) + "w05"
        expected = greedy_text(model, tokenizer, tokenizer(written).input_ids)
        *before, last = answer["generated_text"]
        assert before == chat
        assert last["role"] == "assistant"
        assert last["content"].split() == expected.split()


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_texts_are_classified_as_each_alone(model, make_pipeline, padding_side):
    model = head_of(model, "ForSequenceClassification")
    tokenizer = make_tokenizer(padding_side=padding_side)
    classify = make_pipeline("text-classification", model, tokenizer, batch_size=3, top_k=None)
    for text, labels in zip(TEXTS, classify(TEXTS), strict=True):
        expected = logits(model, tokenizer(text).input_ids).softmax(-1)
        got = torch.tensor([label["score"] for label in sorted(labels, key=lambda label: label["label"])])
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_tokens_are_classified_as_in_each_text_alone(model, make_pipeline, padding_side):
    model = head_of(model, "ForTokenClassification")
    tokenizer = make_tokenizer(padding_side=padding_side)
    classify = make_pipeline("token-classification", model, tokenizer, batch_size=3, ignore_labels=[])
    for text, tokens in zip(TEXTS, classify(TEXTS), strict=True):
        expected, labels = logits(model, tokenizer(text).input_ids).softmax(-1).max(-1)
        assert [token["word"] for token in tokens] == text.split()
        assert [token["entity"] for token in tokens] == [f"LABEL_{label}" for label in labels]
        got = torch.tensor([token["score"] for token in tokens])
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
