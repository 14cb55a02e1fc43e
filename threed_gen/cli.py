"""The `threed-gen` command: what can be asked, in words; the answers are in `commands/`.

Nothing heavy is imported here, so that `threed-gen --help` answers at once. Each command's module
is imported when the command runs. A problem the user can cure ends as one line and an exit code
(docs/exit-codes.md), without a traceback.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from threed_gen.commands import (
    convert_options,
    doctor_options,
    encode_options,
    evaluate_options,
    export_options,
    generate_options,
    inspect_options,
    launch_options,
    prepare_options,
)
from threed_gen.commands.generate_options import FORMATS
from threed_gen.commands.numbers import count
from threed_gen.errors import EXIT_OK, UserError, disk_errors

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PIPE = 128 + signal.SIGPIPE
WRONG_PATH = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}

DESCRIPTION = """\
Meshes in, trained sparse 3D shape models out, meshes back.

  threed-gen doctor                                     what this machine can do
  threed-gen prepare meshes/ data/ --resolution 64      meshes → shards
  threed-gen train configs/ss_vae/tiny.yaml --out runs/first data.path=data/
  threed-gen evaluate runs/first && threed-gen report runs/first
  threed-gen generate photo.png --run runs/ss_dit --out mesh.glb
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = parse(argv)
    # These are read when torch loads: on a machine with little to spare, OpenMP threads that spin
    # while they wait make every step ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        return run(args)
    except UserError as err:
        return fail(f"error: {err}", err.exit_code)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return fail(f"stopped. {args.after_interrupt}", EXIT_INTERRUPTED)
    except BrokenPipeError:  # `threed-gen inspect … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE


def run(args: argparse.Namespace) -> int:
    """Import the command's module and run it; a full disk or a wrong path becomes one line."""
    command = importlib.import_module(f"threed_gen.commands.{args.command}")
    try:
        return int(command.run(args) or EXIT_OK)
    except OSError as err:
        if err.errno in WRONG_PATH and err.filename is not None:
            raise UserError(f"{err.filename}: {err.strerror}; choose another path") from err
        with disk_errors(err.filename or "the disk", "a file"):
            raise


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; overrides of `train CONFIG --out RUN key=value` may stand anywhere."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if args.command in (
        "train",
        "launch",
        "inspect",
    ):  # argparse takes no more positionals after the first option
        args.overrides += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def fail(message: str, code: int) -> int:
    """One line on stderr, whatever the message holds."""
    print(f"threed-gen: {' '.join(message.split())}", file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """All commands and options; tests/test_cli.py freezes the list."""
    from threed_gen import __version__

    parser = argparse.ArgumentParser(
        prog="threed-gen",
        usage="threed-gen COMMAND [...]",
        description=DESCRIPTION,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"threed-gen {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND [...]", required=True, prog="threed-gen"
    )
    for add in (
        _doctor,
        _prepare,
        _inspect,
        _train,
        _launch,
        _resume,
        _encode,
        _generate,
        _reconstruct,
        _evaluate,
        _report,
        _view,
        _convert,
        _export,
        _quickstart,
    ):
        add(commands)
    return parser


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)


Commands = argparse._SubParsersAction
SAME_AGAIN = "The same command goes on where it stopped."


def _command(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    summary: str,
    example: str,
    after_interrupt: str = "Nothing was lost; run it again.",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=_Help,
    )
    parser.set_defaults(after_interrupt=after_interrupt)
    return parser


def _doctor(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "doctor",
        "what this machine can do, what is missing, and the cure",
        doctor_options.EXAMPLES,
    )
    doctor_options.add_doctor_options(parser)


