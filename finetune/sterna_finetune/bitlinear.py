"""BitLinear: a linear layer that trains 1.58-bit weights and 8-bit activations.

Arithmetic of BitNet b1.58 (arXiv 2402.17764, section 2, and its "Training Tips, Code, FAQ"):
weights are rounded to {-1, 0, +1} times one absmean scale per tensor, activations to int8 with one
absmax scale per token, and the gradient passes straight through both roundings. The mix between the
full-precision and the quantised value, `lambda`, follows Hugging Face's 1.58-bit fine-tuning work
(September 2024): `x + lambda * (quantised(x) - x).detach()`, and the same for the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SCALE_FLOOR = 1e-5  # smallest mean|W| and max|x| that a scale is made from
INT8_MIN, INT8_MAX = -128, 127

# The linear layers of a Llama block; embeddings, norms and the head keep their precision.
TERNARY_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def weight_scale(weight: Tensor) -> Tensor:
    """`1 / max(mean|W|, 1e-5)` over the whole tensor, a 0-d f32 tensor (b1.58, equation 3)."""
    return 1.0 / weight.float().abs().mean().clamp(min=SCALE_FLOOR)


def ternary_codes(weight: Tensor) -> Tensor:
    """`clamp(round(W * scale), -1, 1)` as f32, in {-1, 0, +1} (b1.58, equations 1 and 2)."""
    return (weight.float() * weight_scale(weight)).round().clamp(-1, 1)


def quantise_weight(weight: Tensor) -> Tensor:
    """The ternary weights on their original scale: `codes / scale`, in the dtype of `weight`."""
    scale = weight_scale(weight)
    return ((weight.float() * scale).round().clamp(-1, 1) / scale).to(weight.dtype)


def activation_scale(x: Tensor) -> Tensor:
    """`127 / max(max|x|, 1e-5)` for each token, f32, `[..., 1]` (b1.58, section 2)."""
    return INT8_MAX / x.float().abs().amax(dim=-1, keepdim=True).clamp(min=SCALE_FLOOR)


def int8_codes(x: Tensor) -> Tensor:
    """`clamp(round_half_even(x * s), -128, 127)` for each token, f32 holding integers."""
    return (x.float() * activation_scale(x)).round().clamp(INT8_MIN, INT8_MAX)


def quantise_activation(x: Tensor) -> Tensor:
    """The int8 activations on their original scale: `codes / s`, f32."""
    scale = activation_scale(x)
    return (x.float() * scale).round().clamp(INT8_MIN, INT8_MAX) / scale


def straight_through(x: Tensor, quantised: Tensor, mix: Tensor | float) -> Tensor:
    """`x + mix * (quantised - x)` forward, identity backward (arXiv 1308.3432; RECIPE lambda)."""
    return x + mix * (quantised - x).detach()


class BitLinear(nn.Linear):
    """`nn.Linear` with weights and inputs quantised by the fraction `quant_lambda` (0 to 1)."""

    quant_lambda: Tensor  # [] f32; a buffer, so that changing it does not recompile the model

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.register_buffer("quant_lambda", torch.ones(()), persistent=False)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> BitLinear:
        """A BitLinear that takes over (not copies) the parameters of `linear`."""
        layer = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer

    def forward(self, x: Tensor) -> Tensor:  # x: [..., in_features]
        x = x.float()
        x = straight_through(x, quantise_activation(x), self.quant_lambda)
        weight = straight_through(self.weight, quantise_weight(self.weight), self.quant_lambda)
        return F.linear(x, weight, self.bias)


def convert_to_bitlinear(model: nn.Module) -> int:
    """Replaces every `nn.Linear` named in TERNARY_LINEARS by a BitLinear; returns how many."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if name in TERNARY_LINEARS and type(child) is nn.Linear
    ]
    for parent, name, child in found:
        setattr(parent, name, BitLinear.from_linear(child))
    return len(found)


def set_lambda(model: nn.Module, value: float) -> None:
    """Sets the quantisation mix of every BitLinear in `model`."""
    for module in model.modules():
        if isinstance(module, BitLinear):
            module.quant_lambda.fill_(value)
