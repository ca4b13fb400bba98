"""BitLinear's arithmetic, gradients and quantisation mix."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sterna_finetune.bitlinear import (
    TERNARY_LINEARS,
    BitLinear,
    activation_scale,
    convert_to_bitlinear,
    int8_codes,
    quantise_activation,
    quantise_weight,
    set_lambda,
    ternary_codes,
    weight_scale,
)


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_weights_by_hand() -> None:
    weight = torch.tensor([[0.5, -0.5], [2.0, -1.0]])  # mean|W| = 1
    assert weight_scale(weight).item() == 1.0
    # 0.5 and -0.5 round half to even, to 0; 2 is clamped.
    assert ternary_codes(weight).tolist() == [[0.0, 0.0], [1.0, -1.0]]
    assert quantise_weight(2 * weight).tolist() == [[0.0, 0.0], [2.0, -2.0]]


def test_activations_by_hand() -> None:
    x = torch.tensor([[127.0, -127.0, 0.5, 1.5], [0.0, 0.0, 0.0, 0.0]])
    assert activation_scale(x)[0].item() == 1.0
    assert int8_codes(x).tolist() == [[127.0, -127.0, 0.0, 2.0], [0.0] * 4]  # half to even
    assert torch.isfinite(quantise_activation(x)).all()


def test_scale_floor_keeps_zero_tensors_finite() -> None:
    assert weight_scale(torch.zeros(4, 4)).item() == pytest.approx(1e5)
    assert activation_scale(torch.zeros(1, 4)).item() == pytest.approx(127e5)


def test_activation_scale_is_per_token() -> None:
    x = seeded(3, 16)
    louder = x * torch.tensor([[1.0], [10.0], [100.0]])
    torch.testing.assert_close(int8_codes(louder), int8_codes(x))


def test_forward_equals_the_integer_product() -> None:
    layer = BitLinear(64, 32)
    x = seeded(5, 64)
    codes = ternary_codes(layer.weight).to(torch.int32)
    accumulated = int8_codes(x).to(torch.int32) @ codes.T  # exact
    expected = accumulated.float() / (activation_scale(x) * weight_scale(layer.weight))
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_lambda_zero_is_the_plain_linear_layer() -> None:
    layer = BitLinear(64, 32)
    set_lambda(layer, 0.0)
    x = seeded(5, 64)
    assert torch.equal(layer(x), F.linear(x, layer.weight))


def test_lambda_half_mixes_both_operands() -> None:
    layer = BitLinear(64, 32)
    set_lambda(layer, 0.5)
    x = seeded(5, 64)
    mixed_x = (x + quantise_activation(x)) / 2
    mixed_weight = (layer.weight + quantise_weight(layer.weight)) / 2
    torch.testing.assert_close(layer(x), F.linear(mixed_x, mixed_weight))


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_gradients_pass_straight_through(mix: float) -> None:
    """As if the mixed operands were the leaves: rounding has derivative 1, scales none."""
    layer = BitLinear(64, 32)
    set_lambda(layer, mix)
    x = seeded(5, 64).requires_grad_()
    upstream = seeded(5, 32, seed=1)
    layer(x).backward(upstream)

    with torch.no_grad():
        mixed_x = x + mix * (quantise_activation(x) - x)
        mixed_weight = layer.weight + mix * (quantise_weight(layer.weight) - layer.weight)
        torch.testing.assert_close(x.grad, upstream @ mixed_weight)
        torch.testing.assert_close(layer.weight.grad, upstream.T @ mixed_x)


def test_conversion_takes_the_block_linears_and_shares_their_parameters(tiny_llama) -> None:
    before = {name: parameter.data_ptr() for name, parameter in tiny_llama.named_parameters()}
    assert convert_to_bitlinear(tiny_llama) == len(TERNARY_LINEARS) * 2
    after = {name: parameter.data_ptr() for name, parameter in tiny_llama.named_parameters()}
    assert after == before
    assert type(tiny_llama.lm_head) is nn.Linear


def test_set_lambda_reaches_every_layer(tiny_llama) -> None:
    convert_to_bitlinear(tiny_llama)
    set_lambda(tiny_llama, 0.25)
    layers = [module for module in tiny_llama.modules() if isinstance(module, BitLinear)]
    assert [layer.quant_lambda.item() for layer in layers] == [0.25] * 14
