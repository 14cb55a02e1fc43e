"""What was left out and why: one block per reason, with its meaning, its cure and the files."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from threed_gen.geometry.reading.reasons import REASONS
from threed_gen.report.data_folder import DataFolder, Record
from threed_gen.report.text import plain

MOST_NAMES = 200  # of one reason
MOST_OF_ALL = 1000  # on the page

# Reasons that no reader gives: what happened after the file was read, or before it came.
LATER_REASONS = {
    "flat": "all vertices lie in one plane: a figure, not a shape",
    "too_thin": "every wall is thinner than a voxel, so that nothing would be inside",
    "timeout": "it took longer than the limit of seconds",
    "out_of_memory": "it needed more memory than the limit",
    "crashed": "the process that measured it died",
    "unusable": "it cannot be measured; the message says why",
    "unexpected_error": "an error that nobody foresaw while it was measured",
    "network": "it could not be downloaded: a time-out, or a server in trouble",
    "not_found": "the server does not have it any more",
    "truncated": "the downloaded file ends early, time and again",
    "wrong_content": "what was downloaded is no mesh file (an error page, for example)",
    "wrong_hash": "its content is not what the table's sha256 says",
}

_TRY_AGAIN = "run the same command with --retry-failed"
CURES = {
    "missing": "check the path or the table that names it; a broken link counts as missing",
    "format": "export it as .glb, .obj, .ply, .stl or .off",
    "empty_file": "copy or download it again",
    "unreadable": "copy or download it again; if it opens elsewhere, export it anew as .glb",
    "unsupported_version": "open it in Blender, say, and export it as .glb (glTF 2.0)",
    "unsupported_extension": "export it without compression: gltf-transform or Blender do it",
    "missing_file": "put the .bin beside the .gltf, or export one .glb",
    "outside_reference": "bring the files it names into its own folder, or export one .glb",
    "node_graph": "export it anew; no correct program writes such a scene",
    "no_faces": "a point cloud or a drawing has to become a surface first",
    "non_finite": "export it anew; look for a scale of 0 or a broken modifier",
    "no_extent": "leave it out: there is no shape in it",
    "too_many_faces": "simplify it first (Blender: Decimate; MeshLab: Quadric Edge Collapse)",
    "too_large": "simplify it, or cut the scene into its objects",
    "archive_no_mesh": "unpack it and see what it holds",
    "archive_several_meshes": "unpack it: each mesh is a sample of its own",
    "archive_nested": "unpack it once",
    "archive_encrypted": "unpack it with its password",
    "archive_escape": "do not unpack it: it was made to write outside its folder",
    "archive_bomb": "do not unpack it, unless you know what it holds",
    "flat": "leave it out, or give it a thickness",
    "too_thin": "prepare it at a higher resolution",
    "timeout": f"simplify the mesh, or {_TRY_AGAIN} and a higher --timeout",
    "out_of_memory": f"simplify the mesh, or {_TRY_AGAIN} and a higher --memory-mb",
    "crashed": f"{_TRY_AGAIN}; if it stays, report it with the file",
    "unusable": "the message names it",
    "unexpected_error": "please report it, with the message and the file",
    "network": _TRY_AGAIN,
    "not_found": "leave it out; its author has taken it down",
    "truncated": f"{_TRY_AGAIN} another day",
    "wrong_content": f"{_TRY_AGAIN} another day",
    "wrong_hash": "it was changed after the table was made; a newer table may know it",
}


def rejects_section(data: DataFolder) -> str:
    """Every reason, the most frequent first; empty when every mesh became a sample."""
    groups: dict[str, list[Record]] = {}
    for reject in data.rejects:
        groups.setdefault(str(reject.get("reason", "unknown")), []).append(reject)
    if not groups:
        return ""
    most = max(map(len, groups.values()))
    room = MOST_OF_ALL
    blocks = []
    for reason, files in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        shown = files[: min(MOST_NAMES, max(room, 0))]
        room -= len(shown)
        blocks.append(_block(reason, files, shown, most))
    return (
        '<p class="intro">None of these is in the shards. Mend a file and run the same command '
        "again: what has changed is read again, everything else stays as it is. The whole list is "
        "in <code>rejects.jsonl</code>.</p>"
        f'<div class="card reasons">{"".join(blocks)}</div>'
    )


def explain(reason: str) -> tuple[str, str]:
    """What a reason means in plain words, and what can be done; empty for an unknown one."""
    return REASONS.get(reason) or LATER_REASONS.get(reason, ""), CURES.get(reason, "")


def _block(reason: str, files: Sequence[Record], shown: Sequence[Record], most: int) -> str:
    meaning, cure = explain(reason)
    failed = sum(each.get("status") == "failed" for each in files)
    mark = "<i class=flag>may be tried again</i>" if failed else ""
    text = f"<p>{escape(_sentence(meaning))}</p>" if meaning else ""
    text += f"<p><b>Cure:</b> {escape(cure)}.</p>" if cure else ""
    rows = "".join(
        f"<li><code>{escape(plain(each.get('source', '?')))}</code> "
        f"<span>{escape(plain(each.get('message', ''), 300))}</span></li>"
        for each in shown
    )
    rest = len(files) - len(shown)
    more = f"<li><span>and {rest:,} more, in rejects.jsonl</span></li>" if rest else ""
    count = f"{len(files):,} file{'s' if len(files) > 1 else ''}"
    return (
        f'<div class="reason"><b class="count">{len(files):,}</b><div><h3>{escape(plain(reason))} '
        f'{mark}</h3><i class="share" style="width:{100 * len(files) / most:.1f}%"></i>{text}'
        f"<details{' open' if len(files) <= 3 else ''}><summary>{count}</summary>"
        f"<ul>{rows}{more}</ul></details></div></div>"
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
