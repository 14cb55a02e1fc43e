"""Encoded samples that wait for their place in a shard: one file each, in OUT/latents/work.

Where a sample will lie depends on the sizes of all before it, so when several ranks encode, each
leaves its samples here, and the one that finds all of them done packs. Files are whole or absent;
each begins with a checksum, and one that does not match it is as good as absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from threed_gen.data.claim import WORK
from threed_gen.data.dataset import SDFDataset
from threed_gen.data.latents.index import LatentParams, params_of
from threed_gen.data.latents.latent import Latent, OnBadSample, Reject, latents_of
from threed_gen.data.latents.parts import Packed, refuse_others
from threed_gen.data.latents.payload import encode_latent, rounded
from threed_gen.data.latents.statistics import Moments
from threed_gen.data.table import MISFITS
from threed_gen.files import remove_temporaries, write_atomically

PARAMS_NAME = "encode.json"


@dataclass(frozen=True)
class Packer:
    """Encodes samples of a data set into what is stored of them; `encode` gives (i, resolution)."""

    dataset: SDFDataset
    params: LatentParams
    encode: Callable[[int, int], Latent]
    on_bad_sample: OnBadSample

    def packed(self, i: int) -> Packed | Reject:
        """Sample i at all resolutions; CorruptSampleError under `stop`."""
        params, name = self.params, self.dataset.entry(i).id
        latents = latents_of(
            name,
            params.resolutions,
            lambda resolution: rounded(
                self.encode(i, resolution), name, params.values, params.store
            ),
            self.on_bad_sample,
        )
        if isinstance(latents, Reject):
            return latents
        return Packed(
            name,
            {latent.resolution: encode_latent(latent, params.values) for latent in latents},
            {latent.resolution: latent.num_tokens for latent in latents},
            {x.resolution: Moments.of(x.mean, x.logvar).to_text() for x in latents},
        )


class WaitingSamples:
    """The files of `folder`/work."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / WORK

    def insist(self, params: LatentParams) -> None:
        """UserError if what waits was encoded with other parameters; else these are recorded."""
        path = self.work / PARAMS_NAME
        with suppress(FileNotFoundError, *MISFITS):
            refuse_others(self.folder, params_of(json.loads(path.read_bytes())), params)
            return
        content = json.dumps(asdict(params), indent=2) + "\n"
        write_atomically(path, content.encode(), "the parameters")

    def found(self) -> set[str]:
        """The names of all files, to be compared with `name_of`."""
        names: set[str] = set()
        for folder in self._folders():
            names.update(path.name for path in folder.iterdir() if not path.name.startswith("."))
        return names

    def write(self, sample: Packed | Reject) -> None:
        """Make one sample durable."""
        head: dict[str, object]
        blobs: list[bytes] = []
        if isinstance(sample, Reject):
            head = {"reject": asdict(sample)}
        else:
            blobs += sample.payloads.values()
            head = {
                "id": sample.id,
                "sizes": {r: len(blob) for r, blob in sample.payloads.items()},
                "tokens": sample.tokens,
                "moments": sample.moments,
            }
        content = b"\n".join([json.dumps(head).encode(), b"".join(blobs)])
        digest = hashlib.sha256(content).hexdigest().encode()
        write_atomically(self._path(sample.id), digest + b"\n" + content, "a latent")

    def read(self, name: str) -> Packed | Reject | None:
        """The sample of that id; None if it does not wait here, or is damaged."""
        try:
            digest, content = self._path(name).read_bytes().split(b"\n", 1)
        except (FileNotFoundError, ValueError):
            return None
        if hashlib.sha256(content).hexdigest().encode() != digest:
            return None
        text, blob = content.split(b"\n", 1)
        head = json.loads(text)
        if "reject" in head:
            return Reject(**head["reject"])
        payloads, start = {}, 0
        for resolution, size in head["sizes"].items():
            payloads[int(resolution)] = blob[start : start + size]
            start += size
        tokens = {int(r): count for r, count in head["tokens"].items()}
        moments = {int(r): text for r, text in head["moments"].items()}
        return Packed(head["id"], payloads, tokens, moments)

    def remove_temporaries(self) -> None:
        """Delete what killed ranks have left half-written; nobody else may be at work."""
        for folder in (self.work, *self._folders()):
            remove_temporaries(folder)

    def clean(self) -> None:
        """All is packed: nothing needs to wait here."""
        (self.work / PARAMS_NAME).unlink(missing_ok=True)
        for folder in self._folders():
            for path in folder.iterdir():
                path.unlink(missing_ok=True)
            with suppress(OSError):  # somebody writes into it
                folder.rmdir()

    def _folders(self) -> list[Path]:
        return [path for path in self.work.iterdir() if path.is_dir()]

    def _path(self, name: str) -> Path:
        file = name_of(name)
        return self.work / file[:2] / file


def name_of(sample: str) -> str:
    """The name of a waiting sample's file; ids may hold what names of files may not."""
    return hashlib.sha256(sample.encode("utf-8", "surrogateescape")).hexdigest()
