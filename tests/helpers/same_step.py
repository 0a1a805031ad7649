"""Whether two models make the same training step, bit for bit."""

import torch


SHAPE = {
    "vocab_size": 97,
    "hidden_size": 96,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 32,
    "attention_bias": True,
}


def batch(length=48, rows=3):
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(1))


def assert_same_step(stock, ours):
    """The same logits, loss and gradients, bit for bit."""
    ids = batch()
    outputs = []
    for model in (stock, ours):
        torch.manual_seed(3)
        outputs.append(model(ids, labels=ids))
        outputs[-1].loss.backward()
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    for (name, stock_parameter), our_parameter in zip(stock.named_parameters(), ours.parameters(), strict=True):
        assert torch.equal(stock_parameter.grad, our_parameter.grad), name
