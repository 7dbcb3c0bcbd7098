"""Model cards: filled from what a folder shows, kept where a person wrote, spelled for either hub.

    from danqing_pack import cards

    cards.write_card("painter")                                    # painter/README.md
    cards.write_card("painter", language="zh", repository="ms:org/name")
    cards.validate(text)                                           # one sentence for each problem
    cards.for_hub(text, "ms", "org/name")                          # the same card for ModelScope

What is generated stands between ``<!-- danqing:begin NAME DIGEST -->`` and ``<!-- danqing:end NAME -->``. Writing a card
again renews those parts and nothing else. A part or a front matter key that somebody changed, and so no longer has its
digest, stays as it is; one that somebody took away stays away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import card_code as code
from . import card_merging as merging
from . import card_templates as templates
from . import front_matter
from .card_code import Example, Place
from .card_facts import Facts, read_facts, weight_files
from .card_training import base_model as started_from
from .card_training import training_rows
from .errors import CardError, RequestError
from .staging import staged_file

NAME = "README.md"
LICENCE = "apache-2.0"
"""Of the models that these families were published with, and of what Danqing makes."""
SEED = 1
TOP_K = 100
"""Codes that take part in a draw of a painter, where a call says nothing."""
LIBRARIES = {"diffusers": "diffusers"}
"""The library that opens a layout; Danqing opens the others."""
WEIGHTS: Mapping[str, Mapping[str, str]] = {
    "en": {"ema": "EMA weights", "plain": "plain weights (no EMA)"}, "zh": {"ema": "EMA 权重", "plain": "普通权重（非 EMA）"}}
"""Which of a checkpoint's two sets of weights its UNet has."""
KINDS = {"painter": "vqgan", "chinese-ldm": "latent-diffusion", "pai-diffusion": "stable-diffusion"}
"""What else people look for a family by."""


@dataclass(frozen=True)
class Written:
    """A card that was written, and what its writer should know."""

    path: Path
    notes: tuple[str, ...] = ()


def write_card(
    folder: str | Path, out: str | Path | None = None, *, language: str | None = None, repository: str | None = None,
    licence: str | None = None, special_terms: bool = True, base_model: str | None = None, name: str | None = None,
    sibling: str | None = None, text_length: int | None = None,
) -> Written:
    """Write the card of a checkpoint folder, or renew it.

    Args:
        out: the file, ``README.md`` in the folder by default.
        language: ``en`` or ``zh``; that of the card which is there, else English.
        repository: ``hf:org/name`` or ``ms:org/name``, which the code then names; else the one that the card which is
            there names, else the folder.
        licence: its identifier; by default that of the card which is there, else apache-2.0.
        special_terms: whether to name the special terms of the PAI models, where the family has them.
        base_model: the hub repository that the model was made from; by default what its trainer wrote down.
        name: the title; by default the last part of the repository or folder.
        sibling: the file with the card in the other language, to point to.

    Raises:
        CardError: the card that is there has no readable front matter, or the new one would be refused.
        FormatError: the folder holds no checkpoint. RequestError: the language, or a file that cannot be written.
    """
    folder = Path(folder)
    out = folder / NAME if out is None else Path(out)
    facts = read_facts(folder, text_length, out.parent)
    there = merging.read(out)
    language = language or (there.record.language if there is not None else None) or "en"
    if language not in templates.LANGUAGES:
        raise RequestError(f"There are no cards in {language}; choose {' or '.join(templates.LANGUAGES)}.")
    place = _place(folder, repository, there)
    chosen = licence or (there.own("license") if there is not None else None) or LICENCE
    other = {"en": "zh", "zh": "en"}[language]
    known = values(facts, language, place, str(chosen), special_terms, sibling or _sibling(out, other))
    known["title"] = name or place.last
    draft = _draft(facts, merging.Record(language, place.words), known, base_model or started_from(folder), chosen)
    text, notes = merging.compose(draft) if there is None else merging.merge(there, draft, {"license"} if licence else set())
    if problems := validate(text):
        raise CardError(f"The card of {folder} would be refused: {' '.join(problems)}", problems=problems)
    with staged_file(out, force=True) as staged:
        staged.write_bytes(text.encode("utf-8"))
    return Written(out, notes)


def _place(folder: Path, repository: str | None, there: merging.Card | None) -> Place:
    if repository is not None:
        place = Place.of(repository)
        if not place.hub:
            raise RequestError(f"{repository} is no repository; write hf:org/name or ms:org/name.")
        return place
    if there is not None and (known := Place.of(there.record.model)).hub:
        return known
    return Place("", folder.resolve().name)


