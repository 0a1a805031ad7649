"""Fine-tuning: what the examples of each task are, what is learnt, what is written. `bipe_hf.lab.finetuning`."""

import importlib.util
import itertools
import json
import math
import random
import re
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from answer_loss import assert_loss_is_that_of_the_answer
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from families import FAMILIES
from interruption import interrupt
from safetensors.torch import load_file, save_file
from sklearn.utils.class_weight import compute_class_weight
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    EvalPrediction,
    LlamaForCausalLM,
    TrainingArguments,
)
from transformers.utils import logging
from words import WORDS

from bipe_hf import BipeTokenizer
from bipe_hf.commands import main
from bipe_hf.lab.data import load_rows, train_tokenizer
from bipe_hf.lab.finetuning import RowArguments, TaskArguments, finetune, run
from bipe_hf.lab.finetuning import task as task_module
from bipe_hf.lab.finetuning.collation import joined, padded_labels, padded_right
from bipe_hf.lab.finetuning.labels import Labels, classification_loss, find_labels, weigh_labels
from bipe_hf.lab.finetuning.question_answering import answer_tokens, best_answers, encode_windows, span_loss
from bipe_hf.lab.finetuning.tasks import TASKS
from bipe_hf.lab.finetuning.token_classification import places_of_words
from bipe_hf.model.errors_bipe import InputError


HEADS = {
    "causal_lm": AutoModelForCausalLM,
    "instructions": AutoModelForCausalLM,
    "classification": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
    "question_answering": AutoModelForQuestionAnswering,
}
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")


@pytest.fixture(scope="module")
def tokenizer():
    text = " ".join(WORDS) + " good bad hillside.\nWhich one? It ran!\n"
    return BipeTokenizer.from_tokenizer(train_tokenizer([text] * 20, 330))


def reloaded(tokenizer, **settings):
    """A copy of `tokenizer` with other settings."""
    copy = BipeTokenizer.from_tokenizer(tokenizer, tokenizer.separators)
    for name, value in settings.items():
        setattr(copy, name, value)
    return copy


def make_model(family, tokenizer, head="ForCausalLM", **fields):
    torch.manual_seed(0)
    config = FAMILIES[family].make_config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_segment_length=32,
        max_position_embeddings=64,
        separator_token_ids=tokenizer.separator_token_ids,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **fields,
    )
    return FAMILIES[family].head(head)(config).eval()


@pytest.fixture(scope="module")
def start(tokenizer, tmp_path_factory):
    """A function from a family to the folder of a tiny causal language model."""
    folder = tmp_path_factory.mktemp("start")
    for family in FAMILIES:
        make_model(family, tokenizer).save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)
    return lambda family: str(folder / family)


def make_rows(count):
    """Rows for every task, whose answer is the one word of each that is good or bad."""
    draw = random.Random(0)
    for _ in range(count):
        answer = draw.choice(["good", "bad"])
        words = draw.choices(WORDS, k=draw.randint(2, 6))
        place = draw.randrange(len(words))
        words.insert(place, answer)
        context = " ".join(words)
        yield {
            "text": f"{' '.join(words[:3])}. It ran {answer}",
            "label": answer,
            "prompt": f"{context}? ",
            "completion": answer,
            "tokens": words,
            "tags": ["B-word" if word == answer else "O" for word in words],
            "question": "Which one?",
            "context": context,
            "answers": {"text": [answer], "answer_start": [len(" ".join([*words[:place], ""]))]},
        }


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, make_rows(80))))
    return str(path)


@pytest.fixture
def settings(start, table, tmp_path):
    """A function from a task and more keys to the settings of a run of some steps."""

    def make(task, family="llama", **keys):
        return {
            "task": task,
            "initial_model": start(family),
            "data": table,
            "output_dir": str(tmp_path / "run"),
            "max_steps": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "use_cpu": True,
            "disable_tqdm": True,
            "report_to": "none",
            "save_strategy": "no",
            **({"stride": 8} if task == "question_answering" else {}),
            **keys,
        }

    return make


@pytest.fixture
def without_dropout(monkeypatch):
    """The heads for words drop parts of their input by chance, which batches of another shape meet otherwise."""
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, hidden_states: hidden_states)


def make_task(name, rows, **keys):
    rows = rows.select_columns(list(TASKS[name].choose_columns(rows.column_names, {})))
    return TASKS[name](TaskArguments(task=name), RowArguments(**keys), DatasetDict(train=rows, validation=rows))


def make_examples(name, tokenizer, rows=None, max_length=64, **keys):
    rows = Dataset.from_list(list(make_rows(6))) if rows is None else Dataset.from_list(rows)
    examples, cut = make_task(name, rows, **keys).examples(rows, "validation", tokenizer, max_length)
    return list(examples), cut


def weights(folder, head=AutoModelForCausalLM):
    return head.from_pretrained(folder).state_dict()


