"""The YAML before a card: what is refused, what is kept, and how each hub spells a licence."""

from __future__ import annotations

from typing import Any

import pytest
from danqing_pack import front_matter
from hypothesis import example, given, settings
from hypothesis import strategies as st

GOOD = "license: apache-2.0\nlanguage:\n- zh\ntags:\n- text-to-image\ntasks:\n- text-to-image-synthesis\n"


def problems(front: str) -> list[str]:
    return front_matter.problems(front_matter.values(front))


def test_a_card_is_split_and_joined_without_a_change() -> None:
    text = f"---\n# mine\n{GOOD}---\n\n# Title\n---\nno fence\n"
    front, body = front_matter.split(text)
    assert front is not None and body == "\n# Title\n---\nno fence\n"
    assert front_matter.join(front_matter.blocks(front), body) == text


@pytest.mark.parametrize("text", ["", "# Title\n", "---\nlicense: mit\n", " ---\na: 1\n---\n"])
def test_a_card_without_front_matter(text: str) -> None:
    assert front_matter.split(text) == (None, text)


def test_windows_lines_and_a_byte_order_mark_are_front_matter_too() -> None:
    front, body = front_matter.split("\ufeff---\r\nlicense: mit\r\n---\r\nText\r\n")
    assert front is not None and front_matter.values(front) == {"license": "mit"} and body == "Text\r\n"


def test_blocks_hold_lists_comments_and_nested_lines() -> None:
    front = "# first\nlicense: mit  # why\ntags:\n- a\n# about b\n- b\nmodel-index:\n- name: x\n  results: []\n"
    found = front_matter.blocks(front)
    assert list(found) == ["", "license", "tags", "model-index"]
    assert found["tags"] == "tags:\n- a\n# about b\n- b\n" and "".join(found.values()) == front


def test_good_entries_are_no_problem() -> None:
    assert problems(GOOD) == []
    assert problems(GOOD + "base_model: [org/name, other/name-2.0]\ndomain: [multi-modal]\nframeworks: [Pytorch]\n") == []
    assert problems("license: Apache License 2.0\nlanguage: zh\n") == []


@pytest.mark.parametrize(("front", "key"), [
    ("language: [zh]", "license"), ("license:", "license"), ("license: apache-3.0", "license"), ("license: [mit, mine]", "license"),
    ("license: mit\nlanguage: [no]", "language"), ("license: mit\nlanguage: Chinese", "language"),
    ("license: mit\ntags: one", "tags"), ("license: mit\ntags: [1]", "tags"), ("license: mit\ntags: []", "tags"),
    ("license: mit\nbase_model: name", "base_model"), ("license: mit\nbase_model: ../x/y", "base_model"),
    ("license: mit\npipeline_tag: [text-to-image]", "pipeline_tag"), ("license: mit\ntasks: Text To Image", "tasks"),
    ("license: mit\nframeworks: [torch]", "frameworks"), ("license: mit\ndomain: vision", "domain"),
    ("license: mit\nlibrary_name: my lib", "library_name"),
])
def test_a_bad_entry_is_named_once(front: str, key: str) -> None:
    [problem] = problems(front)
    assert key in problem and problem.endswith(".")


def test_other_needs_a_name_and_misspelled_keys_are_told() -> None:
    assert "license_name" in problems("license: other")[0]
    assert problems("license: other\nlicense_name: mine\nlicense_link: LICENSE") == []
    assert any("the key is license" in each for each in problems("licence: mit"))


@pytest.mark.parametrize(("front", "says"), [
    ("a: [1", "line"), ("- a\n- b", "list of keys"), ("a: 1\na: 2", "a twice"), ("a: !!python/object:os.system x", "YAML"),
    ("a: 1\n\tb: 2", "line"),
])
def test_what_is_no_mapping_is_one_sentence(front: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        front_matter.values(front)


@pytest.mark.parametrize(("hf", "ms"), [
    ("apache-2.0", "Apache License 2.0"), ("mit", "MIT"), ("gpl-3.0", "GPL-3.0"), ("cc-by-4.0", "cc-by-4.0"),
    (["apache-2.0", "mit"], ["Apache License 2.0", "MIT"]), ("mine", "mine"),
])
def test_each_hub_has_its_spelling(hf: Any, ms: Any) -> None:
    for value in (hf, ms):
        assert front_matter.licence_for(value, "hf") == hf
        assert front_matter.licence_for(value, "ms") == ms
    assert front_matter.digest("license", hf) == front_matter.digest("license", ms)


def test_modelscopes_words_are_its_clients_own() -> None:
    from modelscope.hub.constants import Licenses

    assert set(front_matter.ON_MODELSCOPE.values()) == set(Licenses.to_list())
    assert set(front_matter.ON_MODELSCOPE) <= front_matter.LICENCES


@settings(deadline=None, max_examples=60)
@example({"title": "one\x85two", "lines": ["\u2028", "甲\u2029"]})
@given(st.dictionaries(
    st.from_regex(r"[a-z_]{1,12}", fullmatch=True),
    st.one_of(st.text(max_size=30), st.integers(), st.booleans(), st.lists(st.text(max_size=10), max_size=4)), max_size=6))
def test_what_is_written_is_read_again(values: dict[str, Any]) -> None:
    front = "".join(front_matter.block(key, value) for key, value in values.items())
    assert front_matter.values(front) == values
    read, body = front_matter.split(f"---\n{front}---\nbody\n")
    assert read == front and body == "body\n"
    assert {key: front_matter.values(block) for key, block in front_matter.blocks(front).items()} == {
        key: {key: value} for key, value in values.items()}


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet=st.sampled_from("-\n ab:#[]'\""), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    front, body = front_matter.split(text)
    if front is not None:
        assert text.endswith(body)
        try:
            front_matter.problems(front_matter.values(front))
        except ValueError as error:
            assert str(error)
