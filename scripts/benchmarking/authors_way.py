"""BiPE on Llama as the authors' release computes it, written anew: what the benchmark has for comparison.

As in their code, attention is plain torch: scores of every query with every key in memory, a causal mask of
`(length, length)` numbers added to them, a softmax in float32, no fused kernel. ALiBi is a row of `slope * segment`
of the keys, which softmax turns into the relative bias. Segments are found anew in every forward from all tokens, and
nothing is cached: a step that sees only the new token would put it into segment 0. The rest is the Llama of
transformers, and the state dict is that of `BipeLlamaForCausalLM` without `model.` in front of its names
(`tests/test_benchmark.py` checks that the logits are the same).
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from bipe_hf import BipeLlamaConfig
from bipe_hf.model.alibi_bipe import alibi_slopes


class AuthorsLlama(nn.Module):
    """BiPE-RoPE or BiPE-ALiBi, by `config.inter_encoding`; every head has keys of its own."""

    def __init__(self, config: BipeLlamaConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.intra_encoding = nn.Embedding(config.max_segment_length, config.hidden_size)
        self.layers = nn.ModuleList([AuthorsLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.separators = nn.Buffer(torch.tensor(config.separator_token_ids), persistent=False)
        self.rotary_emb = LlamaRotaryEmbedding(config) if config.inter_encoding == "rope" else None
        slopes = [config.alibi_slope_scale * slope for slope in alibi_slopes(config.num_attention_heads)]
        self.slopes = nn.Buffer(torch.tensor(slopes), persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """`(batch, length)` tokens to `(batch, length, vocab_size)` logits."""
        length = input_ids.shape[1]
        segment_ids, intra_positions = bilevel_positions(input_ids, self.separators)
        intra_positions = intra_positions.clamp(max=self.intra_encoding.num_embeddings - 1)
        hidden_states = self.embed_tokens(input_ids) + self.intra_encoding(intra_positions)

        lowest = torch.finfo(hidden_states.dtype).min
        mask = torch.full((length, length), lowest, dtype=hidden_states.dtype, device=input_ids.device).triu(1)
        rotary = bias = None
        if self.rotary_emb is not None:
            rotary = self.rotary_emb(hidden_states, position_ids=segment_ids)
        else:
            bias = (self.slopes[:, None] * segment_ids[:, None])[:, :, None].to(hidden_states.dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, rotary, bias)
        return self.lm_head(self.norm(hidden_states))

    def loss(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits = self(input_ids)[:, :-1].float()
        return F.cross_entropy(logits.flatten(0, 1), input_ids[:, 1:].flatten())


class AuthorsLayer(nn.Module):
    def __init__(self, config: BipeLlamaConfig):
        super().__init__()
        self.self_attn = AuthorsAttention(config)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), mask, rotary, bias)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class AuthorsAttention(nn.Module):
    def __init__(self, config: BipeLlamaConfig):
        super().__init__()
        self.head_dim = config.head_dim
        width = config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if rotary is not None:
            query, key = apply_rotary_pos_emb(query, key, *rotary)
        scores = query @ key.transpose(2, 3) / math.sqrt(self.head_dim)  # (batch, heads, length, length)
        if bias is not None:
            scores = scores + bias
        scores = scores + mask
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        return self.o_proj((weights @ value).transpose(1, 2).flatten(2))


def bilevel_positions(input_ids: torch.Tensor, separators: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Segment ids and intra positions, row by row, from where the separators stand."""
    segment_ids, intra_positions = torch.empty_like(input_ids), torch.empty_like(input_ids)
    index = torch.arange(input_ids.shape[1], device=input_ids.device)
    for row, ids in enumerate(input_ids):
        starts = torch.cat([index[:1], torch.argwhere(torch.isin(ids, separators))[:, 0] + 1])
        lengths = torch.diff(starts, append=index.new_tensor([len(ids)]))
        segment_ids[row] = torch.repeat_interleave(lengths)
        intra_positions[row] = index - starts[segment_ids[row]]
    return segment_ids, intra_positions
