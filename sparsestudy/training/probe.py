"""The probe: what happens inside a network, layer by layer, without changing it.

A *layer* here is a place where activations leave a non-linearity. It is named by its module: the non-linearity itself,
or, where that is the last child and the only non-linearity of an ``nn.Sequential``, that block (``features.conv1``
rather than ``features.conv1.1``). A function, such as ``F.relu(x)``, is named below the module whose forward method
calls it: ``block1.relu``. What is used several times in one forward pass, as in residual networks, yields one layer per
use: ``layer1.0.relu``, ``layer1.0.relu#2``. Names are the same whatever the network is wrapped in.

Not seen, because nothing tells them from other arithmetic: what TorchScript runs, autograd functions of one's own, and
spellings such as ``x.clamp(min=0)``. A module that contains them can be observed by its name.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from sparsestudy.errors import NotFoundError, listing
from sparsestudy.regularizers import Layer, evaluating, match, nth_use
from sparsestudy.training.nonlinearities import NONLINEARITIES, FunctionalCalls
from sparsestudy.training.patterns import expand
from sparsestudy.training.wrappers import check, eager, modules, unwrap

__all__ = ["NONLINEARITIES", "Layer", "Probe", "discover", "expand", "sites"]


def sites(model: nn.Module) -> dict[str, nn.Module]:
    """Modules whose output is an activation after a non-linearity, by name, in the order of definition."""
    names, root = modules(model), unwrap(model)
    children = {module: [unwrap(c) for c in module._modules.values() if c is not None] for module in names}
    # One non-linearity shared by several blocks tells its uses apart only if it is looked at itself.
    places = Counter(child for parts in children.values() for child in parts)
    blocks = {
        children[block][-1]: block
        for block in names
        if isinstance(block, nn.Sequential)
        and block is not root
        and sum(isinstance(m, NONLINEARITIES) for m in block.modules()) == 1
        and places[children[block][-1]] == 1
    }
    inside = [module for module in names if isinstance(module, NONLINEARITIES)]
    return {names[site]: site for site in (blocks.get(module, module) for module in inside)}


def discover(model: nn.Module, example: Tensor) -> list[Layer]:
    """Layers in the order in which a forward pass reaches them, with their shapes.

    Args:
        model: Any module; it and its parts are left in the modes they were in.
        example: Inputs ``[B, ...]``.

    Raises:
        NotFoundError: The network has no non-linearity that can be observed.
    """
    layers = find_layers(model, example)
    if not layers:
        raise NotFoundError(
            f"{type(unwrap(model)).__name__} has no non-linearity that can be observed, neither a module such as "
            f"nn.ReLU() nor a function such as F.relu(x); TorchScript, autograd functions of your own and spellings "
            f"such as x.clamp(min=0) are invisible: use nn.ReLU() and its relatives"
        )
    return layers


def find_layers(model: nn.Module, example: Tensor) -> list[Layer]:
    """Like `discover`, but no layer is an empty list."""
    places = sites(model)
    layers: dict[str, Layer] = {}

    def note(name: str, activations: Tensor) -> None:
        site, _, use = name.partition("#")
        shape, number = tuple(activations.shape[1:]), int(use or 1)
        if name in probe.functional:
            layers[name] = Layer(name=name, shape=shape, use=number)
            return
        last = next(m for m in reversed(list(places[site].modules())) if isinstance(m, NONLINEARITIES))
        layers[name] = Layer(name=name, shape=shape, module=places[site], nonlinearity=last, use=number)

    probe = Probe(model, on_activation=note)
    probe._may_compile = False  # there is no room for it in here
    with probe, torch.no_grad(), evaluating(model):
        model(example)
    return list(layers.values())


def changes_in_place(model: nn.Module, example: Tensor) -> bool:
    """Whether a forward pass in training mode changes activations after they have left their layer.

    The pass leaves no trace in the network.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(), Probe(model) as probe:
        try:
            model(example)
        except RuntimeError:
            if not probe.changed:
                raise
        finally:
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
    return bool(probe.changed)


