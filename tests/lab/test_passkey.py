"""The task `bipe_passkey`: prompts counted by hand, a rigged model, decoding one token at a time, what is refused."""

import re
import sys
from functools import partial

import lm_eval
import lm_eval.evaluator
import lm_eval.tasks
import pytest
import torch
from families import FAMILIES
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

import bipe_hf.lab.tasks.greedy as greedy
import bipe_hf.lab.tasks.harness as harness
import bipe_hf.lab.tasks.run as tasks_run
from bipe_hf.commands import main
from bipe_hf.lab.common.checkpoints import Checkpoint
from bipe_hf.lab.common.generation import write_greedily
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.tasks.evaluation import TaskEvaluation, task_table
from bipe_hf.lab.tasks.greedy import GreedyModel
from bipe_hf.lab.tasks.passkey.picture import draw_heat_map
from bipe_hf.lab.tasks.passkey.prompts import (
    CLASSIC_FILLER,
    SENTENCES,
    Filler,
    make_prompt,
    words_filler,
    write_prompt,
)
from bipe_hf.lab.tasks.passkey.task import ANSWER_TOKENS, first_number
from bipe_hf.lab.tasks.results import TaskResult
from bipe_hf.lab.tasks.run import evaluate_tasks


TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
pytestmark = pytest.mark.usefixtures("own_datasets_cache", "no_progress_bars")


def measure_passkey(models, lengths, **options):
    """Settings of the task and arguments of `evaluate_tasks` in one."""
    of_task = ("depths", "samples", "seed", "data", "text_column", "validation_fraction")
    metadata = {"lengths": lengths} | {name: options.pop(name) for name in of_task if name in options}
    return evaluate_tasks(models, ["bipe_passkey"], metadata=metadata, **{"device": "cpu"} | options)


def found(evaluation):
    return [row for row in evaluation.results if row.metric == "found"]


def places(evaluation):
    return [(row.part["length"], row.part["depth"]) for row in found(evaluation)]