def assert_same_weights(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# Collation


def losses_alone(model, examples) -> torch.Tensor:
    """Loss of every token of causal language modelling examples, each fed to the model on its own."""
    losses = []
    for example in examples:
        logits = model(input_ids=torch.tensor([example["input_ids"]])).logits[0]
        losses.append(cross_entropy(logits[:-1], torch.tensor(example["labels"][1:]), reduction="none"))
        losses[-1] = losses[-1][torch.tensor(example["labels"][1:]) != -100]
    return torch.cat(losses)


@pytest.mark.parametrize("encoding", ["rope", "alibi"])
@pytest.mark.parametrize("task", ["causal_lm", "instructions"])
@pytest.mark.parametrize("collation", ["joined", "left", "right"])
def test_batch_has_the_mean_loss_of_the_tokens_of_each_example_alone(family, encoding, task, collation, tokenizer):
    model = make_model(family, tokenizer, inter_encoding=encoding, initializer_range=0.3)
    examples, _ = make_examples(task, tokenizer)
    assert len({len(example["input_ids"]) for example in examples}) > 1
    if collation != "joined":
        tokenizer = reloaded(tokenizer, padding_side=collation)
    batch = joined(examples) if collation == "joined" else padded_labels(tokenizer)(examples)
    with torch.no_grad():
        assert model(**batch).loss.item() == pytest.approx(losses_alone(model, examples).mean().item(), abs=1e-5)
    assert ("segment_ids" in batch) == (collation != "joined")


@pytest.mark.parametrize("is_padding_free", [False, True])
def test_words_of_a_batch_are_classified_as_in_each_example_alone(family, is_padding_free, tokenizer):
    model = make_model(family, tokenizer, "ForTokenClassification", num_labels=2, initializer_range=0.3)
    examples, _ = make_examples("token_classification", tokenizer)
    assert all(example["labels"][0] != -100 for example in examples)  # also at the first token of an example
    batch = joined(examples) if is_padding_free else padded_labels(tokenizer)(examples)
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([example["input_ids"]])).logits[0] for example in examples]
        labels = torch.tensor([label for example in examples for label in example["labels"]])
        expected = cross_entropy(torch.cat(alone), labels)
        assert model(**batch).loss.item() == pytest.approx(expected.item(), abs=1e-5)
        logits = model(**batch).logits[batch["labels"] != -100]
    torch.testing.assert_close(logits, torch.cat(alone)[labels != -100], atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_of_a_padded_batch_are_classified_as_each_alone(family, side, tokenizer):
    """Also where the tokenizer pads on the left, as one for generation does."""
    model = make_model(family, tokenizer, "ForSequenceClassification", num_labels=3, initializer_range=0.3)
    examples, _ = make_examples("classification", tokenizer)
    batch = padded_right(reloaded(tokenizer, padding_side=side))(examples)
    assert batch["labels"].tolist() == [example["labels"] for example in examples]
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([example["input_ids"]])).logits[0] for example in examples]
        torch.testing.assert_close(model(**batch).logits, torch.stack(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_answers_of_a_padded_batch_stand_where_they_stand_alone(family, side, tokenizer):
    model = make_model(family, tokenizer, "ForQuestionAnswering", initializer_range=0.3)
    examples, _ = make_examples("question_answering", tokenizer, stride=8)
    collate = padded_right(reloaded(tokenizer, padding_side=side))
    batch = collate(examples)
    starts, ends, _ = batch.pop("labels").unbind(dim=1)
    with torch.no_grad():
        logits = model(**batch).start_logits
        for example, row in zip(examples, logits, strict=True):
            alone = model(input_ids=torch.tensor([example["input_ids"]])).start_logits[0]
            torch.testing.assert_close(row[: len(alone)], alone, atol=1e-5, rtol=0)
    texts = [
        tokenizer.decode(row[start : end + 1]).strip()
        for row, start, end in zip(batch["input_ids"], starts, ends, strict=True)
    ]
    assert texts == [row["answers"]["text"][0] for row in make_rows(6)]


def answer_losses_alone(model, examples) -> torch.Tensor:
    """Loss of every window, each fed to the model on its own."""
    losses = []
    for example in examples:
        start, end, tokens = example["labels"]
        assert tokens == len(example["input_ids"])
        outputs = model(
            input_ids=torch.tensor([example["input_ids"]]),
            start_positions=torch.tensor([start]),
            end_positions=torch.tensor([end]),
        )
        losses.append(outputs.loss)
    return torch.stack(losses)


def test_padding_is_no_possible_answer(family, tokenizer):
    model = make_model(family, tokenizer, "ForQuestionAnswering", initializer_range=0.3)
    examples, _ = make_examples("question_answering", tokenizer, stride=8)
    assert len({len(example["input_ids"]) for example in examples}) > 1
    batch = padded_right(tokenizer)(examples)
    labels = batch.pop("labels")
    with torch.no_grad():
        expected, outputs = answer_losses_alone(model, examples), model(**batch)
    assert span_loss(outputs, labels).item() == pytest.approx(expected.mean().item(), abs=1e-5)
    count = torch.tensor(3 * 20)  # Trainer counts all numbers of the labels of, here, 20 windows
    assert span_loss(outputs, labels, count).item() == pytest.approx(expected.sum().item() / 20, abs=1e-5)


# Examples


def test_documents_end_with_eos_and_long_ones_become_several_examples(tokenizer):
    text = " ".join(WORDS)
    examples, cut = make_examples("causal_lm", tokenizer, [{"text": text}, {"text": " \n"}], max_length=5)
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert [token for example in examples for token in example["input_ids"]] == ids[: len(ids) // 5 * 5 + 5]
    assert {len(example["input_ids"]) for example in examples[:-1]} == {5}
    assert all(example["labels"] == [-100, *example["input_ids"][1:]] for example in examples)
    assert cut == 0


@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE])
def test_loss_of_an_instruction_is_that_of_the_answer_alone(family, template, tokenizer):
    tokenizer = reloaded(tokenizer, chat_template=template)
    row = {"prompt": "Which one? It ran. ", "completion": "the good cat"}
    prompt, answer = row["prompt"], row["completion"]
    if template is not None:
        prompt, answer = f"<user>{prompt}\n<assistant>", f"{answer}\n"
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(answer)["input_ids"] + ([tokenizer.eos_token_id] if template is None else [])
    (example,), _ = make_examples("instructions", tokenizer, [row])
    assert example["input_ids"] == before + after
    model = make_model(family, tokenizer, initializer_range=0.3)
    assert_loss_is_that_of_the_answer(model, tokenizer, example, before, after)


def test_messages_are_the_turns_that_they_say(tokenizer):
    tokenizer = reloaded(tokenizer, chat_template=CHAT_TEMPLATE)
    prompt = [{"role": "system", "content": "it ran"}, {"role": "user", "content": "Which?"}]
    row = {"prompt": prompt, "completion": [{"role": "assistant", "content": "good"}]}
    (example,), _ = make_examples("instructions", tokenizer, [row])
    answer = [token for token in example["labels"] if token != -100]
    assert tokenizer.decode(answer) == "good\n"
    assert tokenizer.decode(example["input_ids"]) == "<system>it ran\n<user>Which?\n<assistant>good\n"


MARKING_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\n"
    "{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKING_TEMPLATE])
def test_all_turns_of_the_assistant_are_learnt_of_a_conversation(family, template, tokenizer):
    tokenizer = reloaded(tokenizer, chat_template=template)
    said = [("system", "it ran"), ("user", "Which?"), ("assistant", "good"), ("user", "the cat"), ("assistant", "bad")]
    messages = [{"role": role, "content": content, "tool_calls": None} for role, content in said]
    (example,), cut = make_examples("instructions", tokenizer, [{"messages": messages}])
    parts = ["<system>it ran\n<user>Which?\n<assistant>", "good\n", "<user>the cat\n<assistant>", "bad\n"]
    ids = [tokenizer(part)["input_ids"] for part in parts]
    labels = [-100] * len(ids[0]) + ids[1] + [-100] * len(ids[2]) + ids[3]
    assert cut == 0
    if template is CHAT_TEMPLATE:
        assert example == {"input_ids": [*itertools.chain(*ids)], "labels": labels}
    learnt = [token for token in example["labels"] if token != -100]
    assert tokenizer.decode(example["input_ids"]) == "".join(parts)
    assert tokenizer.decode(learnt) == "good\nbad\n"
    assert all(label in (-100, token) for token, label in zip(*example.values(), strict=True))
    (short,), cut = make_examples("instructions", tokenizer, [{"messages": messages}], max_length=len(ids[3]) + 2)
    assert short["input_ids"] == example["input_ids"][-len(ids[3]) - 2 :]
    assert tokenizer.decode([token for token in short["labels"] if token != -100]) == "bad\n"
    assert cut == 1


def test_a_template_that_does_not_tell_the_turns_of_the_assistant_is_refused(tokenizer):
    thinking = "{% for m in messages %}<{{ m.role }}{{ '' if loop.last else ' cut' }}>{{ m.content }}{% endfor %}"
    messages = [{"role": role, "content": "it ran"} for role in ("user", "assistant", "user", "assistant")]
    with pytest.raises(InputError, match="neither marks the turns of the assistant"):
        make_examples("instructions", reloaded(tokenizer, chat_template=thinking), [{"messages": messages}])
    with pytest.raises(InputError, match="messages: a tokenizer with a chat template is needed"):
        make_examples("instructions", tokenizer, [{"messages": messages}])


def test_a_conversation_is_learnt_by_the_command_and_from_any_column(settings, tokenizer, start, tmp_path, family):
    folder = Path(shutil.copytree(start(family), tmp_path / "chat"))
    reloaded(tokenizer, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    said = [{"role": role, "content": "it ran"} for role in ("user", "assistant")]
    rows = [{"talk": said}] * 4
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"initial_model": str(folder), "data": str(tmp_path / "rows.jsonl"), "max_steps": 1}
    result = finetune(settings("instructions", columns={"messages": "talk"}, **keys))
    assert result["examples"] == {"train": 3, "validation": 1}


def test_messages_need_a_chat_template(tokenizer):
    row = {
        "prompt": [{"role": "user", "content": "Which?"}],
        "completion": [{"role": "assistant", "content": "good"}],
    }
    with pytest.raises(ValueError, match="messages need a tokenizer with a chat template"):
        make_examples("instructions", tokenizer, [row])


def test_what_the_chat_template_refuses_is_named(tokenizer):
    tokenizer = reloaded(tokenizer, chat_template="{{ raise_exception('no system role') }}")
    with pytest.raises(ValueError, match=r"chat template refuses \[\{.*'Which'.*\}\]: no system role"):
        make_examples("instructions", tokenizer, [{"prompt": "Which", "completion": "good"}])


def test_long_instruction_keeps_the_end_of_the_prompt_and_the_answer(tokenizer):
    row = {"prompt": "the cat sat on that hill", "completion": "good cat"}
    before = tokenizer(row["prompt"])["input_ids"]
    after = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
    (example,), cut = make_examples("instructions", tokenizer, [row], max_length=len(after) + 2)
    assert example == {"input_ids": before[-2:] + after, "labels": [-100, -100, *after]}
    assert cut == 1
    (example,), cut = make_examples("instructions", tokenizer, [row], max_length=3)
    assert example == {"input_ids": before[-1:] + after[:2], "labels": [-100, *after[:2]]}
    assert cut == 1
    _, cut = make_examples("instructions", tokenizer, [row])
    assert cut == 0


@pytest.mark.parametrize(("length", "parts", "lost"), [(5, [5, 2], 0), (6, [6], 1), (3, [3, 3], 1), (7, [7], 0)])
def test_last_token_that_no_example_holds_is_counted(length, parts, lost, tokenizer):
    text = "the cat sat on a mat"
    assert len(tokenizer(text)["input_ids"]) == 6  # and eos
    examples, cut = make_examples("causal_lm", tokenizer, [{"text": text}], max_length=length)
    assert [len(example["input_ids"]) for example in examples] == parts
    assert cut == lost


def test_long_prompt_keeps_its_bos(tokenizer):
    plain = train_tokenizer([" ".join(WORDS) + " good bad hillside."] * 20, 330)
    bos = plain.bos_token_id
    plain.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{plain.bos_token} $A", special_tokens=[(plain.bos_token, bos)]
    )
    row = {"prompt": "the cat sat on that hill", "completion": "good"}
    before = plain(row["prompt"], add_special_tokens=False)["input_ids"]
    after = [*plain(row["completion"], add_special_tokens=False)["input_ids"], plain.eos_token_id]
    for room, kept in {1: [bos], 3: [bos, *before[-2:]], 60: [bos, *before]}.items():
        (example,), _ = make_examples("instructions", plain, [row], max_length=len(after) + room)
        assert example["input_ids"] == kept + after


