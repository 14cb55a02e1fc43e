"""`threed-gen export RUN --out DIR [--to-hub NAME]`: a run to keep or to publish."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from threed_gen.console import say
from threed_gen.errors import UserError
from threed_gen.training.export import export_run

REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def run(args: argparse.Namespace) -> int:
    """Write the folder, then upload it if a name is given."""
    if args.to_hub is not None and REPOSITORY.fullmatch(args.to_hub) is None:
        raise UserError(f"--to-hub: '{args.to_hub}' is no name on the Hub; give USER/MODEL")
    card = export_run(args.run, args.out, args.weights)
    say(f"{args.out}: {card.parameters:,} parameters of step {card.step:,}; the model card is "
        f"{args.out / 'README.md'}")  # fmt: skip
    if args.to_hub is not None:
        say(f"uploaded: {upload(args.out, args.to_hub)}")
    return 0


def upload(folder: Path, name: str) -> str:
    """Upload `folder` as the model repository `name`, private where it is new; returns its address.

    The token is the one that `hf auth login` stored.

    Raises:
        UserError: the Hub refused or could not be reached; the folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(name, repo_type="model", private=True, exist_ok=True)
        done = api.upload_folder(
            repo_id=name, folder_path=folder, repo_type="model", commit_message="threed-gen export"
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as err:
        raise UserError(
            f"{folder}: is written, but was not uploaded to {name} ({' '.join(str(err).split())}); "
            f"log in with `hf auth login`, then: hf upload {name} {folder}"
        ) from err
    return str(done.commit_url)