def _prepare(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "turn meshes into shards of sparse signed distance fields"
    prepare_options.add_prepare_options(
        _command(commands, "prepare", summary, prepare_options.EXAMPLES, SAME_AGAIN)
    )


def _inspect(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "look at prepared data, a config, a run, a mesh, or the plan of an epoch"
    parser = _command(commands, "inspect", summary, inspect_options.EXAMPLES)
    inspect_options.add_inspect_options(parser)


def _train(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "train",
        "start a training run",
        "threed-gen train configs/ss_vae/tiny.yaml --out runs/first train.steps=500\n"
        "  torchrun --nproc-per-node 2 threed_gen/train.py --config configs/ss_vae/tiny.yaml "
        "--out runs/two",
        "`threed-gen resume RUN` goes on from the newest checkpoint.",
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, as in configs/ss_vae/")
    parser.add_argument("--out", metavar="RUN", type=Path, required=True, help="run directory")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="changes to the config: train.steps=500"
    )


def _launch(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "start or resume a run on several nodes: Slurm, deepspeed, mpirun, torchrun"
    after = "Its ranks were ended; `threed-gen launch RUN …` goes on from the newest checkpoint."
    launch_options.add_launch_options(
        _command(commands, "launch", summary, launch_options.EXAMPLES, after)
    )


def _resume(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "resume",
        "go on with a run from its newest whole checkpoint",
        "threed-gen resume runs/first",
        "`threed-gen resume RUN` goes on from the newest checkpoint.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run directory")
    parser.add_argument(
        "--fresh", action="store_true", help="allow step 0 when no checkpoint is whole"
    )


def _encode(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "write the latents of prepared shapes, as a trained SS-VAE says them"
    parser = _command(commands, "encode", summary, encode_options.EXAMPLES, SAME_AGAIN)
    encode_options.add_encode_options(parser)


def _generate(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "make meshes from images, with a trained SS-DiT"
    generate_options.add_generate_options(
        _command(commands, "generate", summary, generate_options.EXAMPLES)
    )


def _reconstruct(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "reconstruct",
        "send meshes through a trained SS-VAE and back",
        "threed-gen reconstruct chair.glb mug.obj --run runs/first --out rebuilt/ --format glb",
    )
    parser.add_argument("meshes", metavar="MESH", type=Path, nargs="+")
    parser.add_argument("--run", metavar="RUN", type=Path, required=True, help="trained run")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument("--format", choices=FORMATS, default="ply", help="of the files (ply)")


def _evaluate(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "measure a run on its shapes, or meshes against their truth"
    parser = _command(commands, "evaluate", summary, evaluate_options.EXAMPLES)
    evaluate_options.add_evaluate_options(parser)


def _report(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "report",
        "write report.html: curves, numbers and 3D shapes in one offline file",
        "threed-gen report runs/first\n  threed-gen report data/",
    )
    parser.add_argument(
        "run", metavar="RUN|DATA", type=Path, help="run directory, or a folder of prepared data"
    )


def _convert(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "turn Direct3D-S2's released weights into runs, or runs into such a release"
    parser = _command(commands, "convert", summary, convert_options.EXAMPLES)
    convert_options.add_convert_options(parser)


def _export(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "write a run's weights, config and a model card, to keep or to publish"
    parser = _command(commands, "export", summary, export_options.EXAMPLES)
    export_options.add_export_options(parser)


def _view(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "view",
        "serve a run's page, or meshes to be turned, on this machine only",
        "threed-gen view runs/first\n  threed-gen view generated/ --port 8000\n"
        "  threed-gen view generated.glb chair.obj",
    )
    parser.add_argument("what", metavar="RUN|FOLDER|FILE", type=Path, nargs="+")
    parser.add_argument(
        "--port", metavar="N", type=count, default=0, help="(default: any that is free)"
    )


def _quickstart(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "quickstart",
        "the whole way once: from meshes to a mesh made from a picture",
        "threed-gen quickstart\n  threed-gen quickstart --meshes my_meshes/",
        SAME_AGAIN,
    )
    parser.add_argument(
        "--meshes", metavar="DIR", type=Path, help="your own meshes (default: 12 made here)"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("runs/quickstart"), help="%(default)s"
    )


if __name__ == "__main__":
    sys.exit(main())
