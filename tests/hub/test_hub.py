"""Pushing to the Hub and loading from it: the real client against a Hub on loopback (tests/helpers/hub_server.py)."""

import json
import math
import shlex
import shutil
import urllib.error
import urllib.request
from functools import cache

import pytest
import torch
from families import FAMILIES, HEADS
from hub_client import (
    Client,
    build_model,
    error_of,
    fine_tune,
    push_model,
    push_tokenizer,
    read_model,
    read_tokenizer,
    run_command,
    run_command_elsewhere,
    save_and_push_tokenizer,
    save_config,
    save_model,
    save_tokenizer,
    train_and_push,
    with_package,
    without_package,
    without_waiting,
)
from hub_server import Hub
from huggingface_hub import ModelCard
from other_libraries import error_of_megatron, modules_of_lora, report_on, scaled_activations, smoothed_loss
from paths import GOLDEN, ROOT
from safetensors.torch import load_file, save_file

from bipe_hf import BipeTokenizer
from bipe_hf.commands import main
from bipe_hf.lab.common.checkpoints import open_folder
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.evaluation import Evaluation
from bipe_hf.lab.evaluation.results import Result


TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
    "max_segment_length": 6,
}
OWNER, OTHER = "token-of-alice", "token-of-bob"
TRAINING = """{"train_length": 64, "data": "python", "tokens_seen": 1000, "parameters": 5000, "eval_loss": 2.0,
               "config": {"validation_fraction": 0.05}, "versions": {"bipe-hf": "0.1.0"}}"""
TEXTS = ["The cat sat. It ran!", "No end"]