def word_level(starts_with=None):
    """One token for each word; every number and every other unknown word is the same token."""
    text = write_prompt(SENTENCES, "", 0)
    vocabulary = {word: at for at, word in enumerate(["<unknown>", "<begin>", "<end>", *sorted(set(text.split()))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if starts_with is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=starts_with, special_tokens=[("<begin>", 1), ("<end>", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<begin>", eos_token="<end>")


BYTES = train_tokenizer([write_prompt(SENTENCES, "12345", 0.5) + "\n"] * 5, 300)


def save_model(folder, family="llama", tokenizer=BYTES, seed=0, **fields):
    torch.manual_seed(seed)
    fields = {"separator_token_ids": tokenizer.convert_tokens_to_ids(["."]), **TINY, **fields}
    FAMILIES[family].make_causal_lm(vocab_size=len(tokenizer), initializer_range=0.5, **fields).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


class Rigged:
    """Stands in for a model: it reads the key and tells it where no more text stands before than behind it."""

    device = torch.device("cpu")
    generation_config = GenerationConfig()

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.prompts = []

    def generate(self, input_ids, attention_mask, generation_config):
        assert (generation_config.do_sample, generation_config.num_beams) == (False, 1)
        answers = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            text = self.tokenizer.decode(ids[mask.bool()])
            self.prompts.append(text)
            before, key, after = re.fullmatch(
                r".*?there\.(.*)The pass key is (\d+)\. Remember it\. \2 is the pass key\.(.*)What is the pass key.*",
                text,
                flags=re.DOTALL,
            ).groups()
            knows = len(before) <= len(after)
            answers.append(self.tokenizer.encode(f" {key}." if knows else " 1"))
        width = max(map(len, answers))
        assert width <= generation_config.max_new_tokens
        ended = [each + [self.tokenizer.eos_token_id] * (width - len(each)) for each in answers]
        return torch.cat([input_ids, torch.tensor(ended)], dim=1)


@pytest.fixture
def rigged(monkeypatch):
    stand_in = Rigged(BYTES)
    loaded = []
    monkeypatch.setattr(Checkpoint, "load", lambda *given: loaded.append(given) or stand_in)
    stand_in.loaded = loaded
    return stand_in


def make(tokenizer, length, depth=0.5, filler=CLASSIC_FILLER, sample=0, seed=0):
    return make_prompt(tokenizer, filler, length, depth, sample, seed)


# 47 words, each a token: 12 + 5 + 9 of the task, 5 + 2 + 5 of the key, 5 + 4 of the question. The sentences of the
# text have 4, 4, 4, 3 and 4 words.
@pytest.mark.parametrize(
    ("length", "tokens"),
    [
        (51, 47 + 4),
        (54, 47 + 4),
        (55, 47 + 8),
        (65, 47 + 15),
        (66, 47 + 19),
        (69, 47 + 19),
        (70, 47 + 23),
        (251, 47 + 10 * 19 + 12),
        (252, 47 + 10 * 19 + 15),
    ],
)
def test_a_prompt_takes_as_many_sentences_as_fit(length, tokens):
    assert len(make(word_level(), length, depth=0).input_ids) == tokens


def test_the_beginning_of_text_token_counts():
    prompt = make(word_level("<begin> $A"), 55)
    assert prompt.input_ids[0] == 1
    assert len(prompt.input_ids) == 1 + 47 + 4
    assert len(make(word_level("<begin> $A"), 56).input_ids) == 1 + 47 + 8


@pytest.mark.parametrize("length", [150, 151, 152, 200, 333, 1024])
@pytest.mark.parametrize("filler", [CLASSIC_FILLER, words_filler(["Some other words, to read.\n\nYes."], 10)])
def test_one_more_piece_would_be_too_long(length, filler):
    prompt = make(BYTES, length, filler=filler)
    assert len(prompt.input_ids) <= length
    text = BYTES.decode(prompt.input_ids)
    before, after = re.split(r"\nThe pass key is .* is the pass key\.\n", text)
    inside = before.split("\n", 1)[1], after.rsplit("\n", 1)[0]
    used = sum(len(part.split()) for part in inside)
    longest = max(len(BYTES.encode(piece)) for piece in filler.pieces)
    assert length - len(prompt.input_ids) <= longest + 1
    assert used > 0


@pytest.mark.parametrize(("depth", "before"), [(0, 0), (0.1, 1), (0.25, 3), (0.5, 5), (0.75, 8), (0.95, 10), (1, 10)])
def test_the_key_stands_behind_the_share_of_the_text_that_depth_says(depth, before):
    pieces = [f"s{at}. " for at in range(10)]
    lines = write_prompt(pieces, "12345", depth).split("\n")
    key = "The pass key is 12345. Remember it. 12345 is the pass key."
    expected = ["".join(pieces[:before]).strip(), key, "".join(pieces[before:]).strip()]
    assert lines[1:-1] == [part for part in expected if part]
    assert lines[-1] == "What is the pass key? The pass key is"


def test_keys_and_text_depend_on_the_seed_and_on_nothing_else():
    filler = words_filler([" ".join(f"word{at}" for at in range(500))], 500)
    prompts = [make(BYTES, 300, sample=sample, seed=seed, filler=filler) for seed in (0, 1) for sample in range(20)]
    again = [make(BYTES, 300, sample=sample, seed=seed, filler=filler) for seed in (0, 1) for sample in range(20)]
    assert prompts == again
    assert len({prompt.key for prompt in prompts}) == 40
    assert all(re.fullmatch(r"[1-9]\d{4}", prompt.key) for prompt in prompts)
    starts = {re.search(r"word\d+", BYTES.decode(prompt.input_ids))[0] for prompt in prompts}
    assert len(starts) > 30
    assert make(BYTES, 300).key == make(word_level(), 300).key  # models with other tokenizers get the same keys


def test_words_of_a_text_are_taken_in_their_order_with_their_line_breaks():
    filler = words_filler(["One two.\nThree", " four\n"], 100)
    assert filler == Filler(["One ", "two.\n", "Three\n\n", "four\n\n"], starts_anywhere=True)
    assert words_filler(iter(["a b", "c"]), 2).pieces == ["a ", "b\n\n"]


def test_a_model_that_finds_the_key_at_some_depths_only_is_measured_as_such(tmp_path, model, rigged):
    depths = [1.0, 0.0, 0.4, 0.75]
    evaluation = measure_passkey([model], [400, 200], depths=depths, samples=3, batch_size=2)
    assert places(evaluation) == [(length, depth) for length in (400, 200) for depth in depths]
    for row in evaluation.results:
        assert (row.samples, row.max_length, row.task) == (3, None, "bipe_passkey")
        if row.metric == "found":
            assert row.value == (1.0 if row.part["depth"] < 0.5 else 0.0)
        else:
            assert row.metric == "prompt_tokens"
            assert row.part["length"] - 10 < row.value <= row.part["length"]
    assert len(rigged.prompts) == 2 * 4 * 3


def test_the_key_is_hidden_in_held_out_text(tmp_path, model, rigged):
    for split, word in (("train", "seen"), ("validation", "unseen")):
        (tmp_path / "texts" / split).mkdir(parents=True)
        (tmp_path / "texts" / split / "a.txt").write_text(f"{word} " * 400)
    data = str(tmp_path / "texts")
    evaluation = measure_passkey([model], [250], depths=[0.2, 0.9], samples=2, data=data)
    assert [row.value for row in found(evaluation)] == [1, 0]
    assert all("unseen unseen" in prompt and "grass" not in prompt for prompt in rigged.prompts)
    with pytest.raises(ValueError, match=r"lengths: 9999 tokens are more than the text has \(\d+\)"):
        measure_passkey([model], [250, 9999], samples=1, data=data)


def test_prompts_of_a_length_are_the_same_whatever_others_are_measured(tmp_path, model, rigged):
    """So lengths can be added to a file of results, also where the text is the data's own."""
    data = tmp_path / "words.txt"
    data.write_text("\n\n".join(" ".join(f"word{at}" for at in range(part, part + 12_000)) for part in (0, 90_000)))
    given = {"depths": [0.2], "samples": 4, "data": str(data), "output": tmp_path / "results.json"}
    measure_passkey([model], [250], **given)
    shorter = TaskEvaluation.load(given["output"])
    prompts = rigged.prompts.copy()
    longer = measure_passkey([model], [600, 250], **given, resume=True)
    assert places(longer) == [(250, 0.2), (600, 0.2)]
    assert found(longer)[0] == found(shorter)[0]
    assert rigged.prompts[:4] == prompts
    rigged.prompts.clear()
    measure_passkey([model], [250, 600], **given, overwrite=True)
    assert rigged.prompts[:4] == prompts

    data.write_text(data.read_text() + " more")
    with pytest.raises(ValueError, match="other settings"):
        measure_passkey([model], [250], **given, resume=True)


def test_text_without_spaces_is_named(tmp_path, model):
    data = tmp_path / "words.txt"
    data.write_text("some words.\n\n" + "nospace" * 100)
    message = (
        r"lengths: 250 tokens are too few: .* a word of the data \(up to white space: 'nospacenospace.* take \d{3}"
    )
    with pytest.raises(ValueError, match=message):
        measure_passkey([model], [250], samples=1, data=str(data))


def decode_alone(model, ids, count):
    """Greedy decoding without a cache, one forward for each token."""
    ids = list(ids)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
    return ids[-count:]


@pytest.mark.parametrize("inter_encoding", ["rope", "alibi"])
def test_answers_are_those_of_greedy_decoding_without_cache_or_padding(family, tiny_model, inter_encoding):
    model = tiny_model(family, inter_encoding=inter_encoding)  # 60 tokens
    backend = Tokenizer(models.WordLevel({str(at): at for at in range(60)}, unk_token="0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    torch.manual_seed(1)
    prompts = [torch.randint(0, 60, (length,)).tolist() for length in (40, 31, 37)]
    alone = [decode_alone(model, prompt, ANSWER_TOKENS) for prompt in prompts]
    assert ask(model, tokenizer, prompts) == [tokenizer.decode(ids) for ids in alone]


def ask(model, tokenizer, prompts, batch_size=None):
    """The answers to prompts, given as token ids."""
    document = {"max_new_tokens": ANSWER_TOKENS}
    requests = [
        Instance("generate_until", document, (tokenizer.decode(ids), {}), at) for at, ids in enumerate(prompts)
    ]
    return GreedyModel(model, tokenizer, batch_size, "").generate_until(requests, disable_tqdm=True)


def test_a_batch_has_as_many_prompts_as_have_8192_tokens_or_as_many_as_are_asked_for(monkeypatch):
    widths = []

    def writes_nothing(model, prompts, count, **options):
        widths.append([len(prompt) for prompt in prompts])
        return [[2]] * len(prompts)

    monkeypatch.setattr(greedy, "write_greedily", writes_nothing)
    tokenizer = word_level()
    prompts = [[5] * length for length in (4000, 4096, 4000, 9000, 1, 1)]
    assert ask(None, tokenizer, prompts) == [""] * 6
    assert widths == [[4000, 4096], [4000], [9000], [1, 1]]
    widths.clear()
    ask(None, tokenizer, prompts, batch_size=4)
    assert widths == [[4000, 4096, 4000, 9000], [1, 1]]


@pytest.mark.parametrize(
    "saved",
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"forced_bos_token_id": 7, "forced_eos_token_id": 8},
        {"min_new_tokens": 16, "bad_words_ids": [[at] for at in range(1, 40)]},
        {"suppress_tokens": list(range(1, 40))},
    ],
    ids=lambda saved: next(iter(saved)),
)
def test_only_the_end_of_a_text_is_taken_from_a_saved_generation_config(family, tiny_model, saved, monkeypatch):
    model = tiny_model(family)
    torch.manual_seed(1)
    prompts = [torch.randint(0, 60, (length,)).tolist() for length in (40, 31)]
    alone = [decode_alone(model, prompt, 12) for prompt in prompts]
    ends = alone[0][5]
    config = GenerationConfig(eos_token_id=ends, **saved)
    monkeypatch.setattr(model, "generation_config", config)
    expected = [ids[: ids.index(ends) + 1] if ends in ids else ids for ids in alone]
    written = write_greedily(model, prompts, 12, pad_token_id=0)
    assert [ids[: len(right)] for ids, right in zip(written, expected, strict=True)] == expected
    assert all(set(ids[len(right) :]) <= {0} for ids, right in zip(written, expected, strict=True))
    other = next(token for token in range(60) if token not in alone[0] + alone[1])
    assert write_greedily(model, prompts, 12, pad_token_id=0, eos_token_id=other) == alone
    assert model.generation_config is config


@pytest.mark.parametrize(
    ("text", "number"),
    [(" 12345. And 2", "12345"), (" the number 7", "7"), ("123456", "123456"), (" none", None), ("\u0661", None)],
)
def test_the_first_number_counts(text, number):
    assert first_number(text) == number


def test_a_saved_model_is_measured_from_the_command_line(tmp_path, family, capsys):
    folder = save_model(tmp_path / "model.v1", family)
    output = tmp_path / "new" / "results.json"
    metadata = '{"lengths": [140, 200], "depths": [0, 1], "samples": 2}'
    words = ["evaluate", folder, "--tasks", "bipe_passkey", "--metadata", metadata, "--output", str(output)]
    assert main(words) == 0
    evaluation = TaskEvaluation.load(output)
    assert places(evaluation) == [(140, 0), (140, 1), (200, 0), (200, 1)]
    assert evaluation.settings["metadata"]["bipe_passkey"]["samples"] == 2
    assert '"format": "bipe-hf tasks 1"' in output.read_text()
    printed = capsys.readouterr().out
    table = [line.split() for line in printed.splitlines() if line.startswith(("model  ", "model.v1"))]
    assert table[0] == ["model", "depth", "140", "200"]
    assert [line[2] for line in table[1:]] == ["0", "1", "mean"]
    assert "| model.v1 (BiPE-RoPE) | mean |" in output.with_suffix(".md").read_text()
    assert sorted(file.name for file in output.parent.iterdir()) == [
        "results-passkey-model.v1.png", "results-passkey-model.v1.svg", "results.json", "results.md"
    ]  # fmt: skip
    assert main(words) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err


def test_the_harness_alone_gets_the_same_answers(model):
    """As `lm_eval run --model hf --include_path` does, with room for the whole prompt."""
    metadata = {"pretrained": model, "lengths": [160, 140], "depths": [0.5], "samples": 3}
    manager = TaskManager(include_path=harness.FOLDER, include_defaults=False, metadata=metadata)
    task = manager.load(["bipe_passkey"])
    theirs = lm_eval.evaluate(HFLM(model, max_length=200, device="cpu"), task)
    tokenizer = AutoTokenizer.from_pretrained(model)
    ours = lm_eval.evaluate(GreedyModel(AutoModelForCausalLM.from_pretrained(model), tokenizer, None, ""), task)
    answers = [[sample["filtered_resps"] for sample in found["samples"]["bipe_passkey"]] for found in (theirs, ours)]
    assert answers[0] == answers[1]
    assert len(set(map(str, answers[0]))) == 6
    assert theirs["results"]["bipe_passkey"]["prompt_tokens,none"] == pytest.approx(150, abs=10)


def test_interrupted_run_resumes_without_repeating_a_place(tmp_path, model, rigged, monkeypatch):
    def run(output, depths=(0, 0.6, 1), **more):
        return measure_passkey([model], [200, 300], depths=list(depths), samples=2, output=output, **more)

    whole = run(tmp_path / "whole.json")
    measure, calls = tasks_run.measure_part, []

    def interrupted(*arguments):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(tasks_run, "measure_part", interrupted)
    output = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        run(output)
    assert len(places(TaskEvaluation.load(output))) == 4

    monkeypatch.setattr(tasks_run, "measure_part", lambda *given: calls.append(given) or measure(*given))
    resumed = run(output, resume=True)
    assert len(calls) == 6
    assert TaskEvaluation.load(output) == resumed
    assert [(row.metric, row.part, row.value) for row in resumed.results] == [
        (row.metric, row.part, row.value) for row in whole.results
    ]
    loaded = len(rigged.loaded)
    assert run(output, resume=True).results == resumed.results
    assert len(rigged.loaded) == loaded
    run(output, depths=[0, 0.3], resume=True)  # a depth more
    assert len(calls) == 8
    with pytest.raises(ValueError, match="other settings"):
        run(output, resume=True, seed=1)


COLOURS = """
task: colours
output_type: multiple_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
doc_to_text: "The grass is"
doc_to_choice: ["green", "blue"]
doc_to_target: answer
"""


def test_tasks_of_both_kinds_are_measured_together_and_one_after_the_other(tmp_path, model, monkeypatch):
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(TaskManager, include_defaults=False))
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"answer": 0}\n{"answer": 1}\n')
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "colours.yaml").write_text(COLOURS.replace("FILE", str(rows)))
    options = {"tasks_folder": tmp_path / "tasks", "device": "cpu"}
    passkey = {"metadata": {"lengths": [140], "depths": [0.5], "samples": 2}}
    both = evaluate_tasks([model], ["colours", "bipe_passkey"], **options, **passkey, max_length=90)
    requests = [(row.request, row.metric, row.max_length) for row in both.results]
    assert requests == [
        ("colours", "acc", 90), ("colours", "acc_norm", 90),
        ("bipe_passkey", "found", None), ("bipe_passkey", "prompt_tokens", None),
    ]  # fmt: skip
    first, second = (table.splitlines()[0].split()[:2] for table in task_table(both.results).split("\n\n"))
    assert (first, second) == (["task", "metric"], ["model", "depth"])

    options |= {"output": tmp_path / "later.json"}
    evaluate_tasks([model], ["bipe_passkey"], **options, **passkey)
    with pytest.raises(ValueError, match="other settings"):
        evaluate_tasks([model], ["colours"], **options, max_length=90, resume=True)
    later = evaluate_tasks([model], ["colours"], **options, resume=True)
    assert later.settings["metadata"] == both.settings["metadata"]
    values = {(row.request, row.metric): row.value for row in later.results}
    assert values == {(row.request, row.metric): row.value for row in both.results}


def test_resumed_run_measures_again_what_has_changed(tmp_path):
    output = tmp_path / "results.json"
    options = {"depths": [0, 1], "samples": 1, "output": output}
    before = measure_passkey([save_model(tmp_path / "model")], [140, 160], **options)
    after = measure_passkey([save_model(tmp_path / "model", seed=1)], [140], resume=True, **options)
    assert len(places(before)) == 4
    assert len(places(after)) == 2
    assert after.results[0].model_fingerprint != before.results[0].model_fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "at least one model"),
        ({"lengths": []}, r"lengths: \[\] given, a list of whole numbers"),
        ({"lengths": "200"}, "lengths: '200' given, a list of whole numbers"),
        ({"lengths": [200.5]}, r"lengths: \[200.5\] given, a list of whole numbers"),
        ({"lengths": [200, 200]}, "lengths: the same one is given twice in 200, 200"),
        ({"lengths": [200, 20]}, r"lengths: 20 tokens are too few.* take \d+ \(tokenizer of"),
        ({"depths": []}, r"depths: \[\] given, a list of numbers"),
        ({"depths": [0.5, 0.50]}, "depths: the same one is given twice"),
        ({"depths": [1.01]}, "depths: 1.01 is not between 0"),
        ({"depths": [-0.1]}, "depths: -0.1 is not between 0"),
        ({"depths": [float("nan")]}, "depths: nan is not between 0"),
        ({"samples": 0}, "samples: 0 is less than 1"),
        ({"batch_size": 0}, "batch_size: 0 is less than 1"),
        ({"limit": 0}, "limit: 0 is less than 1"),
        ({"max_length": 99}, "max_length: bipe_passkey has no use for it"),
        ({"num_fewshot": 1}, "num_fewshot: bipe_passkey has no use for it"),
        ({"text_column": "words"}, "text_column: without data there is no text to read"),
        ({"validation_fraction": 0.1}, "validation_fraction: without data there is no text to read"),
        ({"dtype": "int8"}, "'int8' is none of auto"),
        ({"data": "missing.txt"}, "missing.txt"),
        ({"output": "results.txt"}, "must end in .json"),
        ({"output": "results.json", "overwrite": True, "resume": True}, "exclude"),
    ],
)
def test_bad_argument_is_refused_before_any_model_is_loaded(tmp_path, model, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Checkpoint, "load", None)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        measure_passkey(**({"models": [model], "lengths": [200], "samples": 2} | arguments))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ('{"lengths": [200, "x"]}', "metadata of bipe_passkey, lengths: [200, 'x'] given, a list of whole numbers"),
        ('{"lengths": [200], "depths": "0;1"}', "metadata of bipe_passkey, depths: '0;1' given, a list of numbers"),
        ('{"lengths": [200], "text_column": "text"}', "text_column: without data there is no text to read"),
        ('{"lengths": [60]}', "lengths: 60 tokens are too few"),
        ('{"length": [200]}', "metadata: unknown key 'length'; bipe_passkey read data, depths, lengths, samples"),
        ("{}", "--metadata: '{}' is no mapping of fields to values in JSON"),
        ("200", "--metadata: '200' is no mapping of fields to values in JSON"),
        ('{"depths": [0]}', "metadata of bipe_passkey: lengths is missing"),
    ],
)
def test_bad_flag_is_one_line(tmp_path, model, metadata, message, capsys):
    words = ["evaluate", model, "--tasks", "bipe_passkey", "--metadata", metadata]
    assert main([*words, "--output", str(tmp_path / "results.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bipe-hf: error: {message}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_task_of_the_harness_with_the_same_word_is_told_apart(monkeypatch):
    """What the harness calls passkey is Russian."""

    class Index:
        all_tasks = ["passkey", "bipe_passkey"]

        def __init__(self, include_path):
            assert include_path == [harness.FOLDER]

        def match_tasks(self, words):
            return words

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Index)
    with pytest.warns(UserWarning, match="passkey is that of the lm-evaluation-harness, not bipe_passkey"):
        assert harness.find_tasks(["passkey"], None)[1] == ["passkey"]


def test_a_tokenizer_that_ends_every_prompt_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "load", None)
    folder = save_model(tmp_path / "model", tokenizer=word_level("$A <end>"))
    with pytest.raises(ValueError, match="ends a prompt with end-of-text"):
        measure_passkey([folder], [200])


def test_the_heat_map_of_another_model_with_the_same_name_is_not_replaced(tmp_path, rigged):
    one, other = (save_model(tmp_path / parent / "tiny", seed=seed) for seed, parent in enumerate("ab"))
    given = {"depths": [0.5], "samples": 1, "output": tmp_path / "results.json"}
    measure_passkey([one], [200], **given)
    kept = {file.name: file.read_bytes() for file in tmp_path.glob("results*")}
    assert "results-passkey-tiny.png" in kept
    with pytest.raises(
        ValueError, match=rf"models: the figures of {one} and {other} would share .*results-passkey-tiny\.png"
    ):
        measure_passkey([other], [200], **given, resume=True)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("results*")} == kept
    measure_passkey([one], [200, 250], **given, resume=True)
    assert (tmp_path / "results-passkey-tiny.png").read_bytes() != kept["results-passkey-tiny.png"]


