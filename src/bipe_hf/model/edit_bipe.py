"""Edits of a cached prompt, after PIE (He et al., ICLR 2025, arXiv 2407.03157): keys behind the edit are turned."""

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from .cache_bipe import SegmentHistoryLayer
from .compatibility_bipe import CACHE_NAME
from .errors_bipe import InputError
from .inter_base_bipe import InterEncoding
from .segmentation_bipe import Segments, SegmentState


@torch.no_grad()
def edit_cache(
    model: PreTrainedModel,
    cache: Cache,
    input_ids: torch.LongTensor,
    start: int,
    stop: int,
    new_ids: torch.LongTensor,
) -> torch.LongTensor:
    """Replaces the tokens `start` to `stop` of a cached prompt, without encoding again what stands behind.

    After PIE (He et al., ICLR 2025, arXiv 2407.03157). The new tokens are encoded against the cached tokens before
    them, and so are those behind them whose place inside a segment has changed: at most up to the end of the segment.
    The other keys are kept, turned by the change of their segment, of their token where the encoding counts tokens,
    and get the bias columns of their new segment. Under BiPE that is nothing at all unless the edit changes the number
    of separators.

    What the tokens behind the edit have read of the old ones stays in their keys and values (but for those of layer 0,
    which are exact). The cache changes in place, and its segments are those of the edited prompt, so that it goes on,
    is cropped and reordered as any other. `generate` needs one token that is not cached: `cache.crop(-1)`.

    Args:
        model: a BiPE model, with or without a head.
        cache ([`~transformers.DynamicCache`]): filled by the model with `input_ids` and nothing else.
        input_ids (`torch.LongTensor` of shape `(batch, length)`): the prompt, without padding.
        start (`int`): first token to replace; `start == stop` inserts before it.
        stop (`int`): token behind the last one to replace.
        new_ids (`torch.LongTensor` of shape `(batch, new tokens)`): in their place; none deletes.

    Returns:
        `torch.LongTensor` of shape `(batch, edited length)`: the edited prompt.

    Raises:
        ValueError: if the places or shapes do not fit the prompt or the cache, or the edit leaves no token; if the
            cache is no plain dynamic one (static, quantized, bounded, sliding), or holds padding; if the model has an
            encoding that keeps what every layer has read of the tokens (`fox`, `cable`, `selective_rope`, `tape`,
            `path`, `cope` with `own_keys`), layers that differ, or frequencies that follow the length (`dynamic`,
            `longrope`). Then nothing is changed.
    """
    base = model.get_decoder()
    _check_encoding(base.config, base.inter_encoding)
    history = _checked_history(cache)
    if history.layer_states or base.inter_encoding.updates_class is not None:
        raise InputError(
            f"edit_cache: inter_encoding={base.config.inter_encoding!r} keeps what every layer has read of the tokens,"
            " which no turn of the keys follows. Encode the edited prompt (docs/caches.md)"
        )
    _check_prompt(history, input_ids, start, stop, new_ids)
    if (base.segment(input_ids).state.ended != history.states[..., 2]).any():
        raise InputError("input_ids are not the tokens that the cache was filled with: separators stand elsewhere")

    edited_ids = torch.cat([input_ids[:, :start], new_ids, input_ids[:, stop:]], dim=1)
    if edited_ids.shape[1] == 0:
        raise InputError("the edit leaves no token: use an empty cache")
    if start == edited_ids.shape[1]:  # the end was taken away
        cache.crop(start - input_ids.shape[1])
        return edited_ids
    past = SegmentState.from_columns(history.states[:, start - 1 : start].unbind(-1)) if start else None
    segments = base.segment(edited_ids[:, start:], past=past)
    old = SegmentState.from_columns(history.states[:, stop:].unbind(-1))
    new = _from(segments, new_ids.shape[1])
    num_again = _last_moved(old, new.state) if base.intra_encoding is not None else 0

    # what stays, turned, before the forward takes the place of what goes
    new = _from(new, num_again)
    old = SegmentState.from_columns([column[:, num_again:] for column in old.columns()])
    layers = cache.layers[:-1]
    kept = [(layer.keys[:, :, stop + num_again :], layer.values[:, :, stop + num_again :]) for layer in layers]
    kept = _moved(base.inter_encoding, kept, old, new)
    before, states = [(layer.keys, layer.values) for layer in layers], history.states
    cache.crop(start - input_ids.shape[1])
    again = edited_ids[:, start : start + new_ids.shape[1] + num_again]
    if again.shape[1]:
        try:
            base(again, **{CACHE_NAME: cache})
        except BaseException:  # interrupted, or out of memory: the prompt is as it was
            for layer, (keys, values) in zip(layers, before, strict=True):
                layer.keys, layer.values = keys, values
            history.states = states
            raise
    for layer, (keys, values) in zip(layers, kept, strict=True):
        layer.update(keys, values)
    history.append(new.state)
    return edited_ids