def test_text_loses_its_end_whatever_the_tokenizer_cut_before(settings, start, tokenizer, tmp_path):
    folder = shutil.copytree(start("llama"), tmp_path / "left")
    reloaded(tokenizer, truncation_side="left").save_pretrained(folder)
    result = finetune(settings("classification", initial_model=str(folder), max_steps=1, max_length=3))
    ours = AutoTokenizer.from_pretrained(result["config"]["output_dir"])
    assert ours.truncation_side == "right"  # for those who use the model
    assert result["cut_examples"]["train"] > 0
    text = "the cat sat on that hill"
    examples, _ = make_examples("classification", ours, [{"text": text, "label": each} for each in "ab"], max_length=3)
    assert examples[0]["input_ids"] == tokenizer(text)["input_ids"][:3]


def test_white_space_around_a_question_is_left_out(tokenizer):
    row = next(make_rows(1))
    wide = row | {"question": " " * 200 + row["question"] + "\n"}
    ours, theirs = (make_examples("question_answering", tokenizer, [each], stride=8) for each in (wide, row))
    assert ours == theirs


def test_long_text_to_classify_loses_its_end_and_is_counted(tokenizer):
    rows = [{"text": "the cat sat on that hill", "label": "good"}, {"text": "it ran", "label": "bad"}]
    examples, cut = make_examples("classification", tokenizer, rows, max_length=3)
    assert [example["input_ids"] for example in examples] == [tokenizer(row["text"])["input_ids"][:3] for row in rows]
    assert cut == 1


@pytest.mark.parametrize(
    ("labelled", "expected"),
    [
        ("first", [0, -100, 1, -100, -100, 0]),
        ("last", [0, -100, -100, -100, 1, 0]),
        ("all", [0, -100, 1, 1, 1, 0]),
    ],
)
def test_tag_stands_at_the_tokens_of_its_word(labelled, expected, tokenizer):
    row = {"tokens": ["the", "xyz", "cat"], "tags": ["known", "odd", "known"]}
    assert tokenizer.tokenize("the xyz cat") == ["the", "Ġ", "x", "y", "z", "Ġcat"]
    (example,), cut = make_examples("token_classification", tokenizer, [row], labelled_tokens=labelled)
    assert example["labels"] == expected
    assert example["input_ids"] == tokenizer("the xyz cat")["input_ids"]
    assert cut == 0


def test_words_beyond_the_length_have_no_label_and_are_counted(tokenizer):
    rows = [{"tokens": ["the", "cat", "sat"], "tags": [3, 5, 3]}, {"tokens": ["the", "cat"], "tags": [3, 5]}]
    examples, cut = make_examples("token_classification", tokenizer, rows, max_length=2)
    assert [example["labels"] for example in examples] == [[0, 1], [0, 1]]
    assert cut == 1


def test_places_of_words_follow_characters():
    # a b-c d: a token of white space alone, one over two words, one for no text, a word without any
    assert places_of_words(["ab", "", "c", "d"], [(0, 2), (2, 3), (4, 5), (5, 7), (0, 0)]) == [[0], [], [2], [3]]
    assert places_of_words(["ab", "c"], [(0, 1), (1, 4)]) == [[0, 1], [1]]


def test_windows_of_a_long_context_cover_it_and_share_the_stride(tokenizer):
    context = " ".join(WORDS)
    answer = {"text": ["rain"], "answer_start": [context.index("rain")]}
    batch = {"question": ["Which one?"], "context": [context], "answers": [answer]}
    question = tokenizer("Which one?")["input_ids"]
    length = len(question) + 6
    windows = encode_windows(batch, [7], tokenizer, max_length=length, stride=2, split="train")
    parts = [ids[len(question) :] for ids in windows["input_ids"]]
    assert all(ids[: len(question)] == question for ids in windows["input_ids"])
    assert all(part[-2:] == following[:2] for part, following in itertools.pairwise(parts))
    whole = parts[0] + [token for part in parts[1:] for token in part[2:]]
    assert whole == tokenizer(context)["input_ids"]
    assert windows["row"] == [7] * len(parts)
    held = 0
    for ids, (start, end, tokens) in zip(windows["input_ids"], windows["labels"], strict=True):
        assert tokens == len(ids)
        if (start, end) == (0, 0):
            assert "rain" not in tokenizer.decode(ids)
        else:
            held += 1
            assert tokenizer.decode(ids[start : end + 1]) == " rain"
    assert held >= 1


def test_answer_is_found_in_characters_and_only_where_all_of_it_is():
    offsets = [[-1, -1], [10, 13], [13, 17], [17, 20]]
    assert answer_tokens(offsets, {"text": ["abc"], "answer_start": [14]}) == (2, 2)
    assert answer_tokens(offsets, {"text": ["abcd"], "answer_start": [12]}) == (1, 2)
    assert answer_tokens(offsets, {"text": ["abcde"], "answer_start": [16]}) == (0, 0)  # goes on behind the window
    assert answer_tokens(offsets, {"text": ["ab"], "answer_start": [9]}) == (0, 0)  # starts before it
    assert answer_tokens(offsets, {"text": [], "answer_start": []}) == (0, 0)


