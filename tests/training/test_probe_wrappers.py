"""The probe on wrapped networks: parallel, averaged, checkpointed and, above all, compiled ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from sparsestudy.training.probe import Probe, discover, sites

NAMES = ["block", "act", "relu"]
BACKENDS = ["eager", "aot_eager", *(["inductor"] if shutil.which("g++") else [])]


class Net(nn.Module):
    """A block, a bare non-linearity and a function."""

    class Tail(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x).exp()

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True))
        self.act = nn.Tanh()
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.out(self.act(self.block(x))))


def expected(model: Net, inputs: Tensor) -> dict[str, Tensor]:
    block = (inputs @ model.block[0].weight.T + model.block[0].bias).clamp(min=0)
    act = block.tanh()
    return {"block": block, "act": act, "relu": (act @ model.out.weight.T + model.out.bias).clamp(min=0)}


def check(probe: Probe, model: Net, inputs: Tensor) -> None:
    """The probe holds what this pass made, with its graph."""
    found = probe.activations
    assert list(found) == NAMES
    for name, activations in expected(model, inputs).items():
        torch.testing.assert_close(found[name], activations)
    [gradient] = torch.autograd.grad(found["act"].sum(), model.block[0].bias)
    assert gradient.abs().max() > 0


@pytest.fixture
def process_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def compiler() -> Iterator[None]:
    """Compiled code is kept per function, and so would pass from test to test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# Wrappers that pass calls on


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        AveragedModel,
        checkpoint_wrapper,
        lambda model: nn.DataParallel(checkpoint_wrapper(model)),
        lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    ],
)
def test_names_know_no_wrapper(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = wrap(Net())
    assert list(sites(model)) == ["block", "act"]
    assert [layer.name for layer in discover(model, torch.ones(2, 4))] == NAMES
    with Probe(model, "block") as probe:
        model(torch.ones(2, 4))
    assert list(probe.activations) == ["block"]


def test_names_know_no_wrapper_inside() -> None:
    model = Net()
    model.block[1] = torch.compile(model.block[1], backend="eager")
    model.block = checkpoint_wrapper(model.block)
    model.act = torch.compile(model.act, backend="eager")
    inputs = torch.randn(3, 4)
    with Probe(model) as probe:
        model(inputs)
    assert list(probe.activations) == NAMES


def test_a_child_named_module_is_no_wrapper() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.module(x)
            return output

    assert [layer.name for layer in discover(Holder(), torch.ones(2, 2))] == ["module"]


def test_a_wrapped_sequence_is_the_whole_model_still() -> None:
    model = nn.DataParallel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert [layer.name for layer in discover(model, torch.ones(2, 2))] == ["1"]


def test_replicas_on_several_devices_are_refused() -> None:
    model = nn.DataParallel(Net())
    model.device_ids = [0, 1]  # as on a machine with two of them
    with pytest.raises(ValueError, match=r"DataParallel runs copies .* on 2 devices.*use DistributedDataParallel"):
        Probe(model).__enter__()


def test_distributed_data_parallel(process_group: None) -> None:
    model, inputs = Net(), torch.randn(3, 4)
    parallel = DistributedDataParallel(model)
    with Probe(parallel) as probe:
        (parallel(inputs).sum() + probe.activations["act"].square().sum()).backward()
    assert list(probe.activations) == NAMES
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    reference = expected(model, inputs)
    loss = reference["relu"].sum() + reference["act"].square().sum()
    for ours, theirs in zip(found, torch.autograd.grad(loss, tuple(model.parameters())), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_compiled_distributed_data_parallel(process_group: None, compiler: None) -> None:
    model, inputs = Net(), torch.randn(3, 4)
    parallel = torch.compile(DistributedDataParallel(model), backend="aot_eager")
    parallel(inputs)
    with Probe(parallel) as probe:
        parallel(inputs)
        check(probe, model, inputs)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_part_that_is_run_again_for_its_gradients_counts_once(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 4)
            self.body = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), Net.Tail())

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = checkpoint(self.body, self.stem(x), use_reentrant=reentrant)
            return logits

    model, ran = Checkpointed(), []
    model.body[1].register_forward_hook(lambda *_: ran.append(1))
    with Probe(model) as probe:
        for passes in (1, 2):
            model(torch.randn(3, 4)).sum().backward()
            assert list(probe.activations) == ["body.1", "body.3.tanh"]
            assert len(ran) == 2 * passes  # it was run again


# Compiled networks


@pytest.mark.parametrize(("backend", "called"), [("eager", False), *((backend, True) for backend in BACKENDS)])
def test_compiled_before(backend: str, called: bool, compiler: None) -> None:
    """Code compiled without hooks runs on without them; that must not make the probe blind."""
    model, inputs = Net(), torch.randn(3, 4)
    compiled = torch.compile(model, backend=backend)
    if called:
        compiled(inputs)
    for target in (compiled, model):
        with Probe(target) as probe:
            compiled(inputs)
            check(probe, model, inputs)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_inside(backend: str, compiler: None) -> None:
    model, inputs = Net(), torch.randn(3, 4)
    with Probe(model) as probe:
        compiled = torch.compile(model, backend=backend)
        for _ in range(2):
            compiled(inputs)
            check(probe, model, inputs)
    kept = probe.activations
    compiled(inputs + 1)
    assert probe.activations is kept  # nothing of the probe is left in compiled code
    torch.testing.assert_close(kept["block"], expected(model, inputs)["block"])


