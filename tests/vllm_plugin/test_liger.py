"""Liger's own fused loss, in this environment because it needs Triton, whose interpreter runs it on a CPU.

The interpreter does not run Liger's norm and MLP, which a GPU is needed for.
"""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM


SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
KERNELS = {"rms_norm": False, "swiglu": False}


@pytest.mark.parametrize("inter_encoding", ["rope", "alibi", "fox"])
def test_the_fused_loss_trains_what_the_loss_of_logits_trains(inter_encoding, tmp_path):
    ids = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(1)).tolist()
    settings = {"max_steps": 3, "use_cpu": True, "report_to": "none", "save_strategy": "no"}
    settings |= {"optim": "sgd", "learning_rate": 1.0}
    trained = []
    for use_liger_kernel in (False, True):
        torch.manual_seed(0)
        config = BipeLlamaConfig(
            **SHAPE, num_attention_heads=4, separator_token_ids=[3, 9], inter_encoding=inter_encoding
        )
        model = BipeLlamaForCausalLM(config)
        arguments = TrainingArguments(
            str(tmp_path), use_liger_kernel=use_liger_kernel, liger_kernel_config=KERNELS, **settings
        )
        Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in ids]).train()
        trained.append(model)
    plain, ours = trained
    assert ours(torch.tensor(ids), labels=torch.tensor(ids)).logits is None
    assert plain(torch.tensor(ids), labels=torch.tensor(ids)).logits is not None
    for changed, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-5)
