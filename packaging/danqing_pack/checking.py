"""Every problem of a folder or a bundle at once, before it is converted, packed or pushed."""

from __future__ import annotations

from pathlib import Path

from . import manifests
from .conversion import target_form
from .detection import Opened, opened
from .errors import DanqingError
from .family import Options
from .json_files import read_json
from .layouts import LAYOUTS


def check(path: str | Path, text_length: int | None = None) -> list[str]:
    """One sentence for each problem of the checkpoint at ``path``; an empty list when there is none.

    Looks at layout and family, every key and shape, the files a pipeline needs, configuration.json, and the digests
    in danqing.json. Tensor data is read for the digests alone.
    """
    try:
        with opened(path) as found:
            return _problems(found, Options(text_length=text_length))
    except DanqingError as error:
        # What cannot be opened may have further problems, in files that can.
        folder = Path(path)
        return _sentences(error) + (_beside_weights(folder) if folder.is_dir() else [])


def _problems(found: Opened, options: Options) -> list[str]:
    problems: list[str] = []
    for layout in LAYOUTS:
        if layout.name in found.family.layouts:
            problems += _caught(lambda layout=layout: target_form(found, layout, options))
    problems += _caught(lambda: problems.extend(found.family.problems(found.form, options)))
    problems += _beside_weights(found.folder)
    return list(dict.fromkeys(problems))


def _beside_weights(folder: Path) -> list[str]:
    """What can be told without opening the weights."""
    problems: list[str] = []
    problems += _caught(lambda: problems.extend(_configuration(folder)))
    return problems + manifests.verify(folder)


def _caught(step: object) -> list[str]:
    try:
        step()  # type: ignore[operator]
    except DanqingError as error:
        return _sentences(error)
    return []


def _sentences(error: DanqingError) -> list[str]:
    """An error that collected several problems counts as several; facts about a file become sentences that name it."""
    place = error.data.get("place")
    return [f"{place}: {each}." if place else str(each) for each in error.data.get("problems", ())] or [str(error)]


def _configuration(folder: Path) -> list[str]:
    """What would make ModelScope refuse the folder, or demand trust_remote_code."""
    path = folder / "configuration.json"
    if not path.is_file():
        return []
    settings = read_json(path)
    missing = [name for name in ("framework", "task", "pipeline") if name not in settings]
    problems = [f"configuration.json has no {name}, and ModelScope refuses it; run `danqing init` on the folder."
                for name in missing]
    problems += [f"configuration.json has the entry {name}, for which ModelScope demands trust_remote_code; remove it."
                 for name in ("plugins", "allow_remote") if settings.get(name)]
    return problems
