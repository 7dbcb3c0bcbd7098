"""The algebra of key tables: both directions, nothing named twice, every problem reported at once."""

from __future__ import annotations

import numpy as np
import pytest
from danqing_pack.errors import ConversionError
from danqing_pack.keymap import (
    BATCHED,
    FORKED,
    JOINED,
    JOINED_TRANSPOSED,
    SQUEEZED,
    TRANSPOSED,
    KeyMap,
    Op,
    conv,
    key,
    linear,
    module,
    norm,
    stack,
)
from danqing_pack.tensors import Tensor
from hypothesis import given
from hypothesis import strategies as st


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return Tensor.of(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def test_a_table_that_names_a_key_twice_is_refused_when_it_is_built() -> None:
    with pytest.raises(ConversionError, match=r"a\.weight.*legacy"):
        norm("a", "x", 4) + norm("a", "y", 4)
    with pytest.raises(ConversionError, match=r"x\.weight.*modern"):
        norm("a", "x", 4) + norm("b", "x", 4)


def test_under_deepens_both_sides_and_an_empty_prefix_neither() -> None:
    table = norm("a", "x", 4).under("old.0", "").under("", "new")
    assert table.legacy_keys == ("old.0.a.weight", "old.0.a.bias")
    assert table.modern_keys == ("new.x.weight", "new.x.bias")


@pytest.mark.parametrize(
    ("op", "parts", "shapes"),
    [
        (TRANSPOSED, 1, [(3, 5)]),
        (SQUEEZED, 1, [(3, 5, 1, 1)]),
        (BATCHED, 1, [(1, 7, 2)]),
        (JOINED, 3, [(4,)] * 3),
        (JOINED_TRANSPOSED, 3, [(4, 6)] * 3),
        (FORKED, 1, [(9, 2)]),
    ],
    ids=lambda value: value.name if isinstance(value, Op) else None,
)
def test_every_op_has_its_inverse(op: Op, parts: int, shapes: list[tuple[int, ...]]) -> None:
    values = tuple(tensor(*shape, seed=seed) for seed, shape in enumerate(shapes))
    back = op.inverse(*op.forward(*values))
    assert len(back) == parts
    for before, after in zip(values, back, strict=True):
        np.testing.assert_array_equal(before.array(), after.array())


def test_joined_weights_are_query_key_value_side_by_side() -> None:
    table = module(("query", "key", "value"), "c_attn", (4, 4), op=JOINED_TRANSPOSED, bias_op=JOINED)
    state = {f"{name}.{leaf}": tensor(*((4, 4) if leaf == "weight" else (4,)), seed=seed)
             for seed, name in enumerate(("query", "key", "value")) for leaf in ("weight", "bias")}
    modern = table.to_modern(state)
    assert modern["c_attn.weight"].shape == (4, 12)
    np.testing.assert_array_equal(modern["c_attn.weight"].array()[:, 4:8], state["key.weight"].array().T)
    np.testing.assert_array_equal(modern["c_attn.bias"].array()[8:], state["value.bias"].array())
    back = table.to_legacy(modern)
    assert back.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(back[name].array(), value.array())


def test_all_problems_are_reported_together() -> None:
    table = linear("head", "out", 4, 3) + norm("ln", "norm", 4) + conv("c", "conv", 2, 2)
    state = {"head.weight": tensor(4, 3), "head.bias": tensor(3), "ln.weight": tensor(4), "stray": tensor(1),
             "other.stray": tensor(1), "c.weight": tensor(2, 2, 3, 3), "c.bias": tensor(2)}
    with pytest.raises(ConversionError) as caught:
        table.to_modern(state, "file.bin")
    assert caught.value.data["missing"] == ["ln.bias"]
    assert caught.value.data["unknown"] == ["other.stray", "stray"]
    message = str(caught.value)
    for word in ("file.bin", "ln.bias is missing", "stray has no place", "head.weight has shape [4, 3] instead of [3, 4]"):
        assert word in message


def test_a_wrong_shape_is_found_on_the_way_back_too() -> None:
    table = linear("head", "out", 4, 3, op=TRANSPOSED, bias=False)
    with pytest.raises(ConversionError, match=r"out\.weight \[3, 4\]"):
        table.to_legacy({"out.weight": tensor(3, 4)})


def test_a_value_that_no_op_can_undo_is_a_problem_and_no_crash() -> None:
    with pytest.raises(ConversionError, match=r"fused \[7\] cannot become"):
        key(("q", "k", "v"), "fused", JOINED).to_legacy({"fused": tensor(7)})


names = st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, min_size=1, max_size=8)


@given(names)
def test_any_table_of_modules_is_undone_by_its_inverse(modules: list[str]) -> None:
    table: KeyMap = stack(
        (linear if position % 2 else lambda old, new, i, o: linear(old, new, i, o, op=TRANSPOSED))(
            f"old.{name}", f"new.{position}.{name}", 2 + position, 3)
        for position, name in enumerate(modules))
    state = {name: tensor(*(row.shape or ()), seed=seed)
             for seed, (name, row) in enumerate((name, row) for row in table.rows for name in row.legacy)}
    back = table.to_legacy(table.to_modern(state))
    assert back.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(back[name].array(), value.array())