@pytest.mark.parametrize("way", ["in place", "part", "step", "method", "full graph"])
def test_every_way_to_compile(way: str, compiler: None) -> None:
    model, inputs = Net(), torch.randn(3, 4)
    reference = expected(model, inputs)
    call: Callable[[Tensor], Any] = model
    if way == "in place":
        model.compile(backend="eager")
    elif way == "part":
        model.block = torch.compile(model.block, backend="eager")
    elif way == "step":
        call = torch.compile(lambda x: model(x).sum(), backend="eager")
    elif way == "method":
        model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    else:
        call = torch.compile(model, backend="eager", fullgraph=True)
    call(inputs)
    for _ in range(2):
        with Probe(model) as probe:
            call(inputs)
            assert list(probe.activations) == NAMES
            torch.testing.assert_close(probe.activations, reference)


class Backend:
    """A compiler that counts how often it compiles and how often its code runs."""

    def __init__(self) -> None:
        self.compiled = self.ran = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.compiled += 1

        def run(*args: Any) -> Any:
            self.ran += 1
            return graph(*args)

        return run


def test_compiled_code_runs_whenever_nothing_is_observed(compiler: None) -> None:
    model, inputs, backend = Net(), torch.randn(3, 4), Backend()
    compiled = torch.compile(model, backend=backend)
    compiled(inputs)
    before = backend.compiled
    ran = []
    with Probe(compiled) as probe:
        for enabled in (True, False, True, False):
            probe.enabled = enabled
            start = backend.ran
            compiled(inputs)
            ran.append(backend.ran > start)
            assert list(probe.activations) == (NAMES if enabled else [])
    start = backend.ran
    compiled(inputs)
    assert backend.ran > start
    assert ran == [False, True, False, True]
    assert backend.compiled == before  # the hooks cost no compilation


def test_probes_that_end_in_any_order(compiler: None) -> None:
    model, inputs = Net(), torch.randn(3, 4)
    compiled = torch.compile(model, backend="eager")
    compiled(inputs)
    with Probe(compiled, "act") as one, Probe(compiled, "block") as other:
        one.enabled = False
        compiled(inputs)
        assert list(other.activations) == ["block"]
        one.enabled, other.enabled = True, False
        compiled(inputs)
        assert list(one.activations) == ["act"]
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="recompile"):
        compiled(torch.randn(3, 4, dtype=torch.float64))  # compiled code is in use again


def test_compiled_code_that_cannot_be_seen_is_not_taken_for_silence(compiler: None) -> None:
    model, inputs = Net(), torch.randn(3, 4)
    step = torch.compile(lambda x: model(x).sum(), backend="eager")
    step(inputs)
    with Probe(model) as probe, torch.compiler.set_stance("default"):  # someone insists
        step(inputs)
        with pytest.raises(RuntimeError, match=r"no forward pass of Net has been observed.*compile"):
            _ = probe.activations


def test_discovery_of_a_compiled_network(compiler: None) -> None:
    model = torch.compile(Net(), backend="eager")
    model(torch.ones(2, 4))
    layers = discover(model, torch.ones(2, 4))
    found = [(layer.name, layer.shape, layer.functional) for layer in layers]
    assert found == [("block", (5,), False), ("act", (5,), False), ("relu", (2,), True)]


def test_a_probe_is_entered_again_but_not_twice_at_once(compiler: None) -> None:
    model, inputs = Net(), torch.randn(3, 4)
    compiled = torch.compile(model, backend="eager")
    probe = Probe(compiled)
    for _ in range(2):
        with probe:
            compiled(inputs)
            check(probe, model, inputs)
            with pytest.raises(RuntimeError, match="this probe is in use; make another one"):
                probe.__enter__()
            compiled(inputs)
            check(probe, model, inputs)


FIRST_USE = """
import sys, torch
from torch import nn
from sparsestudy.training.probe import Probe, discover

class Net(nn.Sequential):
    def forward(self, x):
        return torch.relu(super().forward(x))

model, inputs = Net(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.ones(4, 2)
print([layer.name for layer in discover(model, inputs)], "torch._dynamo" in sys.modules)
with Probe(model) as probe:
    step = torch.compile(lambda x: model(x).sum(), backend="eager", fullgraph=True)
    step(inputs)
    print(list(probe.activations))
    kept = probe.activations
step(inputs)
print(probe.activations is kept)
"""


def test_a_compiler_that_is_first_used_inside() -> None:
    """Discovery does without the compiler, whose import takes seconds; a probe reckons with it."""
    found = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["['1', 'relu'] False", "['1', 'relu']", "True"]
