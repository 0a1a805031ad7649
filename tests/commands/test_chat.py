"""`bipe-hf generate --chat`: every answer is that of `generate` to the whole chat, and the cache goes on."""

import io
import sys

import pytest
import torch
from tiny import LEVELS, TINY
from word_tokenizer import EOS, make_word_tokenizer

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM
from bipe_hf.commands import main
from bipe_hf.lab.common.chat import Chat, Written


# Every turn, a word that says whose it is in front; `w58` comes before an answer.
TEMPLATE = "{% for m in messages %}{{ 'w58' if m.role == 'assistant' else 'w57' }} {{ m.content }} {% endfor %}w58"
SAID = ["w01 w03 w05 w07 w02", "w11 w12", "w04 w19 w20 w21", "w09"]
NUM_NEW = 7


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = make_word_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module", params=["rope", "alibi", "fox", "cope"])
def model(request):
    torch.manual_seed(0)
    fields = {"inter_encoding": request.param, "num_key_value_heads": 4, "eos_token_id": EOS, **LEVELS}
    return BipeLlamaForCausalLM(BipeLlamaConfig(**{**TINY, **fields})).eval()


def whole(model, tokenizer, turns):
    """The answer to all turns, read anew."""
    ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), return_tensors="pt")["input_ids"]
    given = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
    written = model.generate(ids, max_new_tokens=NUM_NEW, **given)[0, ids.shape[1] :]
    return tokenizer.decode(written, skip_special_tokens=True)


def expected_answers(model, tokenizer, said):
    turns = []
    for text in said:
        turns.append({"role": "user", "content": text})
        turns.append({"role": "assistant", "content": whole(model, tokenizer, turns)})
    return [turn["content"] for turn in turns[1::2]]


@pytest.fixture
def lengths(model):
    """How many tokens each forward of the model reads."""
    found = []

    def count(module, args, kwargs):
        found.append(kwargs["input_ids"].shape[1])

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    yield found
    handle.remove()


def test_every_answer_is_that_to_the_whole_chat(model, tokenizer, lengths):
    expected = expected_answers(model, tokenizer, SAID)
    lengths.clear()
    chat = Chat(model, tokenizer, max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0)
    assert [chat.answer(text) for text in SAID] == expected
    # the template repeats an answer token for token: of each turn only what the user says is new, its two marks and
    # the last token of the answer before
    firsts = [length for length in lengths if length > 1]
    assert firsts == [len(SAID[0].split()) + 2, *(len(text.split()) + 3 for text in SAID[1:])]


def test_a_template_that_forgets_changes_no_answer(model):
    """It shows the last two turns alone, so that what is cached is not how the next turn begins."""
    tokenizer = make_word_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("in messages", "in messages[-2:]")
    chat = Chat(model, tokenizer, max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0)
    assert [chat.answer(text) for text in SAID] == expected_answers(model, tokenizer, SAID)


def test_an_interrupted_answer_stays_as_far_as_it_came(model, tokenizer, monkeypatch, capsys):
    chat = Chat(model, tokenizer, max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0)
    first = chat.answer(SAID[0])
    put = Written.put

    def interrupted(self, value):
        put(self, value)
        if len(self.ids) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Written, "put", interrupted)
    second = chat.answer(SAID[1])
    monkeypatch.undo()
    assert capsys.readouterr().out == f"{first}\n{second}\n"
    said = zip(["user", "assistant"] * 2, [SAID[0], first, SAID[1], second], strict=True)
    turns = [{"role": role, "content": text} for role, text in said]
    assert len(second.split()) == 3
    assert whole(model, tokenizer, turns[:3]).startswith(second)
    assert chat.answer(SAID[2]) == whole(model, tokenizer, [*turns, {"role": "user", "content": SAID[2]}])


@pytest.fixture
def folder(tmp_path, tokenizer):
    torch.manual_seed(0)
    BipeLlamaForCausalLM(BipeLlamaConfig(**{**TINY, "eos_token_id": EOS})).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def chat(folder, monkeypatch, typed, *words):
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    return main(["generate", str(folder), "--chat", "--device", "cpu", "--max-new-tokens", str(NUM_NEW), *words])


@pytest.mark.parametrize("end", ["", "/exit\nw30\n"], ids=["end of input", "exit"])
def test_lines_are_turns(folder, tokenizer, monkeypatch, capsys, end):
    assert chat(folder, monkeypatch, f"{SAID[0]}\n\n{SAID[1]}\n{end}") == 0
    model = BipeLlamaForCausalLM.from_pretrained(folder)
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in expected_answers(model, tokenizer, SAID[:2]))


def test_draws_go_by_the_seed(folder, monkeypatch, capsys):
    shown = []
    for seed in "112":
        assert chat(folder, monkeypatch, SAID[0], "--temperature", "2", "--seed", seed) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != shown[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["w01"], "--chat reads what you say line by line: leave PROMPT and --raw out"),
        (["--raw"], "leave PROMPT and --raw out"),
    ],
)
def test_what_makes_no_sense_with_a_chat_is_refused(folder, monkeypatch, words, message, capsys):
    assert chat(folder, monkeypatch, "", *words) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_a_chat_template_is_refused(folder, monkeypatch, capsys):
    (folder / "chat_template.jinja").unlink()
    assert chat(folder, monkeypatch, "w01") == 2
    assert "its tokenizer has no chat template, give PROMPT instead of --chat" in capsys.readouterr().err


def test_a_prompt_is_needed_without_a_chat_and_may_stand_anywhere(folder, capsys):
    with pytest.raises(SystemExit):
        main(["generate", str(folder)])
    assert "the following arguments are required: PROMPT" in capsys.readouterr().err
    assert main(["generate", str(folder), "--raw", "--device", "cpu", "w01 w02", "--max-new-tokens", "1"]) == 0
    assert capsys.readouterr().out.startswith("w01 w02 w")
