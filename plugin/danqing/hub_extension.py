"""The extension of `hf`: a folder with a manifest and a script that runs this installation's command.

`hf` finds it by its folder alone and starts it as a process of its own, so that its start and its help cost nothing more.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from danqing_pack.errors import RequestError
from danqing_pack.staging import staged_folder

NAME = "hf-danqing"
DESCRIPTION = "Danqing 丹青: read, convert, run, pack and publish Chinese text-to-image models."
OWNER = "danqing"
"""Our mark in the manifest, by which `remove` knows what it may take away."""
YEARS = 50 * 365 * 86400


def place() -> Path:
    """Where `hf` looks for it."""
    return Path("~/.local/share/hf/extensions").expanduser() / NAME


def install() -> str:
    """Write the extension; a line that says so. RequestError: another extension has the name, or the place is not writable."""
    target = place()
    if target.exists() and not _ours(target):
        raise RequestError(f"{target} is an extension of somebody else: remove it with `hf extensions remove danqing` first.")
    with staged_folder(target, force=target.exists()) as folder:
        _write(folder, target)
    return f"Wrote {target}: `hf danqing VERB ...` runs {sys.executable} -m danqing."


def remove() -> str:
    """Take the extension away; a line that says so. RequestError: it is not ours."""
    target = place()
    if not target.exists():
        return f"There is no extension at {target}."
    if not _ours(target):
        raise RequestError(f"{target} is an extension of somebody else: `hf extensions remove danqing` removes it.")
    shutil.rmtree(target)
    return f"Removed {target}."


def _ours(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return isinstance(manifest, dict) and manifest.get("owner") == OWNER
    except (OSError, ValueError):
        return False


def _write(folder: Path, target: Path) -> None:
    script = folder / NAME
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m danqing "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    manifest = {
        "owner": OWNER, "repo": NAME, "repo_id": f"{OWNER}/{NAME}", "short_name": "danqing", "type": "binary",
        "executable_path": str(target / NAME), "installed_at": datetime.now(timezone.utc).isoformat(),
        "description": DESCRIPTION, "commit_sha": None,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    # `hf` asks a code host once a day for a newer commit of an extension, unless this file is young. There is none to ask
    # for: the command is the installed one.
    checked = folder / ".latest_commit"
    checked.write_text("", encoding="utf-8")
    later = time.time() + YEARS
    os.utime(checked, (later, later))