def _check_encoding(config: PreTrainedConfig, inter_encoding: InterEncoding) -> None:
    if config.layer_encodings:
        raise InputError(
            "edit_cache turns the keys of all layers alike, which layer_encodings makes differ. Encode the edited"
            " prompt"
        )
    rope_type = config.rope_parameters["rope_type"]
    if inter_encoding.rotary_emb is not None and rope_type in ("dynamic", "longrope"):
        raise InputError(
            f"edit_cache: rope_type {rope_type!r} turns keys by frequencies that follow the length of the text. Encode"
            " the edited prompt"
        )


def _checked_history(cache: Cache) -> SegmentHistoryLayer:
    kinds = [type(layer) for layer in cache.layers]
    if cache.offloading or set(kinds[:-1]) != {DynamicLayer} or kinds[-1] is not SegmentHistoryLayer:
        found = ", ".join(sorted({kind.__name__ for kind in kinds})) or "no layer"
        raise InputError(f"edit_cache needs a DynamicCache that a BiPE model has filled, not offloaded, got {found}")
    return cache.layers[-1]


def _check_prompt(
    history: SegmentHistoryLayer, input_ids: torch.Tensor, start: int, stop: int, new_ids: torch.Tensor
) -> None:
    cached = tuple(history.states.shape[:2]) if history.states is not None else (0, 0)
    if tuple(input_ids.shape) != cached:
        raise InputError(f"input_ids must be the cached tokens, of shape {cached}, got {tuple(input_ids.shape)}")
    if new_ids.ndim != 2 or len(new_ids) != len(input_ids):
        raise InputError(f"new_ids must have the shape ({cached[0]}, new tokens), got {tuple(new_ids.shape)}")
    if not 0 <= start <= stop <= cached[1]:
        raise InputError(f"start and stop must be in order, from 0 to {cached[1]}, got {start} and {stop}")
    if (history.states[:, -1, 3] != cached[1] - 1).any():
        raise InputError("edit_cache: the cached prompt has padding. Edit its rows alone, each in a cache of its own")


def _from(segments: Segments, first: int) -> Segments:
    """Those of the tokens from `first` on."""
    positions, state, inner = segments[:3], segments.state.columns(), segments.inner_indices
    return Segments(
        *(column[:, first:] for column in positions),
        SegmentState.from_columns([column[:, first:] for column in state]),
        tuple(index[:, first:] for index in inner),
    )


def _last_moved(old: SegmentState, new: SegmentState) -> int:
    """How many tokens go up to the last whose place inside its segment has changed, in any row."""
    places = [(old.intra_position, new.intra_position)]
    places += [(was.index, now.index) for was, now in zip(old.inner, new.inner, strict=True)]
    moved = torch.stack([was != now for was, now in places]).any(dim=0).any(dim=0)
    return int(moved.nonzero().max()) + 1 if moved.any() else 0


def _moved(
    inter_encoding: InterEncoding, layers: list[tuple[torch.Tensor, torch.Tensor]], old: SegmentState, new: Segments
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of every layer with the keys of their new places.

    Args:
        layers: keys and values of shape `(batch, key heads, tokens, head_dim)`, columns included.
        old ([`SegmentState`]): where the tokens were.
        new ([`Segments`]): where they are.
    """
    keys, _ = layers[0]
    if keys.shape[2] == 0:
        return layers
    exact = keys.new_empty(len(keys), keys.shape[2], 1, dtype=torch.promote_types(keys.dtype, torch.float32))
    # what stands behind an edit has kept its place inside the segment
    was = new._replace(segment_ids=old.segment_id, token_positions=old.token_position)
    turn = inter_encoding.turn(new, was, exact)
    columns = inter_encoding(new, exact.to(keys.dtype)).columns
    scales = [inter_encoding(segments, exact).key_scale for segments in (new, was)]
    scale = None if scales[0] is None else scales[0] / scales[1]

    def moved(keys: torch.Tensor) -> torch.Tensor:
        width = 0 if columns is None else columns.key.shape[-1]
        head = keys[..., width:]
        if scale is not None:
            head = (head * scale.to(head.device)).to(keys.dtype)
        if turn is not None:
            head = _turned(head, *(each.to(head.device)[:, None] for each in turn))
        if columns is None:
            return head
        own = columns.key.expand(-1, keys.shape[1], -1, -1).to(keys.device)
        return torch.cat([own, head], dim=-1)

    return [(moved(keys), values) for keys, values in layers]


def _turned(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turned by angles of shape `(batch, 1, tokens, rotary dimensions)`, in their dtype; the rest stays."""
    size = cos.shape[-1]
    turning, rest = heads[..., :size].to(cos.dtype), heads[..., size:]
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned.to(heads.dtype), rest], dim=-1)
