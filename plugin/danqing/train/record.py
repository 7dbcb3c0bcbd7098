"""What a run was begun with, in `OUTPUT/run.json`: going on with anything else would not give the losses of one run.

Tables and models are known by what they hold, not by their paths, which may move.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from danqing_pack.errors import RequestError
from danqing_pack.json_files import as_json

from danqing.places import find_model

RECORD = "run.json"
FREE = {"output", "output_layout", "output_dtype", "prompts", "gradient_checkpointing", "loop", "reading"}
FREE_IN_LOOP = {"steps", "epochs", "log_every", "save_every", "keep", "choose", "validate_every", "sample_every",
                "tensorboard", "resume"}
"""What changes no loss, and the length, which is judged apart."""
PLACES = ("data", "validation", "model", "first_stage", "vocab", "entities")
NAMES = {"data": "table", "validation": "validation table"}
"""What a sentence calls an option; another one goes by its name."""


def settings_of(options: Any, total: int, processes: int) -> dict[str, Any]:
    """What the losses of a run with `options` depend on, as JSON holds it. `total`: its steps."""
    given = asdict(options)
    loop, reading = given["loop"], given["reading"]
    found = {name: value for name, value in {**given, **loop}.items() if name not in FREE | FREE_IN_LOOP}
    found |= {name: value for name, value in reading.items() if value is not None}
    found |= {name: contents(given[name]) for name in PLACES if given.get(name)}
    revives = given.get("codes") == "learned" and given["revive_every"] > 0     # until a share of the run
    found |= {"number of steps": total if loop["schedule"] != "constant" or revives else None, "processes": processes}
    return dict(json.loads(json.dumps(found)))


def read_record(output: Path) -> dict[str, Any] | None:
    """What the run in `output` was begun with; None: that is not known. Raises RequestError: it is damaged."""
    place = output / RECORD
    if not place.is_file():
        return None
    try:
        return dict(json.loads(place.read_text("utf-8")))
    except (ValueError, TypeError):
        raise RequestError(f"{place} is damaged; remove it to go on without knowing what the run was begun with.",
                           path=place) from None


def write_record(output: Path, settings: Mapping[str, Any]) -> None:
    """For a run that begins."""
    (output / RECORD).write_bytes(as_json(dict(settings)))


def require_same(output: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """RequestError where going on would mix two runs. A validation table may come and go, but not be another."""
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)
             and not (name == "validation" and None in (before.get(name), now.get(name)))]
    if names:
        said = [NAMES.get(name, name.replace("_", " ")) for name in names]
        listed = " and ".join(filter(None, [", ".join(said[:-1]), said[-1]]))
        raise RequestError(f"The run in {output} was begun with another {listed}: go on with the same, or name another "
                           "folder.", path=output, settings=names)


def contents(name: str) -> str:
    """A digest of names, sizes and ends of the files that a table, folder or model consists of, wherever it lies."""
    place = find_model(name) if not Path(name).exists() else Path(name)
    digest = hashlib.sha256()
    for file in _files(place):
        size = file.stat().st_size
        digest.update(f"{'' if file == place else file.relative_to(place).as_posix()}\0{size}\0".encode())
        with open(file, "rb") as opened:
            digest.update(opened.read(1 << 16))
            opened.seek(max(0, size - (1 << 16)))
            digest.update(opened.read())
    return digest.hexdigest()


def _files(place: Path) -> Iterator[Path]:
    """Of an image folder its metadata stand for all."""
    if place.is_file():
        yield place
    elif (place / "metadata.jsonl").is_file():
        yield place / "metadata.jsonl"
    else:
        yield from (found for found in sorted(place.rglob("*")) if found.is_file()
                    and found.suffix in (".bin", ".safetensors", ".json", ".txt", ".npz", ".pt"))
