"""Make the project's own `.venv` and install everything into it: `make setup` runs this file.

It runs on the system's Python with nothing installed, so it uses the standard library alone. It
needs no root, no compiler and no GPU; it says how much will be downloaded before it starts; and it
chooses the right torch: the CPU build on a machine without an NVIDIA GPU, else the CUDA build that
fits the driver. A second run finds its stamp in `.venv` and returns at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"
TORCH_INDEX = "https://download.pytorch.org/whl/"
STAMP = "threed-gen-setup.json"
OLDEST = (3, 10)
SPCONV_NEWEST = (3, 11)  # the newest Python that spconv-cu120 has wheels for

# Sizes in MB, summed over the wheels that pip chose (Linux x86-64, Python 3.11). The CUDA build's
# size on disk is an estimate, the others are measured.
DOWNLOAD_REST = 404  # everything but torch and spconv; warp-lang is half of it
DOWNLOAD_TORCH = {"cpu": 481, "cuda": 2750}  # triton (286 MB) included
DOWNLOAD_SPCONV = 105
INSTALLED = {"cpu": 3715, "cuda": 7415}


class SetupError(Exception):
    """Something that stops the set-up; the message says what to do about it."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that can make the environment: where it is, which version, whether venv works."""

    path: str
    version: tuple[int, int]
    has_venv: bool


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make setup", description=__doc__.split("\n\n")[0])
    parser.add_argument("--python", help="the Python that .venv is made from (default: best found)")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="default: .venv")
    parser.add_argument("--constraints", type=Path, help="pip's file of exact versions, for CI")
    args = parser.parse_args(argv)
    try:
        set_up(args.venv.absolute(), args.python, args.constraints)
    except SetupError as err:
        print(f"set-up: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nset-up: stopped. The same command goes on; downloads are kept.", file=sys.stderr)
        return 130
    return 0


def set_up(venv: Path, python: str | None, constraints: Path | None = None) -> None:
    """Bring `venv` up to date with setup.py, or return at once when it is."""
    if constraints is not None and not constraints.is_file():
        raise SetupError(f"--constraints {constraints}: there is no such file")
    stamp = venv / STAMP
    key = fingerprint(python, constraints)
    before = read_stamp(stamp)
    if before.get("key") == key and (venv / "bin/python").exists():
        return
    start = time.monotonic()
    interpreter = choose_python(python)
    moved = before.get("root", str(ROOT)) != str(ROOT)
    make_venv(venv, interpreter, clear=moved)
    own = venv_python(venv)

    gpu = has_nvidia_gpu()
    official = answers(TORCH_INDEX)
    spconv = on_linux_x86() and interpreter.version <= SPCONV_NEWEST
    build = torch_build(own, gpu=gpu, official=official)
    announce(venv, interpreter, gpu=gpu, official=official, build=build, spconv=spconv)
    check_disk(venv, INSTALLED[build] + 500)

    install_torch(own, official)
    extras = "dev,cu120" if spconv else "dev"
    step(f"[2/2] threed-gen and its libraries: pip install -e .[{extras}]")
    pip(own, "install", "-e", f"{ROOT}[{extras}]", f"torch=={TORCH}", *pinned(constraints, build))
    versions = output(own, "-c", "import torch; print(torch.__version__)")
    if versions is None:
        raise SetupError("torch was installed but does not start; see the message above")
    record = {"key": key, "root": str(ROOT), "torch": versions, "extras": extras}
    temporary = stamp.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(stamp)
    step(f"set-up done in {time.monotonic() - start:.0f} s: {venv / 'bin/threed-gen'} --help")


def pinned(constraints: Path | None, build: str) -> list[str]:
    """What makes pip keep to `constraints`. They pin Triton, and torch's CUDA build its own one."""
    if constraints is None:
        return []
    if build == "cuda":
        step(f"      {constraints} is left out: torch's CUDA build chooses its own Triton")
        return []
    return ["--constraint", str(constraints)]


def fingerprint(python: str | None, constraints: Path | None = None) -> str:
    """Changes whenever a second run would have something to do."""
    digest = hashlib.sha256(f"{ROOT}\n{python}\n".encode())
    for name in ("setup.py", "launcher/bootstrap.py"):
        digest.update((ROOT / name).read_bytes())
    if constraints is not None:
        digest.update(constraints.read_bytes())
    return digest.hexdigest()


def read_stamp(stamp: Path) -> dict[str, str]:
    try:
        record = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def choose_python(wanted: str | None) -> Interpreter:
    """`wanted`, or the best Python found; on Linux x86-64 one that spconv has wheels for."""
    if wanted is not None:
        found = probe(wanted)
        if found is None:
            raise SetupError(f"--python {wanted}: this is not a Python that runs")
        if found.version < OLDEST:
            raise SetupError(f"--python {wanted} is Python {dotted(found.version)}; 3.10 is needed")
        return found
    names = ["python3.11", "python3.10"] if on_linux_x86() else []
    for name in [*names, sys.executable, "python3.13", "python3.12", "python3.11", "python3.10"]:
        found = probe(name)
        if found is not None and found.version >= OLDEST and found.has_venv:
            return found
    if sys.version_info[:2] >= OLDEST:  # right version, but venv is missing: make_venv explains
        return Interpreter(sys.executable, sys.version_info[:2], has_venv=False)
    raise SetupError(
        f"Python 3.10 or newer is needed, and only {platform.python_version()} was found. "
        "Install python3.11 (or, without root: https://docs.astral.sh/uv then "
        "`uv python install 3.11`) and run `make setup PYTHON=/path/to/python3.11`"
    )


