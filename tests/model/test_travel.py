"""The code that travels with a checkpoint: what it is, that the loader of transformers finds it, what it replaces."""

import hashlib
import json
from pathlib import Path

import pytest
from families import FAMILIES, HEADS
from paths import ROOT
from tiny import TINY
from transformers.dynamic_module_utils import get_relative_import_files
from word_tokenizer import make_word_tokenizer

import bipe_hf
from bipe_hf.model.travel_bipe import FILES, auto_map


MODEL = ROOT / "src" / "bipe_hf" / "model"
SAVERS = ("config", "model", "tokenizer")
MINE = "mine = 1\n"


@pytest.fixture
def save(tiny_model):
    """A function that saves one of `SAVERS` in a folder."""

    def save(what: str, folder: Path) -> None:
        model = tiny_model("llama")
        tokenizer = make_word_tokenizer()
        {"config": model.config, "model": model, "tokenizer": tokenizer}[what].save_pretrained(folder)

    return save


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def marked(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"# Saved by bipe-hf, which replaces this file until somebody edits it. {digest}\n{text}"


def test_every_module_of_the_model_travels():
    assert sorted(FILES) == sorted(file.name for file in MODEL.glob("*.py") if file.name != "__init__.py")


def test_an_auto_map_names_the_classes_of_the_package(family):
    config = FAMILIES[family].make_config(**TINY)
    found = {name: each[-1] if isinstance(each, list) else each for name, each in auto_map(config).items()}
    prefix = FAMILIES[family].prefix
    assert found.keys() == {"AutoConfig", "AutoModel", "AutoTokenizer", *(f"AutoModel{head}" for head in HEADS[1:])}
    for auto_class, place in found.items():
        module, _, name = place.partition(".")
        ending = {"AutoConfig": "Config", "AutoModel": "Model"}.get(auto_class, auto_class.removeprefix("AutoModel"))
        assert name == ("BipeTokenizer" if auto_class == "AutoTokenizer" else prefix + ending)
        assert vars(bipe_hf)[name].__module__ == f"bipe_hf.model.{module}"


def test_a_model_read_from_a_stock_checkpoint_is_saved_with_the_classes_of_the_package(family, tmp_path):
    shape = {name: TINY[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    FAMILIES[family].stock_config(**shape).save_pretrained(tmp_path / "stock")
    FAMILIES[family].config.from_pretrained(tmp_path / "stock").save_pretrained(tmp_path / "ours")
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert saved["model_type"] == f"bipe_{family}"
    assert saved["auto_map"]["AutoModel"] == f"modeling_bipe_{family}.{FAMILIES[family].prefix}Model"


def test_the_loader_of_transformers_goes_from_every_file_of_an_auto_map_to_all_others(family):
    """It reads the relative imports in a file, and fetches nothing else."""
    for each in auto_map(FAMILIES[family].make_config(**TINY)).values():
        file = f"{(each[-1] if isinstance(each, list) else each).partition('.')[0]}.py"
        reached = {Path(found).name for found in get_relative_import_files(MODEL / file)}
        assert reached | {file} == set(FILES)


@pytest.mark.parametrize("what", SAVERS)
def test_the_code_goes_along_as_a_whole(what, save, tmp_path):
    save(what, tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_text(encoding="utf-8") == marked((MODEL / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("what", SAVERS)
@pytest.mark.parametrize("holds_a_checkpoint", [False, True])
@pytest.mark.parametrize("name", ["alibi_bipe.py", "configuration_bipe.py", "tokenization_bipe.py"])
def test_a_file_of_somebody_else_is_never_replaced(name, holds_a_checkpoint, what, save, tmp_path):
    if holds_a_checkpoint:
        save("model", tmp_path)
        save("tokenizer", tmp_path)
    (tmp_path / name).write_text(MINE)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=f"holds a file {name}, which the code of the model would replace"):
        save(what, tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("what", SAVERS)
def test_a_folder_of_that_name_is_not_ours(what, save, tmp_path):
    (tmp_path / "cache_bipe.py").mkdir()
    with pytest.raises(FileExistsError, match="holds a file cache_bipe.py"):
        save(what, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["cache_bipe.py"]


@pytest.mark.parametrize("what", SAVERS)
def test_an_edited_copy_is_somebodys_own(what, save, tmp_path):
    save("model", tmp_path)
    with (tmp_path / "inter_bipe.py").open("a") as file:
        file.write(MINE)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="holds a file inter_bipe.py"):
        save(what, tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("what", SAVERS)
def test_a_copy_of_another_version_is_replaced(what, save, tmp_path):
    save("model", tmp_path)
    today = contents(tmp_path)["inter_bipe.py"]
    (tmp_path / "inter_bipe.py").write_text(marked("another = 1\n"))
    save(what, tmp_path)
    assert contents(tmp_path)["inter_bipe.py"] == today


@pytest.mark.parametrize("name", ["alibi.py", "cache.py", "version.py", "my_bipe.py"])
def test_files_of_other_names_stay(name, save, tmp_path):
    (tmp_path / name).write_text(MINE)
    save("model", tmp_path)
    save("tokenizer", tmp_path)
    assert (tmp_path / name).read_text() == MINE