def test_best_answer_is_the_best_pair_of_all_windows_that_reads_forwards():
    contexts = ["one two three", "four five"]
    first, second = [[-1, -1], [0, 3], [3, 7]], [[-1, -1], [3, 7], [7, 13]]
    third = [[-1, -1], [0, 4], [4, 9]]
    starts = np.array([[0, 1, 5.0], [0, 1, 9.0], [7, 2, 1.0]])
    ends = np.array([[0, 8, 1.0], [0, 3, -9.0], [7, 1, 2.0]])
    # first: 2 -> 1 reads backwards, so 1 -> 1 with 9; second: 2 -> 2 with 0, 1 -> 1 with 4; third: 1 -> 2 with 4
    arguments = (contexts, [0, 0, 1], [first, second, third], starts, ends)
    assert best_answers(*arguments, may_be_empty=False) == ["one", "four five"]
    assert best_answers(*arguments, may_be_empty=True) == ["one", ""]  # its first token has 14


def test_answer_that_may_be_missing_is_scored_as_missing():
    rows = Dataset.from_list(
        [
            {"question": "Who?", "context": "the cat", "answers": {"text": ["cat"], "answer_start": [4]}},
            {"question": "What?", "context": "a mat", "answers": {"text": [], "answer_start": []}},
        ],
        features=Features(
            {
                "question": Value("string"),
                "context": Value("string"),
                "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
            }
        ),
    )
    task = make_task("question_answering", rows)
    task.windows = {"row": [0, 1], "offsets": [[[-1, -1], [0, 3], [3, 7]], [[-1, -1], [0, 1], [1, 5]]]}
    logits = np.array([[0, 9, 1.0], [5, 1, 1.0]]), np.array([[0, 1, 9.0], [5, 1, 1.0]])
    scores = task.compute_metrics(EvalPrediction(predictions=logits, label_ids=None))
    assert scores == {"exact_match": 100.0, "f1": 100.0}  # SQuAD leaves out articles
    scores = task.compute_metrics(EvalPrediction(predictions=(logits[0], logits[1] * 0 - 9), label_ids=None))
    assert scores == {"exact_match": 50.0, "f1": 50.0}  # "the", and rightly none


# Labels and losses


@pytest.mark.parametrize(
    ("feature", "values", "names", "ids"),
    [
        (Value("string"), ["b", "a", "b"], ["a", "b"], {"a": 0, "b": 1}),
        (Value("int64"), [5, 1], ["1", "5"], {1: 0, 5: 1}),
        (Value("bool"), [True, False], ["False", "True"], {False: 0, True: 1}),
        (ClassLabel(names=["no", "yes", "rare"]), [0, 1], ["no", "yes", "rare"], {0: 0, 1: 1, 2: 2}),
    ],
)
def test_labels_come_from_the_data(feature, values, names, ids):
    assert find_labels("label", feature, values) == Labels(names, ids)


@pytest.mark.parametrize(
    ("feature", "values", "message"),
    [
        (Value("float64"), [0.5, 1.0], "labels are strings or whole numbers"),
        (Value("string"), ["a", "a"], "at least 2 labels"),
        (ClassLabel(names=["no", "yes"]), [0, -1], "holds -1, which stands for no label"),
    ],
)
def test_what_is_no_label_is_refused(feature, values, message):
    with pytest.raises(ValueError, match=f"label: .*{message}"):
        find_labels("label", feature, values)


def test_class_weights_are_given_or_balanced():
    labels = Labels(["a", "b", "c"], {"a": 0, "b": 1, "c": 2})
    assert weigh_labels({"b": 3}, labels, Counter()).tolist() == [1, 3, 1]
    truth = [0] * 6 + [1] * 3 + [2]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=truth)
    assert weigh_labels("balanced", labels, Counter(truth)).tolist() == pytest.approx(expected.tolist())
    assert weigh_labels("balanced", labels, Counter([0, 1, 1]))[2] == 1  # never trained on


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_weighted_loss_is_the_weighted_sum_over_the_number_of_labels(shape):
    torch.manual_seed(0)
    weight, logits = torch.tensor([0.5, 2.0, 1.0]), torch.randn(*shape, 3)
    labels = torch.tensor([0, 1, -100, 2, 1, 0]).view(shape)
    nats = [
        logit.exp().sum().log().item() - logit[max(label, 0)].item()
        for logit, label in zip(logits.view(-1, 3), labels.flatten().tolist(), strict=True)
    ]
    total = 0.5 * (nats[0] + nats[5]) + 2 * (nats[1] + nats[4]) + nats[3]
    outputs = type("Outputs", (), {"logits": logits})
    assert classification_loss(weight)(outputs, labels).item() == pytest.approx(total / 5, abs=1e-5)
    assert classification_loss(weight)(outputs, labels, torch.tensor(20)).item() == pytest.approx(total / 20, abs=1e-5)
    assert classification_loss(weight)(outputs, torch.full(shape, -100)) == 0


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("classification", {"class_weights": {"good": 20.0}}),
        ("token_classification", {"class_weights": {"O": 20.0}}),
        ("question_answering", {}),
    ],
    ids=["classification", "token_classification", "question_answering"],
)
def test_accumulated_batches_train_as_one_batch(family, task, keys, batch_size, settings, without_dropout):
    keys |= {"optim": "sgd", "learning_rate": 0.1, "max_steps": 2, "max_grad_norm": 0}
    whole = settings(task, family, **keys, per_device_train_batch_size=8)
    parts = whole | {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": 8 // batch_size}
    parts["output_dir"] += "-parts"
    for each in (whole, parts):
        finetune(each)
    ours, theirs = (weights(each["output_dir"], HEADS[task]) for each in (whole, parts))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)


