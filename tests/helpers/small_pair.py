"""A tiny random model and the tokenizer that it belongs to, as a run leaves them in its folder."""

from bipe_hf import BipeLlamaConfig, BipeLlamaForCausalLM, BipeTokenizer
from bipe_hf.lab.data import train_tokenizer


def make_pair(text="The return value is a number. It is one.\n", vocab_size=300, **fields):
    """The tokenizer knows `text` and breaks at sentences; the model is a Llama of one layer with these fields."""
    tokenizer = BipeTokenizer.from_tokenizer(train_tokenizer([text] * 5, vocab_size))
    config = BipeLlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        separator_token_ids=tokenizer.separator_token_ids,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **fields,
    )
    return tokenizer, BipeLlamaForCausalLM(config)
