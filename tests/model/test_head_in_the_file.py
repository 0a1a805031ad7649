"""What a file calls a weight is no matter to whoever reads it: Trainer loads files past `from_pretrained`."""

import copy
import pickle

import pytest
import torch
from datasets import Dataset
from families import FAMILIES
from safetensors.torch import load_file
from tiny import TINY
from transformers import Trainer, TrainingArguments, default_data_collator
from transformers.trainer_utils import load_sharded_checkpoint


ROWS = torch.randint(1, 60, (16, 12), generator=torch.Generator().manual_seed(1)).tolist()
DATA = Dataset.from_dict({"input_ids": ROWS, "labels": ROWS})


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def make(family, seed):
    torch.manual_seed(seed)
    return family.make_causal_lm(**TINY)


def make_trainer(model, folder, **arguments):
    arguments = TrainingArguments(
        folder,
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=2,
        learning_rate=3e-2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        **arguments,
    )
    return Trainer(model, arguments, train_dataset=DATA, eval_dataset=DATA, data_collator=default_data_collator)


def differing(model, other):
    mine, others = model.state_dict(), other.state_dict()
    return [name for name in mine if not torch.equal(mine[name], others[name])]


def test_a_plain_trainer_resumes_every_weight(family, tmp_path):
    unbroken = make_trainer(make(family, 0), tmp_path)
    unbroken.train()
    resumed = make_trainer(make(family, 9), tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert differing(unbroken.model, resumed.model) == []


def test_a_class_of_somebody_else_keeps_its_head(family, tmp_path):
    class Mine(family.causal_lm):
        """A subclass, which transformers' tables do not know by its name."""

    torch.manual_seed(0)
    model = Mine(family.make_config(**TINY))
    model.save_pretrained(tmp_path / "mine")
    assert differing(model, Mine.from_pretrained(tmp_path / "mine")) == []
    assert differing(model, family.causal_lm.from_pretrained(tmp_path / "mine")) == []
    family.causal_lm(family.make_config(**TINY)).save_pretrained(tmp_path / "ours")
    assert (
        load_file(tmp_path / "ours/model.safetensors").keys() == load_file(tmp_path / "mine/model.safetensors").keys()
    )


def test_a_class_of_somebody_else_takes_the_head_of_a_stock_file(family, tmp_path):
    class Mine(family.causal_lm):
        """Another subclass."""

    torch.manual_seed(0)
    stock = family.make_stock_causal_lm(**TINY)
    stock.save_pretrained(tmp_path)
    mine = Mine.from_pretrained(tmp_path, config=family.make_config(**TINY))
    assert torch.equal(mine.lm_head.weight, stock.lm_head.weight)


def test_a_plain_trainer_ends_with_the_best_weights(family, tmp_path):
    trainer = make_trainer(
        make(family, 0),
        tmp_path,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # with this learning rate the first checkpoint, which is not what memory holds
    )
    trainer.train()
    best = type(trainer.model).from_pretrained(trainer.state.best_model_checkpoint)
    assert differing(best, trainer.model) == []


def test_a_file_fills_the_model_and_its_copies(family, tmp_path):
    saved = make(family, 0)
    saved.save_pretrained(tmp_path)
    for other in (make(family, 9), copy.deepcopy(make(family, 9)), pickle.loads(pickle.dumps(make(family, 9)))):
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        assert differing(saved, other) == []


def test_shards_fill_the_model(family, tmp_path):
    saved, other = make(family, 0), make(family, 9)
    saved.save_pretrained(tmp_path, max_shard_size="60KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    load_sharded_checkpoint(other, tmp_path, strict=False)
    assert differing(saved, other) == []


def test_a_state_dict_of_the_model_itself_loads_strictly(family):
    model, other = make(family, 0), make(family, 9)
    state = model.state_dict()
    other.load_state_dict(state)
    assert differing(model, other) == []
    assert state.keys() == model.state_dict().keys()
