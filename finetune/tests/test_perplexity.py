"""Windows over a text, as `sterna eval` has them (tests/unit/server/eval/perplexity_test.cc)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sterna_finetune.evaluate import load_model, summed_nll
from sterna_finetune.perplexity import score, windows

BOS = 99


def test_a_stride_scores_the_last_tokens_alone() -> None:
    assert list(windows(list(range(8)), 5, 2, BOS)) == [
        ([BOS, 0, 1, 2, 3], 1),
        ([BOS, 2, 3, 4, 5], 3),
        ([BOS, 4, 5, 6, 7], 3),
    ]
    assert list(windows(list(range(5)), 3, None, None)) == [([0, 1, 2], 1), ([3, 4], 1)]


@pytest.mark.parametrize("stride", [None, 1, 3])
@pytest.mark.parametrize("count", [1, 4, 5, 17])
def test_every_token_once(count: int, stride: int | None) -> None:
    ids = list(range(count))
    found = [token for tokens, first in windows(ids, 5, stride, BOS) for token in tokens[first:]]
    assert found == ids


def test_score_is_that_of_the_other_evaluation(shipped: Path) -> None:
    model = load_model(shipped, stock=False)
    ids = [1, *range(300, 340)]
    nll, count = score(model, ids, 1)
    assert count == 40
    assert math.isclose(nll, summed_nll(model, [np.array(ids)], 512), rel_tol=1e-5)
    assert score(model, ids, 31)[1] == 10
