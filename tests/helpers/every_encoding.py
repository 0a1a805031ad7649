"""The fields of every inter encoding, so that one test runs on each: `pairs(ENCODINGS)`."""

from families import all_key_heads
from tiny import LEVELS


ENCODINGS = {
    "bipe_rope": {"inter_encoding": "rope"},
    "bipe_alibi": {"inter_encoding": "alibi"},
    "bipe_fox": {"inter_encoding": "fox"},
    "bipe_cable": {"inter_encoding": "cable"},
    "bipe_cope": {"inter_encoding": "cope", "cope_gates": "own_keys"},
    "bipe_dape": {"inter_encoding": "dape"},
    "bipe_dca": {"inter_encoding": "dca", "dca_train_length": 4},
    "bipe_levels": {"inter_encoding": "rope", **LEVELS},
    "bipe_levels_axes": {"inter_encoding": "axes", "hybrid_max_period": 20.0, **LEVELS},
    "bipe_xpos": {"inter_encoding": "xpos"},
    "bipe_hybrid": {"inter_encoding": "hybrid", "hybrid_max_period": 20.0},
    "bipe_hirope": {"inter_encoding": "hirope", "hybrid_max_period": 20.0, "hirope_window": 4},
    "bipe_kerple": {"inter_encoding": "kerple"},
    "bipe_t5": {"inter_encoding": "t5"},
    "bipe_fire": {"inter_encoding": "fire"},
    "bipe_fox_pro": {"inter_encoding": "fox_pro"},
    "bipe_cable_kernel": {"inter_encoding": "cable_kernel"},
    "bipe_selective_rope": {"inter_encoding": "selective_rope"},
    "bipe_tape": {"inter_encoding": "tape"},
    "bipe_path_fox": {"inter_encoding": "path", "path_gates": "fox"},
    "bipe_dape_v2": {"inter_encoding": "dape_v2"},
    "bipe_alibi_local": {"inter_encoding": "alibi", "layer_encodings": ["local", "inter"], "local_window": 4},
    "bipe_none": {"inter_encoding": "none"},
}
"""Every inter encoding, levels and a pattern of layers, by the name of the encoding where these fields have one."""


def shape_for(family: str, encoding: str) -> dict:
    """Fields of the shape that an encoding asks for: TAPE has as many key heads as heads."""
    return all_key_heads(family) if encoding == "bipe_tape" else {}
