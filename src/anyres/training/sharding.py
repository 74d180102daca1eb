"""DDP and FSDP2 around a task's loss, and states that one process or several can go on from."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from anyres.training.parallel import world
from anyres.training.task import Task


class _TaskLoss(nn.Module):
    """A task's loss as a module, for DDP and FSDP2 act on calls of modules."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._task = task

    def forward(self, prepared: Any, rows: slice) -> Tensor:
        return self._task.loss(prepared, rows)


class SharedLoss:
    """`task.loss` whose gradients are the means over all processes."""

    def __init__(self, task: Task, device: torch.device, *, shards: bool) -> None:
        self._module: nn.Module = _TaskLoss(task)
        if world() == 1:
            return
        if not shards:
            # what a size leaves out of the merger has no gradient in any process
            self._module = DistributedDataParallel(
                self._module, find_unused_parameters=True, forward_sync_buffers=False
            )
            return
        mesh = init_device_mesh(device.type, (world(),))
        for name, each in task.model.named_modules():
            if name.split(".")[-1] == "blocks" and isinstance(each, nn.ModuleList):
                for block in each:
                    fully_shard(block, mesh=mesh)
        fully_shard(self._module, mesh=mesh)

    def __call__(self, prepared: Any, rows: slice, *, is_last: bool) -> Tensor:
        """Of some rows of this process' share; gradients are exchanged in the backward pass of the last ones."""
        module = self._module
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(is_last)
        skips = isinstance(module, DistributedDataParallel) and not is_last
        context: AbstractContextManager[Any] = module.no_sync() if skips else nullcontext()  # type: ignore[operator]
        with context:
            return module(prepared, rows)


def whole(value: Tensor) -> Tensor:
    """What processes hold parts of."""
    return value.full_tensor() if isinstance(value, DTensor) else value


_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def model_state(model: nn.Module) -> dict[str, Any]:
    """`state_dict`, whole and in the first process alone where the model is sharded."""
    return get_model_state_dict(model, options=_FULL) if is_sharded(model) else model.state_dict()


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The same of an optimiser, as one process would have it."""
    if not is_sharded(model):
        return optimizer.state_dict()
    full: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=_FULL)
    if not full:
        return {}
    names = [name for group in full["param_groups"] for name in group["params"]]
    number = {name: place for place, name in enumerate(names)}
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in full["param_groups"]]
    return {"state": {number[name]: state for name, state in full["state"].items()}, "param_groups": groups}


def load_states(
    model: nn.Module, optimizer: torch.optim.Optimizer, weights: dict[str, Any], state: dict[str, Any]
) -> None:
    """What `model_state` and `optimizer_state` gave, whether or not that model was sharded as this one is."""
    if not is_sharded(model):
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        return
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, weights, options=options)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    names = [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    groups = [{**group, "params": [names[place] for place in group["params"]]} for group in state["param_groups"]]
    named: Any = {"state": {names[place]: each for place, each in state["state"].items()}, "param_groups": groups}
    # without strict a parameter that never had a gradient has no state; what is then made up for it is taken away
    set_optimizer_state_dict(model, optimizer, named, options=StateDictOptions(full_state_dict=True, strict=False))
    for parameter in model.parameters():
        if name_of[id(parameter)] not in named["state"]:
            optimizer.state.pop(parameter, None)
