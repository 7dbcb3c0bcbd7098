"""Where a model's name leads."""

from __future__ import annotations

from pathlib import Path

import pytest
from danqing.places import find_model
from danqing_pack.errors import FormatError


def test_a_user_without_a_home_is_no_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    import pwd

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("EASYNLP_CACHE_ROOT", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert find_model(tmp_path) == tmp_path
    with pytest.raises(FormatError, match="There is nothing at ~/model"):
        find_model("~/model")
    with pytest.raises(FormatError, match="There is no model pai-painter"):
        find_model("pai-painter")
