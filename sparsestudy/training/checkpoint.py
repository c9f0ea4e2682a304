"""A checkpoint: a trial between two epochs, from which it goes on as if it had never stopped, bit for bit.

It holds what training has changed and nothing can recompute: parameters and buffers, what the optimizer and the methods
keep from step to step, the validation losses so far, and the best weights if the trial keeps them. Data, the order of
examples, random numbers and the learning rate follow from the configuration and the epoch. What a network of the
user's own changes besides parameters and buffers, such as a counter that is a Python attribute, is not in it.

The file is a line with the SHA-256 of all that follows, then a safetensors file with the rest as JSON in its header.
Nothing in it is executed. The memory layout of a tensor is kept: matrix products of the same numbers in another layout
may differ in the last bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from sparsestudy.errors import CheckpointError
from sparsestudy.study import digest
from sparsestudy.trial import TrialConfig

FORMAT = 1
"""Version of the file; one of another version cannot be read."""
_HEADER, _KEPT = "checkpoint", "kept"
Memories = Sequence[MutableMapping[str, Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A trial after some epochs.

    Attributes:
        identity: Of the configuration and of the software that trained it; see `identity`.
        losses: Validation loss of every epoch so far, in order.
        tensors: ``model/NAME``, ``optimizer/PARAMETER/KEY`` and ``memory/METHOD/KEY`` to tensor; parameters and methods
            are numbered from 0.
        plain: The same for values that are no tensors.
        weights: Those that the configuration asks to keep, so far, as a safetensors file; empty if none.
        notes: What the caller wants to find again; goes through JSON.
    """

    identity: str
    losses: tuple[float, ...]
    tensors: Mapping[str, Tensor]
    plain: Mapping[str, Any] = field(default_factory=dict)
    weights: bytes = b""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many epochs have been trained."""
        return len(self.losses)

    @classmethod
    def take(
        cls, config: TrialConfig, losses: Sequence[float], model: nn.Module, optimizer: torch.optim.Optimizer,
        memories: Memories, *, weights: bytes = b"", notes: Mapping[str, Any] | None = None,
    ) -> Self:  # fmt: skip
        """Of a trial between two epochs; what it holds are copies."""
        values: dict[str, Any] = {f"model/{name}": tensor for name, tensor in _state(model).items()}
        for place, kept in optimizer.state_dict()["state"].items():
            values |= {f"optimizer/{place}/{key}": value for key, value in kept.items()}
        for place, memory in enumerate(memories):
            values |= {f"memory/{place}/{key}": value for key, value in memory.items()}
        return cls(
            identity=identity(config),
            losses=tuple(losses),
            tensors={k: v.detach().clone() for k, v in values.items() if isinstance(v, Tensor)},
            plain={k: v for k, v in values.items() if not isinstance(v, Tensor)},
            weights=weights,
            notes=notes or {},
        )

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, memories: Memories) -> None:
        """Put everything back where `take` found it, into objects made from the same configuration.

        Raises:
            CheckpointError: It belongs to another network, or to other methods.
        """
        self._restore_model(model)
        states: dict[int, dict[str, Any]] = {}
        for name, value in {**self.tensors, **self.plain}.items():
            part, _, rest = name.partition("/")
            place, _, key = rest.partition("/")
            if part == "optimizer":
                states.setdefault(int(place), {})[key] = value
            elif part == "memory":
                if int(place) >= len(memories):
                    raise CheckpointError("the checkpoint belongs to other methods; start over")
                memories[int(place)][key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})

    @torch.no_grad()
    def _restore_model(self, model: nn.Module) -> None:
        present = _state(model)
        found = {k.removeprefix("model/"): v for k, v in self.tensors.items() if k.startswith("model/")}
        expected, got = ({k: (v.shape, v.dtype) for k, v in each.items()} for each in (present, found))
        if expected != got:
            differing = min(k for k, _ in expected.items() ^ got.items())
            raise CheckpointError(f"the checkpoint belongs to another network: {differing!r} differs; start over")
        for name, tensor in present.items():
            tensor.copy_(found[name])

    def to_bytes(self) -> bytes:
        """As the content of a file."""
        header = {
            "format": FORMAT,
            "identity": self.identity,
            "losses": self.losses,
            "plain": self.plain,
            "notes": self.notes,
            "layouts": {k: v.stride() for k, v in self.tensors.items() if not v.is_contiguous()},
            "devices": {k: v.device.type for k, v in self.tensors.items() if v.device.type != "cpu"},
        }
        tensors = {k: v.cpu().contiguous() for k, v in self.tensors.items()}
        tensors[_KEPT] = (
            torch.frombuffer(bytearray(self.weights), dtype=torch.uint8) if self.weights else torch.empty(0)
        )
        body = save(tensors, metadata={_HEADER: json.dumps(header)})
        return hashlib.sha256(body).hexdigest().encode() + b"\n" + body

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The inverse of `to_bytes`.

        Raises:
            CheckpointError: The content is damaged, cut short, or of another version of the format.
        """
        line, _, body = content.partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != line:
            raise CheckpointError("the checkpoint is damaged: its content does not have the hash it begins with")
        try:
            header = _header(body)
            if header["format"] != FORMAT:
                text = f"the checkpoint has format {header['format']}, this sparsestudy reads format {FORMAT}"
                raise CheckpointError(text)
            tensors = load(body)
            weights = tensors.pop(_KEPT).numpy().tobytes()
            return cls(
                identity=header["identity"],
                losses=tuple(header["losses"]),
                tensors={
                    k: _laid_out(v, header["layouts"].get(k), header["devices"].get(k)) for k, v in tensors.items()
                },
                plain=header["plain"],
                weights=weights,
                notes=header["notes"],
            )
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint cannot be read: {type(error).__name__}: {error}") from error


def opened(resume: bytes | Path, config: TrialConfig, *, adopt: bool = False) -> Checkpoint:
    """A checkpoint for a configuration.

    Args:
        resume: Content of a file, or its path.
        config: What is to be trained.
        adopt: Whether the checkpoint may be that of another configuration.

    Raises:
        CheckpointError: It is damaged, or that of another configuration.
    """
    found = Checkpoint.from_bytes(resume if isinstance(resume, bytes) else resume.read_bytes())
    if not adopt and found.identity != identity(config):
        raise CheckpointError(
            "the checkpoint is that of another configuration, or of another version of sparsestudy or torch; start over"
        )
    return found


def identity(config: TrialConfig) -> str:
    """What has to be equal for a trial to go on bit for bit: the configuration, sparsestudy and torch."""
    software = {name: version(name) for name in ("sparsestudy", "torch")}
    return digest({"config": config.model_dump(mode="json"), **software})


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, those that a ``state_dict`` leaves out as well; shared ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _header(body: bytes) -> dict[str, Any]:
    # The format: eight bytes with the length of a JSON object, which may hold strings under __metadata__.
    length = int.from_bytes(body[:8], "little")
    return dict(json.loads(json.loads(body[8 : 8 + length])["__metadata__"][_HEADER]))


def _laid_out(tensor: Tensor, stride: Sequence[int] | None, device: str | None) -> Tensor:
    # Always a copy: numbers in the file are not aligned as torch aligns them, and may then be added in another order.
    target = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype) if stride else torch.empty_like(tensor)
    return target.copy_(tensor).to(device or "cpu")
