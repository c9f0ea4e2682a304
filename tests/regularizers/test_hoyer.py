"""Structured Hoyer regularisation against numpy, and parameters of earlier study files.

Yang et al. 2020 sum, of a convolution ``[out, in, kh, kw]``, the norms over ``(0, 2, 3)`` and over ``(1, 2, 3)``, of a
dense weight those over 0 and over 1.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsestudy.regularizers import Step, get
from sparsestudy.regularizers.hoyer import hoyer_ratio, structured_hoyer_ratio


@pytest.mark.parametrize(("shape", "others"), [((4, 3, 2, 2), ((0, 2, 3), (1, 2, 3))), ((5, 3), (0, 1))])
def test_norms_of_channels_and_of_filters(shape: tuple[int, ...], others: tuple[object, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = weight.numpy()
    sums = [np.sqrt((w**2).sum(axis)).sum() for axis in others]
    square = sum(total**2 for total in sums) / (w**2).sum()
    ratio = sum(sums) / np.sqrt((w**2).sum())
    assert structured_hoyer_ratio(weight).item() == pytest.approx(square, rel=1e-12)
    assert structured_hoyer_ratio(weight, squared=False).item() == pytest.approx(ratio, rel=1e-12)
    for squared, expected in ((True, square), (False, ratio)):
        method = get("hoyer", strength=0.1, structured=True, squared=squared)
        penalty = method.penalty(Step(weights={"a.weight": weight}))
        assert penalty is not None
        assert penalty.item() == pytest.approx(0.1 * expected, rel=1e-12)


def test_range() -> None:
    one = torch.zeros(4, 3, 2, 2)
    one[1, 2] = 3.0
    assert structured_hoyer_ratio(one).item() == pytest.approx(2)
    assert structured_hoyer_ratio(torch.ones(4, 3, 2, 2)).item() == pytest.approx(4 + 3)


@pytest.mark.parametrize("squared", [True, False])
def test_zero_filters_and_zero_weights_have_a_finite_gradient(squared: bool) -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.0]], requires_grad=True)
    structured_hoyer_ratio(weight, squared=squared).backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()
    assert weight.grad[1].abs().max() > 0
    nothing = torch.zeros(2, 3, requires_grad=True)
    ratio = structured_hoyer_ratio(nothing, squared=squared)
    ratio.backward()
    assert ratio.item() == 0
    assert nothing.grad is not None
    assert nothing.grad.abs().max() == 0


def test_parameters_of_earlier_files_mean_what_they_meant() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for parameters, squared in (({}, True), ({"squared": True}, True), ({"squared": False}, False)):
        method = get("hoyer", strength=1.0, **parameters)
        penalty = method.penalty(Step(weights={"a.weight": weight}))
        assert penalty is not None
        assert penalty.item() == hoyer_ratio(weight, squared=squared).item()
