"""Names and shapes of the released checkpoints, written down from their description alone.

Independent of the networks here: plain loops over the layers, one dict per network. `checkpoint`
fills them with numbers in the released mixture of fp16 and fp32, which is told by names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from threed_gen.models.layers.position import position_embedding

Shapes = dict[str, tuple[int, ...]]

# Under use_fp16 everything is half but these.
FP32 = re.compile(
    r"(act_layers\.0|out_layers\.1)\.(weight|bias)$"  # group norms
    r"|norm[12]\.(weight|bias)$|_norm\.gamma$|intra_block_pe$|pos_emb$"
)
FP32_DENSE_VAE = re.compile(r"^encoder\.(input_layer|out_layer)\.|out_layer\.0\.|norm[12]\.")


def linear(name: str, out: int, inside: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, inside)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def sparse_conv(name: str, inside: int, out: int) -> Shapes:
    return {f"{name}.conv.kernel": (27, inside, out), f"{name}.conv.bias": (out,)}


def point_conv(name: str, inside: int, out: int) -> Shapes:
    return {f"{name}.conv.kernel": (inside, out), f"{name}.conv.bias": (out,)}


def dense_conv(name: str, inside: int, out: int, size: int = 3) -> Shapes:
    return {f"{name}.weight": (out, inside, size, size, size), f"{name}.bias": (out,)}


def sparse_vae(width: int = 512, latents: int = 16, blocks: int = 4) -> Shapes:
    def transformer(side: str) -> Shapes:
        found: Shapes = {}
        for i in range(blocks):
            at = f"{side}.blocks.{i}"
            found |= linear(f"{at}.attn.to_qkv", 3 * width, width)
            found |= linear(f"{at}.attn.to_out", width, width)
            found |= linear(f"{at}.mlp.mlp.0", 4 * width, width)
            found |= linear(f"{at}.mlp.mlp.2", width, 4 * width)
        return found

    widths = [width // 16, width // 8, width // 4, width]
    shapes = linear("encoder.input_layer1", widths[0], 1)
    for i in range(3):
        at, a, b = f"encoder.downsample.{i}", widths[i], widths[i + 1]
        shapes |= norm(f"{at}.act_layers.0", a) | sparse_conv(f"{at}.out_layers.0", a, b)
        shapes |= norm(f"{at}.out_layers.1", b) | sparse_conv(f"{at}.out_layers.3", b, b)
        shapes |= point_conv(f"{at}.skip_connection", a, b)
    shapes |= linear("encoder.input_layer", width, width) | transformer("encoder")
    shapes |= linear("encoder.out_layer", 2 * latents, width)
    shapes |= linear("decoder.input_layer", width, latents) | transformer("decoder")
    widths = [width, width // 4, width // 8, width // 16]
    for i in range(3):
        at, a, b = f"decoder.upsample.{i}", widths[i], widths[i + 1]
        shapes |= sparse_conv(f"{at}.act_layers.0", a, b) | sparse_conv(f"{at}.out_layers.0", b, b)
    return shapes | linear("decoder.out_layer", 1, widths[3])


def cross_block(at: str, width: int, context: int) -> Shapes:
    """What the blocks of both transformers share."""
    shapes = norm(f"{at}.norm2", width) | linear(f"{at}.cross_attn.to_q", width, width)
    shapes |= linear(f"{at}.cross_attn.to_kv", 2 * width, context)
    shapes |= linear(f"{at}.cross_attn.to_out", width, width)
    shapes |= linear(f"{at}.mlp.mlp.0", 4 * width, width)
    shapes |= linear(f"{at}.mlp.mlp.2", width, 4 * width)
    return shapes | linear(f"{at}.adaLN_modulation.1", 6 * width, width)


def outer(width: int, channels: int) -> Shapes:
    shapes = linear("t_embedder.mlp.0", width, 256) | linear("t_embedder.mlp.2", width, width)
    return shapes | linear("input_layer", width, channels) | linear("out_layer", channels, width)


def sparse_dit(
    version: str, width: int = 1024, context: int = 1024, latents: int = 16, blocks: int = 24,
    shared: int = 64,
) -> Shapes:  # fmt: skip
    """version: "v1" (release 1.1) or "v2" (1.0); shared: kv heads × head dim."""
    shapes, cell = outer(width, latents), {"v1": 8, "v2": 4}[version]
    if version == "v2":
        shapes |= linear("cond_proj", context, context)
    for i in range(blocks):
        at = f"blocks.{i}"
        shapes |= cross_block(at, width, context)
        at += ".self_attn"
        shapes[f"{at}.intra_block_pe"] = (cell, cell, cell, shared)
        for name, out in (("q", width), ("k", shared), ("v", shared), ("o", width)):
            shapes |= linear(f"{at}.proj_{name}", out, width, bias=False)
        shapes |= linear(f"{at}.gate.0", 3, width, bias=False)
        for name in ("key", "value"):
            to = f"{at}.compression_{name}"
            if version == "v1":
                shapes |= point_conv(f"{to}.act_layers.0", shared, shared)
                continue
            shapes |= norm(f"{to}.act_layers.0", shared) | norm(f"{to}.out_layers.1", shared)
            shapes |= sparse_conv(f"{to}.out_layers.0", shared, shared)
            shapes |= sparse_conv(f"{to}.out_layers.3", shared, shared)
    return shapes


def dense_dit(
    width: int = 1024, context: int = 1024, latents: int = 8, blocks: int = 24, heads: int = 16,
    grid: int = 16,
) -> Shapes:  # fmt: skip
    shapes = outer(width, latents) | {"pos_emb": (grid**3, width)}
    for i in range(blocks):
        at = f"blocks.{i}"
        shapes |= cross_block(at, width, context)
        shapes |= linear(f"{at}.self_attn.to_qkv", 3 * width, width)
        shapes |= linear(f"{at}.self_attn.to_out", width, width)
        for name in ("q", "k"):
            shapes[f"{at}.self_attn.{name}_rms_norm.gamma"] = (heads, width // heads)
    return shapes


def dense_vae(
    encoder: tuple[int, ...] = (32, 128, 512), decoder: tuple[int, ...] = (512, 128, 64),
    latents: int = 8, depth: tuple[int, int] = (2, 4), middle: tuple[int, int] = (2, 4),
) -> Shapes:  # fmt: skip
    def residual(at: str, width: int) -> Shapes:
        shapes = norm(f"{at}.norm1", width) | norm(f"{at}.norm2", width)
        shapes |= dense_conv(f"{at}.conv1", width, width)
        return shapes | dense_conv(f"{at}.conv2", width, width)

    def side(name: str, first: int, last: int, widths: tuple[int, ...], which: int) -> Shapes:
        shapes = dense_conv(f"{name}.input_layer", first, widths[0])
        number = 0
        for level, width in enumerate(widths):
            for _ in range(depth[which]):
                shapes |= residual(f"{name}.blocks.{number}", width)
                number += 1
            if level < 2:
                at, then = f"{name}.blocks.{number}.conv", widths[level + 1]
                if which == 0:
                    shapes |= dense_conv(at, width, then, 2)
                else:
                    shapes |= dense_conv(at, width, 8 * then)
                number += 1
        for i in range(middle[which]):
            shapes |= residual(f"{name}.middle_block.{i}", widths[-1 if which == 0 else 0])
        shapes |= norm(f"{name}.out_layer.0", widths[-1])
        return shapes | dense_conv(f"{name}.out_layer.2", widths[-1], last)

    return side("encoder", 1, 2 * latents, encoder, 0) | side("decoder", latents, 1, decoder, 1)


def halved(name: str, is_dense_vae: bool) -> bool:
    return not (FP32_DENSE_VAE if is_dense_vae else FP32).search(name)


def checkpoint(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Numbers for a network, in the released precision; pos_emb is the table it is."""
    draw = torch.Generator().manual_seed(seed)
    dense = "encoder.middle_block.0.norm1.weight" in shapes
    state = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=draw) * 0.1
        if name == "pos_emb":
            side = torch.arange(round(shape[0] ** (1 / 3)))
            coords = torch.stack(torch.meshgrid(side, side, side, indexing="ij"), -1).view(-1, 3)
            tensor = position_embedding(coords, shape[1], 1.0)
        state[name] = tensor.half() if halved(name, dense) else tensor
    return state


