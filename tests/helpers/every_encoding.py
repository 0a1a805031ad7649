"""The fields of every inter encoding, so that one test runs on each: `pairs(ENCODINGS)`."""

from families import all_key_heads
from tiny import LEVELS


ENCODINGS = {
    "rope": {"inter_encoding": "rope"},
    "alibi": {"inter_encoding": "alibi"},
    "fox": {"inter_encoding": "fox"},
    "cable": {"inter_encoding": "cable"},
    "cope": {"inter_encoding": "cope", "cope_gates": "own_keys"},
    "dape": {"inter_encoding": "dape"},
    "dca": {"inter_encoding": "dca", "dca_train_length": 4},
    "levels": {"inter_encoding": "rope", **LEVELS},
    "levels_axes": {"inter_encoding": "axes", "hybrid_max_period": 20.0, **LEVELS},
    "xpos": {"inter_encoding": "xpos"},
    "hybrid": {"inter_encoding": "hybrid", "hybrid_max_period": 20.0},
    "hirope": {"inter_encoding": "hirope", "hybrid_max_period": 20.0, "hirope_window": 4},
    "kerple": {"inter_encoding": "kerple"},
    "t5": {"inter_encoding": "t5"},
    "fire": {"inter_encoding": "fire"},
    "fox_pro": {"inter_encoding": "fox_pro"},
    "cable_kernel": {"inter_encoding": "cable_kernel"},
    "selective_rope": {"inter_encoding": "selective_rope"},
    "tape": {"inter_encoding": "tape"},
    "path_fox": {"inter_encoding": "path", "path_gates": "fox"},
    "dape_v2": {"inter_encoding": "dape_v2"},
    "alibi_local": {"inter_encoding": "alibi", "layer_encodings": ["local", "inter"], "local_window": 4},
    "none": {"inter_encoding": "none"},
}
"""Every inter encoding, levels and a pattern of layers, by the name of the encoding over segments without `bipe_`."""


def shape_for(family: str, encoding: str) -> dict:
    """Fields of the shape that an encoding asks for: TAPE has as many key heads as heads."""
    return all_key_heads(family) if encoding == "tape" else {}