@pytest.fixture(scope="module")
def hub():
    with Hub({OWNER: "alice", OTHER: "bob"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    """A process in which this package is installed."""
    client = Client(hub.url, tmp_path_factory.mktemp("home"), with_package)
    yield client
    client.close()


@pytest.fixture(scope="module")
def stranger(hub, tmp_path_factory):
    """A process in which this package does not exist."""
    client = Client(hub.url, tmp_path_factory.mktemp("home"), without_package)
    yield client
    client.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Family -> folder with a model and its tokenizer."""
    tokenizer = BipeTokenizer.from_tokenizer(train_tokenizer(["The cat sat. It ran! No end"] * 5, 280))
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        fields = {**TINY, "vocab_size": len(tokenizer), "separator_token_ids": tokenizer.separator_token_ids}
        FAMILIES[family].make_causal_lm(**fields).save_pretrained(folders[family])
        tokenizer.save_pretrained(folders[family])
    return folders


def expected(folder, family, head="ForCausalLM"):
    """What the head of a folder computes here."""
    model = FAMILIES[family].head(head).from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.arange(20)[None])[0].tolist()


def is_own(result, family, head="ForCausalLM"):
    return (result["class"], result["module"]) == (
        FAMILIES[family].prefix + head,
        f"bipe_hf.model.modeling_bipe_{family}",
    )


def test_a_pushed_model_is_the_same_model(hub, client, folders, family):
    repo = f"alice/{family}-model"
    client(push_model, str(folders[family]), "AutoModelForCausalLM", repo, token=OWNER)
    loaded = client(read_model, repo)
    assert is_own(loaded, family)
    assert loaded["output"] == expected(folders[family], family)


def test_a_sharded_model_is_the_same_model(hub, client, folders, family):
    repo = f"alice/{family}-sharded"
    client(push_model, str(folders[family]), "AutoModelForCausalLM", repo, token=OWNER, max_shard_size="10KB")
    assert "model-00002-of-" in " ".join(hub.repositories[repo].files)
    assert client(read_model, repo)["output"] == expected(folders[family], family)


def test_a_pushed_tokenizer_is_the_same_tokenizer(client, folders):
    client(push_tokenizer, str(folders["llama"]), "alice/tokenizer", token=OWNER)
    loaded = client(read_tokenizer, "alice/tokenizer", TEXTS)
    here = BipeTokenizer.from_pretrained(folders["llama"])
    assert (loaded["class"], loaded["module"]) == ("BipeTokenizer", "bipe_hf.model.tokenization_bipe")
    assert loaded["encoded"] == dict(here(TEXTS, padding=True))
    assert max(loaded["encoded"]["segment_ids"][0]) > 0


def test_what_trainer_pushes_loads(client, folders, family, tmp_path):
    output, repo = str(tmp_path / "run"), f"alice/{family}-trained"
    client(train_and_push, str(folders[family]), output, repo, OWNER)
    trained = client(read_model, output)["output"]
    assert trained != expected(folders[family], family)
    assert client(read_model, repo)["output"] == trained
    assert client(read_tokenizer, repo, TEXTS) == client(read_tokenizer, str(folders[family]), TEXTS)


@pytest.fixture(scope="module")
def published(hub, folders, tmp_path_factory):
    """Puts a head of a family on the Hub as it is saved here; returns the repository and the folder."""

    @cache
    def publish(family, head):
        folder = tmp_path_factory.mktemp("published")
        torch.manual_seed(0)
        FAMILIES[family].head(head).from_pretrained(folders[family]).save_pretrained(folder)
        BipeTokenizer.from_pretrained(folders[family]).save_pretrained(folder)
        hub.publish(f"alice/{family}{head}", folder)
        return f"alice/{family}{head}", folder

    return publish


@pytest.mark.parametrize("head", [*HEADS[:3], *(pytest.param(head, marks=pytest.mark.slow) for head in HEADS[3:])])
def test_a_model_loads_without_the_package(stranger, client, published, family, head):
    repo, folder = published(family, head)
    auto_class = "Auto" + ("" if head == "Model" else "Model") + head
    loaded = stranger(read_model, repo, auto_class, trust_remote_code=True)
    assert loaded["class"] == FAMILIES[family].prefix + head
    assert loaded["module"].startswith("transformers_modules.")
    assert loaded["output"] == expected(folder, family, head)
    with_the_package = client(read_model, repo, auto_class)
    assert is_own(with_the_package, family, head)
    assert with_the_package["output"] == loaded["output"]


def test_a_tokenizer_loads_without_the_package(stranger, client, published, family):
    repo, folder = published(family, "ForCausalLM")
    loaded = stranger(read_tokenizer, repo, TEXTS, trust_remote_code=True)
    assert loaded["module"].startswith("transformers_modules.")
    assert loaded["encoded"] == dict(BipeTokenizer.from_pretrained(folder)(TEXTS, padding=True))
    assert client(read_tokenizer, repo, TEXTS)["module"] == "bipe_hf.model.tokenization_bipe"


def test_remote_code_must_be_allowed(stranger, published):
    repo, _ = published("llama", "ForCausalLM")
    assert "trust_remote_code=True" in stranger(error_of, read_model, repo, trust_remote_code=False)


@pytest.mark.parametrize("source", ["hub", "folder"])
def test_a_model_saved_without_the_package_is_complete(hub, stranger, client, published, family, source, tmp_path):
    """Fine-tuned with a new head by remote code: code and `auto_map` go along, and point to no other repository."""
    old, new = f"alice/{family}-{source}-old", f"alice/{family}-{source}-new"
    auto_class, folder = "AutoModelForSequenceClassification", str(tmp_path / "saved")
    if source == "hub":
        hub.publish(old, published(family, "ForCausalLM")[1])
    else:
        old = shutil.copytree(published(family, "ForCausalLM")[1], tmp_path / "old")
    trained = stranger(fine_tune, str(old), auto_class, folder, new, OWNER, trust_remote_code=True)
    assert trained["module"].startswith("transformers_modules.")
    if source == "hub":
        del hub.repositories[old]
    else:
        shutil.rmtree(old)
    assert "--" not in json.dumps(json.loads(hub.repositories[new].files["config.json"])["auto_map"])
    for name in (folder, new):
        assert stranger(read_model, name, auto_class, trust_remote_code=True)["output"] == trained["output"]
        assert client(read_model, name, auto_class)["output"] == trained["output"]


@pytest.mark.parametrize("save", [save_model, save_config, save_tokenizer])
def test_code_that_travels_replaces_no_file_of_somebody_else_either(stranger, published, save, tmp_path):
    """transformers itself copies remote code, and looks at nothing before it does."""
    name = str(published("llama", "ForCausalLM")[1])
    stranger(save, name, str(tmp_path))
    (tmp_path / "errors_bipe.py").write_text("mine = 1\n")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    error = stranger(error_of, save, name, str(tmp_path))
    assert "holds a file errors_bipe.py, which the code of the model would replace" in error
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("source", ["hub", "folder"])
def test_a_configuration_saved_alone_without_the_package_is_complete(
    hub, stranger, published, family, source, tmp_path
):
    old = f"alice/{family}-{source}-config"
    if source == "hub":
        hub.publish(old, published(family, "ForCausalLM")[1])
    else:
        old = shutil.copytree(published(family, "ForCausalLM")[1], tmp_path / "old")
    stranger(save_config, str(old), str(tmp_path / "saved"), max_segment_length=9)
    if source == "hub":
        del hub.repositories[old]
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["max_segment_length"] == 9
    assert "--" not in json.dumps(config["auto_map"])
    assert stranger(build_model, str(tmp_path / "saved")) == f"{FAMILIES[family].prefix}ForCausalLM"


@pytest.fixture(scope="module")
def private(hub, client, folders):
    client(push_model, str(folders["llama"]), "AutoModelForCausalLM", "alice/private", private=True, token=OWNER)
    assert hub.repositories["alice/private"].private
    return "alice/private"


def test_a_private_model_loads_with_the_owners_token(client, folders, private):
    assert client(read_model, private, token=OWNER)["output"] == expected(folders["llama"], "llama")


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "is not a valid model identifier"),
        (OTHER, "is not a valid model identifier"),
        ("a-wrong-token", "Invalid credentials in Authorization header"),
    ],
)
def test_nobody_else_reads_a_private_model(client, private, tmp_path, token, message):
    error = client(error_of, read_model, private, token=token, cache_dir=str(tmp_path))
    assert error.startswith("OSError: ")
    assert message in error


def test_a_missing_repository_is_named(client):
    error = client(error_of, read_model, "alice/nowhere")
    assert error.startswith("OSError: alice/nowhere is not a local folder and is not a valid model identifier")


def test_a_gated_model_says_so(hub, client, folders):
    client(push_model, str(folders["llama"]), "AutoModelForCausalLM", "alice/gated", token=OWNER)
    hub.repositories["alice/gated"].gated = True
    error = client(error_of, read_model, "alice/gated", token=OTHER)
    assert error.startswith("OSError: You are trying to access a gated repo.")


@pytest.mark.parametrize("route", ["lfs_put", "commit"])
def test_a_cut_upload_leaves_what_was_there_and_can_be_repeated(hub, client, folders, route):
    repo = f"alice/cut-{route}"

    def push(family):
        client(without_waiting, push_model, str(folders[family]), "AutoModelForCausalLM", repo, token=OWNER)

    hub.cut(route, after=1000, times=6)  # as often as the client tries
    with pytest.raises(Exception, match="(?i)disconnected|uploading|reset|broken pipe"):
        push("llama")
    hub.forget_cuts()
    assert list(hub.repositories[repo].files) == [".gitattributes"]
    assert client(error_of, read_model, repo).startswith(f"ValueError: Unrecognized model in {repo}.")
    push("llama")
    assert client(read_model, repo)["output"] == expected(folders["llama"], "llama")

    hub.cut(route, after=1000, times=6)
    with pytest.raises(Exception, match="(?i)disconnected|uploading|reset|broken pipe"):
        push("gpt_neox")
    hub.forget_cuts()
    assert client(read_model, repo)["output"] == expected(folders["llama"], "llama")
    push("gpt_neox")
    assert client(read_model, repo)["output"] == expected(folders["gpt_neox"], "gpt_neox")


def test_a_commit_without_its_large_files_is_refused(hub):
    """The Hub of these tests, asked by hand: what the tests above rely on."""
    hub.publish("alice/by-hand", GOLDEN / "rope")
    before = dict(hub.repositories["alice/by-hand"].branches)
    lines = [
        {"key": "header", "value": {"summary": "half"}},
        {"key": "file", "value": {"path": "new.txt", "content": "YQ==", "encoding": "base64"}},
        {"key": "lfsFile", "value": {"path": "model.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 5}},
    ]
    for method, path, body in (
        ("POST", "/api/models/alice/by-hand/commit/main", "\n".join(map(json.dumps, lines))),
        ("PUT", f"/lfs/alice/by-hand/{'0' * 64}/5", "other"),
    ):
        request = urllib.request.Request(hub.url + path, body.encode(), method=method)
        request.add_header("Authorization", f"Bearer {OWNER}")
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(request)
    assert hub.repositories["alice/by-hand"].branches == before
    assert not hub.lfs_objects.keys() & {("alice/by-hand", "0" * 64)}


def test_one_broken_connection_is_overcome(hub, client, folders):
    """Both ways: the upload is sent again, the download goes on where it stopped."""
    repo = "alice/overcome"
    hub.cut("lfs_put", after=1000)
    client(without_waiting, push_model, str(folders["llama"]), "AutoModelForCausalLM", repo, token=OWNER)
    hub.cut("resolve", after=100)
    assert client(without_waiting, read_model, repo)["output"] == expected(folders["llama"], "llama")
    assert hub.cuts_left == 0


def push(client, *words, token=OWNER):
    """Status, output and error lines of `bipe-hf push` with these words."""
    return client(run_command, "push", *map(str, words), token=token)


def pushed(client, *words, token=OWNER):
    """The output of `bipe-hf push`, which must succeed."""
    status, output, errors = push(client, *words, token=token)
    assert status == 0, errors
    return output


def refusal(client, *words, token=OWNER):
    """The one line by which `bipe-hf push` refuses."""
    status, output, errors = push(client, *words, token=token)
    line = errors.splitlines()[-1]
    assert (status, output) == (2, "")
    assert line.startswith("bipe-hf: error: ")
    return line.removeprefix("bipe-hf: error: ")


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of a model folder, to add to and to damage."""
    return shutil.copytree(folders["llama"], tmp_path / "model")


def test_push_puts_a_whole_model_on_the_hub(hub, client, folders, family):
    output = pushed(client, folders[family], f"{family}-pushed")
    files = hub.repositories[f"alice/{family}-pushed"].files
    lines = [f"pushed to {hub.url}/alice/{family}-pushed", *(f"  {path}" for path in sorted(files) if path[0] != ".")]
    assert output.splitlines() == lines
    loaded = client(read_model, f"alice/{family}-pushed")
    assert is_own(loaded, family)
    assert loaded["output"] == expected(folders[family], family)
    read_here = client(read_tokenizer, str(folders[family]), TEXTS)
    assert client(read_tokenizer, f"alice/{family}-pushed", TEXTS) == read_here
    assert f'name = "alice/{family}-pushed"' in files["README.md"].decode()


def test_push_takes_a_model_with_another_head(hub, client, published):
    _, folder = published("llama", "ForSequenceClassification")
    pushed(client, folder, "classifier")
    loaded = client(read_model, "alice/classifier", "AutoModelForSequenceClassification")
    assert loaded["output"] == expected(folder, "llama", "ForSequenceClassification")
    assert b"pipeline_tag: text-classification" in hub.repositories["alice/classifier"].files["README.md"]


def test_push_takes_nothing_but_the_model(hub, client, folder):
    saved = {path.name for path in folder.iterdir()}
    (folder / "checkpoint-5").mkdir()
    (folder / "runs").mkdir()
    others = ("optimizer.pt", "trainer_state.json", "training_args.bin", "notes.txt", ".env", "adapter.safetensors")
    for name in (*others, "checkpoint-5/optimizer.pt", "runs/events"):
        (folder / name).write_text("private")
    (folder / "training.json").write_text(TRAINING)
    pushed(client, folder, "clean")
    beside = {"training.json", "README.md", ".gitattributes"}
    assert set(hub.repositories["alice/clean"].files) == saved | beside


def test_the_same_push_again_changes_nothing(hub, client, folders):
    pushed(client, folders["llama"], "twice")
    before = dict(hub.repositories["alice/twice"].branches)
    pushed(client, folders["llama"], "twice")
    assert hub.repositories["alice/twice"].branches == before


def test_no_weights_of_an_older_push_remain(hub, client, folders, tmp_path):
    """`from_pretrained` takes one large file, where there is one, before the shards of the newest model."""
    shards = tmp_path / "shards"
    FAMILIES["gpt_neox"].causal_lm.from_pretrained(folders["gpt_neox"]).save_pretrained(shards, max_shard_size="10KB")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders["gpt_neox"] / file, shards)
    pushed(client, folders["llama"], "replaced")
    output = pushed(client, shards, "replaced")
    assert "removed, this model has none: model.safetensors" in output
    assert client(read_model, "alice/replaced")["output"] == expected(folders["gpt_neox"], "gpt_neox")
    pushed(client, folders["llama"], "replaced")
    weights = [path for path in hub.repositories["alice/replaced"].files if "safetensors" in path]
    assert weights == ["model.safetensors"]
    assert client(read_model, "alice/replaced")["output"] == expected(folders["llama"], "llama")


def evaluation_of(folder, other, file):
    """What `bipe-hf evaluate folder other --output file` writes."""
    rows = []
    for model, perplexity in ((folder, 12.25), (other, 34.5)):
        row = Result(
            model=str(model),
            name=model.name,
            encoding="BiPE-RoPE",
            train_length=None,
            protocol="blocks",
            length=64,
            stride=None,
            tokens_scored=63,
            blocks=1,
            segments_per_block=3.0,
            nll=math.log(perplexity),
            perplexity=perplexity,
            bits_per_byte=1.5,
            seconds=1.0,
            text_documents=1,
            text_tokens=64,
            text_sha256="0",
            bytes_per_token=2.0,
            model_fingerprint=open_folder(model).fingerprint,
        )
        rows.append(row)
    data = {"source": "python", "split": "validation"}
    Evaluation("2026-01-01", "bipe-hf evaluate", {}, data, rows).save(file)
    return file


def test_results_of_the_model_and_a_figure_go_along(hub, client, folders, tmp_path):
    results = evaluation_of(folders["llama"], folders["gpt_neox"], tmp_path / "results.json")
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"\x89PNG\r\n\x1a\n")
    pushed(client, folders["llama"], "measured", "--evaluation", results, "--figure", figure)
    files = hub.repositories["alice/measured"].files
    assert [row["perplexity"] for row in json.loads(files["evaluation.json"])["results"]] == [12.25]
    assert files["evaluation.png"] == figure.read_bytes()
    card = files["README.md"].decode()
    assert "12.25" in card
    assert "34.5" not in card
    assert "(evaluation.png)" in card
    output = pushed(client, folders["llama"], "measured")
    assert "removed, this model has none: evaluation.json" in output
    assert "12.25" not in hub.repositories["alice/measured"].files["README.md"].decode()


