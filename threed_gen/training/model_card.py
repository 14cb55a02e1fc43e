"""The model card of an exported run: what it is, trained on what, how good, how to load it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from threed_gen.training.run_config import RunConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

WHAT = {
    "ss_vae": "A sparse SDF autoencoder (SS-VAE): the narrow band of a shape's signed distance "
    "field to a few latents per 8³ cell, and back",
    "ss_dit": "A diffusion transformer over sparse latents (SS-DiT): from a picture or caption and "
    "the cells that a shape occupies to the latents of an SS-VAE",
    "structure_vae": "A dense autoencoder of the structure stage: which latent cells a shape has, "
    "to a small dense latent, and back",
    "structure_dit": "A dense diffusion transformer of the structure stage: from a picture or "
    "caption to the latent cells that a shape has",
}
USE = {
    "ss_vae": "threed-gen reconstruct chair.glb --run {name} --out rebuilt/",
    "ss_dit": "threed-gen generate chair.png --run {name} --out chair.glb",
    "structure_vae": "# a structure_dit run names it in structure.run",
    "structure_dit": "threed-gen generate chair.png --run RUN --structure {name} --out chair.glb",
}
CITATION = """\
@article{wu2025direct3ds2,
  title   = {Direct3D-S2: Gigascale 3D Generation Made Easy with Spatial Sparse Attention},
  author  = {Shuang Wu and Youtian Lin and Feihu Zhang and Yifei Zeng and Yikang Yang and
             Yajie Bao and Jiachen Qian and Siyu Zhu and Philip Torr and Xun Cao and Yao Yao},
  journal = {arXiv preprint arXiv:2505.17412},
  year    = {2025}
}"""


class Data(Protocol):
    """What a run was trained on."""

    @property
    def name(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def licences(self) -> Mapping[str, int]: ...


@dataclass(frozen=True)
class Card:
    """What a model card says."""

    name: str
    config: RunConfig
    step: int
    weights: str  # "ema", "model" or "only"
    parameters: int
    data: Data | None  # None: the index of its shards is not at hand
    metrics: dict[str, float]  # means of its evaluation


def render(card: Card) -> str:
    """The card as Markdown with the front matter that the Hugging Face Hub reads."""
    config = card.config
    kind = {"ema": "the moving average of the weights", "model": "the weights themselves"}
    of = kind.get(card.weights, "the weights")
    front = ["---", "library_name: threed-gen", "tags:", "- 3d", "- sdf", f"- {config.task}"]
    if config.task in ("ss_dit", "structure_dit"):
        front.append("pipeline_tag: image-to-3d")
    resolutions = ", ".join(f"{r}³" for r in config.data.resolutions)
    head = "\n".join([*front, "---"])
    return f"""\
{head}

# {card.name}

{WHAT[config.task]}. {card.parameters:,} parameters; resolution {resolutions}; {of} at step
{card.step:,}.

## Training data

{_trained_on(card.data)}

## Measured

{_measured(card.metrics)}

## Use

The folder is a run that can be read: for generation, reconstruction, evaluation, and to begin
another training with.

```
{USE[config.task].format(name=card.name)}
threed-gen train CONFIG --out RUN init_from.path={card.name}
```

`weights.safetensors` holds the tensors by the names of the trained module (the network's after
`model.`), `config.yaml` the sizes and everything else that the run was given.

## Citation

The architecture is that of Direct3D-S2:

```bibtex
{CITATION}
```
"""


def _trained_on(data: Data | None) -> str:
    if data is None:
        return (
            "Not known here: the index of the training data was not at hand at the export. State "
            "data and licence before publishing."
        )
    lines = [f"{data.samples:,} shapes of `{data.name}`, by licence:", ""]
    lines += ["| licence | shapes |", "|---|---|"]
    for licence, count in data.licences.items():
        lines.append(f"| {'none stated' if licence == '-' else licence} | {count:,} |")
    lines += ["", "State a licence of the weights that these allow before publishing."]
    return "\n".join(lines)


def _measured(metrics: dict[str, float]) -> str:
    if not metrics:
        return "Not measured. `threed-gen evaluate` does it."
    lines = ["Means over the shapes of the evaluation:", "", "| metric | mean |", "|---|---|"]
    lines += [
        f"| {name} | {json.dumps(float(f'{value:.4g}'))} |" for name, value in metrics.items()
    ]
    return "\n".join(lines)
