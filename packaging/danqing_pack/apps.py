"""A Gradio app for a model: a folder that a Hugging Face Space or a ModelScope Studio takes as it is.

    write_app("hf-space", "painter", "space")                              # the model lies in space/model
    write_app("ms-studio", "painter", "studio", repository="ms:org/name")  # the model is fetched from its repository

The folder holds ``app.py``, ``requirements.txt`` and a ``README.md`` whose front matter the host reads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from . import cards, front_matter, manifests
from .card_code import Place
from .detection import Opened, opened
from .errors import RequestError
from .links import own_file
from .staging import staged_folder

INSIDE = "model"
"""Where a model lies that the app brings along."""
TEMPLATE = "app.py.template"
GRADIO = "6.31.0"
"""The version that the app was tried with, and that a Space is asked for."""
PYTHON = "3.11"
ANY_PROMPT = ("山水画，远山和湖",)


@dataclass(frozen=True)
class App:
    """An app that was written: bytes by relative name."""

    target: Path
    kind: str
    files: Mapping[str, int]
    requirement: str
    """The line of requirements.txt by which pip finds Danqing."""
    named: bool
    """Whether the caller chose it."""

    @property
    def note(self) -> str:
        """What must be so before the app starts; nothing where the caller has said how Danqing is found."""
        return "" if self.named else (
            f"requirements.txt asks for {self.requirement}, and the {KINDS[self.kind][0]} starts only where pip finds that on its "
            "index: if it is not published there, give the address of a wheel or repository with --requirement.")

    def describe(self) -> str:
        """One line that says what was written."""
        return (f"Wrote {self.target}: an app for a {KINDS[self.kind][0]}, {len(self.files)} files, "
                f"{sum(self.files.values()) / 1e6:,.1f} MB.")


@dataclass(frozen=True)
class _Model:
    """What an app says of its model. ``licence`` is its identifier."""

    words: str
    title: str
    prompts: tuple[str, ...]
    licence: Any


def write_app(
    kind: str, model: str | Path, target: str | Path, *, repository: str | None = None, title: str | None = None,
    requirement: str | None = None, force: bool = False,
) -> App:
    """Write the app of a model to the new folder ``target``.

    Args:
        kind: ``hf-space`` or ``ms-studio``.
        model: a checkpoint folder or bundle, which the app then brings along, or ``hf:org/name`` or ``ms:org/name``.
        repository: where the app fetches the model instead of bringing it along.
        requirement: how pip finds Danqing there; by default the version that runs now.

    Raises:
        FormatError: there is no checkpoint. RequestError: no such kind or repository, or the target exists.
    """
    if kind not in KINDS:
        raise RequestError(f"There is no app {kind}; choose {' or '.join(KINDS)}.")
    place = Place.of(repository or str(model))
    if repository is not None and not place.hub:
        raise RequestError(f"{repository} is no repository; write hf:org/name or ms:org/name.")
    needs = requirement or _this_version()
    with staged_folder(target, force=force, sources=[] if Place.of(str(model)).hub else [model], marks=["app.py"]) as folder:
        if Place.of(str(model)).hub:
            about = _Model(place.words, title or place.last, ANY_PROMPT, cards.LICENCE)
        else:
            with opened(model) as found:
                if not place.hub:
                    _bring(found, folder / INSIDE)
                about = _about(found, place.words if place.hub else INSIDE, title or _name(place, Path(model)))
        for name, text in _texts(kind, place, about, needs).items():
            (folder / name).write_text(text, encoding="utf-8")
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    return App(Path(target), kind, sizes, needs, requirement is not None)


def _name(place: Place, model: Path) -> str:
    return place.last if place.hub else model.resolve().name.removesuffix(".tar.gz")


def _bring(found: Opened, target: Path) -> None:
    """Copy the files of the checkpoint, and its danqing.json. UnsafeError: a link that leads out of it."""
    for name in sorted({*found.names, *([manifests.NAME] if (found.folder / manifests.NAME).is_file() else [])}):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(own_file(found.folder, name), target / name)


def _about(found: Opened, words: str, title: str) -> _Model:
    """Prompts of the example pictures, else of the family; the licence of the folder's card, else the usual one."""
    from .card_facts import read_facts

    facts = read_facts(found.folder)
    shown = [each.example.prompt for each in facts.pictures]
    card = found.folder / cards.NAME
    front = front_matter.split(card.read_text(encoding="utf-8"))[0] if card.is_file() else None
    try:
        licence = front_matter.values(front or "").get("license") or cards.LICENCE
    except ValueError:
        licence = cards.LICENCE
    return _Model(words, title, tuple(shown) or cards.prompts(facts.family, facts.characters), licence)


def _texts(kind: str, place: Place, about: _Model, requirement: str) -> dict[str, str]:
    app = (files("danqing_pack") / TEMPLATE).read_text(encoding="utf-8")
    constants = {"COMMAND": kind, "MODEL": _python(about.words), "TITLE": _python(about.title),
                 "PROMPTS": _python(list(about.prompts))}
    for name, value in constants.items():
        app = app.replace(f"@{name}@", value)
    host, front, asks = KINDS[kind]
    blocks = {key: front_matter.block(key, value) for key, value in front(place, about).items()}
    where = f"`{about.words}`" if place.hub else f"the folder `{INSIDE}`"
    english = f"Draws pictures from Chinese prompts with {where}, on a {host}.\n"
    chinese = f"根据中文提示词作画，使用{f' {where}' if place.hub else f'目录 `{INSIDE}` 中的模型'}。\n"
    words = f"{chinese}\n{english}" if kind == "ms-studio" else english
    readme = front_matter.join(blocks, f"\n# {about.title}\n\n{words}")
    return {"app.py": app, "requirements.txt": "".join(f"{line}\n" for line in (requirement, *asks)), "README.md": readme}


def _python(value: Any) -> str:
    """A string or a list of strings as Python writes it."""
    return json.dumps(value, ensure_ascii=False)


def _this_version() -> str:
    try:
        return f"danqing=={version('danqing')}"
    except PackageNotFoundError:
        return "danqing"


def _of_space(place: Place, about: _Model) -> dict[str, Any]:
    """What https://huggingface.co/docs/hub/spaces-config-reference asks for."""
    return {
        "title": about.title, "emoji": "🎨", "colorFrom": "red", "colorTo": "yellow", "sdk": "gradio",
        "sdk_version": GRADIO, "python_version": PYTHON, "app_file": "app.py", "pinned": False,
        "license": front_matter.licence_for(about.licence, "hf"), **({"models": [place.name]} if place.hub == "hf" else {}),
        "tags": ["text-to-image", "chinese", "danqing"],
    }


def _of_studio(place: Place, about: _Model) -> dict[str, Any]:
    """What ModelScope reads from the card of a Studio."""
    return {
        "domain": ["multi-modal"], "tags": ["text-to-image", "chinese", "danqing"],
        **({"models": [place.name]} if place.hub == "ms" else {}), "deployspec": {"entry_file": "app.py"},
        "license": front_matter.licence_for(about.licence, "ms"),
    }


Front = Callable[[Place, _Model], dict[str, Any]]
KINDS: Mapping[str, tuple[str, Front, tuple[str, ...]]] = {
    "hf-space": ("Hugging Face Space", _of_space, ()),
    "ms-studio": ("ModelScope Studio", _of_studio, (f"gradio=={GRADIO}",)),
}
"""The host's name, its front matter, and what requirements.txt lists besides Danqing: a Space brings Gradio itself."""