def released_config(version: str) -> dict[str, Any]:
    """The sections of the released config.yaml, "1.0" or "1.1"."""
    return yaml.safe_load((Path(__file__).parent / f"config-{version}.yaml").read_text())


WIDTH, LATENTS, CONTEXT, SHARED = 64, 2, 64, 32


def tiny_release(folder: Path, version: str) -> dict[str, dict[str, dict[str, torch.Tensor]]]:
    """Write a whole release with small networks; returns its tensors by file and part."""
    sections = released_config(version)
    for name, sizes in {
        "dense_vae": {"embed_dim": 2, "model_channels_encoder": [2, 3, 4],
                      "model_channels_decoder": [4, 3, 2], "num_res_blocks_encoder": 1,
                      "num_res_blocks_decoder": 1, "num_res_blocks_middle_encoder": 1,
                      "num_res_blocks_middle_decoder": 1},
        "dense_dit": {"in_channels": 2, "out_channels": 2, "model_channels": 24, "num_blocks": 1,
                      "cond_channels": CONTEXT, "num_heads": 2, "latent_shape": [2, 16, 16, 16]},
    }.items():  # fmt: skip
        sections[name]["params"] |= sizes
    vae = {"embed_dim": LATENTS, "num_blocks_encoder": 1, "num_blocks_decoder": 1}
    for side in ("encoder", "decoder"):
        vae |= {f"model_channels_{side}": WIDTH, f"num_heads_{side}": 2}
        vae |= {f"num_head_channels_{side}": 32}
    dit = {"in_channels": LATENTS, "out_channels": LATENTS, "model_channels": WIDTH,
           "cond_channels": CONTEXT, "num_blocks": 2, "num_heads": 4}  # fmt: skip
    for resolution in (512, 1024):
        sections[f"sparse_vae_{resolution}"]["params"] |= vae
        sections[f"sparse_dit_{resolution}"]["params"] |= dit
    kind = {"1.0": "v2", "1.1": "v1"}[version]
    files: dict[str, dict[str, dict[str, torch.Tensor]]] = {
        "model_dense.ckpt": {
            "vae": checkpoint(dense_vae((2, 3, 4), (4, 3, 2), 2, (1, 1), (1, 1)), 1),
            "dit": checkpoint(dense_dit(24, CONTEXT, 2, 1, 2), 2),
        }
    }
    for number, resolution in enumerate((512, 1024)):
        files[f"model_sparse_{resolution}.ckpt"] = {
            "vae": checkpoint(sparse_vae(WIDTH, LATENTS, 1), 3 + number),
            "dit": checkpoint(sparse_dit(kind, WIDTH, CONTEXT, LATENTS, 2, SHARED), 5 + number),
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(sections, sort_keys=False))
    for name, parts in files.items():
        torch.save(parts, folder / name)
    for name in ("model_refiner.ckpt", "model_refiner_1024.ckpt"):
        torch.save({"refiner": {"conv_in.weight": torch.zeros(8, 1, 3, 3, 3)}}, folder / name)
    return files
