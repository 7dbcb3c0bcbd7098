"""Chinese placeholders in angle brackets, of one vector and of several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from danqing.adapters.textual_inversion import add_embeddings
from danqing_pack.errors import ConversionError, FormatError, RequestError
from safetensors.torch import save_file


def embed(pipe: Any, prompt: str) -> torch.Tensor:
    found: torch.Tensor = pipe.encode_prompt(prompt, "cpu", 1, False)[0]
    return found


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A placeholder of three vectors, saved as the later scripts of diffusers do."""
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    torch.save({"<古风画>": vectors}, tmp_path / "learned_embeds.bin")
    return tmp_path


def test_ids_embeddings_and_image_of_2023(
    pipe: Any, reference: Path, expected: Callable[[str], Any], equals_run: Callable[..., None]
) -> None:
    wanted = expected("textual_inversion.json")
    (embedding,) = add_embeddings(pipe, [reference / "textual_inversion"])
    assert embedding.placeholder == "<小奶猫>"
    assert pipe.tokenizer(wanted["prompt"], padding="max_length").input_ids == wanted["input_ids"][0]
    assert pipe.tokenizer.tokenize(wanted["prompt"]) == wanted["tokens"]
    (reference_embeddings,) = expected("textual_inversion.safetensors").values()
    assert (embed(pipe, wanted["prompt"]) - reference_embeddings).abs().max() < 1e-5
    equals_run(pipe, "textual_inversion", prompt=wanted["prompt"])


def test_all_of_several_vectors_count(pipe: Any, several: Path) -> None:
    add_embeddings(pipe, [several])
    first = len(pipe.tokenizer) - 3
    prompt = pipe.maybe_convert_prompt("一只<古风画>猫", pipe.tokenizer)
    ids = pipe.tokenizer(prompt).input_ids
    assert ids[3:6] == [first, first + 1, first + 2]
    with_all = embed(pipe, "一只<古风画>猫")
    pipe.text_encoder.get_input_embeddings().weight.data[first + 2] = 0
    assert not torch.allclose(embed(pipe, "一只<古风画>猫"), with_all)


def test_diffusers_alone_loses_all_but_the_first(pipe: Any, several: Path) -> None:
    """The trap that ``normalized=False`` avoids; should diffusers mend it, this test says so."""
    pipe.load_textual_inversion(str(several))
    ids = pipe.tokenizer(pipe.maybe_convert_prompt("一只<古风画>猫", pipe.tokenizer)).input_ids
    assert sum(index >= len(pipe.tokenizer) - 3 for index in ids) == 1


def test_it_survives_saving(pipe: Any, several: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    add_embeddings(pipe, [several])
    wanted = embed(pipe, "一只<古风画>猫")
    pipe.save_pretrained(tmp_path / "saved")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert torch.allclose(embed(again, "一只<古风画>猫"), wanted, atol=1e-6)


@pytest.mark.parametrize("form", ["a1111", "a1111 safetensors", "one by n", "two words", "half precision"])
def test_other_forms(pipe: Any, tmp_path: Path, form: str) -> None:
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    path = tmp_path / ("<画>.safetensors" if form == "a1111 safetensors" else "file.pt")
    if form == "a1111":
        torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "<画>", "step": 500}, path)
    elif form == "a1111 safetensors":
        save_file({"emb_params": vectors}, path)
    elif form == "one by n":
        torch.save({"<画>": vectors[:1]}, path)
    elif form == "two words":
        torch.save({"<画>": vectors[0], "<诗>": vectors[1]}, path)
    else:
        torch.save({"<画>": vectors.half()}, path)
    found = add_embeddings(pipe, [path])
    assert found[0].placeholder == "<画>"
    row = pipe.text_encoder.get_input_embeddings().weight[pipe.tokenizer.convert_tokens_to_ids("<画>")]
    assert torch.allclose(row, vectors[0], atol=1e-2)
    assert row.dtype == torch.float32


def test_capitals_stay_themselves(pipe: Any, tmp_path: Path) -> None:
    unknown = pipe.text_encoder.get_input_embeddings().weight[100].clone()
    torch.save({"<Cat>": torch.ones(32)}, tmp_path / "cat.bin")
    add_embeddings(pipe, [tmp_path / "cat.bin"])
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[100], unknown)
    assert pipe.tokenizer("一只<Cat>").input_ids[3] == 363


def test_no_random_number_is_drawn(pipe: Any, reference: Path) -> None:
    before = torch.random.get_rng_state()
    add_embeddings(pipe, [reference / "textual_inversion"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_refused_leaves_the_pipeline_alone(pipe: Any, reference: Path, tmp_path: Path) -> None:
    torch.save({"<宽>": torch.ones(48)}, tmp_path / "wide.bin")
    torch.save({"猫": torch.ones(32)}, tmp_path / "word.bin")
    torch.save({"a": torch.ones(3), "b": torch.ones(4)}, tmp_path / "state.bin")
    good = reference / "textual_inversion"
    with pytest.raises(ConversionError, match="are 48 wide, the text encoder's are 32"):
        add_embeddings(pipe, [good, tmp_path / "wide.bin"])
    with pytest.raises(RequestError, match="already has the word 猫"):
        add_embeddings(pipe, [good, tmp_path / "word.bin"])
    with pytest.raises(RequestError, match="already has the word <小奶猫>"):
        add_embeddings(pipe, [good, good])
    with pytest.raises(FormatError, match="no placeholders with vectors of one width"):
        add_embeddings(pipe, [good, tmp_path / "state.bin"])
    with pytest.raises(FormatError, match="neither an embedding file nor a folder"):
        add_embeddings(pipe, [good, tmp_path])
    assert len(pipe.tokenizer) == 363 and pipe.text_encoder.config.vocab_size == 363
