"""What a paged cache holds."""

from tiny import LEVELS


HOLDS = {
    "rope": {"inter_encoding": "rope"},
    "rope, log scale": {"inter_encoding": "rope", "log_scale_train_length": 8, "logn_train_length": 8},
    "xpos": {"inter_encoding": "xpos"},
    "alibi": {"inter_encoding": "alibi"},
    "none": {"inter_encoding": "none"},
    "hybrid": {"inter_encoding": "hybrid", "hybrid_max_period": 20.0},
    "hybrid without bias": {"inter_encoding": "hybrid", "hybrid_max_period": 20.0, "hybrid_alibi_scale": 0.0},
    "levels": {"inter_encoding": "rope", **LEVELS},
    "axes": {"inter_encoding": "axes", "hybrid_max_period": 20.0, **LEVELS},
    "fixed": {"inter_encoding": "alibi", "segmentation": "fixed", "fixed_segment_length": 4},
    "tokens": {"inter_encoding": "rope", "segmentation": "tokens", "intra_encoding": "none"},
}
"""Configurations that a paged cache holds."""