def test_the_command_of_the_page_pushes(hub, client, folders):
    text = (ROOT / "docs" / "push.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("bipe-hf push")]
    _, command, folder, repo = shlex.split(line, comments=True)
    repo = repo.replace("me/", "alice/")
    status, _, errors = client(run_command, command, str(folders["llama"]), repo, token=OWNER)
    assert status == 0, errors
    assert folder.startswith("runs/demo/")
    assert "model.safetensors" in hub.repositories[repo].files


def test_a_run_that_pushes_itself_ends_with_its_record_and_our_card(hub, client, tmp_path):
    (tmp_path / "text.txt").write_text("The cat sat. It ran!\n\n" * 200)
    settings = {"data": str(tmp_path / "text.txt"), "vocab_size": 280, "train_length": 16, "max_steps": 1}
    settings |= {"output_dir": str(tmp_path / "run"), "push_to_hub": True, "hub_model_id": "alice/run"}
    settings |= {"use_cpu": True, "report_to": "none", "max_segment_length": 8}
    shape = {key: value for key, value in TINY.items() if key not in ("initializer_range", "max_segment_length")}
    (tmp_path / "run.yaml").write_text(json.dumps(settings | shape))
    status, _, errors = client(run_command, "pretrain", str(tmp_path / "run.yaml"), token=OWNER)
    assert status == 0, errors
    files = hub.repositories["alice/run"].files
    assert json.loads(files["training.json"])["train_length"] == 16
    card = files["README.md"].decode()
    assert "- train length: 16 tokens" in card
    assert "model-index:" in card
    assert 'name = "alice/run"' in card


def test_a_card_of_ones_own_is_kept(hub, client, folder):
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    pushed(client, folder, "own-card")
    repository = hub.repositories["alice/own-card"]
    assert repository.files["README.md"] == b"---\nlicense: mit\n---\nMine.\n"
    repository.commit("main", repository.files | {"README.md": b"---\nlicense: mit\n---\nEdited there.\n"})
    (folder / "README.md").unlink()
    pushed(client, folder, "own-card")
    assert repository.files["README.md"] == b"---\nlicense: mit\n---\nEdited there.\n"


def test_a_card_that_cannot_be_read_is_not_replaced(hub, client, folders):
    mine = b"---\nlicense: mit\n---\nMine.\n"
    hub.publish("alice/unreadable", folders["llama"])
    repository = hub.repositories["alice/unreadable"]
    repository.commit("main", repository.files | {"README.md": mine})
    hub.out_of_order.add("resolve")
    try:
        words = ("push", str(folders["llama"]), "unreadable")
        status, _, errors = client(without_waiting, run_command, *words, token=OWNER)
    finally:
        hub.out_of_order.clear()
    assert status == 2
    assert errors.splitlines()[-1].startswith("bipe-hf: error: repository unreadable: the connection to")
    assert repository.files["README.md"] == mine


@pytest.mark.parametrize("has_own", [False, True])
def test_a_tokenizer_saved_and_pushed_leaves_a_card_of_ones_own(hub, client, folders, has_own, tmp_path):
    mine = b"---\nlicense: mit\n---\nMine.\n"
    hub.publish("alice/tokens", folders["llama"])
    repository = hub.repositories["alice/tokens"]
    repository.commit("main", repository.files | {"README.md": mine})
    if has_own:
        (tmp_path / "README.md").write_text("# Another one, for this folder\n")
    client(save_and_push_tokenizer, str(folders["llama"]), str(tmp_path), "alice/tokens", OWNER)
    assert repository.files["README.md"] == mine


def test_a_pushed_model_does_not_claim_what_was_measured_of_the_weights_before_it(hub, client, folder):
    """The record is still there: only `bipe-hf push` removes what is of other weights."""
    (folder / "training.json").write_text(TRAINING)
    pushed(client, folder, "claims")
    repository = hub.repositories["alice/claims"]
    assert "- train length: 64 tokens" in repository.files["README.md"].decode()
    client(push_model, str(folder), "AutoModelForCausalLM", "alice/claims", token=OWNER)
    card = repository.files["README.md"].decode()
    assert "bipe-hf" in card
    assert "train length" not in card


def test_a_tokenizer_pushed_again_leaves_the_results_in_the_card(hub, client, folder):
    (folder / "training.json").write_text(TRAINING)
    pushed(client, folder, "results")
    card = hub.repositories["alice/results"].files["README.md"]
    assert b"- train length: 64 tokens" in card
    client(push_tokenizer, str(folder), "alice/results", token=OWNER)
    assert hub.repositories["alice/results"].files["README.md"] == card


def test_a_model_and_its_tokenizer_pushed_alone_have_one_card_that_shows_the_separators(hub, client, folders):
    repo = "alice/both"
    client(push_model, str(folders["llama"]), "AutoModelForCausalLM", repo, token=OWNER)
    assert "separator tokens, with the ids" in hub.repositories[repo].files["README.md"].decode()
    client(push_tokenizer, str(folders["llama"]), repo, token=OWNER)
    assert "separator tokens (`sentences`)" in hub.repositories[repo].files["README.md"].decode()


def test_without_the_package_a_push_has_the_card_of_transformers(hub, stranger, published, tmp_path):
    name, auto_class = str(published("llama", "ForCausalLM")[1]), "AutoModelForSequenceClassification"
    stranger(fine_tune, name, auto_class, str(tmp_path), "alice/strangers", OWNER, trust_remote_code=True)
    card = hub.repositories["alice/strangers"].files["README.md"].decode()
    assert "has been automatically generated" in card
    assert "bipe" not in card


def test_tags_of_a_push_stand_in_the_card(hub, client, folders):
    for tags in (["first"], ["second"]):
        client(push_model, str(folders["llama"]), "AutoModelForCausalLM", "alice/tagged", tags=tags, token=OWNER)
    card = ModelCard(hub.repositories["alice/tagged"].files["README.md"].decode())
    assert {"first", "second", "bipe"} <= set(card.data.tags)


def test_push_removes_no_file_that_is_not_of_a_model_of_ours(hub, client, folders):
    others = {"evaluation.json": b"[1]", "evaluation.png": b"png", "model_ema.safetensors": b"ema", "notes.txt": b"n"}
    hub.publish("alice/others", folders["llama"])
    repository = hub.repositories["alice/others"]
    repository.commit("main", repository.files | others | {"model-00001-of-00002.safetensors": b"old"})
    pushed(client, folders["llama"], "others")
    assert others.items() <= repository.files.items()
    assert "model-00001-of-00002.safetensors" not in repository.files


def test_push_makes_a_private_repository(hub, client, folders):
    pushed(client, folders["llama"], "hidden", "--private")
    assert hub.repositories["alice/hidden"].private
    pushed(client, folders["gpt_neox"], "alice/hidden", "--private")


def test_push_does_not_hide_what_is_public(hub, client, folders):
    pushed(client, folders["llama"], "public")
    before = dict(hub.repositories["alice/public"].branches)
    line = refusal(client, folders["gpt_neox"], "public", "--private")
    assert line.startswith("private: alice/public exists and is public, and a push does not change that")
    assert hub.repositories["alice/public"].branches == before


def test_push_to_a_branch_leaves_main_alone(hub, client, folders):
    pushed(client, folders["llama"], "branched")
    output = pushed(client, folders["gpt_neox"], "branched", "--revision", "try/neox", "--message", "Another family")
    assert output.startswith(f"pushed to {hub.url}/alice/branched/tree/try/neox\n")
    assert client(read_model, "alice/branched")["output"] == expected(folders["llama"], "llama")
    branch = client(read_model, "alice/branched", revision="try/neox")
    assert branch["output"] == expected(folders["gpt_neox"], "gpt_neox")


def test_push_as_a_pull_request_needs_no_permission(hub, client, folders):
    pushed(client, folders["llama"], "open")
    line = refusal(client, folders["gpt_neox"], "alice/open", token=OTHER)
    assert line.startswith("repository alice/open: the token may not write there (Forbidden")
    output = pushed(client, folders["gpt_neox"], "alice/open", "--create-pr", token=OTHER)
    assert output.startswith(f"pushed to {hub.url}/alice/open/discussions/1\n")
    assert client(read_model, "alice/open")["output"] == expected(folders["llama"], "llama")
    request = client(read_model, "alice/open", revision="refs/pr/1")
    assert request["output"] == expected(folders["gpt_neox"], "gpt_neox")


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        (["mine"], None, "not logged in to http"),
        (["mine"], "a-wrong-token", "repository mine: the Hub refuses the token: run `hf auth login --force`"),
        (["bob/new"], OWNER, 'You don\'t have the rights to create a model under the namespace "bob"'),
        (["a/b/c"], OWNER, "repository 'a/b/c': give owner/name, or name for one of your own"),
        (["bob/new", "--create-pr"], OWNER, "create_pr: there is no repository bob/new that alice can see"),
        (["mine", "--evaluation", "none.json"], OWNER, "there is no results file none.json"),
        (["mine", "--figure", "none.png"], OWNER, "there is no figure none.png"),
        (["mine", "--figure", __file__], OWNER, "this is no PNG"),
    ],
)
def test_push_says_what_is_wrong(hub, client, folders, words, token, message):
    assert message in refusal(client, folders["llama"], *words, token=token)
    assert not {"alice/mine", "bob/new"} & hub.repositories.keys()


