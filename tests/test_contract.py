"""What every family owes: the test says which piece is missing."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from danqing import pipelines
from danqing_pack.families import FAMILIES
from danqing_pack.family import Family
from danqing_pack.layouts import LAYOUTS

ROOT = Path(__file__).parents[1]
MODELSCOPE_TASKS = {"text-to-image-synthesis", "text2image_generation"}

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def test_names_are_unique() -> None:
    for things in (FAMILIES, LAYOUTS):
        names = [each.name for each in things]
        assert len(names) == len(set(names))


@every_family
def test_a_family_is_recognised_by_something(family: Family) -> None:
    assert family.signature.legacy_keys or family.signature.modern_components


@every_family
def test_its_layouts_exist(family: Family) -> None:
    assert family.layouts and set(family.layouts) <= {layout.name for layout in LAYOUTS}


@every_family
def test_its_tasks_are_modelscopes(family: Family) -> None:
    assert family.tasks and set(family.tasks) <= MODELSCOPE_TASKS


@every_family
def test_it_hands_back_easynlps_rows(family: Family) -> None:
    module, _, name = pipelines.ROWS[family.name].partition(":")
    assert callable(getattr(import_module(module), name))


@every_family
def test_its_dimensions_describe_themselves(family: Family) -> None:
    module = import_module(f"danqing_pack.families.{family.name.replace('-', '_')}")
    assert any(callable(getattr(each, "describe", None)) for each in vars(module).values() if isinstance(each, type))


@every_family
def test_both_readmes_name_it(family: Family) -> None:
    for name in ("README.md", "README.zh.md"):
        assert f"`{family.name}`" in (ROOT / name).read_text(encoding="utf-8"), f"{name} has no row for {family.name}"


@every_family
def test_it_has_a_card_template_in_both_languages(family: Family) -> None:
    for language in ("en", "zh"):
        assert (ROOT / "model_cards" / f"{family.name}.{language}.md").is_file(), f"{family.name} has no card in {language}"


@every_family
def test_it_is_held_against_the_original(family: Family) -> None:
    """Some test of conversions names the family and reads the numbers of the original implementation."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert any(family.name in text and "golden" in text and "convert(" in text for text in texts)


@pytest.mark.parametrize("name", sorted(pipelines.CLASSES))
def test_a_pipeline_class_is_found_where_the_table_says(name: str) -> None:
    assert getattr(pipelines, name).__name__ == name
