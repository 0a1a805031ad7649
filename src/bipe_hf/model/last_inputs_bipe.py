"""Causal convolutions in a layer, which see the last tokens of a document, padding passed over."""

import torch
from torch.nn import functional as F

from .index_steps_bipe import IndexSteps


def last_inputs(inputs: torch.Tensor, past: torch.Tensor | None, steps: IndexSteps, kernel: int) -> torch.Tensor:
    """The inputs that a causal convolution sees at every token: the last of its document, padding passed over.

    Args:
        inputs (`torch.FloatTensor` of shape `(batch, length, numbers)`): of each token.
        past (`torch.FloatTensor` of shape `(batch, kernel - 1, numbers)`, *optional*):
            The last ones before, in any dtype. Zeros by default.
        steps ([`IndexSteps`]): say what is padding and where documents start.
        kernel: how many tokens it sees, the token itself included.

    Returns:
        Of shape `(batch, length, kernel, numbers)`, the token's own last; zeros where none came before, and at padding
        those of the last token before it.
    """
    batch_size, length, numbers = inputs.shape
    before_all = inputs.new_zeros(batch_size, kernel, numbers)  # at place 0: nothing
    if past is not None:
        before_all[:, 1:] = past
    known = torch.cat([before_all, inputs], dim=1)
    if steps.latest is None:
        here = torch.arange(kernel, kernel + length, device=inputs.device).expand(batch_size, -1)
    else:
        here = steps.latest + (kernel - 1)
    first = torch.arange(-1, kernel, device=inputs.device).clamp(min=0).expand(batch_size, -1)
    previous = torch.cat([first, here], dim=1)  # the place before each place
    if steps.starts_document is not None:
        previous = previous.masked_fill(F.pad(steps.starts_document, (kernel, 1)), 0)
    places = [here]
    for _ in range(kernel - 1):
        places.insert(0, previous.gather(1, places[0]))
    places = torch.stack(places, dim=-1).flatten(1)
    return known.gather(1, places[..., None].expand(-1, -1, numbers)).unflatten(1, (-1, kernel))


def low_rank_convolution(
    hidden_states: torch.Tensor,
    down: torch.Tensor,
    up: torch.Tensor,
    taps: torch.Tensor,
    past: torch.Tensor | None,
    steps: IndexSteps,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A map of low rank, then a causal depthwise convolution of what it gives; in the dtype of the hidden states.

    Args:
        hidden_states (`torch.FloatTensor` of shape `(batch, length, hidden_size)`): what enters.
        down (`torch.FloatTensor` of shape `(rank, hidden_size)`): first factor of the map.
        up (`torch.FloatTensor` of shape `(outputs, rank)`): second factor of the map.
        taps (`torch.FloatTensor` of shape `(outputs, kernel)`): the last is that of the token itself.
        past (`torch.FloatTensor` of shape `(batch, 1, (kernel - 1) * rank)`, *optional*): the second result, before.
        steps ([`IndexSteps`]): say what is padding and where documents start.

    Returns:
        Two tensors, of shapes `(batch, length, outputs)` and `(batch, length, (kernel - 1) * rank)`: what the
        convolution gives, and what that of the next token needs.
    """
    dtype, kernel = hidden_states.dtype, taps.shape[1]
    inputs = F.linear(hidden_states, down.to(dtype))
    if past is not None:
        past = past.unflatten(-1, (kernel - 1, len(down))).squeeze(1)
    windows = last_inputs(inputs, past, steps, kernel)
    # a depthwise convolution of what a map gives is a map of all that the convolution sees
    weight = taps[:, :, None].to(dtype) * up[:, None].to(dtype)
    return F.linear(windows.flatten(2), weight.flatten(1)), windows[:, :, 1:].flatten(2)
