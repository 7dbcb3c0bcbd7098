"""The YAML before a model card: read, changed key by key, and held against what the two hubs take.

    ---
    license: apache-2.0
    tags:
    - text-to-image
    ---

Keys are changed in the text, each as one block of lines, so that comments, order and quoting that a person chose stay.
Both hubs read one front matter: Hugging Face ``pipeline_tag``, ``library_name``, ``language``, ``tags``, ``base_model``;
ModelScope ``tasks``, ``frameworks``, ``domain``; only ``license`` is spelled differently. The licence identifiers are
those of https://huggingface.co/docs/hub/repositories-licenses, ModelScope's words those of its own client.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

FENCE = "---"
LICENCES = frozenset("""
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd
    bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
    creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gemma gfdl gpl gpl-2.0 gpl-3.0
    isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++
    osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
""".split())
ON_MODELSCOPE = {
    "apache-2.0": "Apache License 2.0", "gpl-2.0": "GPL-2.0", "gpl-3.0": "GPL-3.0", "lgpl-2.1": "LGPL-2.1",
    "lgpl-3.0": "LGPL-3.0", "afl-3.0": "AFL-3.0", "ecl-2.0": "ECL-2.0", "mit": "MIT",
}
PROSE = {**{words.lower(): identifier for identifier, words in ON_MODELSCOPE.items()},
         "mit license": "mit", "apache 2.0": "apache-2.0", "apache license, version 2.0": "apache-2.0"}
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,8})*|multilingual|code")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
WORD = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")
FRAMEWORKS = frozenset(("pytorch", "tensorflow", "jax", "onnx", "mindspore", "paddlepaddle", "other"))
DOMAINS = frozenset(("multi-modal", "cv", "nlp", "audio", "science", "automl", "other"))
LONGEST_TAG = 64


def split(text: str) -> tuple[str | None, str]:
    """A card's front matter without its fences, None where it has none, and the rest."""
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    if not lines or lines[0].rstrip() != FENCE:
        return None, text
    end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() == FENCE), None)
    if end is None:
        return None, text
    return "".join(lines[1:end]), "".join(lines[end + 1:])


def join(blocks: Mapping[str, str], body: str) -> str:
    """A card from the blocks of its front matter and its body."""
    return f"{FENCE}\n{''.join(blocks.values())}{FENCE}\n{body}"


def blocks(front: str) -> dict[str, str]:
    """The lines of each top-level key, in order; lines before the first key stand under the empty word."""
    found: dict[str, str] = {}
    key = ""
    for line in front.splitlines(keepends=True):
        line = line if line.endswith("\n") else line + "\n"
        name = re.match(r"([\w-]+|\"[^\"]+\"|'[^']+')\s*:(\s|$)", line)
        if name is not None:
            key = name[1].strip("\"'")
        found[key] = found.get(key, "") + line
    return found


def block(key: str, value: Any) -> str:
    """A key and its value as YAML lines."""
    import yaml  # type: ignore[import-untyped]

    def written(readable: bool) -> str:
        return str(yaml.safe_dump({key: value}, allow_unicode=readable, default_flow_style=False, sort_keys=False, width=120))

    lines = written(readable=True)
    # YAML ends lines with these too, and what is quoted would come back with a space in their place.
    return written(readable=False) if any(each in lines for each in "\x85\u2028\u2029") else lines


def values(front: str) -> dict[str, Any]:
    """What the front matter says. ValueError: it is no YAML mapping, or it says something twice; the text says where."""
    import yaml

    try:
        node = yaml.compose(front, Loader=yaml.SafeLoader)
        found = yaml.safe_load(front)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 2}" if mark is not None else ""
        raise ValueError(f"no valid YAML{where} ({getattr(error, 'problem', None) or error})") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ValueError("no list of keys and values")
    keys = [key.value for key, _ in node.value]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"a list that names {', '.join(twice)} twice")
    return {str(key): value for key, value in found.items()}


def digest(key: str, value: Any) -> str:
    """Eight hex digits of a value, the same for both hubs' spellings of a licence."""
    value = licence(value) if key == "license" else value
    data = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(data.encode()).hexdigest()[:8]


def licence(value: Any) -> Any:
    """A licence as Hugging Face spells it; what is unknown stays as it is."""
    if isinstance(value, list):
        return [licence(each) for each in value]
    if not isinstance(value, str):
        return value
    lower = value.strip().lower()
    return PROSE.get(lower, lower if lower in LICENCES else value)


def licence_for(value: Any, hub: str) -> Any:
    """A licence in the spelling of ``hf`` or ``ms``."""
    found = licence(value)
    if hub != "ms":
        return found
    return [ON_MODELSCOPE.get(each, each) for each in found] if isinstance(found, list) else ON_MODELSCOPE.get(found, found)


# ---------------------------------------------------------------- what the hubs take

def problems(found: Mapping[str, Any]) -> list[str]:
    """One sentence for each entry that a hub would refuse or pass over."""
    said = []
    for key, (fits, expected) in ENTRIES.items():
        value = found.get(key)
        if value is None and (key in found or key in NEEDED):
            said.append(f"The front matter has no {key}; it must be {expected}.")
        elif value is not None and not fits(value):
            said.append(f"The front matter says {key}: {_short(value)}; it must be {expected}.")
    if licence(found.get("license")) == "other" and not found.get("license_name"):
        said.append("The front matter says license: other without license_name; name the licence there.")
    for old, now in (("licence", "license"), ("languages", "language"), ("task", "tasks"), ("framework", "frameworks")):
        if old in found and now not in found:
            said.append(f"The front matter says {old}, which no hub reads; the key is {now}.")
    return said


def _short(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _every(fits: Callable[[str], Any], alone: bool = True) -> Callable[[Any], bool]:
    """Whether a value is a list of strings that fit, or (``alone``) one of them."""
    def check(value: Any) -> bool:
        several = [value] if alone and isinstance(value, str) else value
        return isinstance(several, list) and bool(several) and all(isinstance(each, str) and fits(each) for each in several)

    return check


ENTRIES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "license": (_every(lambda each: licence(each) in LICENCES),
                "an identifier such as apache-2.0, mit or other (with license_name)"),
    "pipeline_tag": (lambda value: isinstance(value, str) and bool(WORD.fullmatch(value)), "one task, such as text-to-image"),
    "library_name": (lambda value: isinstance(value, str) and bool(re.fullmatch(r"[\w.+-]+", value)),
                     "one library, such as diffusers"),
    "language": (_every(lambda each: LANGUAGE.fullmatch(each)), "codes such as zh or en (quote \"no\", which YAML reads as false)"),
    "tags": (_every(lambda each: each.strip() and len(each) <= LONGEST_TAG, alone=False),
             f"a list of words of at most {LONGEST_TAG} letters"),
    "base_model": (_every(lambda each: REPOSITORY.fullmatch(each)), "a repository such as org/name, or a list of them"),
    "datasets": (_every(lambda each: re.fullmatch(r"[\w./-]+", each)), "a data set such as org/name, or a list of them"),
    "tasks": (_every(lambda each: WORD.fullmatch(each)), "a list of ModelScope tasks, such as text-to-image-synthesis"),
    "frameworks": (_every(lambda each: each.lower() in FRAMEWORKS), "a list such as pytorch"),
    "domain": (_every(lambda each: each.lower() in DOMAINS), "a list such as multi-modal"),
}
"""What an entry may be, and how to say it. Entries that are not here are the writer's own affair."""
NEEDED = ("license",)
"""What both hubs ask for. A card of ours has every entry."""