def test_results_of_other_models_are_refused(client, folders, folder, tmp_path):
    results = evaluation_of(folder, folders["gpt_neox"], tmp_path / "results.json")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    line = refusal(client, folder, "mine", "--evaluation", results)
    assert "no result in it is of" in line
    assert line.endswith("measure it again")


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def lose_a_shard(folder):
    FAMILIES["llama"].causal_lm.from_pretrained(folder).save_pretrained(folder / "new", max_shard_size="10KB")
    shutil.copytree(folder / "new", folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    sorted(folder.glob("model-*.safetensors"))[0].unlink()


def lose_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_a_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))


def make_it_stock(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))


def lose_the_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def lose_the_weights(folder):
    (folder / "model.safetensors").rename(folder / "adapter.safetensors")


def pickle_the_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "there is no such folder"),
        (truncate, "its weights cannot be read (Error while deserializing header"),
        (lose_a_shard, "weights file not found: "),
        (lose_a_weight, "its weights do not fit its config, missing keys model.norm.weight"),
        (change_a_shape, "its weights do not fit its config, mismatched keys ('model.layers.0.mlp.down_proj"),
        (lose_the_weights, "there are no weights in "),
        (pickle_the_weights, "there is neither model.safetensors nor model.safetensors.index.json"),
        (make_it_stock, "its config says llama"),
        (lose_the_tokenizer, "there is no tokenizer"),
    ],
)
def test_what_is_no_whole_model_is_refused_before_the_hub_is_asked(hub, client, folder, damage, message):
    damage(folder)
    requests = len(hub.requests)
    line = refusal(client, folder, "mine")
    assert line.startswith(f"model {folder}: ")
    assert message in line
    assert len(hub.requests) == requests


