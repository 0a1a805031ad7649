"""The attention of SepLLM (Chen et al., ICML 2025, arXiv 2412.12094): initial tokens, separators and neighbours."""

from collections.abc import Callable

from .errors_bipe import InputError
from .segmentation_bipe import SegmentState


BACKENDS = ("sdpa", "eager", "flex_attention")
"""Those that take a mask for each pair of tokens."""


def sepllm_mask(keys: SegmentState, initial_tokens: int, neighbors: int) -> Callable:
    """Which tokens before it a token sees, as a function of indices, the form in which transformers makes masks.

    A key of the same document is seen if it is one of the first `initial_tokens`, or a separator, or one of the last
    `neighbors` tokens, the query itself counted (SepLLM: Chen et al., ICML 2025, arXiv 2412.12094, section 3.1).
    Padding is no token and counts nowhere.

    Args:
        keys ([`SegmentState`]):
            After each token that has a key, entries of shape `(batch, keys)`. Queries are the last of them, or in a
            static cache those before the empty places.
        initial_tokens: tokens at the start of each document.
        neighbors: tokens, at least 1.

    Returns:
        A function of row, head, query and key that is True where that rule lets the query see the key. It knows of no
        order and no padding: those are other masks.
    """
    place = keys.token_position
    stays = keys.ended.bool() | (place < initial_tokens)

    def sees(row, head, query, key):
        return stays[row, key] | (place[row, query] - place[row, key] < neighbors)

    return sees


def check_mask_backend(what: str, attn_implementation: str | None) -> None:
    """Raises `ValueError` for an attention backend that cannot hide single keys.

    Args:
        what: hides them, for the message.
        attn_implementation: name of the backend; None for the default.
    """
    if attn_implementation not in (None, *BACKENDS):
        raise InputError(
            f"attn_implementation={attn_implementation!r}: {what} hides single keys from a query, which no such "
            f"kernel does. Use one of {', '.join(BACKENDS)}."
        )
