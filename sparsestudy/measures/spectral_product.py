"""Product of the spectral norms of a network's weights, as a natural logarithm; and the same divided by the margin.

- ``spectral_product``: ``sum over weights of log spectral_norm``, each weight reshaped to the matrix of its filters
  (`sparsestudy.measures.weight_norms`). A batch norm counts as one more weight: the diagonal matrix that it is in
  evaluation mode. Biases, other norms and non-linearities are left out. Undefined if a weight is zero.
- ``spectral_product_margin``: that, minus the logarithm of the 10 % quantile of the margins
  (`sparsestudy.measures.margins`) on the examples. Undefined as long as that quantile is not positive, in practice as
  long as a tenth of the training examples is answered wrongly.

With batch norms counted, rescaling the layer before one changes nothing.

Source: Bartlett et al. 2017 (arXiv 1706.08498) and Neyshabur et al. 2017 (arXiv 1706.08947); product over reshaped
weights divided by the margin VERBATIM from Neyshabur's code, without the further factors of the bounds. Batch norm
DERIVED: there, it is folded into the layer before it, whose norm this exceeds or equals.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsestudy.measures._network import batch_norms, logits_of, undisturbed
from sparsestudy.measures._statistic import NetworkStatistic, as_rows
from sparsestudy.measures.margins import lowest_tenth, margin
from sparsestudy.measures.weight_norms import spectral_norm
from sparsestudy.study import TaskName


def log_spectral_product(model: nn.Module) -> Tensor:
    """Sum of the logarithms of the spectral norms, a 0-d tensor; -inf if a weight is zero.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).requires_grad_(False)
        >>> model[0].weight[:], model[2].weight[:] = torch.diag(torch.tensor([1.0, 2.0])), torch.eye(2)
        >>> log_spectral_product(model).exp().item()
        2.0
    """
    norms = [spectral_norm(as_rows(parameter)) for parameter in model.parameters() if parameter.dim() >= 2]
    norms += [factor.abs().amax().double() for factor, _ in batch_norms(model).values()]
    return torch.stack(norms).log().sum()


class SpectralProduct(NetworkStatistic):
    """Outputs: ``spectral_product`` and ``spectral_product_margin``."""

    outputs: ClassVar[tuple[str, ...]] = ("spectral_product", "spectral_product_margin")
    tasks: ClassVar[tuple[TaskName, ...]] = ("classification",)

    def compute(self, model: nn.Module, inputs: Tensor, labels: Tensor, seed: int) -> dict[str, Tensor]:
        """See `NetworkStatistic.compute`."""
        del seed
        with undisturbed(model):
            product = log_spectral_product(model)
            lowest = lowest_tenth(margin(logits_of(model, inputs).double(), labels))
        divided = product - torch.where(lowest > 0, lowest, torch.nan).log()
        return {
            "spectral_product": torch.where(product.isfinite(), product, torch.nan),
            "spectral_product_margin": torch.where(divided.isfinite(), divided, torch.nan),
        }