class Probe:
    """Context manager that keeps the activations of chosen layers of every forward pass.

    It observes calls of the network itself, not of its forward method or of its parts. While it is enabled, code that
    `torch.compile` made, of this network or any other, runs as the Python it was made from: compiled code does not
    look at hooks. In the first pass, and in all others if that finds some, functions are watched as well as modules.

    A layer that does not run in a pass is not among its activations, but in `missed`.

    Args:
        model: Any module.
        layers: Shell pattern or patterns of layer names, or a predicate on them; see the module's docstring. Exact
            names may be those of any modules; of an output that is a tuple, list or mapping, the first tensor counts.
        on_activation: Called with ``(layer, activations)`` instead of keeping them.
        copy: Keep copies, where the network may change activations in place, as with ``nn.Dropout(inplace=True)``.
            What is not a copy lies on the way to the output, so that gradients with respect to it exist.

    Attributes:
        functional: Names of the layers met so far that are functions.
        changed: Layer whose activations were found changed in place, if any.

    Raises:
        NotFoundError: After the first pass: a pattern matches no layer, or nothing that was asked for has run.
        RuntimeError: After a pass: what was kept has been changed in place. During one: a part runs outside it.
        TypeError: A chosen module returns no tensor.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with Probe(model) as probe:
        ...     _ = model(torch.ones(4, 2))
        >>> {name: tuple(a.shape) for name, a in probe.activations.items()}
        {'1': (4, 3)}
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | tuple[str, ...] | Callable[[str], bool] = "*",
        on_activation: Callable[[str, Tensor], None] | None = None,
        *,
        copy: bool = False,
    ) -> None:
        self._wrapped, self._model = model, unwrap(model)
        self._patterns: tuple[str, ...] = ()
        if callable(layers):
            self._wants = layers
        else:
            self._patterns = patterns = (layers,) if isinstance(layers, str) else tuple(layers)
            self._wants = lambda layer: match(patterns, layer) is not None
        self._on_activation, self._copy = on_activation, copy
        self._may_compile = self._enabled = True
        self._entered = self._running = False
        self._hooks, self._watch = ExitStack(), ExitStack()
        self._forget()

    def _forget(self) -> None:
        """Start anew: nothing is known of the network's functions, and no pass has been seen."""
        self.functional: set[str] = set()
        self._wanted: dict[str, bool] = {}
        self._calls_functions: dict[bool, bool] = {}  # by whether the network is in training mode
        self._seen = self._checked = False
        self.changed = ""
        self._clear()

    def _clear(self) -> None:
        self._activations: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._uses: Counter[str] = Counter()
        self._ran: set[str] = set()

    @property
    def activations(self) -> dict[str, Tensor]:
        """Layer name to the tensor of the latest forward pass, with its graph; nothing while not enabled.

        Raises:
            RuntimeError: The probe is enabled, and no forward pass has come by since.
        """
        if self._enabled and not self._seen:
            raise RuntimeError(
                f"no forward pass of {type(self._model).__name__} has been observed: call the network itself "
                f"inside the probe's with block, and leave the stance of torch.compile alone there"
            )
        return self._activations

    @property
    def missed(self) -> tuple[str, ...]:
        """Wanted layers, known as modules or from earlier passes, that did not run in the latest forward pass."""
        return tuple(name for name, wanted in self._wanted.items() if wanted and name not in self._ran)

    @property
    def enabled(self) -> bool:
        """Whether forward passes are observed. If not, nothing is left in the network, and compiled code runs."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if self._running:
            raise RuntimeError("a probe cannot be switched during a forward pass; do it before or after")
        if value == self._enabled:
            return
        self._enabled, self._seen = value, False
        self._clear()
        if self._entered and value:
            self._register()
        else:
            self._hooks.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Let networks be copied while they are observed; see `_start`."""
        return self

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("this probe is in use; make another one")
        check(self._wrapped)
        self._forget()
        names = modules(self._model)
        hooked = {module for module in names if isinstance(module, NONLINEARITIES)}
        self._calls = FunctionalCalls(names, hooked, self._note_call)
        exact = {pattern.partition("#")[0] for pattern in self._patterns}
        self._sites = sites(self._model)
        self._sites |= {name: module for module, name in names.items() if name in exact and name not in self._sites}
        self._wanted = {site: self._wants(site) for site in self._sites}
        self._entered = True
        if self._enabled:
            self._register()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        self._entered = False

    def _register(self) -> None:
        root = self._model
        with ExitStack() as stack:
            if self._may_compile or "torch._dynamo" in sys.modules:  # whose import takes seconds
                eager.hold()
                stack.callback(eager.release)
            handles = [
                root.register_forward_pre_hook(self._start),
                root.register_forward_hook(self._check),
                root.register_forward_hook(self._end, prepend=True, always_call=True),
            ]
            for site, module in self._sites.items():
                # First in line: a regulariser's hook on the same module may replace the output (dropout).
                handles.append(module.register_forward_hook(partial(self._note_module, site), prepend=True))
            for handle in handles:
                stack.callback(handle.remove)
            stack.callback(self._end)
            self._hooks = stack.pop_all()

    def _start(self, module: nn.Module, inputs: Any) -> None:
        if module is not self._model:
            return  # a copy, made with its hooks while they were there
        self._end()  # the last pass, if it was interrupted
        self._clear()
        self._seen = self._running = True
        if self._calls_functions.get(self._model.training, True):
            self._watch.enter_context(self._calls)

    def _end(self, *_: object) -> None:
        self._running = False
        self._watch.close()

    def _check(self, module: nn.Module, *_: object) -> None:
        """After a forward pass that succeeded: is what was kept the truth, and is it what was asked for?"""
        if module is not self._model:
            return
        self._calls_functions.setdefault(self._model.training, not self.functional.isdisjoint(self._ran))
        for name, version in self._versions.items():
            if self._activations[name]._version != version:
                self.changed = name
                raise RuntimeError(
                    f"the activations of {name!r} were changed in place after they had left it, as by "
                    f"nn.Dropout(inplace=True) or x += y; give copy=True to the probe"
                )
        if self._checked:
            return
        self._checked = True
        for pattern in self._patterns:
            if pattern != "*":  # all of none is no mistake
                expand({pattern: None}, list(self._wanted))
        if any(self._wanted.values()) and not self._ran:
            wanted = listing(name for name, wanted in self._wanted.items() if wanted)
            raise NotFoundError(f"no layer that was asked for has run in the first forward pass; asked for: {wanted}")

    def _note_module(self, site: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if module is self._sites[site]:
            self._note(site, output)

    def _note_call(self, site: str, output: Any) -> None:
        self._note(site, output, functional=True)

    def _note(self, site: str, output: Any, functional: bool = False) -> None:
        if torch._C._current_graph_task_id() != -1:
            return  # activation checkpointing runs a part once more during the backward pass
        if not self._running:
            raise RuntimeError(
                f"layer {site!r} ran outside a forward pass of {type(self._model).__name__}: call the network itself, "
                f"not its forward method or its parts, or put the probe on the part that is called"
            )
        self._uses[site] += 1
        name = nth_use(site, self._uses[site])
        if functional:
            self.functional.add(name)
        if name not in self._wanted:
            self._wanted[name] = self._wants(name)
        if self._wanted[name]:
            self._ran.add(name)
            self._deliver(name, _first_tensor(name, output))

    def _deliver(self, name: str, activations: Tensor) -> None:
        if self._on_activation is not None:
            with torch._C.DisableTorchFunction():  # functions it calls are none of the network's
                self._on_activation(name, activations)
        elif self._copy or activations.is_inference():  # which does not count its changes
            self._activations[name] = activations.clone()
        else:
            self._activations[name] = activations
            self._versions[name] = activations._version


def _first_tensor(name: str, output: Any) -> Tensor:
    parts = [output]
    while parts:
        part = parts.pop(0)
        if isinstance(part, Tensor):
            return part
        if isinstance(part, Mapping):
            part = list(part.values())
        if isinstance(part, list | tuple):
            parts = [*part, *parts]
    raise TypeError(f"there is no tensor in what {name!r} returns, {type(output).__name__}; observe another module")
