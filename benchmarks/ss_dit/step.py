"""One training step: to a time of the path, the model in bf16, its loss, the gradient, AdamW.

As the trainer does it, less what reads files and draws numbers: weights and loss are fp32, matrix
products run under autocast, and the gradient is clipped before the optimiser takes it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.ss_dit.cases import Batch
from threed_gen.flow.loss import flow_loss
from threed_gen.flow.path import interpolate, velocity_target
from threed_gen.models.ss_dit import SSDiT
from threed_gen.sparse.sparse_tensor import SparseTensor

LEARNING_RATE, CLIP_NORM = 1e-4, 1.0  # the first stage of the paper; our configs


class TrainingStep:
    """A model, the batch that it sees in every step, and its optimiser."""

    def __init__(self, model: SSDiT, batch: Batch, half: bool) -> None:
        """half: bf16 where autocast takes it, else the precision of the weights."""
        self.model, self.batch, self.half = model, batch, half
        self.device = batch.x0.device
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=fused
        )

    def forward(self) -> Tensor:
        """The mean loss of the samples."""
        one = self.batch
        x_t = interpolate(one.x0, one.noise, one.t, one.lengths)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            velocity = self.model(SparseTensor(x_t, one.grid), one.t, one.condition).feats
        return flow_loss(velocity, velocity_target(one.x0, one.noise), one.lengths).mean()

    def forward_backward(self) -> Tensor:
        """The loss, its gradient in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward()
        loss.backward()
        return loss.detach()

    def gradients(self) -> dict[str, Tensor]:
        """Those of the last backward pass, by the parameter's name."""
        found = {}
        for name, parameter in self.model.named_parameters():
            assert parameter.grad is not None, f"{name} has no gradient"
            found[name] = parameter.grad
        return found

    def step(self) -> Tensor:
        """The loss, before the parameters moved."""
        loss = self.forward_backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        return loss
