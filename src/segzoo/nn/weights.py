"""Weights that are worked out of others whenever they are used, such as those of spectral norm."""

from torch import nn
from torch.nn.utils import parametrize


def work_out_weights(network: nn.Module) -> None:
    """Put weights as they are now in the place of their parametrizations, in place: for a copy that only predicts.

    Torch's own `remove_parametrizations` would take them from the network that this is a copy of, too, since both
    share a class.
    """
    for part in list(network.modules()):
        if parametrize.is_parametrized(part):
            names = list(part.parametrizations)  # type: ignore[arg-type]  # a dict of modules
            values = {name: getattr(part, name).detach().clone() for name in names}
            part.__class__ = type(part).__bases__[0]  # torch has made the class for this module
            del part.parametrizations
            for name, value in values.items():
                part.register_parameter(name, nn.Parameter(value, requires_grad=False))
