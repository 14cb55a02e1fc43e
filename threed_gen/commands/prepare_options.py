"""The options of `threed-gen prepare`, in groups. Loads nothing heavy, as `--help` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = (
    "threed-gen prepare meshes/ data/ --resolution 64 128 --workers 8\n"
    "  threed-gen prepare procedural:1000:7 data/ --resolution 64\n"
    "  threed-gen prepare metadata.csv data/ --resolution 256 --min-score 5.5\n"
    "  threed-gen prepare objaverse:lvis:mug data/ --cache downloads/ --licence CC-BY,CC0 "
    "--resolution 256\n"
    "  threed-gen prepare meshes/ data/ --resolution 64 --views 24\n"
    "  threed-gen prepare meshes/ data/ --resolution 256 --retry-failed --timeout 3600\n"
    "  threed-gen prepare meshes/ data/ --resolution 256 --workers 32 --rank 0 --world-size 4\n"
    "  mpirun -n 65 threed-gen prepare meshes/ data/ --resolution 256 --mpi"
)


def add_prepare_options(parser: argparse.ArgumentParser) -> None:
    """SRC, OUT and everything else."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a folder of meshes (.glb .gltf .obj .ply .stl .off, searched deeply), a table of "
        "them (.csv or .parquet, or manifest:FILE), objaverse:… (docs/sources.md), or "
        "procedural[:COUNT[:SEED]] (default 120 shapes, seed 0)",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="where shards/ and the index go")
    parser.add_argument(
        "--resolution", metavar="R", type=int, nargs="+", required=True, help="multiples of 8"
    )
    parser.add_argument(
        "--workers", metavar="N", type=int, default=1, help="processes (default: 1)"
    )
    parser.add_argument(
        "--tau",
        metavar="T",
        type=float,
        help="truncation distance in units of the unit cube "
        "(default 4/R below 256, 1/128 for 256 to 512, 4/1024 at 1024)",
    )
    parser.add_argument(
        "--values", choices=("int8", "fp16"), default="int8", help="precision of stored distances"
    )
    parser.add_argument(
        "--open-surface",
        choices=("shell", "cap", "winding"),
        default="shell",
        help="what becomes of surfaces that enclose nothing: the thinnest shell (default), lids on "
        "all openings, or inside and outside by the winding number",
    )
    parser.add_argument(
        "--cap-extent",
        metavar="E",
        type=float,
        default=0.05,
        help="openings up to this part of the mesh's longest side are capped (default: 0.05)",
    )
    parser.add_argument(
        "--held-out",
        metavar="S",
        type=float,
        default=0.05,
        help="share of samples that is marked as held out, by a hash of the id (default: 0.05)",
    )
    parser.add_argument(
        "--no-report",
        action="store_true",
        help="do not write OUT/report.html, the page of the data",
    )
    _views(parser)
    _limits(parser)
    _ranks(parser)
    _selection(parser)


def _views(parser: argparse.ArgumentParser) -> None:
    """Pictures of every sample."""
    group = parser.add_argument_group(
        "views", "pictures of every sample, drawn after its grids; may be added later"
    )
    group.add_argument("--views", metavar="N", type=int, help="how many of each, for example 24")
    group.add_argument(
        "--view-law",
        choices=("trellis", "paper"),
        help="where cameras stand: all around (default), or elevation 10 to 40 degrees in front, "
        "as Direct3D-S2 has it",
    )
    group.add_argument(
        "--view-size", metavar="P", type=int, help="pixels (default: trellis 512, paper 1024)"
    )


def _limits(parser: argparse.ArgumentParser) -> None:
    """What one asset may take; good samples do not depend on it."""
    group = parser.add_argument_group(
        "limits", "an asset that exceeds them, or crashes, fails alone; the others go on"
    )
    group.add_argument(
        "--timeout", metavar="S", type=float, default=600.0, help="seconds (default: 600)"
    )
    group.add_argument(
        "--memory-mb", metavar="M", type=int, default=8192, help="memory in MB (default: 8192)"
    )
    group.add_argument(
        "--retry-failed",
        action="store_true",
        help="try again what failed (timeout, out_of_memory, crashed, network)",
    )


def _ranks(parser: argparse.ArgumentParser) -> None:
    """Several processes that share the work on one OUT."""
    group = parser.add_argument_group(
        "ranks",
        "Start the same command N times, on any nodes, with the same OUT. Each rank works on the\n"
        "assets that a hash of their id gives it, and the last one packs. Without these options\n"
        "the rank is taken from torchrun, mpirun, srun or a Slurm array job; `--rank 0\n"
        "--world-size 1` does everything that is left.",
    )
    add_rank_options(group, "one asset at a time, in a process of its own")


def add_rank_options(group: argparse._ArgumentGroup, each: str) -> None:
    """Who of several processes this one is; also those of `encode`."""
    group.add_argument("--rank", metavar="I", type=int, help="this process, from 0")
    group.add_argument("--world-size", metavar="N", type=int, help="how many there are")
    group.add_argument(
        "--mpi",
        action="store_true",
        help="under mpirun: rank 0 hands out the work as the others get free, to each "
        f"{each} (mpi4py.futures)",
    )


def _selection(parser: argparse.ArgumentParser) -> None:
    """Which assets of a source, and where they are found (docs/sources.md)."""
    group = parser.add_argument_group("sources", "docs/sources.md says more")
    group.add_argument(
        "--licence", metavar="A,B", help="only assets under these, for example CC-BY,CC0"
    )
    group.add_argument("--min-score", metavar="S", type=float, help="only with at least this score")
    group.add_argument(
        "--exclude", metavar="A,B", help="not those with these flags, for example is_scene"
    )
    group.add_argument("--limit", metavar="N", type=int, help="only the first N of what is left")
    group.add_argument(
        "--root", metavar="DIR", type=Path, help="table: its paths begin here (the table's folder)"
    )
    group.add_argument(
        "--cache", metavar="DIR", type=Path, help="objaverse: where downloads are kept"
    )
    group.add_argument(
        "--objaverse-url", metavar="URL", help="objaverse: a mirror of https://huggingface.co"
    )