def test_a_picture_that_belongs_to_no_result_is_kept_on_resume(tmp_path, model, rigged):
    given = {"depths": [0.5], "samples": 1, "output": tmp_path / "results.json"}
    measure_passkey([model], [200], **given)
    (tmp_path / "results-passkey-new.svg").write_text("precious")
    new = save_model(tmp_path / "new", seed=1)
    with pytest.raises(FileExistsError, match=r"results-passkey-new\.svg exists"):
        measure_passkey([model, new], [200], **given, resume=True)
    assert (tmp_path / "results-passkey-new.svg").read_text() == "precious"


@pytest.mark.parametrize(
    "existing", ["results.json", "results.md", "results-passkey-tiny.png", "results-passkey-tiny.svg"]
)
def test_existing_output_is_kept_without_overwrite(tmp_path, model, rigged, existing):
    (tmp_path / existing).write_text("precious")
    with pytest.raises(FileExistsError, match=existing):
        measure_passkey([model], [200], samples=1, output=tmp_path / "results.json")
    assert (tmp_path / existing).read_text() == "precious"
    measure_passkey([model], [200], samples=1, output=tmp_path / "results.json", overwrite=True)
    assert (tmp_path / existing).read_bytes() != b"precious"


def test_file_of_another_command_is_not_resumed(tmp_path, model):
    output = tmp_path / "results.json"
    output.write_text('{"format": "bipe-hf evaluation 1", "results": []}')
    with pytest.raises(ValueError, match="not written by `bipe-hf evaluate`"):
        measure_passkey([model], [200], output=output, resume=True)


