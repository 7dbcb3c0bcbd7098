"""Make a checkpoint folder ready for ModelScope without converting it."""

from __future__ import annotations

from pathlib import Path

from .conversion import configuration
from .detection import open_folder
from .errors import FormatError, RequestError, listing
from .family import Options
from .staging import staged_file


def initialise(folder: str | Path, task: str | None = None, force: bool = False) -> Path:
    """Write ``configuration.json`` into ``folder``; the path written. ``task`` defaults to the family's first.

    Raises:
        FormatError: the folder holds no checkpoint. RequestError: the file exists, or the family has no such task.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FormatError(f"{folder} is no folder; name the folder of a checkpoint.", path=folder)
    found = open_folder(folder)
    found.family.to_modern(found.form, Options())       # what cannot be read is no use to ModelScope either
    tasks = found.family.tasks
    if task is not None and task not in tasks:
        raise RequestError(f"There is no task {task} for this family; choose one of {listing(tasks)}.")
    target = folder / "configuration.json"
    with staged_file(target, force=force) as staged:
        staged.write_bytes(configuration(task or tasks[0]))
    return target