def test_class_weights_reach_the_loss(settings):
    even = finetune(settings("classification", max_steps=1, learning_rate=0.0))
    run_again = settings("classification", max_steps=1, learning_rate=0.0, class_weights={"good": 0.0})
    run_again["output_dir"] += "-weighted"
    weighted = finetune(run_again)
    model = AutoModelForSequenceClassification.from_pretrained(run_again["output_dir"])
    tokenizer = AutoTokenizer.from_pretrained(run_again["output_dir"])
    held_out = load_rows(run_again["data"])["validation"]
    batch = tokenizer(list(held_out["text"]), padding=True, return_tensors="pt")
    labels = torch.tensor([model.config.label2id[label] for label in held_out["label"]])
    assert 0 < labels.sum() < len(labels)
    with torch.no_grad():
        logits = model(**batch).logits
    expected = cross_entropy(logits[labels == 0], labels[labels == 0], reduction="sum") / len(labels)
    assert weighted["metrics"]["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert even["metrics"]["loss"] == pytest.approx(cross_entropy(logits, labels).item(), abs=1e-5)


# Whole runs


@pytest.mark.parametrize(
    ("task", "metric", "at_least"),
    [
        ("classification", "f1", 0.9),
        ("token_classification", "f1", 0.9),
        ("question_answering", "exact_match", 90),
        ("instructions", "loss", -0.3),
        ("causal_lm", "loss", -2.5),
    ],
)
def test_every_task_learns_an_easy_rule(family, task, metric, at_least, settings):
    result = finetune(settings(task, family, max_steps=60, lr_scheduler_type="constant"))
    value = result["metrics"][metric]
    assert (-value if metric == "loss" else value) >= at_least
    folder = Path(result["config"]["output_dir"])
    model = HEADS[task].from_pretrained(folder)
    assert type(model).__name__.startswith(FAMILIES[family].prefix)
    assert isinstance(AutoTokenizer.from_pretrained(folder), BipeTokenizer)
    assert model.config.use_cache
    record = json.loads((folder / "finetuning.json").read_text())
    assert record == result
    assert record["examples"] == {"train": 72, "validation": 8}
    if task == "classification":
        assert model.config.id2label == {0: "bad", 1: "good"}
        assert model.config.label2id == {"bad": 0, "good": 1}
        assert record["labels"] == ["bad", "good"]


@pytest.mark.parametrize("collation", ["padded", "padding_free"])
def test_recorded_loss_of_texts_is_the_mean_over_all_tokens(collation, settings):
    """Not a mean over batches, which have unlike numbers of tokens."""
    keys = {"collation": collation, "per_device_eval_batch_size": 3}
    result = finetune(settings("instructions", max_steps=1, **keys))
    model = AutoModelForCausalLM.from_pretrained(result["config"]["output_dir"])
    tokenizer = AutoTokenizer.from_pretrained(result["config"]["output_dir"])
    examples, _ = make_examples("instructions", tokenizer, load_rows(result["data"])["validation"].to_list())
    with torch.no_grad():
        expected = losses_alone(model, examples).mean().item()
    assert result["metrics"]["loss"] == pytest.approx(expected, abs=1e-5)
    assert result["metrics"]["perplexity"] == pytest.approx(np.exp(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("classification", {"class_weights": {"good": 20.0}}),
        ("token_classification", {"class_weights": {"O": 20.0}}),
        ("token_classification", {"collation": "padding_free"}),
        ("question_answering", {}),
    ],
)
def test_recorded_loss_does_not_depend_on_the_batches(task, keys, settings):
    losses = []
    for batch_size in (1, 3, 8):
        ours = settings(task, max_steps=1, **keys, per_device_eval_batch_size=batch_size)
        ours["output_dir"] += f"-{batch_size}"
        losses.append(finetune(ours)["metrics"]["loss"])
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)


def test_recorded_loss_of_answers_is_the_mean_over_windows_each_alone(settings):
    ours = settings("question_answering", max_steps=1)
    result = finetune(ours)
    model = AutoModelForQuestionAnswering.from_pretrained(ours["output_dir"])
    tokenizer = AutoTokenizer.from_pretrained(ours["output_dir"])
    rows = load_rows(ours["data"])["validation"].to_list()
    examples, _ = make_examples("question_answering", tokenizer, rows, stride=8)
    with torch.no_grad():
        expected = answer_losses_alone(model, examples).mean().item()
    assert result["metrics"]["loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("key", ["bf16_full_eval", "fp16_full_eval"])
def test_measuring_in_16_bits_leaves_the_saved_weights_alone(key, settings):
    ours, whole = settings("classification", max_steps=1, **{key: True}), settings("classification", max_steps=1)
    whole["output_dir"] += "-whole"
    for each in (ours, whole):
        finetune(each)
    tensors = load_file(Path(ours["output_dir"], "model.safetensors"))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert_same_weights(tensors, load_file(Path(whole["output_dir"], "model.safetensors")))


def test_run_that_diverged_is_recorded_in_valid_json(settings, tokenizer, tmp_path):
    model = make_model("llama", tokenizer)
    model.lm_head.weight.data *= 1e6
    model.save_pretrained(tmp_path / "far")
    tokenizer.save_pretrained(tmp_path / "far")
    ours = settings("causal_lm", initial_model=str(tmp_path / "far"), max_steps=1)
    assert finetune(ours)["metrics"]["perplexity"] == math.inf

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    record = json.loads(Path(ours["output_dir"], "finetuning.json").read_text(), parse_constant=refuse)
    assert record["metrics"]["perplexity"] is None
    assert record["metrics"]["loss"] > 700


def test_others_read_the_data_after_the_main_process(settings, monkeypatch):
    """Which writes into the folder only when all have looked there."""
    events = []

    @contextmanager
    def main_process_first(self, desc):
        events.append("in")
        yield
        events.append("out")

    monkeypatch.setattr(TrainingArguments, "main_process_first", main_process_first)
    for module, name in ((run, "find_checkpoint"), (task_module, "load_rows"), (run, "begin_run")):
        inner = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, name=name, inner=inner, **keys: events.append(name) or inner(*args, **keys)
        )
    finetune(settings("classification", max_steps=1))
    assert events == ["find_checkpoint", "in", "load_rows", "out", "begin_run"]


def test_model_that_does_not_say_its_length_needs_max_length(settings, tokenizer, tmp_path):
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=16, n_layer=1, n_head=2)
    BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    tokenizer.without_segments().save_pretrained(tmp_path / "bloom")
    ours = settings("causal_lm", initial_model=str(tmp_path / "bloom"), max_steps=1, attn_implementation="eager")
    with pytest.raises(ValueError, match="give max_length: a model of type bloom does not say"):
        finetune(ours)
    assert finetune(ours | {"max_length": 16})["max_length"] == 16


@pytest.mark.parametrize("task", ["causal_lm", "token_classification"])
def test_padding_free_training_is_padded_training(family, task, settings, without_dropout):
    padded = settings(task, family, optim="sgd", learning_rate=1.0)
    free = padded | {"collation": "padding_free", "output_dir": padded["output_dir"] + "-free"}
    results = [finetune(each)["metrics"] for each in (padded, free)]
    ours, theirs = (weights(each["output_dir"], HEADS[task]) for each in (padded, free))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)
    for name in results[0]:
        assert results[0][name] == pytest.approx(results[1][name], abs=1e-4)