def test_missing_matplotlib_names_the_extra(tmp_path, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"'.\[lab\]'"):
        measure_passkey([model], [200], output=tmp_path / "results.json")


def build_results(shares, name="a"):
    return [
        TaskResult(
            model="runs/a", name=name, encoding="BiPE-RoPE", train_length=128, request="bipe_passkey",
            task="bipe_passkey", metric="found", filter="none", value=share, stderr=None, samples=10, num_fewshot=0,
            max_length=None, seconds=1.0, model_fingerprint="", part={"length": length, "depth": depth},
        )
        for (length, depth), share in shares.items()
    ]  # fmt: skip


def test_the_heat_map_has_a_labelled_cell_for_each_place_on_a_scale_to_100_percent():
    shares = {(256, 0.0): 1.0, (256, 1.0): 0.0, (1024, 0.0): 0.7}
    figure = draw_heat_map(build_results(shares))
    axes = figure.axes[0]
    (image,) = axes.get_images()
    assert image.get_clim() == (0, 1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["256", "1024"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]
    assert axes.yaxis_inverted()  # depth 0, the beginning of the text, on top
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "100%", (1, 0): "70%", (0, 1): "0%"}
    assert axes.get_title() == "a (BiPE-RoPE), train length 128"
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for text in [*axes.texts, axes.title]:
        box = text.get_window_extent(canvas.get_renderer())
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1


def test_dollars_in_the_name_of_a_model_are_shown_as_they_are():
    r"""As a formula, `$\wrong$` cannot be drawn at all."""
    figure = draw_heat_map(build_results({(256, 0.0): 1.0}, name=r"$\wrong$"))
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_title().startswith(r"$\wrong$ (BiPE-RoPE)")
