"""Attention weights of transformers, noted without a change to the model."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)


class AttentionMaps(TorchFunctionMode):
    """Notes the weights of every attention that runs inside the block, and their graph.

    Fused attention, as torchvision, timm and transformers call it, never makes its weights: inside
    the block it is computed step by step instead, softmax(QK / sqrt(d)) V. Attention that a model
    computes so itself is seen by its softmax.

    Attributes:
        maps (list[Tensor]): weights, (N, heads, queries, keys) or (N x heads, queries, keys), in
            order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, one that attends step by step."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in SOFTMAXES:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if result.dim() in (3, 4) and dim in (-1, result.dim() - 1):
                self.maps.append(result)
        return result

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **options: Any,
    ) -> Tensor:
        if is_causal or dropout_p or any(options.values()):
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options
            )
        logits = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            logits = logits.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            logits = logits + attn_mask
        weights = logits.softmax(-1)
        self.maps.append(weights)
        return weights @ value

    def _multi_head(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        embed_dim: int,
        num_heads: int,
        in_proj_weight: Tensor | None,
        in_proj_bias: Tensor | None,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        out_proj_weight: Tensor,
        out_proj_bias: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        masks = (options.get("key_padding_mask"), options.get("attn_mask"), bias_k, bias_v)
        is_plain = query is key and key is value and query.dim() == 3 and not add_zero_attn
        if not is_plain or in_proj_weight is None or any(mask is not None for mask in masks):
            return F.multi_head_attention_forward(
                query, key, value, embed_dim, num_heads, in_proj_weight, in_proj_bias, bias_k,
                bias_v, add_zero_attn, dropout_p, out_proj_weight, out_proj_bias, **options,
            )  # fmt: skip
        tokens, rows, _ = query.shape
        heads = F.linear(query, in_proj_weight, in_proj_bias)
        # Rows of (3, heads, features) become three tensors (N, heads, T, features).
        q, k, v = heads.reshape(tokens, rows, 3, num_heads, -1).permute(2, 1, 3, 0, 4)
        attended = self._attend(q, k, v).permute(2, 0, 1, 3).reshape(tokens, rows, embed_dim)
        result = F.linear(attended, out_proj_weight, out_proj_bias)
        if not options.get("need_weights", True):
            return result, None
        weights = self.maps[-1]
        return result, weights.mean(1) if options.get("average_attn_weights", True) else weights