def probe(name: str) -> Interpreter | None:
    """What the Python called `name` is, or None when there is none (pyenv leaves dead names)."""
    code = (
        "import sys, importlib.util as u, json; print(json.dumps([sys.executable,"
        " *sys.version_info[:2], bool(u.find_spec('venv') and u.find_spec('ensurepip'))]))"
    )
    text = output(name, "-c", code)
    if text is None:
        return None
    path, major, minor, has_venv = json.loads(text)
    return Interpreter(path, (major, minor), has_venv)


def make_venv(venv: Path, interpreter: Interpreter, *, clear: bool) -> None:
    """Create the environment when it is not there (or was copied from another place)."""
    if venv.exists() and not clear:
        if output(venv_python(venv), "-m", "pip", "--version") is None:
            raise SetupError(f"{venv} is broken (its pip does not run): rm -r it and try again")
        return
    if not interpreter.has_venv:
        package = f"python{dotted(interpreter.version)}-venv"
        raise SetupError(
            f"{interpreter.path} cannot make virtual environments: on Debian and Ubuntu "
            f"`apt install {package}`; without root, https://docs.astral.sh/uv then "
            "`uv python install 3.11` and `make setup PYTHON=$(uv python find 3.11)`"
        )
    if subprocess.run([interpreter.path, "-m", "venv", "--clear", str(venv)]).returncode != 0:
        raise SetupError(f"{interpreter.path} -m venv {venv} failed; see the message above")


def has_nvidia_gpu() -> bool:
    if Path("/proc/driver/nvidia/version").exists():
        return True
    smi = shutil.which("nvidia-smi")
    return smi is not None and bool(output(smi, "-L"))


def answers(url: str, seconds: float = 5.0) -> bool:
    """Whether `url` can be reached soon; name lookup has no time limit of its own, so a thread."""
    reached: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds):  # noqa: S310 - a constant https address
                reached.append(True)
        except urllib.error.HTTPError:
            reached.append(True)  # it answered
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 2)
    return bool(reached)


def torch_build(own: str, *, gpu: bool, official: bool) -> str:
    """`cpu` or `cuda`: the build that will be installed, as far as it can be known beforehand."""
    if official:
        return "cuda" if gpu else "cpu"
    if sys.platform == "darwin":
        return "cpu"
    wanted = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet"]
    report = output(own, "-m", "pip", *wanted, "--report", "-", f"torch=={TORCH}")
    try:
        version = str(json.loads(report or "")["install"][0]["metadata"]["version"])
    except (ValueError, LookupError):
        return "cuda"  # the larger figure is the honest guess
    return "cpu" if version.endswith("+cpu") else "cuda"


def announce(
    venv: Path, python: Interpreter, *, gpu: bool, official: bool, build: str, spconv: bool
) -> None:
    """What will happen and how much it downloads, before it starts."""
    size = DOWNLOAD_REST + DOWNLOAD_TORCH[build] + (DOWNLOAD_SPCONV if spconv else 0)
    seen = "an NVIDIA GPU" if gpu else "no NVIDIA GPU"
    source = "PyTorch's own index" if official else "the configured package index"
    why = "" if official else " (download.pytorch.org does not answer)"
    step(f"threed-gen set-up → {venv}")
    step(f"  Python    {dotted(python.version)} ({python.path})")
    step(f"  torch     {TORCH}, {build.upper()} build: {seen} here; from {source}{why}")
    step(f"  spconv    {'cu120' if spconv else 'left out: ' + spconv_reason(python)}")
    step(f"  download  about {size:,} MB; {INSTALLED[build] / 1000:.1f} GB on disk, no root")


def spconv_reason(python: Interpreter) -> str:
    if not on_linux_x86():
        return "it has wheels for Linux x86-64 only; our own convolution takes its place"
    return (
        f"spconv-cu120 has no wheel for Python {dotted(python.version)} (3.11 is the newest); "
        "our own convolution takes its place"
    )


def check_disk(venv: Path, megabytes: int) -> None:
    free = shutil.disk_usage(venv).free / 1e6
    if free < megabytes:
        raise SetupError(
            f"{venv}: {megabytes / 1000:.1f} GB of free disk are needed, {free / 1000:.1f} GB are "
            "left. Free some space, or put the environment elsewhere: make setup VENV=/other/disk"
        )


def install_torch(own: str, official: bool) -> None:
    """torch first: everything after it accepts the build that is already there."""
    step(f"[1/2] torch {TORCH}")
    if official:
        # uv knows which of PyTorch's indexes fits this machine's driver.
        pip(own, "install", "--quiet", "uv")
        command = [own, "-m", "uv", "pip", "install", "--python", own, "--torch-backend=auto"]
        if subprocess.run([*command, f"torch=={TORCH}"]).returncode == 0:
            return
        step("      PyTorch's own index failed; taking torch from the configured package index")
    pip(own, "install", f"torch=={TORCH}")


def pip(own: str, *arguments: str) -> None:
    """Run pip with its progress visible."""
    command = [own, "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command).returncode != 0:
        raise SetupError(
            f"`pip {' '.join(arguments)}` failed; its message is above. Usually the network: the "
            "same command goes on where it stopped (behind a proxy, set HTTPS_PROXY)"
        )


def output(program: str, *arguments: str) -> str | None:
    """What a program prints, or None when it fails."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def venv_python(venv: Path) -> str:
    return str(venv / "bin" / "python")


def on_linux_x86() -> bool:
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")


def dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def step(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
