"""What stands beside saved weights: a card that says what the folder says, the code, and where it is."""

import dataclasses
import json
import re
import sys
from importlib.metadata import requires

import pytest
import transformers.dynamic_module_utils as dynamic_modules
from families import FAMILIES, HEADS
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from transformers import AutoConfig, AutoModelForCausalLM

import bipe_hf
from bipe_hf import BipeLlamaConfig, BipeTokenizer
from bipe_hf.hub.card_file import is_ours, write_model_card
from bipe_hf.hub.origin import describe_origin, write_origin
from bipe_hf.lab.data import train_tokenizer
from bipe_hf.lab.evaluation.results import Evaluation, Result


TEXT = "Is it? It is. Now | then `x` <b> goes on!\n"
SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAINING = {
    "train_length": 128,
    "data": "books",
    "tokens_seen": 4096,
    "parameters": 1234,
    "eval_loss": 2.0,
    "config": {"validation_fraction": 0.05},
    "versions": {"bipe-hf": "0.1.0"},
}
FINETUNING = {
    "task": "token_classification",
    "data": "tags.jsonl",
    "examples": {"train": 1500, "validation": 70},
    "parameters": 1234,
    "metrics": {"loss": 0.5, "accuracy": 0.75, "f1": 0.625},
    "versions": {"bipe-hf": "0.1.0"},
}

SYNTHETIC = {
    "task": "chain",
    "max_operators": 3,
    "examples_seen": 6000,
    "parameters": 1234,
    "accuracy": [
        {"size": 2, "accuracy": 0.875, "steps_correct": 0.9375, "samples": 80},
        {"size": 12, "accuracy": 0.0, "steps_correct": 0.25, "samples": 80},
    ],
    "versions": {"bipe-hf": "0.1.0"},
}


@pytest.fixture(scope="module")
def plain_tokenizer():
    return train_tokenizer([TEXT] * 3, vocab_size=300)


@pytest.fixture
def save(plain_tokenizer, tmp_path):
    """A function that saves a tiny model and a tokenizer for it, and returns the folder."""

    def save(family="llama", head="ForCausalLM", segmentation="sentences", **fields):
        tokenizer = BipeTokenizer.from_tokenizer(plain_tokenizer, separators=segmentation)
        config = FAMILIES[family].make_config(
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            separator_token_ids=tokenizer.separator_token_ids,
            **SHAPE,
            **fields,
        )
        FAMILIES[family].head(head)(config).save_pretrained(tmp_path / "my-model")
        tokenizer.save_pretrained(tmp_path / "my-model")
        return tmp_path / "my-model"

    return save


def card_of(folder) -> str:
    write_model_card(folder, with_records=True)
    return (folder / "README.md").read_text(encoding="utf-8")


def facts_of(card: str) -> dict[str, str]:
    return dict(re.findall(r"^- ([^:\n]+): (.+)$", card, flags=re.MULTILINE))