def _sibling(out: Path, other: str) -> str | None:
    """The card in the other language, where it lies beside this one."""
    names = (NAME,) if out.name != NAME else (f"README.{other}.md",)
    return next((each for each in names if out.with_name(each).is_file()), None)


def prompts(family: str, characters: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """What the example pictures of a family show, where nobody says otherwise.

    ``characters`` are those of the model's vocabulary: of prompts that are mostly unknown to it, others take the place,
    if it knows all of them.
    """
    template = templates.template(family, "en")
    if not characters or _known(template.prompts, characters) >= 0.5:
        return template.prompts
    return next((each for each in template.other_prompts if _known(each, characters) == 1), template.prompts)


def _known(texts: Sequence[str], characters: frozenset[str]) -> float:
    """The share of the letters and signs that a vocabulary holds; punctuation aside."""
    letters = [letter for letter in "".join(texts).lower() if letter.isalnum()]
    return sum(letter in characters for letter in letters) / len(letters)


def read_text(path: Path) -> str:
    """The text of a card, its lines ended by a line feed alone. CardError: it is no UTF-8, or cannot be read."""
    return merging.read_text(path)


def is_generated(path: Path) -> bool:
    """Whether a card, or a part of it, was written by ``write_card``."""
    return bool(merging.Record.of(read_text(path)).parts)


def validate(text: str, folder: str | Path | None = None) -> list[str]:
    """One sentence for each thing for which a hub would refuse the card, or show less than it holds; asks nobody.

    With ``folder``, pictures and files that the card points to must lie there.
    """
    front, body = front_matter.split(text)
    if front is None:
        return ["The card has no front matter: it must begin with ---, keys and values as YAML, and --- again."]
    try:
        found = front_matter.values(front)
    except ValueError as error:
        return [f"The front matter is {error}; correct it."]
    return front_matter.problems(found) + merging.problems(body, None if folder is None else Path(folder))


def for_hub(text: str, hub: str, repository: str | None = None) -> str:
    """The card in the spelling of a hub (``hf`` or ``ms``): its licence, and with ``repository`` (org/name) its code.

    Whatever a person wrote stays. RequestError: there is no such hub.
    """
    if hub not in ("hf", "ms"):
        raise RequestError(f"There is no hub {hub}; the hubs are hf and ms.")
    front, body = front_matter.split(text)
    if front is not None:
        try:
            licence = front_matter.values(front).get("license")
        except ValueError as error:
            raise CardError(f"The front matter is {error}; correct it.") from error
        blocks, spelled = front_matter.blocks(front), front_matter.licence_for(licence, hub)
        if licence is not None and spelled != licence:
            blocks["license"] = front_matter.block("license", spelled)
            text = front_matter.join(blocks, body)
    return merging.moved(text, Place(hub, repository)) if repository else text


# ---------------------------------------------------------------- what a template may ask for

def values(facts: Facts, language: str, place: Place, licence: str, special_terms: bool = True,
           sibling: str | None = None) -> dict[str, str | None]:
    """Everything that a template may ask for by name; None where nothing is known."""
    example = facts.pictures[0].example if facts.pictures else Example(prompts(facts.family, facts.characters)[0], SEED)
    safety = "safety_checker" in facts.form.components
    found: dict[str, Any] = {
        "sibling": sibling, "family": facts.family, "layout": facts.layout, "tasks": ", ".join(facts.tasks),
        "library": LIBRARIES.get(facts.layout, "danqing"), "licence": licence,
        "apache": "yes" if front_matter.licence(licence) == "apache-2.0" else None,
        "special_terms": "yes" if special_terms else None,
        "parameters": f"{sum(facts.parameters.values()):,}", "precision": " / ".join(facts.dtypes) or None,
        "megabytes": f"{sum(facts.sizes.values()) / 1e6:,.1f}", "file_count": str(len(facts.sizes)),
        "network_rows": _network_rows(facts), "file_rows": _file_rows(facts), "source_rows": _source_rows(facts),
        "source_layout": facts.source_layout, "image_size": facts.image_size,
        "weights_words": WEIGHTS[language].get(str(facts.dimension("weights"))),
        "unnamed": "yes" if facts.unnamed and not place.hub else None,
        "manifest": "yes" if (facts.folder / "danqing.json").is_file() else None,
        "training_rows": training_rows(facts.folder, language), "pictures": _pictures(facts),
        "picture_rows": _picture_rows(facts), "picture.dtype": _of_all(facts, "dtype"),
        "picture.device": _of_all(facts, "device"),
        "scheduler": _class(facts, "scheduler"), "tokenizer": _class(facts, "tokenizer"),
        "top_k": min(TOP_K, int(facts.dimension("codes") or TOP_K)),
        "safety": "yes" if safety else None, "own_code": "yes" if facts.own_code else None,
        **{f"dims.{path}": facts.dimension(path) for path in _DIMENSIONS}, **_code(facts, place, example),
    }
    return {name: None if value in (None, "", ()) else _shown(value) for name, value in found.items()}


_DIMENSIONS = (
    "text_length", "image_length", "layers", "heads", "width", "codes", "code_width", "entity_dim", "vqgan.factor",
    "autoencoder.factor", "vae.factor", "unet.channels", "unet.heads", "unet.context", "unet.sample_size", "text.length",
    "text.text_length", "text.layers", "text.heads", "text.width", "text.output", "text.vocab_size", "text.n_repeat",
    "timesteps", "upscaler", "n_unmasked",
)


def _shown(value: Any) -> str | None:
    """A value in a sentence; false and zero are as good as unknown."""
    if value in (False, 0):
        return None
    return " / ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _code(facts: Facts, place: Place, example: Example) -> dict[str, str | None]:
    """The ways to run the model that its folder allows."""
    ours = not facts.own_code
    return {
        "code.command": code.command(place, example) if ours else None,
        "code.python": code.python(place, example) if ours else None,
        "code.modelscope": code.modelscope(place, example, facts.unnamed) if ours else None,
        "code.diffusers": code.diffusers(place, example) if ours and facts.layout == "diffusers" else None,
        "code.transformers": code.transformers(place, example)
        if ours and facts.layout == "diffusers" and "config.json" in facts.form.files else None,
        "code.self_contained": None if ours else code.self_contained(place, example),
        "code.bundle": code.bundle(place) if ours else None, "code.service": code.service() if ours else None,
        "code.client": code.client(place, example) if ours else None,
    }


def _class(facts: Facts, component: str) -> str | None:
    part = facts.form.components.get(component)
    return part.class_name if part is not None else None


def _network_rows(facts: Facts) -> str:
    return "\n".join(f"| `{name}` | `{facts.form.folders[name].class_name}` | {count:,} |"
                     for name, count in facts.parameters.items())


def _file_rows(facts: Facts) -> str:
    return "\n".join(f"| `{name}` | {facts.sizes[name]:,} | `{digest}` |"
                     for name, digest in weight_files(facts.files).items() if name in facts.sizes)


def _source_rows(facts: Facts) -> str:
    return "\n".join(f"| `{name}` | `{digest}` |" for name, digest in weight_files(facts.sources).items())


def _pictures(facts: Facts) -> str:
    """All example pictures in a row."""
    return "\n".join(f"![{each.example.prompt.replace(']', ' ')}]({each.file})" for each in facts.pictures)


def _picture_rows(facts: Facts) -> str:
    return "\n".join(f"| `{each.file}` | {_cell(each.example.prompt)} | {each.example.seed} |" for each in facts.pictures)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _of_all(facts: Facts, note: str) -> str | None:
    """What all example pictures say of themselves, None where they do not agree or are silent."""
    said = {each.notes.get(note) for each in facts.pictures}
    return said.pop() if len(said) == 1 else None


# ---------------------------------------------------------------- a card

def _draft(facts: Facts, record: merging.Record, known: Mapping[str, str | None], base_model: str | None,
           licence: Any) -> merging.Draft:
    template = templates.template(facts.family, record.language or "en")
    front: dict[str, Any] = {
        "license": licence, "language": ["zh"], "pipeline_tag": "text-to-image",
        "library_name": known["library"], "tags": _tags(facts),
        **({"base_model": [base_model]} if base_model else {}),
        "tasks": [facts.tasks[0]], "frameworks": ["pytorch"], "domain": ["multi-modal"],
    }
    pieces = [(name, templates.fill(text, known) + ("" if name else "\n") if text.strip() else text)
              for name, text in template.pieces]
    whole = tuple((name, text) for name, text in pieces if name is None or not templates.is_empty(text))
    return merging.Draft(front, whole, record)


def _tags(facts: Facts) -> list[str]:
    """Words to find the model by; each is true of the folder."""
    return [
        "text-to-image", "chinese", "danqing", facts.family, *([KINDS[facts.family]] if facts.family in KINDS else []),
        "pytorch", *(["diffusers"] if facts.layout == "diffusers" else []),
        *(["safetensors"] if any(name.endswith(".safetensors") for name in facts.sizes) else []),
    ]