@pytest.mark.parametrize("route", ["lfs_put", "commit"])
def test_a_push_that_broke_off_is_repeated(hub, client, folders, route):
    repo = f"alice/broken-{route}"
    hub.cut(route, after=1000, times=6)
    words = ["push", str(folders["llama"]), repo]
    status, output, errors = client(without_waiting, run_command, *words, token=OWNER)
    hub.forget_cuts()
    line = errors.splitlines()[-1]
    assert (status, output) == (2, "")
    assert line.startswith(f"bipe-hf: error: repository {repo}: the connection to {hub.url} failed")
    assert list(hub.repositories[repo].files) == [".gitattributes"]
    pushed(client, folders["llama"], repo)
    assert client(read_model, repo)["output"] == expected(folders["llama"], "llama")


def test_push_without_a_network_is_one_line(client, folders):
    line = client(run_command_elsewhere, "push", str(folders["llama"]), "mine", token=OWNER)
    assert line.startswith("bipe-hf: error: repository mine: the connection to http://127.0.0.1:9 failed")


def test_push_offline_is_one_line(folders, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", OWNER)
    assert main(["push", str(folders["llama"]), "mine"]) == 2
    assert capsys.readouterr().err.endswith("HF_HUB_OFFLINE is set: nothing can be pushed without the network\n")


# Other libraries


def test_remote_code_stands_in_the_tables_of_other_libraries(stranger, folders, tmp_path, family):
    model = FAMILIES[family].causal_lm.from_pretrained(folders[family])
    found = stranger(report_on, str(folders[family]), str(tmp_path))
    assert found.pop("module").startswith("transformers_modules.")
    ids = torch.arange(20)[None]
    assert found == {
        "smoothed loss": smoothed_loss(model, tmp_path, input_ids=ids, labels=ids),
        "Liger": ""
        if family == "llama"
        else "Liger has no kernels for bipe_gpt_neox and would change nothing: use_liger_kernel=False",
        "AWQ": scaled_activations(model),
        "Megatron": error_of_megatron(model),
        "LoRA": modules_of_lora(model),
    }
