"""Commands that read a model from the Hub: the real client against a Hub on loopback (tests/helpers/hub_server.py)."""

import json
import re
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from hub_client import Client, run_command, run_command_elsewhere, with_package, without_waiting
from hub_server import Hub, Repository
from safetensors.torch import load_file

from bipe_hf import BipeTokenizer
from bipe_hf.commands import main
from bipe_hf.lab.common.checkpoints import open_checkpoint
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.evaluation import Evaluation
from bipe_hf.lab.reports.inputs import open_segmentation
from bipe_hf.lab.training import pretrain
from bipe_hf.model.errors_bipe import InputError, InputNotFoundError


OWNER, OTHER = "token-of-alice", "token-of-bob"
TEXT = "The cat sat. It ran! No end of it, and so on.\n\n" * 60
FIELDS = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def hub():
    with Hub({OWNER: "alice", OTHER: "bob"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    client = Client(hub.url, tmp_path_factory.mktemp("home"), with_package)
    yield client
    client.close()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(TEXT)
    return str(file)


def save(folder, seed, max_segment_length):
    tokenizer = BipeTokenizer.from_tokenizer(train_tokenizer([TEXT], 280))
    torch.manual_seed(seed)
    fields = {"vocab_size": len(tokenizer), "separator_token_ids": tokenizer.separator_token_ids}
    model = FAMILIES["llama"].make_causal_lm(**FIELDS, **fields, max_segment_length=max_segment_length)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pushed(client, tmp_path_factory):
    """Folders of the model of `main` and of that of the branch `longer`, as they were pushed to alice/model."""
    folders = [save(tmp_path_factory.mktemp("model"), seed, length) for seed, length in ((0, 6), (1, 9))]
    for folder, revision in zip(folders, ([], ["--revision", "longer"]), strict=True):
        status, _, errors = client(run_command, "push", folder, "alice/model", *revision, token=OWNER)
        assert status == 0, errors
    return folders


def words(text, output):
    return ["--lengths", "32", "--data", text, "--device", "cpu", "--output", str(output)]


@pytest.mark.parametrize(("at", "revision"), [(0, []), (1, ["--revision", "longer"])])
def test_a_pushed_model_is_evaluated_by_its_name(client, hub, pushed, text, tmp_path, at, revision):
    status, table, errors = client(
        run_command, "evaluate", "alice/model", *revision, *words(text, tmp_path / "hub.json")
    )
    assert status == 0, errors
    assert main(["evaluate", pushed[at], *words(text, tmp_path / "folder.json")]) == 0
    there, here = (Evaluation.load(tmp_path / f"{name}.json").results[0] for name in ("hub", "folder"))
    assert there.nll == here.nll
    name = "alice/model" + ("@longer" if revision else "")
    assert there.model == name
    assert there.name == name.removeprefix("alice/")
    assert f"\n{there.name} " in table
    assert there.commit == hub.repositories["alice/model"].branches["longer" if revision else "main"]
    assert here.commit is None


def test_a_pushed_model_continues_a_text_as_its_folder_does(client, pushed, capsys):
    for folder, revision in zip(pushed, ([], ["--revision", "longer"]), strict=True):
        options = ["The cat", "--max-new-tokens", "12", "--device", "cpu"]
        assert main(["generate", folder, *options]) == 0
        expected = capsys.readouterr().out
        assert client(run_command, "generate", "alice/model", *options, *revision)[:2] == (0, expected)


def test_segments_are_those_of_the_revision(client, pushed, text):
    def printed(*words):
        status, output, errors = client(run_command, "segments", text, "--tokenizer", "alice/model", *words)
        assert status == 0, errors
        return output

    assert "positions from 6 on" in printed()
    assert "positions from 9 on" in printed("--revision", "longer")


def test_a_stock_model_is_converted_by_its_name_and_revision(client, hub, tmp_path):
    stock, output = tmp_path / "stock", tmp_path / "converted"
    vocabulary = len(train_tokenizer([TEXT], 280))
    FAMILIES["llama"].make_stock_causal_lm(**FIELDS, vocab_size=vocabulary).save_pretrained(stock)
    train_tokenizer([TEXT], 280).save_pretrained(stock)
    hub.publish("alice/stock", stock)
    repository = hub.repositories["alice/stock"]
    repository.branches["old"] = repository.branches["main"]
    repository.commit("main", {"README.md": b"It is gone."})
    command = ["convert", "alice/stock", str(output), "--from", "stock"]
    status, _, errors = client(run_command, *command, "--revision", "old")
    assert status == 0, errors
    weights = load_file(output / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in load_file(stock / "model.safetensors").items())


def test_a_pickle_is_downloaded_only_where_there_are_no_safetensors(client, hub, pushed, text, tmp_path):
    files = dict(hub.repositories["alice/model"].files)
    state = load_file(f"{pushed[0]}/model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    files["pytorch_model.bin"] = (tmp_path / "pytorch_model.bin").read_bytes()
    for name, kept in (("both", files), ("pickled", {key: files[key] for key in files if "safetensors" not in key})):
        hub.repositories[f"alice/{name}"] = Repository()
        hub.repositories[f"alice/{name}"].commit("main", kept)
        status, _, errors = client(run_command, "evaluate", f"alice/{name}", *words(text, tmp_path / f"{name}.json"))
        assert status == 0, errors
    fetched = [request for request in hub.requests if request.endswith("pytorch_model.bin")]
    assert fetched
    assert all("/alice/pickled/" in request for request in fetched)
    results = [Evaluation.load(tmp_path / f"{name}.json").results[0].nll for name in ("both", "pickled")]
    assert results[0] == results[1]


def test_a_training_starts_from_the_revision(client, pushed, text, tmp_path):
    settings = {"initial_model": "alice/model", "data": text, "output_dir": str(tmp_path / "run"), "train_length": 16}
    settings |= {"max_steps": 1, "learning_rate": 0.0, "use_cpu": True, "report_to": "none"}
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    status, _, errors = client(run_command, "pretrain", str(tmp_path / "run.yaml"), "--revision", "longer")
    assert status == 0, errors
    weights, expected = (load_file(f"{folder}/model.safetensors") for folder in (tmp_path / "run", pushed[1]))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


@pytest.fixture(scope="module")
def gated(hub):
    repository = hub.repositories["alice/gated"] = Repository(gated=True)
    repository.commit("main", {"config.json": b"{}"})


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("alice/nothing", [], "there is no such folder, .*no such repository, or a private one"),
        ("alice/model", ["--revision", "none"], "there is no such folder, .*it has no revision none"),
        ("alice/gated", [], "there is no such folder, .*it is gated: ask for access at http"),
        ("a/b/c", [], r"there is no such folder, and it is no name on the Hub \(owner/name\)"),
        ("/nowhere", [], "there is no such folder, and it is no name on the Hub"),
        (__file__, [], "this is a file, not a folder"),
    ],
)
def test_what_cannot_be_had_is_one_line(client, pushed, gated, model, revision, message):
    status, _, errors = client(run_command, "generate", model, "Once", *revision)
    assert status == 2
    assert re.fullmatch(f"bipe-hf: error: model {model}: {message}.*", errors.splitlines()[-1])
    assert "Traceback" not in errors


def test_a_hub_that_does_not_answer_is_one_line(client, hub):
    line = client(without_waiting, run_command_elsewhere, "generate", "alice/new", "Once", token=OWNER)
    assert line.endswith("(no connection to http://127.0.0.1:9, and it is not in the cache)")
    hub.out_of_order.add("model_info")
    try:
        _, _, errors = client(without_waiting, run_command, "generate", "alice/new", "Once")
    finally:
        hub.out_of_order.clear()
    assert "model alice/new: there is no such folder, and it cannot be downloaded" in errors.splitlines()[-1]


def test_without_a_connection_only_what_is_in_the_cache_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", tmp_path)
    with pytest.raises(InputNotFoundError, match="HF_HUB_OFFLINE is set, and it is not in the cache"):
        open_checkpoint("alice/model")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("alice/model", "cannot be downloaded from the Hub (HF_HUB_OFFLINE is set, and it is not in the cache)"),
        ("a/b/c", "is no name on the Hub (owner/name)"),
    ],
)
@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("tokenizer", lambda source: open_segmentation(source)),
        ("initial_model", lambda source: pretrain({"initial_model": source, "report_to": "none"})),
    ],
    ids=["tokenizer", "initial_model"],
)
def test_every_name_on_the_hub_is_refused_for_the_same_reason(monkeypatch, tmp_path, key, read, source, reason):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", tmp_path)
    message = re.escape(f"{key}: {source} cannot be loaded (there is no such folder, and it {reason})")
    with pytest.raises(InputNotFoundError, match=f"^{message}$"):
        read(source)
    with pytest.raises(InputNotFoundError, match=re.escape(f"it {reason}")):
        open_checkpoint(source)


def test_only_what_is_on_the_hub_has_a_revision(pushed):
    with pytest.raises(InputError, match=r"revision: 'longer' given, but model .* is a folder"):
        open_checkpoint(pushed[0], "longer")


def test_the_home_is_found_by_its_sign(pushed, monkeypatch):
    monkeypatch.setenv("HOME", str(Path(pushed[0]).parent))
    checkpoint = open_checkpoint(f"~/{Path(pushed[0]).name}")
    assert checkpoint.folder == Path(pushed[0]).resolve()
    assert checkpoint.load(torch.device("cpu"), "auto", None).num_parameters() > 0
