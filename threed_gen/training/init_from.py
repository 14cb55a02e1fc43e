"""Beginning with trained weights: the last stage of a progressive training, or a weights file.

Strict unless `init_from.partial`: a name or shape that does not match is an error that lists all of
them. With `partial` what fits is taken, and every name that does not is printed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from threed_gen.errors import UserError
from threed_gen.models.weights import mismatches, read_weights_file, wanted
from threed_gen.training.load import newest_of, weights_of
from threed_gen.training.run_config import InitFrom

SHOWN = 12  # mismatches that an error lists


def load_initial(module: nn.Module, init: InitFrom) -> list[str]:
    """Copy the weights that `init` names into the trained module; returns lines to print.

    Raises:
        UserError: no such run or file, or, without `partial`, weights that do not fit.
    """
    path = Path(init.path)
    if path.is_dir():
        _, checkpoint = newest_of(path)
        found, source = weights_of(checkpoint, init.weights), f"{checkpoint.path} ({init.weights})"
    else:
        found, source = _named_like(module, read_weights_file(path)), str(path)
    own = wanted(module, found)
    problems = mismatches(own, found)
    if problems and not init.partial:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"init_from: {source}: the weights do not fit: {'; '.join(problems[:SHOWN])}{more}. "
            "Give the model the same sizes, or set init_from.partial=true to take what fits"
        )
    fitting = [name for name in own if name in found and found[name].shape == own[name].shape]
    if not fitting:
        raise UserError(f"init_from: {source}: not one tensor fits this model")
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(found[name])
    return [
        f"init_from: {len(fitting)} of {len(own)} tensors from {source}",
        *(f"  init_from: {line}" for line in problems),
    ]


def _named_like(module: nn.Module, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file of the model alone lacks the first part of the trained module's names."""
    own = module.state_dict()
    if any(name in own for name in found):
        return found
    return {f"model.{name}": value for name, value in found.items()}
