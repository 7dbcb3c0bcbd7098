"""Templates: how they are filled, and where they are found."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.resources.abc import Traversable
from pathlib import Path

import pytest
from danqing_pack import card_templates as templates
from danqing_pack.card_code import Example, Place, moved, python, service_name
from danqing_pack.errors import CardError
from danqing_pack.families import FAMILIES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("text", "filled"), [
    ("a {{x}} b", "a 1 b\n"), ("a {{y}} b\nc", "c\n"), ("{{?x}}there\n{{!x}}not\n{{?y}}not\n{{!y}}so", "there\nso\n"),
    ("{{?x}}{{!y}}both {{x}}\n{{?x}}{{?y}}no", "both 1\n"), ("a\n\n{{y}}\n\nb", "a\n\nb\n"),
])
def test_places_are_filled_and_lines_without_a_value_go(text: str, filled: str) -> None:
    assert templates.fill(text, {"x": "1", "y": None}) == filled


def test_a_value_is_never_filled_itself() -> None:
    assert templates.fill("{{x}}", {"x": "{{y}}", "y": "no"}) == "{{y}}\n"


def test_an_unknown_name_is_a_fault_of_the_template() -> None:
    with pytest.raises(CardError, match="zzz"):
        templates.fill("{{zzz}}", {"x": "1"})


@pytest.mark.parametrize("language", templates.LANGUAGES)
@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_templates_are_whole(family: str, language: str) -> None:
    found = templates.template(family, language)
    assert len(found.prompts) >= 2 and found.prompts == templates.template(family, "en").prompts
    names = [name for name, _ in found.pieces if name]
    assert names == [name for name, _ in templates.template(family, "en").pieces if name] and len(set(names)) == len(names)
    assert {"summary", "examples", "run", "networks", "training", "limits", "files", "licence"} <= set(names)


def test_a_family_without_a_template_is_told() -> None:
    with pytest.raises(CardError, match=r"nobody\.en\.md"):
        templates.template("nobody", "en")


def test_templates_are_found_in_the_package_else_in_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "danqing_pack"
    monkeypatch.setattr(templates, "files", lambda name: package)
    assert templates.folder() == ROOT / "model_cards"
    (package / "model_cards").mkdir(parents=True)
    found: Traversable = templates.folder()
    assert found == package / "model_cards"


@pytest.mark.slow
def test_the_wheel_carries_templates_code_and_app(tmp_path: Path) -> None:
    """Out of a wheel, without the checkout: templates, the code of a self-contained painter, the app."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True,
                   capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "from danqing_pack import card_templates, apps, cards\n"
        "from importlib.resources import files\n"
        "print(card_templates.folder())\n"
        "print(*sorted(place.name for place in card_templates.folder().iterdir()))\n"
        "print((files('danqing_pack') / apps.TEMPLATE).is_file(),\n"
        "      (files('danqing') / 'publishing/painter/pipeline.py').is_file(), cards.prompts('painter')[0])\n")
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{script}"],
                          capture_output=True, text=True, check=True, cwd=tmp_path)
    place, names, rest = done.stdout.splitlines()
    assert place == str(tmp_path / "site" / "danqing_pack" / "model_cards")
    assert names.split() == sorted(f"{family.name}.{language}.md" for family in FAMILIES for language in ("en", "zh"))
    assert rest == "True True 宽松T恤"


# ---------------------------------------------------------------- code

@pytest.mark.parametrize(("name", "service"), [
    ("org/My-Model.v2", "my_model_v2"), ("a/b", "danqing_b"), ("画", "danqing"), ("a/1abc", "danqing_1abc"), ("x" * 80, "x" * 63),
])
def test_a_service_has_a_name_that_eas_takes(name: str, service: str) -> None:
    assert service_name(Place("", name)) == service


def test_code_moves_and_moves_back() -> None:
    places = [Place("", "my painter"), Place("hf", "a/b"), Place("ms", "c/d-e")]
    for source in places:
        for target in places:
            text = python(source, Example("猫", 1))
            assert moved(text, source, target) == python(target, Example("猫", 1))


@pytest.mark.parametrize(("words", "hub"), [
    ("hf:a/b", "hf"), ("ms:a/b", "ms"), ("a/b", ""), ("hf:a", ""), ("C:/x", ""), ("hf:a/b/c", "")])
def test_a_place_is_a_repository_or_a_folder(words: str, hub: str) -> None:
    assert Place.of(words).hub == hub and Place.of(words).words == words
