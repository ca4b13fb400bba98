"""The U8 packing of ternary weights in Hugging Face's BitNet checkpoints (families A and B).

    packed[r][c], r in [0, out/4), c in [0, in):

      bit   7 6        5 4        3 2        1 0
          row 3M+r   row 2M+r    row M+r    row r        M = out/4, column c

A field holds `code = w + 1`, so 0, 1, 2 mean -1, 0, +1; 3 never occurs and marks a corrupt file.
The four rows of a byte are M apart, not adjacent. Source: transformers `integrations/bitnet.py`,
`pack_weights`; BitNet b1.58 has no format of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_PER_BYTE = 4


def pack_ternary(codes: Tensor) -> Tensor:
    """`[out, in]` of -1, 0, +1 in any dtype to `[out/4, in]` uint8."""
    out_features = codes.shape[0]
    if out_features % ROWS_PER_BYTE:
        raise ValueError(f"{out_features} output features are not a multiple of {ROWS_PER_BYTE}")
    if not ((codes == -1) | (codes == 0) | (codes == 1)).all():
        raise ValueError("weights to pack are not all -1, 0 or +1")
    fields = (codes.to(torch.int8) + 1).to(torch.uint8)
    quarters = fields.reshape(ROWS_PER_BYTE, out_features // ROWS_PER_BYTE, -1)
    packed = torch.zeros_like(quarters[0])
    for i in range(ROWS_PER_BYTE):
        packed |= quarters[i] << (2 * i)
    return packed


def unpack_ternary(packed: Tensor) -> Tensor:
    """`[out/4, in]` uint8 to `[out, in]` int8 of -1, 0, +1."""
    fields = torch.cat([(packed >> (2 * i)) & 3 for i in range(ROWS_PER_BYTE)])
    if (fields == 3).any():
        raise ValueError("packed weights hold code 3: the file is corrupt or packed differently")
    return fields.to(torch.int8) - 1
