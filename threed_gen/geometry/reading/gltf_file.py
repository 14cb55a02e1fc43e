"""The shell of a glTF: chunks of a .glb, the JSON, extensions, and the bytes of its buffers.

Buffers are fetched when the first accessor asks for one, so what only animations or images use is
never read.
"""

from __future__ import annotations

import base64
import binascii
import struct

from threed_gen.geometry.reading import json_tree
from threed_gen.geometry.reading.beside import Beside, check_bytes
from threed_gen.geometry.reading.json_tree import Tree
from threed_gen.geometry.reading.reasons import ReadLimits, reject, shown

_MAGIC = b"glTF"
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_LARGEST_DATA_URI = 500_000_000  # bytes of text; decoding holds it three times

# Required extensions that leave positions, faces and nodes as they are. Any other is a reject.
_HARMLESS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "MSFT_texture_", "KHR_lights_",
             "EXT_lights_", "KHR_xmp", "KHR_animation_", "KHR_audio", "MSFT_audio",
             "EXT_mesh_features", "EXT_structural_metadata", "EXT_instance_features",
             "CESIUM_", "KHR_techniques_webgl")  # fmt: skip
_HANDLED = ("KHR_mesh_quantization",)
_COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")


class GltfFile:
    """A parsed glTF: its tree, and its buffers on demand."""

    def __init__(self, content: bytes, beside: Beside, limits: ReadLimits) -> None:
        self.beside, self.limits = beside, limits
        text, self.chunk = _split(content, limits) if content[:4] == _MAGIC else (content, None)
        if len(text) > limits.max_json_bytes:
            raise reject(
                "too_large",
                f"has {len(text) / 1e6:,.0f} MB of JSON, more than the limit of "
                f"{limits.max_json_bytes / 1e6:,.0f} MB; save it as .glb",
            )
        self.tree: Tree = json_tree.parse(text)
        _check_version(self.tree)
        _check_extensions(self.tree)
        self._buffers: dict[int, bytes] = {}

    def buffer(self, number: int) -> bytes:
        """The bytes of a buffer: the chunk of the .glb, a data: URI, or a file beside."""
        if number not in self._buffers:
            self._buffers[number] = self._fetch(number)
        return self._buffers[number]

    def _fetch(self, number: int) -> bytes:
        buffer = json_tree.item(self.tree, "buffers", number)
        length = json_tree.whole(buffer, "byteLength")
        check_bytes(length, self.limits)
        uri = buffer.get("uri")
        if uri is None:
            if number != 0 or self.chunk is None:
                raise reject("missing_file", f"has no data for its buffer {number}")
            content = self.chunk
        elif not isinstance(uri, str):
            raise reject("unreadable", 'has a "uri" that is no text')
        elif uri[:5].lower() == "data:":
            content = data_uri(uri)
        else:
            content = self.beside.read(uri)
        if len(content) < length:
            name = f'"{shown(uri, 60)}"' if isinstance(uri, str) else f"buffer {number}"
            raise reject(
                "unreadable", f"is cut off: {name} has {len(content):,} of {length:,} bytes"
            )
        return content[:length] if len(content) > length else content


def _split(content: bytes, limits: ReadLimits) -> tuple[bytes, bytes | None]:
    """The JSON and the binary chunk of a .glb."""
    if len(content) < 20:
        raise reject("unreadable", "is cut off in its header")
    version, length = struct.unpack_from("<II", content, 4)
    if version != 2:
        raise reject(
            "unsupported_version",
            f"is glTF {version}; only glTF 2 can be read, convert it (for example with "
            "gltf-pipeline)",
        )
    if length > len(content):
        raise reject("unreadable", f"is cut off: {len(content):,} of {length:,} bytes are there")
    chunks: list[tuple[int, bytes]] = []
    at = 12
    while at + 8 <= length and len(chunks) < 2:
        size, kind = struct.unpack_from("<II", content, at)
        if at + 8 + size > length:
            raise reject("unreadable", "is cut off: a chunk is longer than the file")
        if not chunks and size > limits.max_json_bytes:
            raise reject("too_large", f"has {size / 1e6:,.0f} MB of JSON; is it damaged?")
        chunks.append((kind, content[at + 8 : at + 8 + size]))
        at += 8 + size
    if not chunks or chunks[0][0] != _JSON:
        raise reject("unreadable", "does not begin with JSON as a .glb does")
    return chunks[0][1], chunks[1][1] if len(chunks) > 1 and chunks[1][0] == _BIN else None


def _check_version(tree: Tree) -> None:
    version = json_tree.child(tree, "asset").get("version")
    if not isinstance(version, str) or not version.startswith("2."):
        raise reject(
            "unreadable" if version is None else "unsupported_version",
            "names no glTF version" if version is None
            else f"is glTF {shown(str(version), 20)}; only glTF 2 can be read, convert it "
            "(for example with gltf-pipeline)",
        )  # fmt: skip


def _check_extensions(tree: Tree) -> None:
    for name in json_tree.words(tree, "extensionsRequired"):
        if name not in _HANDLED and not name.startswith(_HARMLESS):
            raise unsupported(name)


def check_compression(tree: Tree, where: str) -> None:
    """Reject a primitive or a view whose only data is compressed."""
    extensions = json_tree.child(tree, "extensions")
    for name in _COMPRESSED:
        if name in extensions:
            raise unsupported(name, where)


def unsupported(name: str, where: str = "") -> Exception:
    """The reject for an extension."""
    cure = "save it without"
    if name in _COMPRESSED:
        cure = "save it without compression (for example `gltf-transform copy in.glb out.glb`)"
    return reject("unsupported_extension", f"needs the extension {shown(name, 80)}{where}; {cure}")


def data_uri(uri: str) -> bytes:
    """The content of a base64 data: URI."""
    head, comma, text = uri.partition(",")
    if len(uri) > _LARGEST_DATA_URI:
        raise reject("too_large", f"has a data: URI of {len(uri) / 1e6:,.0f} MB; save it as .glb")
    if not comma or not head.lower().endswith(";base64"):
        raise reject("unreadable", "has a data: URI that is not base64")
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise reject("unreadable", "has a data: URI that is not base64") from None
