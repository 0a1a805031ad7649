"""Segment history as one more layer of a transformers cache.

A cached step sees only the new tokens, so the running segment index and the intra position must come from the cache. A
`Cache` is a list of layers and runs `crop`, `reorder_cache`, `batch_repeat_interleave`, `batch_select_indices` and
`reset` over all of them; a layer that keeps the segment state is therefore cropped, reordered and repeated together
with the keys.
"""

from collections.abc import Callable

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from .compatibility_bipe import CACHE_NAME
from .errors_bipe import InputError
from .segmentation_bipe import SegmentState, initial_state


class SegmentHistoryLayer(CacheLayerMixin):
    """Keeps the segment state after every cached token, and the states of encodings that see a layer.

    It stands behind the layers of the model, so `len(cache)` is one more than their number, and it has no keys.

    Args:
        next_layer ([`~transformers.cache_utils.CacheLayerMixin`], *optional*):
            The layer that a forward uses next after the last one, in an offloaded cache alone: it fetches layers in a
            ring, of which this one is a part that holds nothing. Elsewhere it would be a second copy of the keys of
            that layer in what an exporter takes for the state of the cache.
    """

    is_croppable = True
    supports_early_init = False

    def __init__(self, next_layer: CacheLayerMixin | None = None):
        super().__init__()
        self.next_layer = next_layer
        # `torch.LongTensor` of shape (batch, cached length, 4 + 2 * inner levels): the columns of SegmentState
        self.states: torch.Tensor | None = None
        # of each layer whose encoding has a state, and by a name where it has another: a `torch.Tensor` of shape
        # (batch, cached length, numbers)
        self.layer_states: dict[int | str, torch.Tensor] = {}

    def latest(self) -> SegmentState | None:
        """The state after the last cached token, entries of shape `(batch, 1)`; None while nothing is cached."""
        if self.states is None or self.states.shape[1] == 0:
            return None
        return SegmentState.from_columns(self.states[:, -1:].unbind(-1))

    def segment_ids(self) -> torch.Tensor:
        """The segment of every cached token, a `torch.LongTensor` of shape `(batch, cached length)`."""
        return self.states[..., 0]

    def with_new(self, state: SegmentState) -> torch.Tensor:
        """The states after every token that has a key once those of new tokens are added, which this does not do.

        A `torch.LongTensor` of shape `(batch, keys, 4 + 2 * inner levels)`; the entries of `state` have the shape
        `(batch, new tokens)`.
        """
        states = torch.stack(state.columns(), dim=-1)
        return states if self.states is None else torch.cat([self.states, states], dim=1)

    def append(self, state: SegmentState) -> None:
        """Adds the states after new tokens, entries of shape `(batch, new tokens)`."""
        self.states = self.with_new(state)
        self.is_initialized = True

    def latest_of_layer(self, layer_idx: int | str, new_length: int) -> torch.Tensor | None:
        """The state of a layer's encoding before the tokens whose segments were appended last.

        Args:
            layer_idx: of the layer, from 0, or a name where it has another state.
            new_length: how many tokens these are.

        Returns:
            `torch.FloatTensor` of shape `(batch, 1, numbers)`; None while nothing of the layer is cached.
        """
        states = self.layer_states.get(layer_idx)
        return None if states is None or states.shape[1] == 0 else states[:, -1:]

    def append_of_layer(self, layer_idx: int | str, states: torch.Tensor) -> None:
        """Adds the states of a layer's encoding after the tokens whose segments were appended last.

        Args:
            layer_idx: of the layer, from 0, or a name where it has another state.
            states (`torch.FloatTensor` of shape `(batch, new tokens, numbers)`): of the encoding, often float64.
        """
        before = self.layer_states.get(layer_idx)
        self.layer_states[layer_idx] = states if before is None else torch.cat([before, states], dim=1)

    def all_of_layer(self, layer_idx: int | str) -> torch.Tensor:
        """The states of a layer's encoding after every cached token, of shape `(batch, cached length, numbers)`."""
        return self.layer_states[layer_idx]

    def crop(self, tokens_to_remove: int) -> None:
        """Takes tokens from the end, so many as the negative number says, as transformers has it."""
        if tokens_to_remove != 0:
            self._change(lambda states: states[:, :tokens_to_remove])

    def reset(self) -> None:
        self.states = None
        self.layer_states.clear()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self._select(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps the rows of these indices.

        Args:
            indices (`torch.LongTensor` of shape `(rows,)`): rows of the batch.
        """
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row so many times, behind itself."""
        self._change(lambda states: states.repeat_interleave(repeats, dim=0))

    def _select(self, rows: torch.Tensor) -> None:
        self._change(lambda states: states[rows.to(states.device)])

    def _change(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Does the same to the states of the segments and of all layers."""
        if self.states is not None:
            self.states = change(self.states)
        self.layer_states = {layer_idx: change(states) for layer_idx, states in self.layer_states.items()}

    def get_seq_length(self) -> int | torch.Tensor:
        return 0 if self.states is None else self.states.shape[1]

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def prefetch(self) -> None:
        self.next_layer.prefetch()

    # The layer holds a few integers a token and no keys: there is nothing to allocate early or to offload.
    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None: ...

    def offload(self) -> None: ...

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        raise TypeError("a segment history layer holds no keys: the cache was made for a model with more layers")


class StaticSegmentHistoryLayer(SegmentHistoryLayer):
    """The same in tensors of fixed shape, written in place: a compiled step finds them at the same address.

    Column 0 of `states` is the state before any token, column `length` the one after the last.

    Args:
        max_cache_len: tokens that the cache has room for.
        next_layer: as in [`SegmentHistoryLayer`].
    """

    is_compileable = True

    def __init__(self, max_cache_len: int, next_layer: CacheLayerMixin | None = None):
        super().__init__(next_layer)
        self.max_cache_len = max_cache_len
        # `torch.LongTensor` of shape (1,): no compiled step may read it, which is why it never is a number
        self.length: torch.Tensor | None = None

    def latest(self) -> SegmentState | None:
        if self.states is None:
            return None
        return SegmentState.from_columns(self.states.index_select(1, self.length).unbind(-1))

    def segment_ids(self) -> torch.Tensor:
        return self.states[:, 1:, 0]

    def with_new(self, state: SegmentState) -> torch.Tensor:
        return self._room_for(state).index_copy(1, *self._new_columns(state))[:, 1:]

    def append(self, state: SegmentState) -> None:
        room = self._room_for(state)
        columns, states = self._new_columns(state)
        room.index_copy_(1, columns, states)
        self.length.add_(states.shape[1])
        self.is_initialized = True

    def _room_for(self, state: SegmentState) -> torch.Tensor:
        """The tensor of fixed shape, which the first tokens make."""
        if self.states is None:
            batch_size, device = state.segment_id.shape[0], state.segment_id.device
            before_any = initial_state(batch_size, device, len(state.inner))
            before_any = torch.stack(before_any.columns(), dim=-1)
            self.states = before_any.repeat(1, 1 + self.max_cache_len, 1)
            self.length = before_any.new_zeros(1)
            if not torch.compiler.is_compiling():
                torch._dynamo.mark_static_address(self.states)
                torch._dynamo.mark_static_address(self.length)
        return self.states

    def _new_columns(self, state: SegmentState) -> tuple[torch.Tensor, torch.Tensor]:
        """The columns that new tokens take, and what goes there."""
        states = torch.stack(state.columns(), dim=-1)
        return self.length + torch.arange(1, 1 + states.shape[1], device=states.device), states

    def latest_of_layer(self, layer_idx: int | str, new_length: int) -> torch.Tensor | None:
        states = self.layer_states.get(layer_idx)
        if states is None:
            return None
        return states.index_select(1, (self.length - new_length).to(states.device))

    def append_of_layer(self, layer_idx: int | str, states: torch.Tensor) -> None:
        if layer_idx not in self.layer_states:
            batch_size, _, numbers = states.shape
            room = states.new_zeros(batch_size, 1 + self.max_cache_len, numbers)
            self.layer_states[layer_idx] = room
            if not torch.compiler.is_compiling():
                torch._dynamo.mark_static_address(room)
        room = self.layer_states[layer_idx]
        columns = self.length + torch.arange(1 - states.shape[1], 1, device=self.length.device)
        room.index_copy_(1, columns.to(room.device), states)

    def all_of_layer(self, layer_idx: int | str) -> torch.Tensor:
        return self.layer_states[layer_idx][:, 1:]

    def crop(self, tokens_to_remove: int) -> None:
        if self.states is not None:
            self.length.add_(tokens_to_remove)

    def reset(self) -> None:
        if self.states is not None:
            self.length.zero_()

    def get_seq_length(self) -> int | torch.Tensor:
        return 0 if self.states is None else self.length


def read_segment_history(cache: Cache | None) -> SegmentState | None:
    """The segment state after the last cached token, or None where nothing is cached yet.

    Raises:
        ValueError: if the cache holds keys but no segment history: another model wrote it, and starting again at
            segment 0 would be silently wrong; or if the two were not cropped together.
    """
    if cache is None:
        return None
    layer = _segment_history_layer(cache)
    if layer is None:
        # The length of a static cache is a tensor, whose value a compiled step cannot read.
        if not torch.compiler.is_compiling() and cache.get_seq_length() > 0:
            raise InputError(
                f"{CACHE_NAME} holds {int(cache.get_seq_length())} tokens but no segment history, so the segment "
                "of the next token is unknown. Pass an empty cache, or one that a BiPE model has filled."
            )
        return None
    if not layer.is_compileable and layer.get_seq_length() != cache.get_seq_length():
        raise InputError(
            f"{CACHE_NAME} holds {cache.get_seq_length()} tokens, its segment history {layer.get_seq_length()}. "
            "Change a cache through its own methods (crop, reorder_cache, ...), which treat both alike "
            "(docs/concepts.md)."
        )
    return layer.latest()


def write_segment_history(cache: Cache, state: SegmentState, num_hidden_layers: int) -> None:
    """Appends the states after new tokens to the cache.

    Args:
        cache ([`~transformers.Cache`]): gets a history where it has none.
        state ([`SegmentState`]): after new tokens, entries of shape `(batch, new tokens)`.
        num_hidden_layers: of the model.

    Raises:
        ValueError: if the cache was made for a model of fewer layers.
    """
    _history_layer_for(cache, num_hidden_layers).append(state)


def states_of_keys(cache: Cache, state: SegmentState, num_hidden_layers: int) -> SegmentState:
    """The state after every token that will have keys in the forward that brings these new ones.

    In a static cache the keys, and so the states, include those yet to come, whose values mean nothing.

    Args:
        cache ([`~transformers.Cache`]): gets a history where it has none.
        state ([`SegmentState`]): after new tokens, entries of shape `(batch, new tokens)`. They are not appended.
        num_hidden_layers: of the model.

    Returns:
        [`SegmentState`] with entries of shape `(batch, keys)`.

    Raises:
        ValueError: if the cache was made for a model of fewer layers.
    """
    return SegmentState.from_columns(_history_layer_for(cache, num_hidden_layers).with_new(state).unbind(-1))


def cached_segment_ids(cache: Cache) -> torch.Tensor:
    """The segment of every token that has keys in the cache; padding has that before it.

    In a static cache the keys, and so the ids, include those yet to come, whose values mean nothing.

    Returns:
        `torch.LongTensor` of shape `(batch, keys)`.
    """
    return _segment_history_layer(cache).segment_ids()


def latest_layer_state(cache: Cache, layer_idx: int | str, new_length: int) -> torch.Tensor | None:
    """The state of a layer's encoding after the last token before those that this forward brings.

    Args:
        cache ([`~transformers.Cache`]): with a history.
        layer_idx: of the layer, from 0, or a name where it has another state.
        new_length: how many tokens the forward brings.

    Returns:
        `torch.FloatTensor` of shape `(batch, 1, numbers)`; None where no token came before.
    """
    return _segment_history_layer(cache).latest_of_layer(layer_idx, new_length)


def append_layer_states(cache: Cache, layer_idx: int | str, states: torch.Tensor) -> None:
    """Adds the states of a layer's encoding after each new token.

    Args:
        cache ([`~transformers.Cache`]): with a history.
        layer_idx: of the layer, from 0, or a name where it has another state.
        states (`torch.FloatTensor` of shape `(batch, new tokens, numbers)`): of the encoding, often float64.
    """
    _segment_history_layer(cache).append_of_layer(layer_idx, states)


def layer_states(cache: Cache, layer_idx: int | str) -> torch.Tensor:
    """The states of a layer's encoding after every token that has keys.

    In a static cache those yet to come are there too, whose values mean nothing.

    Args:
        cache ([`~transformers.Cache`]): with a history.
        layer_idx: of the layer, from 0, or a name where it has another state.

    Returns:
        `torch.FloatTensor` of shape `(batch, keys, numbers)`.
    """
    return _segment_history_layer(cache).all_of_layer(layer_idx)


def _segment_history_layer(cache: Cache) -> SegmentHistoryLayer | None:
    if cache.layers and isinstance(cache.layers[-1], SegmentHistoryLayer):
        return cache.layers[-1]
    return None


def _history_layer_for(cache: Cache, num_hidden_layers: int) -> SegmentHistoryLayer:
    """The segment history of a cache, which gets one where it has none."""
    layer = _segment_history_layer(cache)
    grows = layer is None and cache.layer_class_to_replicate is not None
    num_key_layers = len(cache.layers) - (layer is not None)
    if num_key_layers < num_hidden_layers and not grows:
        raise InputError(
            f"{CACHE_NAME} was made for a model of {num_key_layers} layers, this one has {num_hidden_layers}. Pass a"
            " cache made from this model's config"
        )
    if layer is None:
        # A cache made without a config grows its layers on demand; ours must come after all of them.
        while len(cache.layers) < num_hidden_layers:
            cache.layers.append(cache.layer_class_to_replicate())
        next_layer = cache.layers[0] if cache.offloading else None
        if cache.is_compileable:
            layer = StaticSegmentHistoryLayer(cache.layers[0].max_cache_len, next_layer)
        else:
            layer = SegmentHistoryLayer(next_layer)
        cache.layers.append(layer)
    return layer