def evaluation(*models: str) -> Evaluation:
    shared = {"name": "m", "encoding": "BiPE-RoPE", "train_length": 128, "blocks": 1, "segments_per_block": 4.0}
    shared |= {"nll": 2.0, "seconds": 1.0, "text_documents": 1, "text_tokens": 512, "text_sha256": "0"}
    shared |= {"bytes_per_token": 3.0, "model_fingerprint": "0"}
    shared |= {"protocol": "sliding", "stride": 256, "length": 512, "tokens_scored": 480}
    shared |= {"perplexity": 7.5, "bits_per_byte": 1.25}
    rows = [Result(model=model, **shared) for model in models]
    data = {"source": "texts/books", "split": "validation"}
    return Evaluation(created="today", command="c", environment={}, data=data, results=rows)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"inter_encoding": "rope"}, "BiPE-RoPE"),
        ({"inter_encoding": "alibi"}, "BiPE-ALiBi"),
        ({"inter_encoding": "alibi", "segmentation": "tokens"}, "ALiBi"),
        ({"segmentation": "document", "intra_encoding": "sinusoidal"}, "sinusoidal APE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_card_names_the_encoding(fields, label, tmp_path):
    config = BipeLlamaConfig(vocab_size=60, separator_token_ids=[3], **SHAPE, **fields)
    config.save_pretrained(tmp_path)
    facts = facts_of(card_of(tmp_path))
    assert facts["positional encoding"] == label
    assert ("`alibi_slope_scale`" in facts) == ("ALiBi" in label)


def test_the_card_tells_whose_weights_were_trained_here_and_on_what_before(save, tmp_path):
    """From the Hub to a conversion, a training and a fine-tuning, a folder each."""
    stock = tmp_path / "stock"
    stock.mkdir()
    (stock / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    origin = describe_origin("owner/stock", stock)
    assert origin == {"model": "owner/stock", "base_model": "owner/stock", "license": "apache-2.0", "history": []}

    folder = save()
    write_origin(folder, origin | {"history": ["converted to BiPE-RoPE"]})
    card = card_of(folder)
    data, facts = ModelCard(card).data, facts_of(card)
    assert (data.base_model, data.license) == ("owner/stock", "apache-2.0")
    assert facts["weights from"] == "`owner/stock`, license apache-2.0"
    assert facts["before"] == "converted to BiPE-RoPE"
    assert "trained" not in " ".join(facts)

    (folder / "training.json").write_text(json.dumps(TRAINING))
    facts = facts_of(card_of(folder))
    assert facts["trained further on"] == "`books`, 4,096 tokens"
    assert "trained on" not in facts

    again = describe_origin(folder, folder)
    assert again["base_model"] == "owner/stock"
    assert again["license"] == "apache-2.0"
    assert again["history"] == ["converted to BiPE-RoPE", "trained on `books`, 4,096 tokens"]
    (folder / "training.json").unlink()
    write_origin(folder, again)
    (folder / "finetuning.json").write_text(json.dumps(FINETUNING))
    facts = facts_of(card_of(folder))
    assert facts["before"] == "converted to BiPE-RoPE; then trained on `books`, 4,096 tokens"
    assert facts["fine-tuned on"] == "`tags.jsonl`, 1,500 examples"


@pytest.mark.parametrize("readme", [None, "# No metadata", "---\nlicense: [\n---\n", "---\nbase_model: a/b\n---\n"])
def test_what_is_not_known_of_an_origin_is_left_out(save, tmp_path, readme):
    stock = tmp_path / "my stock"
    stock.mkdir()
    if readme is not None:
        (stock / "README.md").write_text(readme)
    origin = describe_origin(stock, stock)
    known = "a/b" if readme and "a/b" in readme else None
    assert origin == {"model": "my stock", "base_model": known, "license": None, "history": []}
    folder = save()
    write_origin(folder, origin)
    card = card_of(folder)
    assert facts_of(card)["weights from"] == f"`{known or 'my stock'}`"
    assert ModelCard(card).data.get("base_model") == known
    assert ModelCard(card).data.get("license") is None


def test_the_card_says_what_turns_in_a_hybrid_and_how_steep_its_bias_is(tmp_path):
    fields = {"inter_encoding": "hybrid", "hybrid_max_period": 64, "hybrid_alibi_scale": 2, "hybrid_alibi_power": 0.5}
    BipeLlamaConfig(vocab_size=60, separator_token_ids=[3], intra_encoding="none", **SHAPE, **fields).save_pretrained(
        tmp_path
    )
    facts = facts_of(card_of(tmp_path))
    assert facts["positional encoding"] == "hybrid over segments"
    assert (facts["`hybrid_max_period`"], facts["`hybrid_slow_pairs`"]) == ("64", "none")
    assert (facts["`hybrid_alibi_scale`"], facts["`hybrid_alibi_power`"]) == ("2", "0.5")


def test_every_field_that_the_model_reads_stands_in_the_card(tmp_path):
    fields = {"logn_train_length": 12, "intra_initializer_range": 0.5, "max_segment_length": 7}
    BipeLlamaConfig(vocab_size=60, separator_token_ids=[3], **SHAPE, **fields).save_pretrained(tmp_path)
    facts = facts_of(card_of(tmp_path))
    assert {name: facts[f"`{name}`"] for name in fields} == {name: str(value) for name, value in fields.items()}
    assert not [name for name in facts if "hybrid" in name or "alibi" in name]  # which nothing reads here


def test_separators_are_readable_once_the_tokenizer_is_saved_too(save):
    segments = facts_of(card_of(save(segmentation=["|", "`", "<", "\n"])))["segments"]
    assert segments == r"""end at 4 separator tokens: `"\n"` `"<"` `` "`" `` `"|"`"""


def test_a_preset_is_named_only_where_its_separators_are_those_of_the_model(save):
    folder = save()
    assert "tokens (`sentences`)" in facts_of(card_of(folder))["segments"]
    config = json.loads((folder / "config.json").read_text())
    config["separator_token_ids"] = config["separator_token_ids"][:1]
    (folder / "config.json").write_text(json.dumps(config))
    assert "sentences" not in facts_of(card_of(folder))["segments"]


def test_without_a_tokenizer_the_card_has_the_ids_of_the_separators(tmp_path):
    BipeLlamaConfig(vocab_size=60, separator_token_ids=[7, 3], **SHAPE).save_pretrained(tmp_path)
    assert facts_of(card_of(tmp_path))["segments"] == "end at 2 separator tokens, with the ids 3, 7"


def test_what_is_unknown_is_left_out(save):
    card = card_of(save())
    assert facts_of(card).keys() == {"positional encoding", "segments", "`max_segment_length`"}
    assert "## Evaluation" not in card
    assert ModelCard(card).data.eval_results is None
    assert "None" not in card


def test_a_training_gives_length_data_and_a_measured_result(save):
    folder = save()
    (folder / "training.json").write_text(json.dumps(TRAINING))
    card = card_of(folder)
    assert (
        facts_of(card).items()
        >= {"train length": "128 tokens", "trained on": "`books`, 4,096 tokens", "parameters": "1,234"}.items()
    )
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_type, result.metric_value) == ("perplexity", pytest.approx(7.389056))
    assert (result.task_type, result.dataset_name, result.dataset_split) == ("text-generation", "books", "validation")


def test_a_fine_tuning_gives_task_and_metrics(save):
    folder = save(head="ForTokenClassification")
    (folder / "finetuning.json").write_text(json.dumps(FINETUNING))
    card = card_of(folder)
    assert facts_of(card)["fine-tuned on"] == "`tags.jsonl`, 1,500 examples"
    assert "| accuracy | 0.7500 |" in card
    data = ModelCard(card).data
    assert data.pipeline_tag == "token-classification"
    assert {each.metric_type: each.metric_value for each in data.eval_results} == {"accuracy": 0.75, "f1": 0.625}


def test_a_generated_task_gives_its_accuracy_by_size(save):
    folder = save()
    (folder / "synthetic.json").write_text(json.dumps(SYNTHETIC))
    card = card_of(folder)
    facts = facts_of(card)
    assert facts["trained on"] == "the generated task chain, 6,000 examples of 1 to 3 operators"
    assert facts["parameters"] == "1,234"
    assert "| 2 | 0.8750 | 0.9375 | 80 |\n| 12 | 0.0000 | 0.2500 | 80 |\n" in card
    results = {each.metric_name: each.metric_value for each in ModelCard(card).data.eval_results}
    assert results == {"accuracy, 2 operators": 0.875, "accuracy, 12 operators": 0.0}


def test_an_evaluation_gives_a_table_a_figure_and_valid_metadata(save):
    folder = save()
    evaluation("runs/mine").save(folder / "evaluation.json")
    (folder / "evaluation.png").write_bytes(b"\x89PNG")
    card = card_of(folder)
    assert "| sliding, stride 256 | 512 | 7.50 | 1.2500 | 480 |" in card
    assert "](evaluation.png)" in card
    data = ModelCard(card).data
    assert data.model_name == "my-model"
    (result,) = data.eval_results
    assert (result.metric_name, result.metric_value) == ("perplexity, sliding, stride 256, 512 tokens", 7.5)
    index = eval_results_to_model_index(data.model_name, data.eval_results)
    assert model_index_to_eval_results(index) == (data.model_name, data.eval_results)


@pytest.mark.parametrize(
    "content",
    [
        '{"train_length": 5}',
        "[1, 2]",
        "{",
        '{"versions": {"bipe-hf": "0.1.0"}}',
        '{"format": "something else"}',
        "null",
    ],
)
@pytest.mark.parametrize("name", ["training", "finetuning", "synthetic", "evaluation"])
def test_records_of_other_programs_are_left_out(name, content, save):
    folder = save()
    (folder / f"{name}.json").write_text(content)
    assert "## Evaluation" not in card_of(folder)


def test_an_evaluation_of_several_models_is_left_out(save):
    folder = save()
    evaluation("runs/mine", "runs/other").save(folder / "evaluation.json")
    assert "## Evaluation" not in card_of(folder)


def test_an_evaluation_with_other_config_fields_is_left_out(save):
    folder = save()
    measured = evaluation("runs/mine")
    measured.save(folder / "evaluation.json")
    assert "## Evaluation" in card_of(folder)
    scaled = dataclasses.replace(measured.results[0], config_fields={"max_position_embeddings": 12})
    dataclasses.replace(measured, results=[scaled]).save(folder / "evaluation.json")
    assert "## Evaluation" not in card_of(folder)


@pytest.mark.parametrize("loss", [None, 1000.0, float("inf"), float("nan")])
def test_a_run_that_diverged_has_no_result(loss, save):
    folder = save()
    (folder / "training.json").write_text(json.dumps(TRAINING | {"eval_loss": loss}))
    card = card_of(folder)
    assert "- train length: 128 tokens" in card
    assert ModelCard(card).data.eval_results is None


@pytest.mark.parametrize("before", [None, "# Mine\n", "ours"])
def test_saving_leaves_the_card_to_those_who_know_more(before, save):
    folder = save()
    assert not (folder / "README.md").exists()
    if before is not None:
        text = card_of(folder) if before == "ours" else before
        (folder / "README.md").write_text(text, encoding="utf-8")
        save(inter_encoding="alibi")
        assert (folder / "README.md").read_text(encoding="utf-8") == text


def test_a_card_that_somebody_wrote_is_left_alone(save):
    folder = save()
    (folder / "README.md").write_text("# Mine\n")
    assert card_of(folder) == "# Mine\n"


def test_our_own_card_is_renewed_until_its_text_is_edited(save):
    assert "BiPE-RoPE" in card_of(save())
    folder = save(inter_encoding="alibi")
    card = card_of(folder)
    assert is_ours(card)
    assert "BiPE-ALiBi" in card
    (folder / "README.md").write_text(card + "\nTrained on my notes.\n", encoding="utf-8")
    save(inter_encoding="rope")
    assert card_of(folder) == card + "\nTrained on my notes.\n"


def test_metadata_that_somebody_added_to_our_card_are_kept(save):
    folder = save()
    card = ModelCard(card_of(folder))
    card.data.license = "mit"
    card.data.tags.append("mine")
    card.save(folder / "README.md")
    save(inter_encoding="alibi")
    renewed = ModelCard(card_of(folder))
    assert "BiPE-ALiBi" in renewed.text
    assert renewed.data.license == "mit"
    assert {"mine", "bipe"} <= set(renewed.data.tags)


def test_the_blank_form_of_transformers_is_replaced_and_a_filled_in_one_is_not(save):
    folder = save()
    blank = (
        "This is the model card of a \N{HUGGING FACE} transformers model that has been pushed on the Hub. This model "
        "card has been automatically generated."
    )
    form = ModelCard.from_template(ModelCardData(tags=["theirs"]), model_description=blank)
    form.save(folder / "README.md")
    renewed = ModelCard(card_of(folder))
    assert "BiPE-RoPE" in renewed.text
    assert "theirs" in renewed.data.tags
    filled = form.content.replace("[More Information Needed]", "Me, hours of work", 1)
    (folder / "README.md").write_text(filled, encoding="utf-8")
    assert card_of(folder) == filled


@pytest.mark.parametrize("broken", ["config.json", "tokenizer.json", "tokenizer_config.json", "README.md"])
def test_a_card_that_cannot_be_written_is_a_warning(broken, save, caplog):
    """At the end of a run, of which it must not cost anything."""
    folder = save()
    (folder / broken).unlink(missing_ok=True)
    if broken == "README.md":
        (folder / broken).mkdir()
    else:
        (folder / broken).write_text("{")
    write_model_card(folder, with_records=True)
    assert f"{folder / 'README.md'} was not written: " in caplog.text
    assert (folder / "model.safetensors").is_file()


def test_the_base_install_brings_what_fills_the_template():
    """huggingface_hub leaves jinja2 to its extras; torch needs it itself."""
    brought = [each for each in requires("torch") if "extra ==" not in each]
    assert any(each.lower().startswith("jinja2") for each in brought)
    assert any(each.startswith("torch>") for each in requires("bipe-hf"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_the_usage_example_runs(family, head, save, tmp_path, monkeypatch, capsys):
    folder = save(family, head)
    card = card_of(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dynamic_modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    (example,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert '"path/to/my-model"' in example
    names = {}
    exec(compile(example.replace("path/to/", ""), "README.md", "exec"), names)
    assert type(names["model"]) is FAMILIES[family].head(head)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_names_its_code_and_the_version_that_wrote_it(family, save):
    folder = save(family)
    config = json.loads((folder / "config.json").read_text())
    assert config["bipe_hf_version"] == bipe_hf.__version__
    prefix = FAMILIES[family].prefix
    named = {auto: name[-1] if isinstance(name, list) else name for auto, name in config["auto_map"].items()}
    assert {auto: name.rpartition(".")[2] for auto, name in named.items()} == {
        "AutoConfig": f"{prefix}Config",
        "AutoModel": f"{prefix}Model",
        **{f"AutoModel{head}": prefix + head for head in HEADS[1:]},
        "AutoTokenizer": "BipeTokenizer",
    }
    for name in named.values():
        assert (folder / f"{name.partition('.')[0]}.py").is_file(), name


def test_a_model_without_separators_names_no_tokenizer(tmp_path):
    BipeLlamaConfig(vocab_size=60, segmentation="tokens", **SHAPE).save_pretrained(tmp_path)
    assert "AutoTokenizer" not in json.loads((tmp_path / "config.json").read_text())["auto_map"]


def test_code_named_in_another_repository_is_not_named_again(tmp_path):
    config = BipeLlamaConfig(vocab_size=60, separator_token_ids=[3], **SHAPE)
    config.auto_map = {"AutoConfig": "somebody/theirs--configuration_bipe.BipeLlamaConfig"}
    config.save_pretrained(tmp_path)
    assert "--" not in (tmp_path / "config.json").read_text()


def test_a_configuration_class_defined_elsewhere_is_left_to_transformers(tmp_path):
    class OwnConfig(BipeLlamaConfig):
        pass

    OwnConfig(vocab_size=60, separator_token_ids=[3], **SHAPE).save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    assert not list(tmp_path.glob("*.py"))


def test_a_tokenizer_class_of_somebody_else_is_not_published(plain_tokenizer, tmp_path):
    class OwnTokenizer(BipeTokenizer):
        pass

    OwnTokenizer.from_tokenizer(plain_tokenizer).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))


def test_an_older_checkpoint_without_code_gets_it_when_saved_again(save, tmp_path):
    folder = save()
    for file in folder.glob("*.py"):
        file.unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"], config["bipe_hf_version"]
    (folder / "config.json").write_text(json.dumps(config))
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)
    assert (folder / "modeling_bipe_llama.py").is_file()
    assert AutoConfig.from_pretrained(folder).auto_map["AutoModel"] == "modeling_bipe_llama.BipeLlamaModel"
