"""The U8 packing against the golden vector and over all codes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from sterna_finetune.packing import pack_ternary, unpack_ternary


def test_golden_vector() -> None:
    golden = json.loads((Path(__file__).parent / "hf_pack_golden.json").read_text())
    codes = torch.tensor(golden["W"], dtype=torch.int8)
    packed = torch.tensor(golden["packed_u8"], dtype=torch.uint8)
    assert torch.equal(pack_ternary(codes), packed)
    assert torch.equal(unpack_ternary(packed), codes)


def test_every_byte_without_code_3_round_trips() -> None:
    columns = list(itertools.product((-1, 0, 1), repeat=4))
    codes = torch.tensor(columns, dtype=torch.int8).T  # [4, 81]: row i is field i
    packed = pack_ternary(codes)
    by_hand = [sum((w + 1) << (2 * i) for i, w in enumerate(column)) for column in columns]
    assert packed.tolist() == [by_hand]
    assert torch.equal(unpack_ternary(packed), codes)


def test_random_round_trip() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (256, 96), generator=generator).to(torch.int8)
    assert torch.equal(unpack_ternary(pack_ternary(codes.float())), codes)


@pytest.mark.parametrize("field", range(4))
def test_code_3_is_refused(field: int) -> None:
    packed = torch.full((2, 3), 0b01010101, dtype=torch.uint8)
    packed[1, 2] = 3 << (2 * field)
    with pytest.raises(ValueError, match="code 3"):
        unpack_ternary(packed)


@pytest.mark.parametrize("value", [-2.0, 0.5, 2.0])
def test_values_that_are_not_ternary_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not all -1, 0 or"):
        pack_ternary(torch.full((4, 4), value))


def test_row_count_must_be_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        pack_ternary(torch.zeros(6, 4))
