"""Attributes of a built model that timm's arguments cannot say, such as the stride of its first convolution."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ofq.config.settings import Scalar
from ofq.errors import UserError, shortened, unknown

_OF_CONVOLUTIONS = {"stride": 1, "padding": 0, "dilation": 1}  # with the smallest values


def set_attributes(model: nn.Module, name: str, values: Mapping[str, Scalar | list[int]]) -> None:
    """Set attributes of a model's modules, by ``path.to.module.attribute``; weights keep their shapes.

    They are plain values that a module holds: numbers, text, true or false. Of a convolution it is stride, padding and
    dilation, one number for all axes or one for each.

    Args:
        model: in full precision, as timm built it.
        name: timm's, for errors.
        values: by path.

    Raises:
        UserError: there is no such module or attribute, its value is of another type, would need weights of another
            shape, or is this one already.
    """
    modules = {path: module for path, module in model.named_modules() if path}
    for path, value in values.items():
        where, _, attribute = path.rpartition(".")
        if where not in modules:
            raise _refused(path, str(unknown(f"module of {name}", where, modules)))
        _set(modules[where], path, attribute, value)


def _set(module: nn.Module, path: str, attribute: str, value: Scalar | list[int]) -> None:
    known = _settable(module)
    if attribute not in known:
        raise _refused(path, str(unknown(f"attribute of a {type(module).__name__} that can be set:", attribute, known)))
    now = getattr(module, attribute)
    if isinstance(module, _ConvNd):
        new = _of_convolution(path, attribute, value, axes=len(module.kernel_size))
    else:
        new = _like(path, now, value)
    if new == now:
        raise _refused(path, f"is {value} already; leave it out")
    setattr(module, attribute, new)


def _settable(module: nn.Module) -> list[str]:
    """Return the attributes of a module that hold plain values, but for those with which its weights' shapes go."""
    if isinstance(module, _ConvNd):
        return list(_OF_CONVOLUTIONS)
    weighs = any(parameter is not None for parameter in module._parameters.values())
    plain = (float,) if weighs else (bool, int, float, str)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name != "training"
        and (type(value) in plain or (not weighs and type(value) is tuple and all(type(each) is int for each in value)))
    ]


def _of_convolution(path: str, attribute: str, value: Any, *, axes: int) -> tuple[int, ...]:
    each = value if isinstance(value, list) else [value] * axes
    least = _OF_CONVOLUTIONS[attribute]
    if len(each) != axes or any(type(one) is not int or one < least for one in each):
        raise _refused(
            path, f"should be a whole number from {least} on, or {axes} of them, not {shortened(str(value))}"
        )
    return tuple(each)


def _like(path: str, now: Any, value: Any) -> Any:
    """Return a value in the type of the present one."""
    if isinstance(now, tuple) and isinstance(value, list) and len(value) == len(now):
        return tuple(value)
    if type(value) is type(now) or (type(now) is float and type(value) is int):
        return type(now)(value)
    told = f"{len(now)} whole numbers" if isinstance(now, tuple) else f"of type {type(now).__name__}"
    raise _refused(path, f"is {now} and should be {told}, not {shortened(str(value))}")


def _refused(path: str, why: str) -> UserError:
    return UserError(f"set.{shortened(path)} of a model: {why}; mend it under models in params.yaml")
