"""Whether a linear layer is nothing but its weight and bias, so that these may be used without calling it."""

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain_linear(layer: nn.Module) -> bool:
    """False where something must act when the layer is called.

    LoRA and dynamic quantisation put another module in its place, parametrizations another class; pruning, weights that
    are fetched when needed and whoever watches hang hooks on it or replace its `forward`; quantised and distributed
    weights are tensors of their own kind. Hooks on all modules of a program do not count.
    """
    return (
        type(layer) is nn.Linear
        and not any(getattr(layer, hooks) for hooks in _HOOKS)
        and "forward" not in layer.__dict__
        and not hasattr(layer.weight, "__tensor_flatten__")
    )