def test_entities_end_with_their_example():
    """In one joined row, `I-` at the start of an example does not go on with the entity of the one before."""
    rows = Dataset.from_list([{"tokens": ["a", "b", "c"], "tags": ["O", "B-x", "I-x"]}])
    task = make_task("token_classification", rows)
    names = task.labels.names
    truth = [["O", "B-x"], ["I-x", "O"]]
    predicted = [["O", "B-x"], ["O", "O"]]
    padded = [np.array([[names.index(tag) for tag in row] for row in rows]) for rows in (truth, predicted)]
    free = [part.reshape(1, 4) for part in padded]
    expected = {"accuracy": 0.75, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    losses = np.array([[0.5, 1.0], [1.5, 2.0]])
    expected["loss"] = 1.25
    assert task.compute_metrics(EvalPrediction((padded[1], losses), padded[0])) == expected
    positions = np.array([[0, 1, 0, 1]])
    free[1] = (free[1], losses.reshape(1, 4))
    assert task.compute_metrics(EvalPrediction(free[1], (free[0], positions))) == expected


def test_tags_that_are_no_entities_are_scored_one_by_one():
    rows = Dataset.from_list([{"tokens": ["a", "b", "c"], "tags": ["NOUN", "VERB", "NOUN"]}])
    task = make_task("token_classification", rows)
    predicted, losses = np.array([[0, 0, 1, 1]]), np.array([[1.0, 2.0, 100.0, 3.0]])
    scores = task.compute_metrics(EvalPrediction((predicted, losses), np.array([[0, 1, -100, 1]])))
    expected = {"loss": 2.0, "accuracy": 2 / 3, "f1": 2 / 3, "f1_NOUN": 2 / 3, "f1_VERB": 2 / 3}
    assert scores == pytest.approx(expected)


def test_columns_can_have_other_names(settings, tmp_path):
    rows = [{"review": row["text"], "stars": 5 if row["label"] == "good" else 1} for row in make_rows(20)]
    Dataset.from_list(rows).to_csv(tmp_path / "rows.csv")
    keys = {"data": str(tmp_path / "rows.csv"), "columns": '{"text": "review", "label": "stars"}'}
    result = finetune(settings("classification", **keys))
    assert result["labels"] == ["1", "5"]


def test_model_without_separators_gets_a_plain_tokenizer(settings, tokenizer, tmp_path):
    make_model("llama", tokenizer, segmentation="tokens", intra_encoding="none").save_pretrained(tmp_path / "rope")
    tokenizer.save_pretrained(tmp_path / "rope")
    result = finetune(settings("classification", initial_model=str(tmp_path / "rope")))
    ours = AutoTokenizer.from_pretrained(result["config"]["output_dir"])
    assert not isinstance(ours, BipeTokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(result["config"]["output_dir"])
    assert model.config.segmentation == "tokens"


def test_stock_model_can_be_finetuned_without_padding(settings, tokenizer, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    stock = FAMILIES["llama"].make_stock_causal_lm(vocab_size=len(tokenizer), **sizes)
    stock.save_pretrained(tmp_path / "stock")
    tokenizer.without_segments().save_pretrained(tmp_path / "stock")
    keys = {"initial_model": str(tmp_path / "stock"), "collation": "padding_free", "max_length": 32}
    result = finetune(settings("instructions", **keys))
    model = AutoModelForCausalLM.from_pretrained(result["config"]["output_dir"])
    assert type(model) is LlamaForCausalLM
    examples, _ = make_examples("instructions", tokenizer, load_rows(result["data"])["validation"].to_list())
    with torch.no_grad():
        assert result["metrics"]["loss"] == pytest.approx(losses_alone(model, examples).mean().item(), abs=1e-5)


def test_separators_of_the_model_count_not_those_of_the_tokenizer(settings, start, tokenizer, tmp_path):
    folder = shutil.copytree(start("llama"), tmp_path / "other")
    BipeTokenizer.from_tokenizer(tokenizer, separators="lines").save_pretrained(folder)
    result = finetune(settings("causal_lm", initial_model=str(folder)))
    ours = AutoTokenizer.from_pretrained(result["config"]["output_dir"])
    assert ours.separator_token_ids == tokenizer.separator_token_ids


def test_eos_pads_where_nothing_else_does_and_the_run_says_so(settings, start, tokenizer, tmp_path, capsys):
    folder = shutil.copytree(start("llama"), tmp_path / "unpadded")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    result = finetune(settings("classification", initial_model=str(folder)))
    assert "has no padding token: '<|endoftext|>' pads" in capsys.readouterr().out
    model = AutoModelForSequenceClassification.from_pretrained(result["config"]["output_dir"])
    assert model.config.pad_token_id == tokenizer.eos_token_id


# The best checkpoint


BEST = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
}


def test_best_checkpoint_is_what_is_saved(family, settings):
    """The head of a GPT-NeoX has another name in files; Trainer alone would keep the last one."""
    result = finetune(settings("causal_lm", family, **BEST, learning_rate=0.3, optim="sgd", weight_decay=0.0))
    assert result["best_checkpoint"] == "checkpoint-4"
    worse = settings("causal_lm", family, **BEST, learning_rate=3.0, lr_scheduler_type="constant")
    worse["output_dir"] += "-worse"
    result = finetune(worse)
    folder = Path(worse["output_dir"])
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    losses = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    best = min(losses, key=losses.get)
    assert best < 4
    assert result["best_checkpoint"] == f"checkpoint-{best}"
    assert_same_weights(weights(folder), weights(folder / f"checkpoint-{best}"))
    assert any(
        not torch.equal(weights(folder)[name], value) for name, value in weights(folder / "checkpoint-4").items()
    )
    assert result["metrics"]["loss"] == pytest.approx(losses[best], abs=1e-6)


def test_early_stopping_stops_where_nothing_gets_better(settings):
    result = finetune(settings("classification", **BEST, learning_rate=0.0, early_stopping_patience=2, max_steps=50))
    assert result["steps"] == 3  # the first measurement is the best, then two that are no better


def test_run_killed_after_early_stopping_trains_no_further(settings):
    ours = settings("classification", **BEST, learning_rate=0.0, early_stopping_patience=2, max_steps=50)
    first = finetune(ours)
    Path(ours["output_dir"], "finetuning.json").unlink()
    result = finetune(ours)
    assert result["resumed_from"] == "checkpoint-3"
    assert result["steps"] == first["steps"] == 3
    assert result["metrics"] == first["metrics"]


def test_label_named_loss_is_the_better_the_higher_its_f1(settings, tmp_path):
    rows = [row | {"label": row["label"].replace("bad", "loss")} for row in make_rows(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for metric, is_greater_better in {"f1_loss": True, "loss": False}.items():
        keys = BEST | {"metric_for_best_model": metric, "max_steps": 1, "data": str(tmp_path / "rows.jsonl")}
        ours = settings("classification", **keys)
        ours["output_dir"] += f"-{metric}"
        finetune(ours)
        arguments = torch.load(Path(ours["output_dir"], "training_args.bin"), weights_only=False)
        assert arguments.greater_is_better == is_greater_better


def test_best_checkpoint_is_loaded_without_a_false_alarm(settings, caplog, monkeypatch):
    """Trainer reads the file by names that the head of a GPT-NeoX does not have there."""
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    finetune(settings("causal_lm", "gpt_neox", **BEST, max_steps=2))
    assert "missing keys" not in caplog.text


def test_default_metric_of_the_best_checkpoint_is_that_of_the_task(settings):
    result = finetune(settings("classification", **BEST, max_steps=2))
    history = json.loads((Path(result["config"]["output_dir"]) / "trainer_state.json").read_text())
    assert history["best_metric"] == max(
        entry["eval_f1"] for entry in history["log_history"][:-1] if "eval_f1" in entry
    )


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(family, settings):
    keys = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    ours = settings("classification", family, **keys)
    whole = ours | {"output_dir": ours["output_dir"] + "-whole"}
    finetune(whole)
    interrupt(finetune, ours, step=5)
    result = finetune(ours)
    assert result["resumed_from"] == "checkpoint-4"
    assert result["steps"] == 6
    assert_same_weights(*(weights(each["output_dir"], HEADS["classification"]) for each in (ours, whole)))


def test_resumed_run_has_lost_no_patience(settings):
    keys = {"learning_rate": 0.0, "early_stopping_patience": 3, "max_steps": 50}
    ours = settings("classification", **BEST, **keys)
    interrupt(finetune, ours, step=3)
    result = finetune(ours)
    assert result["resumed_from"] == "checkpoint-2"
    assert result["steps"] == 4


def test_run_interrupted_after_its_last_step_keeps_the_best_checkpoint(settings):
    ours = settings("causal_lm", "gpt_neox", **BEST, learning_rate=3.0, lr_scheduler_type="constant")
    first = finetune(ours)
    folder = Path(ours["output_dir"])
    expected = weights(folder)
    for name in ("finetuning.json", "model.safetensors"):
        (folder / name).unlink()
    result = finetune(ours)
    assert result["best_checkpoint"] == first["best_checkpoint"] != "checkpoint-4"
    assert_same_weights(weights(folder), expected)


def test_finished_run_is_refused_until_it_is_overwritten(settings):
    ours = settings("classification", max_steps=1)
    finetune(ours)
    with pytest.raises(FileExistsError, match=r"finished run \(finetuning\.json\).*--overwrite"):
        finetune(ours)
    assert finetune(ours | {"max_steps": 2}, overwrite=True)["steps"] == 2


@pytest.mark.parametrize(
    ("key", "place"), [("initial_model", ""), ("initial_model", "checkpoint-1"), ("data", "rows.jsonl")]
)
def test_overwrite_does_not_delete_what_the_run_is_to_read(key, place, settings, table):
    ours = settings("causal_lm", max_steps=1, save_strategy="steps", save_steps=1)
    finetune(ours)
    folder = Path(ours["output_dir"])
    shutil.copy(table, folder / "rows.jsonl")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ValueError, match=f"{key}: .* lies in output_dir .*, whose run --overwrite deletes"):
        finetune(ours | {key: str(folder / place)}, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_overwrite_leaves_no_chat_template_behind(settings, start, tokenizer, tmp_path):
    folder = shutil.copytree(start("llama"), tmp_path / "chat")
    reloaded(tokenizer, chat_template={"default": CHAT_TEMPLATE, "other": "x"}).save_pretrained(folder)
    ours = settings("classification", max_steps=1)
    finetune(ours | {"initial_model": str(folder)})
    assert AutoTokenizer.from_pretrained(ours["output_dir"]).chat_template
    finetune(ours, overwrite=True)
    assert not AutoTokenizer.from_pretrained(ours["output_dir"]).chat_template


def test_changed_validation_rows_are_not_resumed(settings, tmp_path):
    rows = list(map(json.dumps, make_rows(40)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(rows[:30]))
    (tmp_path / "data" / "validation.jsonl").write_text("\n".join(rows[30:]))
    ours = settings("classification", data=str(tmp_path / "data"), save_strategy="steps", save_steps=1)
    interrupt(finetune, ours, step=2)
    (tmp_path / "data" / "validation.jsonl").write_text("\n".join(rows[30:35]))
    with pytest.raises(ValueError, match="not what the interrupted run in .* began with"):
        finetune(ours)


def test_changed_rows_are_not_resumed(settings, table, tmp_path):
    data = Path(shutil.copy(table, tmp_path / "rows.jsonl"))
    ours = settings("classification", data=str(data), max_steps=3, save_strategy="steps", save_steps=1)
    interrupt(finetune, ours, step=2)
    data.write_text(data.read_text().replace("cat", "dog"))
    with pytest.raises(ValueError, match="not what the interrupted run in .* began with"):
        finetune(ours)


# Rows


def test_rows_are_held_out_by_chance_but_the_same_each_time(table):
    first, second = load_rows(table), load_rows(table)
    assert {split: len(rows) for split, rows in first.items()} == {"train": 72, "validation": 8}
    assert first["validation"].to_list() == second["validation"].to_list()
    together = first["train"].to_list() + first["validation"].to_list()
    assert sorted(map(json.dumps, together)) == sorted(map(json.dumps, make_rows(80)))


def test_validation_split_is_used_as_it_is_and_the_folder_is_left_alone(settings, tmp_path):
    folder = tmp_path / "saved"
    rows = Dataset.from_list(list(make_rows(20)))
    DatasetDict(train=rows, validation=rows.select([3, 4]), test=rows).save_to_disk(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert finetune(settings("classification", data=str(folder)))["examples"] == {"train": 20, "validation": 2}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


# Bad input


@pytest.mark.parametrize(
    ("task", "keys", "message"),
    [
        ("clasification", {}, r"task: 'clasification' given, .*did you mean classification\?"),
        (None, {}, "task: None given, one of causal_lm"),
        ("classification", {"initial_model": None}, "give initial_model"),
        ("classification", {"data": None}, "give data"),
        ("classification", {"data": "missing.jsonl"}, "no such file or folder: missing.jsonl"),
        ("classification", {"initial_model": "nowhere/at_all"}, "initial_model: nowhere/at_all cannot be loaded"),
        ("classification", {"collation": "padding_free"}, "collation: padding_free needs .*; not classification"),
        ("question_answering", {"collation": "padding_free"}, "collation: padding_free needs"),
        ("classification", {"stride": 8}, "stride: classification does not read it, only question_answering"),
        ("causal_lm", {"class_weights": "balanced"}, "class_weights: causal_lm does not read it, only"),
        ("classification", {"labelled_tokens": "all"}, "labelled_tokens: classification does not read it"),
        ("classification", {"class_weights": "heavy"}, "class_weights: 'heavy' is neither balanced nor a mapping"),
        ("classification", {"class_weights": {"goood": 2}}, r"class_weights: 'goood' is no .*did you mean good\?"),
        ("classification", {"class_weights": {"good": -1}}, "class_weights: -1 given for good"),
        ("classification", {"class_weights": {"good": "x"}}, "class_weights: 'x' given for good"),
        ("classification", {"class_weights": {"good": math.inf}}, "class_weights: inf given for good, a finite"),
        ("classification", {"class_weights": [1, 2]}, r"class_weights: \[1, 2\] is neither balanced nor a mapping"),
        ("classification", {"class_weights": "[1, 2]"}, r"class_weights: \[1, 2\] is neither balanced nor a mapping"),
        ("classification", {"dataloader_drop_last": True}, "dataloader_drop_last cannot be set: every row"),
        ("classification", {"eval_do_concat_batches": False}, "eval_do_concat_batches cannot be set: metrics are"),
        ("classification", {"batch_eval_metrics": True}, "batch_eval_metrics cannot be set: metrics are"),
        ("classification", {"early_stopping_patience": 2}, "early_stopping_patience: give load_best_model_at_end"),
        ("classification", {"early_stopping_patience": 0}, "early_stopping_patience: 0 given, at least 1"),
        ("classification", BEST | {"metric_for_best_model": "f2"}, "metric_for_best_model: 'f2' given, this task has"),
        ("causal_lm", BEST | {"metric_for_best_model": "perplexity"}, "metric_for_best_model: give loss"),
        ("classification", {"max_length": 1}, "max_length: 1 given"),
        ("question_answering", {"max_length": 8}, r"max_length: 8 leaves \d .* 'Which one\?' of the train split"),
        ("classification", {"max_steps": 0}, "no training step"),
        ("classification", {"per_device_train_batch_size": 0}, "per_device_train_batch_size: 0 given"),
        ("classification", {"validation_fraction": 1.0}, "validation_fraction"),
        ("classification", {"columns": {"texts": "x"}}, "columns: 'texts' is not read by this task, but text, label"),
        ("classification", {"columns": {"text": "x"}}, "no column 'x' for text; it has text, label"),
        ("classification", {"columns": {"text": "label"}}, "columns: the same column is given twice"),
        ("classification", {"columns": "text"}, "columns: 'text' is no mapping"),
        ("classification", {"columns": {"text": "tokens"}}, "text: text is needed, the column of the train split"),
        ("classification", {"columns": {"label": "tokens"}}, "label: labels are strings or whole numbers"),
        ("token_classification", {"columns": {"tags": "label"}}, "tags: a list for each row is needed"),
        ("token_classification", {"columns": {"tokens": "answers"}}, "tokens: a list for each row is needed"),
        ("question_answering", {"columns": {"answers": "label"}}, "answers: row 0 of the train split is no mapping"),
        ("question_answering", {"columns": {"context": "text"}}, "answers: row .* has no '.*' at character"),
        ("classification", {"label_smoothing_factor": 0.1}, "label_smoothing_factor cannot be set"),
        ("classification", {"hidden_size": 16}, "hidden_size"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused_before_anything_is_written(task, keys, message, settings):
    ours = settings(task, **keys)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        finetune(ours)
    assert not Path(ours["output_dir"]).exists()


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("classification", {"text": " "}, "text: row 2 of the train split is blank"),
        ("classification", {"label": None}, "label: row 2 of the train split is missing"),
        ("instructions", {"completion": ""}, "completion: row 2 of the train split is empty"),
        ("token_classification", {"tags": ["O"]}, "tags: row 2 of the train split has 1 tags for"),
        ("token_classification", {"tokens": []}, "tokens: row 2 of the train split is empty"),
        ("question_answering", {"answers": {"text": ["x"], "answer_start": []}}, "answers: row 2 of the train"),
        ("question_answering", {"question": ""}, "question: row 2 of the train split is blank"),
        ("question_answering", {"answers": {"text": [""], "answer_start": [0]}}, "answers: row 2 .* two empty lists"),
        ("question_answering", {"answers": {"text": [""], "answer_start": [-1]}}, "answers: row 2 .* two empty lists"),
        (
            "question_answering",
            {"answers": {"text": ["a"], "answer_start": [None]}},
            "answers: row 2 .* whole numbers",
        ),
        ("question_answering", {"answers": {"text": ["a"], "answer_start": [-1]}}, "answers: row 2 .* whole numbers"),
        ("instructions", {"prompt": [{"role": "user"}]}, "prompt: row 2 .* without role or content"),
        ("instructions", {"prompt": ["x"]}, "prompt: row 0 .* without role or content"),
        ("instructions", {"completion": [{"content": "x"}]}, "completion: row 2 .* without role or content"),
        ("instructions", {"completion": 7}, "completion: row 2 .* holds neither text nor messages"),
        ("instructions", {"messages": []}, "messages: row 2 of the train split holds no messages"),
        ("instructions", {"messages": "it ran"}, "messages: row 2 of the train split holds no messages"),
        ("instructions", {"messages": [{"role": "user", "content": "x"}]}, "messages: row 2 .* no message of the as"),
        ("causal_lm", {"text": 7}, "text: row 2 of the train split holds no text"),
        ("classification", {"text": ["it", "ran"]}, "text: row 2 of the train split holds no text"),
        ("classification", {"label": 7}, "label: labels are strings or whole numbers"),
        ("token_classification", {"tokens": "it ran"}, "tokens: a list for each row is needed"),
        ("token_classification", {"tokens": ["it", 7], "tags": ["O", "O"]}, "tokens: row 2 .* holds 7, which is no"),
        ("question_answering", {"context": 7}, "context: row 2 of the train split holds no text"),
        ("question_answering", {"answers": "it ran"}, "answers: row 2 of the train split is no mapping"),
    ],
)
def test_bad_row_is_named(task, changes, message, settings, tmp_path):
    (tmp_path / "data").mkdir()
    rows = list(make_rows(4))
    if "messages" in changes:
        said = [{"role": role, "content": "it ran"} for role in ("user", "assistant")]
        rows = [{"messages": said} for _ in rows]
    for column, value in changes.items():
        if isinstance(value, list) and task == "instructions" and column != "messages":  # the others hold lists, too
            messages = isinstance(value[0], dict)
            rows = [row | {column: [{"role": "user", "content": "x"} if messages else "x"]} for row in rows]
    for name, part in {"train": [*rows[:2], rows[2] | changes], "validation": rows}.items():
        (tmp_path / "data" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    with pytest.raises(ValueError, match=message):
        finetune(settings(task, data=str(tmp_path / "data")))


def test_bad_row_is_shown_since_its_number_is_not_that_of_the_file(settings, tmp_path):
    rows = [{"text": f"it ran {number}", "label": str(number % 2)} for number in range(40)]
    rows[25] = {"text": " ", "label": "the odd one" + "." * 500}
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="text: row .* is blank: .*the odd one") as error:
        finetune(settings("classification", data=str(tmp_path / "rows.jsonl")))
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("task", ["token_classification", "causal_lm"])
def test_head_of_another_task_is_no_start(task, settings, family):
    """Llama has one name for the weights of both classifiers: one would be taken for the other."""
    first = settings("classification", family)
    finetune(first)
    again = settings(task, family, initial_model=first["output_dir"], output_dir=first["output_dir"] + "-again")
    with pytest.raises(ValueError, match="is a Bipe.*ForSequenceClassification, the task needs a language model"):
        finetune(again)


def test_padding_free_batches_are_not_measured_by_several_processes(settings, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(ValueError, match="padding_free is not measured rightly by several processes"):
        finetune(settings("causal_lm", collation="padding_free"))


def test_classifier_with_other_labels_is_refused(settings, tmp_path):
    first = settings("classification")
    finetune(first)
    again = settings("classification", initial_model=first["output_dir"])
    again["output_dir"] += "-again"
    assert finetune(again)["labels"] == ["bad", "good"]
    for number, names in enumerate((["bad", "fine"], ["bad", "good", "so-so"])):
        rows = [{"text": "it ran", "label": name} for name in names * 4]
        path = tmp_path / f"{number}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        with pytest.raises(ValueError, match=r"knows the labels \['bad', 'good'\], the data has"):
            finetune(again | {"data": str(path), "output_dir": str(tmp_path / "other")})


@pytest.mark.parametrize("task", ["causal_lm", "classification"])
def test_weights_that_are_missing_elsewhere_than_in_a_head_are_refused(task, settings, start, family, tmp_path):
    folder = Path(shutil.copytree(start(family), tmp_path / "incomplete"))
    weights = load_file(folder / "model.safetensors")
    name = {"llama": "model.norm.weight", "gpt_neox": "gpt_neox.final_layer_norm.weight"}[family]
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"has no weights for {re.escape(name)}"):
        finetune(settings(task, family, initial_model=str(folder)))


@pytest.mark.parametrize("task", ["causal_lm", "classification"])
def test_weights_of_another_size_are_not_taken_for_a_classifier(task, settings, start, tmp_path):
    folder = Path(shutil.copytree(start("llama"), tmp_path / "wide"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(ValueError, match=r"has weights of other sizes than its config: model\.layers\.0\.mlp\."):
        finetune(settings(task, initial_model=str(folder)))


def test_missing_package_names_the_extra(settings, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "seqeval" else find_spec(name))
    with pytest.raises(ValueError, match=r"token_classification needs seqeval.*pip install '\.\[finetune\]'"):
        finetune(settings("token_classification"))


# The command


def test_command_names_the_key_that_it_does_not_know(tmp_path, capsys):
    (tmp_path / "small.yaml").write_text("taks: classification")
    assert main(["finetune", str(tmp_path / "small.yaml")]) == 2
    assert "unknown key 'taks'; did you mean task?" in capsys.readouterr().err


def test_help_of_finetune_explains_every_key(capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    output = capsys.readouterr().out
    assert all(f"  {field.name} " in output for kind in (TaskArguments, RowArguments) for field in fields(kind))


def test_interrupted_finetuning_says_how_to_resume(tmp_path, monkeypatch, capsys):
    def interrupted(settings, overwrite):
        raise KeyboardInterrupt

    monkeypatch.setattr("bipe_hf.lab.finetuning.finetune", interrupted)
    (tmp_path / "small.yaml").write_text("output_dir: here")
    assert main(["finetune", str(tmp_path / "small.yaml")]) == 130
    assert "resumes from the last checkpoint in here" in capsys.readouterr().err
