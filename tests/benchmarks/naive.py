"""The rival of the cost benchmark: the same measures and the same penalty as one writes them at first.

Hooks keep every activation of every step, each measure is spelled out on its own, and each value is fetched with
``.item()``. A plain training loop around it, nothing of sparsestudy but the network. `tests/benchmarks/test_naive.py`
holds the values against ours, so that both sides do the same work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Values = dict[str, float]


def _entropy(vectors: Tensor) -> Tensor:
    """Entropy along the last dimension."""
    p = vectors / (vectors.sum(-1, keepdim=True) + 1e-12)
    return -(p * torch.log(p + 1e-12)).sum(-1)


def _sparsity(vectors: Tensor) -> Tensor:
    """Mean perplexity sparsity of the vectors that are not all zero."""
    live = vectors.sum(-1) > 0
    return (1 - _entropy(vectors)[live].exp() / vectors.shape[-1]).mean()


def perplexity(a: Tensor) -> Values:
    a = a.abs()
    mass = a.flatten(2).sum(2) if a.dim() > 2 else a
    found = {
        "perplexity": _sparsity(a.flatten(1)).item(),
        "perplexity_image": _sparsity(mass.T).item(),
        "perplexity_silent": (a.flatten(1).sum(1) == 0).float().mean().item(),
    }
    if a.dim() > 2:
        found["perplexity_inter"] = _sparsity(mass).item()
        found["perplexity_intra"] = _sparsity(a.flatten(2)).item()
    return found


def zero_fraction(a: Tensor) -> Values:
    return {"zero_fraction": (a == 0).float().mean().item()}


def dead_fraction(a: Tensor) -> Values:
    return {"dead_fraction": (a.transpose(0, 1).flatten(1) == 0).all(1).float().mean().item()}


def hoyer(a: Tensor) -> Values:
    units = a.flatten(1)
    root = math.sqrt(units.shape[1])
    return {"hoyer": ((root - units.norm(p=1, dim=1) / units.norm(p=2, dim=1)) / (root - 1)).nanmean().item()}


def gini(a: Tensor) -> Values:
    ascending, _ = a.flatten(1).abs().sort(1)
    n = ascending.shape[1]
    rank = torch.arange(1, n + 1, device=a.device)
    share = ascending / ascending.sum(1, keepdim=True)
    return {"gini": (1 - 2 * (share * (n - rank + 0.5) / n).sum(1)).nanmean().item()}


def treves_rolls(a: Tensor) -> Values:
    units = a.flatten(1).abs()
    mass = a.abs().flatten(2).sum(2) if a.dim() > 2 else units
    return {
        "treves_rolls": (1 - units.mean(1) ** 2 / (units**2).mean(1)).nanmean().item(),
        "treves_rolls_lifetime": (1 - mass.mean(0) ** 2 / (mass**2).mean(0)).nanmean().item(),
    }


def kurtosis(a: Tensor) -> Values:
    units = a.flatten(1)
    centred = units - units.mean(1, keepdim=True)
    return {
        "kurtosis": ((units**4).sum(1) / (units**2).sum(1) ** 2).nanmean().item(),
        "kurtosis_excess": ((centred**4).mean(1) / (centred**2).mean(1) ** 2 - 3).nanmean().item(),
    }


def filter_correlation(a: Tensor) -> Values:
    samples = a.transpose(0, 1).flatten(1)
    matrix = torch.corrcoef(samples[samples.std(1) > 0]).abs()
    off = ~torch.eye(len(matrix), dtype=torch.bool, device=a.device)
    return {"filter_correlation": matrix[off].mean().item()}


def effective_rank(a: Tensor) -> Values:
    responses = a.flatten(2).mean(2) if a.dim() > 2 else a
    sigma = torch.linalg.svdvals(responses - responses.mean(0))
    share = sigma / sigma.sum()
    return {
        "effective_rank": torch.exp(-(share * torch.log(share + 1e-12)).sum()).item(),
        "participation_ratio": ((sigma**2).sum() ** 2 / (sigma**4).sum()).item(),
    }


def basis_collapse(a: Tensor) -> Values:
    samples = a.double().transpose(0, 1).flatten(1)
    samples = samples[samples.norm(dim=1) > 0]
    unit = samples / samples.norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    pairs = cosines[torch.triu(torch.ones_like(cosines), 1) == 1].abs()
    eigenvalues = torch.linalg.eigvalsh(cosines).clamp(min=0)
    share = eigenvalues / len(cosines)
    return {
        "basis_collapse": pairs.mean().item(),
        "basis_merged": (pairs > 0.99).double().mean().item(),
        "basis_rank": torch.exp(-(share * torch.log(share + 1e-300)).sum()).item(),
        "basis_condition": torch.log10(eigenvalues[-1] / eigenvalues[0].clamp(min=1e-12)).item(),
    }


MEASURES: dict[str, Callable[[Tensor], Values]] = {
    function.__name__: function
    for function in (
        perplexity,
        zero_fraction,
        dead_fraction,
        hoyer,
        gini,
        treves_rolls,
        kurtosis,
        filter_correlation,
        effective_rank,
        basis_collapse,
    )
}


def train(
    model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], lr: float, names: Sequence[str], penalised: str = ""
) -> Iterator[None]:
    """Train one epoch per `next`, measure every layer on every step, penalise layers whose names start like that."""
    activations: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            activations[name] = output

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU) and (names or penalised):
            module.register_forward_hook(keep(name))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, fused=True)
    history: list[Values] = []
    while True:
        for inputs, labels in batches:
            loss = cross_entropy(model(inputs), labels)
            if penalised:
                chosen = [a for name, a in activations.items() if name.startswith(penalised)]
                loss = loss + 0.1 * sum(_sparsity(a.flatten(1)) for a in chosen)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for name in names:
                history.extend(MEASURES[name](activation.detach()) for activation in activations.values())
        yield
