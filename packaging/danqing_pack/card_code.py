"""The code of a model card: how to run a model that lies in a folder, on Hugging Face or on ModelScope.

Every function returns the same lines for the same place, so that a card can be moved from one place to another by
putting the lines of one in the stead of the other's (see ``moved``). What differs stands in ``_opening``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from .front_matter import REPOSITORY


@dataclass(frozen=True)
class Place:
    """Where a model lies: ``hub`` is ``hf``, ``ms``, or empty for a folder, whose ``name`` is then what to type."""

    hub: str
    name: str

    @classmethod
    def of(cls, words: str) -> Place:
        """From ``hf:org/name``, ``ms:org/name`` or a folder."""
        hub, _, name = words.partition(":")
        return cls(hub, name) if hub in ("hf", "ms") and REPOSITORY.fullmatch(name) else cls("", words)

    @property
    def words(self) -> str:
        """What Danqing takes for a model."""
        return f"{self.hub}:{self.name}" if self.hub else self.name

    @property
    def last(self) -> str:
        """The name without its owner."""
        return self.name.rstrip("/").rpartition("/")[2] or self.name


@dataclass(frozen=True)
class Example:
    """What the code draws: ``seed`` decides the picture."""

    prompt: str
    seed: int


def service_name(place: Place) -> str:
    """A name that PAI-EAS takes: small letters, digits and underscores, from 3 to 63 of them."""
    plain = re.sub(r"[^a-z0-9]+", "_", place.last.lower()).strip("_")
    return (plain if re.match(r"[a-z].{2}", plain) else f"danqing_{plain}".rstrip("_"))[:63]


def command(place: Place, example: Example) -> str:
    """Danqing on the command line."""
    return _fenced("sh", f"danqing generate {_quoted(example.prompt)} {_opening(place)['command']} --seed {example.seed}")


def python(place: Place, example: Example) -> str:
    """Danqing in Python."""
    return _fenced("python", f"{_opening(place)['python']}\n{_drawing(example)}\nimage.save(\"danqing.png\")")


def modelscope(place: Place, example: Example, unnamed: bool = False) -> str:
    """ModelScope's pipeline; pixels come as BGR. ``unnamed``: no configuration.json in the folder names the pipeline."""
    return _fenced("python", (
        f"{_opening(place)['unnamed' if unnamed else 'modelscope']}\n"
        f"pixels = draw({{\"text\": {_string(example.prompt)}}}, seed={example.seed})[\"output_imgs\"][0]\n"
        "Image.fromarray(pixels[..., ::-1]).save(\"modelscope.png\")"))


def diffusers(place: Place, example: Example) -> str:
    """diffusers' own loader."""
    return _fenced("python", f"{_opening(place)['diffusers']}\n{_drawing(example)}\nimage.save(\"diffusers.png\")")


def self_contained(place: Place, example: Example) -> str:
    """diffusers' own loader for a folder that brings its code."""
    return _fenced("python", f"{_opening(place)['trusted']}\n{_drawing(example)}\nimage.save(\"diffusers.png\")")


def transformers(place: Place, example: Example) -> str:
    """transformers' pipeline, for folders that it takes."""
    return _fenced("python", (
        f"{_opening(place)['transformers']}\n"
        f"images = draw({_string(example.prompt)}, seed={example.seed}, output_type=\"pil\")[0]\n"
        "images[0].save(\"transformers.png\")"))


def bundle(place: Place) -> str:
    """The bundle for PAI-EAS."""
    return _fenced("sh", _opening(place)["bundle"])


def service() -> str:
    """The same service on this machine."""
    return _fenced("sh", "danqing serve model.tar.gz --port 8080")


def client(place: Place, example: Example) -> str:
    """One request to the service, with nothing but Python."""
    return _fenced("python", (
        "import base64\nimport json\nimport urllib.request\n\n"
        f"address, token = \"http://127.0.0.1:8080/api/predict/{service_name(place)}\", \"\"\n"
        f"body = json.dumps({{\"text\": {_string(example.prompt)}, \"seed\": {example.seed}}}).encode()\n"
        "request = urllib.request.Request(address, body, {\"Authorization\": token})\n"
        "with urllib.request.urlopen(request) as answer:\n"
        "    reply = json.loads(answer.read())\n"
        "with open(\"eas.png\", \"wb\") as file:\n"
        "    file.write(base64.urlsafe_b64decode(reply[\"images_base64\"][0]))"))


def moved(text: str, source: Place, target: Place) -> str:
    """``text`` with the code for ``source`` replaced by the code for ``target``, wherever it stands as it was written."""
    before, after = _opening(source), _opening(target)
    for name in sorted(before, key=lambda name: -len(before[name])):
        text = text.replace(before[name], after[name])
    return text.replace(f"/api/predict/{service_name(source)}\"", f"/api/predict/{service_name(target)}\"")


def _opening(place: Place) -> dict[str, str]:
    """The lines that say where the model lies."""
    name, words = _string(place.name), _string(place.words)
    fetched = f"snapshot_download({name})"
    of_hf, of_ms = "from huggingface_hub import snapshot_download\n", "from modelscope import snapshot_download\n"
    on_ms = fetched if place.hub == "hf" else name
    with_diffusers = fetched if place.hub == "ms" else name
    fetching = of_ms if place.hub == "ms" else ""
    loader = f"import torch\nfrom diffusers import DiffusionPipeline\n{fetching}\npipe = DiffusionPipeline.from_pretrained"
    asked = (f"{of_hf if place.hub == 'hf' else ''}from modelscope.pipelines import pipeline\nfrom PIL import Image\n\n"
             f"draw = pipeline(\"text-to-image-synthesis\", {on_ms}")
    pulled = f"danqing pull {place.words} {place.last}\n" if place.hub else ""
    return {
        "command": f"-m {_quoted(place.words)}",
        "python": f"import danqing\nimport torch\n\npipe = danqing.load({words})",
        "modelscope": f"{asked})",
        # A push adds configuration.json where there is none.
        "unnamed": f"{asked})" if place.hub else f"{asked}, pipeline_name=\"danqing\")",
        "diffusers": f"{loader}({with_diffusers})",
        "trusted": f"{loader}({with_diffusers}, trust_remote_code=True)",
        "transformers": (f"{of_ms if place.hub == 'ms' else ''}from transformers import pipeline\n\n"
                         f"draw = pipeline(\"text2image_generation\", {with_diffusers})"),
        "bundle": f"{pulled}danqing pack {_quoted(place.last if place.hub else place.name)} model.tar.gz",
    }


def _drawing(example: Example) -> str:
    return f"image = pipe({_string(example.prompt)}, generator=torch.Generator().manual_seed({example.seed})).images[0]"


def _fenced(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```"


def _string(text: str) -> str:
    """A string as Python and JSON both write it."""
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """A word for the shell."""
    import shlex

    return shlex.quote(text) if not re.search(r"[^\w./:-]", text) else "'" + text.replace("'", "'\"'\"'") + "'"
