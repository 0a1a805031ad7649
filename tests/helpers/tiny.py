"""The shape of the tiny random models, whose logits differ at every token: a wrong position anywhere shows."""

TINY = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,  # ten times the usual: at 0.02 every model predicts its last token again
    "separator_token_ids": [3, 7, 11, 19],
    "max_segment_length": 6,  # some segments are longer
    "alibi_slope_scale": 4.0,  # at 96 hardly any weight leaves the segment
    "bos_token_id": None,
    "eos_token_id": None,  # generation runs to its full length
}

# Two levels inside segments, with units often longer than their tables.
LEVELS = {
    "inner_separator_token_ids": [[2, 13, 23, 33, 43, 53], [8, 9, 17, 29, 31, 41, 51]],
    "max_inner_index": 3,
}
