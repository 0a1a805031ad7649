"""The script that measures methods without training: a run on a small model, which stops half-way and goes on."""

import json
import random
import sys

import pytest
import torch
from families import FAMILIES
from paths import ROOT
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


sys.path.insert(0, str(ROOT / "scripts"))

import training_free


WORDS = [*"abcdefghijklmnopqrstuvwxyz", ".", "<end>"]
LENGTHS = [16, 32, 64, 128]


@pytest.fixture
def given(tmp_path, monkeypatch):
    """The flags of a call with a model that knows 16 tokens."""
    backend = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(tmp_path / "stock")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    fields = {"vocab_size": len(WORDS), "max_position_embeddings": 16, "initializer_range": 0.5, **shape}
    FAMILIES["llama"].make_stock_causal_lm(**fields, eos_token_id=len(WORDS) - 1).save_pretrained(tmp_path / "stock")
    (tmp_path / "text.txt").write_text(" ".join(random.Random(0).choices(WORDS[:-1], k=200)))
    flags = {
        "stock": tmp_path / "stock",
        "text": tmp_path / "text.txt",
        "work": tmp_path / "work",
        "output": tmp_path / "out" / "found.json",
    }
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["training_free.py", *words])
    return flags


def test_every_method_is_measured_and_a_call_goes_on_where_one_stopped(given, monkeypatch, capsys):
    measure = training_free.score

    def stop(model, *arguments, **options):
        if model.config.to_dict().get("inter_encoding") == "dca":
            raise KeyboardInterrupt
        return measure(model, *arguments, **options)

    monkeypatch.setattr(training_free, "score", stop)
    with pytest.raises(KeyboardInterrupt):
        training_free.main()
    early = json.loads(given["output"].read_text())["results"]
    assert [(row["method"], row["length"]) for row in early] == [
        (method, length) for method in ("stock", "linear", "dynamic", "yarn") for length in LENGTHS
    ]
    monkeypatch.setattr(training_free, "score", measure)
    training_free.main()
    record = json.loads(given["output"].read_text())
    assert record["results"][: len(early)] == early
    nats = {(row["method"], row["length"]): row["nats"] for row in record["results"]}
    assert list(nats) == [(method, length) for method in training_free.METHODS for length in LENGTHS]

    # by hand: the loss of the stock model in blocks of 32
    ids = torch.tensor([WORDS.index(word) for word in given["text"].read_text().split()][:128])
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(given["stock"])(ids.view(4, 32)).logits
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids.view(4, 32)[:, 1:].flatten())
    assert nats["stock", 32] == pytest.approx(losses.item(), rel=1e-5)
    # the scalings that follow the length, and the window, leave what the stock model knows as it was
    for method in ("dynamic", "hirope"):
        assert nats[method, 16] == pytest.approx(nats["stock", 16], rel=1e-5)
    assert len({round(nats[method, 64], 6) for method in ("stock", "linear", "dynamic", "yarn", "dca")}) == 5
    assert (given["work"] / "yarn_8" / "config.json").is_file()

    table = given["output"].with_suffix(".md").read_text()
    assert table.splitlines()[4].startswith("| perplexity | 16 | 32 | 64 | 128 |")
    assert f"| {training_free.plain_number(training_free.perplexity(nats['dca', 128]))} |" in table
    assert "Declared for 16 tokens" in table
    monkeypatch.setattr(training_free, "score", lambda *_, **__: pytest.fail("measured again"))
    training_free.main()
    assert json.loads(given["output"].read_text())["results"] == record["results"]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (["16", "24"], "every length must divide the longest one"),
        (["256"], "text.txt has 200 tokens, of which 256 are to be read"),
        (["16"], "found.json has text 'other.txt', not 'text.txt'"),
    ],
    ids=["lengths", "tokens", "text"],
)
def test_what_does_not_fit_ends_the_call(given, monkeypatch, lengths, message):
    record = {"model": "stock", "known_length": 16, "text": "other.txt", "lengths": [16], "results": []}
    if message.startswith("found.json"):
        given["output"].parent.mkdir()
        given["output"].write_text(json.dumps(record))
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--lengths", *lengths])
    with pytest.raises(SystemExit, match=message):
        training_free.main()
