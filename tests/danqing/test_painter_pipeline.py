"""The painter pipeline and EasyNLP's rows, against what the original wrote down."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import danqing
import numpy as np
import pytest
import torch
from danqing.images import to_uint8
from danqing.networks.painter_transformer import PainterConfig, PainterTransformer
from danqing.pipelines.painter import PainterPipeline
from danqing.pipelines.rows import pipeline_rows, predictor_rows, read_texts
from danqing_pack.errors import FormatError, RequestError
from diffusers import DiffusionPipeline, VQModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertTokenizer

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "红", "蓝", "色", "圆", "形", "##s", "t")


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def small(side: int = 3, levels: int = 2, codes: int = 20, **sizes: int) -> PainterPipeline:
    """A painter of ``side`` x ``side`` codes whose VQGAN scales by 2 ^ (levels - 1)."""
    torch.manual_seed(0)
    config = PainterConfig(
        vocab_size=20 + len(WORDS), image_vocab_size=20, text_length=6, image_length=side * side,
        n_positions=6 + side * side, n_embd=24, n_layer=2, n_head=3, **sizes,
    )  # fmt: skip
    transformer = PainterTransformer(config).eval()
    torch.nn.init.normal_(transformer.head.weight)
    vqvae = VQModel(
        block_out_channels=(8,) * levels, norm_num_groups=4, latent_channels=4, num_vq_embeddings=codes,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(vqvae.quantize.embedding.weight)
    pipe = PainterPipeline(vqvae, transformer, BertTokenizer({word: i for i, word in enumerate(WORDS)}))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def tiny(painter_checkpoint: Path) -> PainterPipeline:
    pipe = danqing.load(painter_checkpoint, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def case(golden: Path) -> Path:
    return golden / "easynlp" / "painter_tiny"


@pytest.fixture(scope="module")
def texts(case: Path) -> list[str]:
    return list(json.loads((case / "inputs" / "inputs.json").read_text(encoding="utf-8"))["texts"])


@pytest.fixture(scope="module")
def expected(case: Path) -> dict[str, Tensor]:
    return load_file(case / "expected" / "image.safetensors")


def pixels_of(row: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(row, validate=True)))).astype(int)


# ---- against the original


def test_tokens_are_those_of_the_original(tiny: PainterPipeline, case: Path) -> None:
    for probe in json.loads((case / "expected" / "tokens.json").read_text(encoding="utf-8")):
        assert tiny.encode_prompt([probe["text"]]).tolist() == [probe["input_ids"]], probe["text"]


def test_the_encoder_finds_the_codes_of_the_original(
    tiny: PainterPipeline, case: Path, expected: dict[str, Tensor]
) -> None:
    image = torch.from_numpy(np.array(Image.open(case / "inputs" / "image.png"))).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        latents = tiny.vqvae.encode(image).latents
    torch.testing.assert_close(latents, expected["encoder_pre_quant"], atol=1e-4, rtol=0)
    assert torch.equal(tiny.encode_image(image), expected["encode_to_z_ids"])


def test_the_decoder_paints_what_the_original_painted(
    tiny: PainterPipeline, case: Path, expected: dict[str, Tensor]
) -> None:
    pixels = tiny.decode_codes(expected["decode_input_ids"])
    torch.testing.assert_close(pixels, expected["decode_to_img"], atol=2e-4, rtol=0)
    written = np.asarray(Image.open(case / "expected" / "decode_to_img.png"))
    assert np.array_equal(to_uint8(expected["decode_to_img"])[0], written)
    assert np.abs(to_uint8(pixels)[0].astype(int) - written).max() <= 1


def test_greedy_codes_of_all_texts_together(
    tiny: PainterPipeline, texts: list[str], expected: dict[str, Tensor]
) -> None:
    codes = tiny(texts, do_sample=False, output_type="codes").images
    assert codes.dtype == torch.int64
    assert torch.equal(codes, expected["greedy_image_ids"])


def test_a_given_beginning_is_continued(tiny: PainterPipeline, texts: list[str], expected: dict[str, Tensor]) -> None:
    prefix = expected["prefix_image_ids"]
    codes = tiny(texts[:2], do_sample=False, output_type="codes", image_codes=prefix).images
    assert torch.equal(codes, expected["greedy_continuation_ids"])


def test_rows_of_the_predictor(tiny: PainterPipeline, case: Path, texts: list[str]) -> None:
    wanted = json.loads((case / "expected" / "predictor_greedy.json").read_text(encoding="utf-8"))
    found = predictor_rows(tiny, [{"idx": 1, "text": texts[1]}], do_sample=False)
    assert [list(row) for row in found] == [list(row) for row in wanted]
    for row, original in zip(found, wanted, strict=True):
        assert (row["idx"], row["text"]) == (original["idx"], original["text"])
        assert [type(image) for image in row["gen_imgbase64"]] == [type(image) for image in original["gen_imgbase64"]]
        for ours, theirs in zip(row["gen_imgbase64"], original["gen_imgbase64"], strict=True):
            assert np.abs(pixels_of(ours) - pixels_of(theirs)).max() <= 1


def test_the_text_column_of_the_predictor(tiny: PainterPipeline, case: Path, texts: list[str]) -> None:
    wanted = json.loads((case / "expected" / "predictor_text_column.json").read_text(encoding="utf-8"))
    assert read_texts(tiny, texts) == wanted


# ---- rows


def test_rows_take_the_parameters_of_easynlp() -> None:
    pipe = small()
    rows = pipeline_rows(
        pipe, ["红色", "圆形"], max_generated_num="3", text_len="6", img_len=9, img_vocab_size="20", seed=5
    )
    assert [list(row) for row in rows] == [["gen_imgbase64"]] * 2
    assert [len(row["gen_imgbase64"]) for row in rows] == [3, 3]
    alone = pipe("圆形", generator=seeded(9)).images[0]
    assert np.array_equal(pixels_of(rows[1]["gen_imgbase64"][1]), np.asarray(alone))


def test_rows_keep_the_column_and_the_idx() -> None:
    rows = predictor_rows(small(), [{"idx": "a7", "title": "红 色"}], text_column="title", top_k=1)
    assert (rows[0]["idx"], rows[0]["text"], len(rows[0]["gen_imgbase64"])) == ("a7", "红色", 1)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"max_generated_num": 0}, "num_images_per_prompt must be a whole number of at least 1"),
        ({"max_generated_num": "many"}, "max_generated_num must be a whole number, not 'many'"),
        ({"text_len": "32"}, "text_len is 6 in this checkpoint"),
        ({"img_vocab_size": 16384}, "img_vocab_size is 20 in this checkpoint"),
        ({"size": 256, "hue": 1}, "takes no parameter hue, size"),
        ({"output_type": "np"}, "takes no parameter output_type"),
        ({"seed": 1, "generator": None}, "exclude each other"),
    ],
)
def test_parameters_that_rows_refuse(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        pipeline_rows(small(), ["红"], **parameters)


# ---- what a call gives


def test_output_types_agree() -> None:
    pipe = small()
    found = {kind: pipe(["红", "蓝色"], 2, generator=seeded(1, 2, 3, 4), output_type=kind).images
             for kind in ("pil", "np", "pt", "codes")}  # fmt: skip
    assert found["codes"].shape == (4, 9) and found["pt"].shape == (4, 3, 6, 6) and found["np"].shape == (4, 6, 6, 3)
    assert [image.mode for image in found["pil"]] == ["RGB"] * 4
    pixels = pipe.decode_codes(found["codes"])
    torch.testing.assert_close(found["pt"], (pixels / 2 + 0.5).clamp(0, 1))
    assert np.array_equal(found["np"], found["pt"].permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.stack(found["pil"]), to_uint8(pixels))
    as_tuple = pipe(["红", "蓝色"], 2, generator=seeded(1, 2, 3, 4), output_type="codes", return_dict=False)
    assert torch.equal(as_tuple[0], found["codes"]) and len(found["codes"].unique(dim=0)) == 4


def test_an_image_is_the_same_alone_and_in_any_batch(tiny: PainterPipeline, texts: list[str]) -> None:
    prompts, seeds = [texts[0], "", texts[3]], range(6)
    together = tiny(prompts, 2, generator=seeded(*seeds), output_type="codes").images
    in_pieces = tiny(prompts, 2, generator=seeded(*seeds), batch_size=4, output_type="codes").images
    assert torch.equal(together, in_pieces)
    assert torch.equal(together[3:4], tiny("", generator=seeded(3), output_type="codes").images)
    assert not torch.equal(together[2], together[3])
    assert torch.equal(tiny.decode_codes(together[2:4])[1:], tiny.decode_codes(together[3:4]))


def test_one_generator_for_several_images() -> None:
    pipe = small()
    together = pipe("红", 3, generator=seeded(1)[0], output_type="codes").images
    (single,) = seeded(1)
    one_by_one = [pipe("红", generator=single, output_type="codes").images for _ in range(3)]
    assert torch.equal(together, torch.cat(one_by_one))
    pieces = pipe("红", 3, generator=seeded(1)[0], batch_size=2, output_type="codes").images
    assert torch.equal(together, pieces)


@pytest.mark.parametrize(("side", "levels"), [(1, 1), (2, 4), (4, 1), (5, 3)])
def test_any_square_grid_and_any_scale(side: int, levels: int) -> None:
    images = small(side, levels)(["红", "蓝"], output_type="np").images
    assert images.shape == (2, side * 2 ** (levels - 1), side * 2 ** (levels - 1), 3)


def test_codes_are_painted_as_they_are() -> None:
    """Two equal rows of the codebook: looking up the nearest again would lose the second, and change nothing else."""
    pipe = small()
    seen: list[bool] = []
    decode = pipe.vqvae.decode
    pipe.vqvae.decode = lambda *given, **more: seen.append(more["force_not_quantize"]) or decode(*given, **more)
    pipe("红")
    assert seen == [True]


def test_the_callback_sees_every_code() -> None:
    pipe, seen = small(), []

    def on_step_end(caller: PainterPipeline, step: int, place: int, tensors: dict[str, Tensor]) -> None:
        assert caller is pipe
        seen.append((step, place, tensors["codes"].clone()))

    beginning = torch.tensor([[1, 2, 3, 4]])
    codes = pipe(["红"] * 3, image_codes=beginning.expand(3, 4), batch_size=2, output_type="codes",
                 callback_on_step_end=on_step_end).images  # fmt: skip
    assert [step for step, _, _ in seen] == [0, 1, 2, 3, 4] * 2
    assert [place for _, place, _ in seen] == [4, 5, 6, 7, 8] * 2
    assert all(torch.equal(sofar, codes[:2, : place + 1]) for _, place, sofar in seen[:5])
    assert all(torch.equal(sofar, codes[2:, : place + 1]) for _, place, sofar in seen[5:])


def test_the_progress_bar_counts_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = small()
    pipe.set_progress_bar_config()
    pipe(["红", "蓝"], batch_size=1, output_type="codes")
    assert "18/18" in capsys.readouterr().err


def test_beginnings_for_prompts_and_for_images() -> None:
    pipe = small()
    per_prompt = torch.tensor([[1, 2], [3, 4]])
    codes = pipe(["红", "蓝"], 2, image_codes=per_prompt, output_type="codes").images
    assert codes[:, :2].tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    per_image = torch.arange(8, dtype=torch.int32).reshape(4, 2)
    codes = pipe(["红", "蓝"], 2, image_codes=per_image, output_type="codes").images
    assert codes[:, :2].tolist() == per_image.tolist()
    whole = torch.arange(9)[None]
    assert torch.equal(pipe("红", image_codes=whole, output_type="codes").images, whole)


def test_words_reach_the_network() -> None:
    pipe = small(entity_dim=5)
    torch.nn.init.normal_(pipe.transformer.ent_emb.weight, std=5)
    words, vectors = torch.arange(24).reshape(2, 2, 6) % 7, torch.randn(7, 5)
    ids = pipe.encode_prompt(["红", "蓝"])
    with torch.no_grad():
        first = pipe.transformer(ids, words=words, entity_embeddings=vectors).logits[:, -1].argmax(-1)
    def codes(**knowledge: Tensor) -> Tensor:
        return pipe(["红", "蓝"], 2, do_sample=False, output_type="codes", batch_size=3, **knowledge).images

    found = codes(words=words, entity_embeddings=vectors)
    assert found[:, 0].tolist() == first.repeat_interleave(2).tolist()
    assert not torch.equal(found, codes())
    with pytest.raises(RequestError, match="words must have one row for each of 1 prompts, not 2"):
        pipe("红", words=words, entity_embeddings=vectors)


def test_the_default_top_k_asks_for_no_more_codes_than_there_are(tiny: PainterPipeline) -> None:
    pipe = small()
    drawn = [pipe("红", generator=seeded(1), output_type="codes", **given).images
             for given in ({}, {"top_k": None}, {"top_k": 100}, {"top_k": 20})]  # fmt: skip
    assert all(torch.equal(each, drawn[0]) for each in drawn)
    with pytest.raises(RequestError, match="between 1 and the 128 image codes of this painter, not 129"):
        tiny("红", top_k=129)


def test_bfloat16_draws_images() -> None:
    pipe = small().to(torch.bfloat16)
    images = pipe(["红", "蓝"], output_type="np").images
    assert images.dtype == np.float32 and np.isfinite(images).all()


# ---- prompts


@pytest.mark.parametrize(
    "prompt", ["", "   ", "红" * 100_000, "🐶🐶", "[MASK]红", "t" * 200, "\u200b\n\t", "\ud83d", "a\x00b"],
    ids=["empty", "spaces", "very long", "emoji", "special", "long word", "control", "surrogate", "nul"],
)  # fmt: skip
def test_prompts_that_look_strange_are_drawn(prompt: str) -> None:
    assert small()(prompt, do_sample=False, output_type="codes").images.shape == (1, 9)


def test_half_a_surrogate_pair_is_dropped_as_other_control_characters_were() -> None:
    pipe = small()
    assert torch.equal(pipe.encode_prompt(["红\ud83d色"]), pipe.encode_prompt(["红色"]))


@pytest.mark.parametrize("prompt", [None, 7, b"red", {"text": "红"}, ["红", None], [["红"]], {"红"}])
def test_a_prompt_that_is_no_text_is_refused(prompt: Any) -> None:
    with pytest.raises(RequestError, match="A prompt must be text"):
        small()(prompt)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"prompt": []}, "There is no prompt"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be a whole number of at least 1, not 0"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"output_type": "latent"}, "output_type must be one of pil, np, pt, codes, not 'latent'"),
        ({"top_k": 21}, "top_k must lie between 1 and the 20 image codes"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"generator": [None, None]}, "2 generators were given for 1 images"),
        ({"image_codes": torch.zeros(2, 3, dtype=torch.int64)}, r"one row for each of 1 prompts .* shape \[2, 3\]"),
        ({"image_codes": torch.zeros(1, 10, dtype=torch.int64)}, "at most 9 codes"),
        ({"image_codes": torch.tensor([[20]])}, "whole numbers from 0 to 19"),
        ({"image_codes": torch.zeros(1, 2)}, "whole numbers from 0 to 19"),
    ],
)
def test_arguments_that_cannot_be_carried_out(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        small()(**{"prompt": "红", **arguments})


# ---- components


def test_a_grid_that_is_no_square_is_refused() -> None:
    pipe = small()
    config = PainterConfig(**{**pipe.transformer.config.to_dict(), "image_length": 8})
    with pytest.raises(FormatError, match="8 image tokens make no square"):
        PainterPipeline(pipe.vqvae, PainterTransformer(config), pipe.tokenizer)


def test_a_vqgan_with_too_few_codes_is_refused() -> None:
    with pytest.raises(FormatError, match="writes 20 codes and the VQGAN knows 19"):
        small(codes=19)


def test_a_vocabulary_of_another_checkpoint_is_refused() -> None:
    pipe = small()
    pipe.tokenizer = BertTokenizer({word: i for i, word in enumerate((*WORDS, "多"))})
    with pytest.raises(FormatError, match="more words than the transformer's 12 text tokens"):
        pipe("多")


def test_saved_and_loaded_by_diffusers_it_draws_the_same(tmp_path: Path) -> None:
    pipe = small(n_unmasked=4, entity_dim=3)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert {name: value for name, value in index.items() if name != "_diffusers_version"} == {
        "_class_name": "PainterPipeline",
        "tokenizer": ["transformers", "BertTokenizer"],
        "transformer": ["danqing.components", "PainterTransformer"],
        "vqvae": ["diffusers", "VQModel"],
    }
    again = DiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again) is PainterPipeline
    drawn = [each(["红色圆形", ""], generator=seeded(1, 2), output_type="np").images for each in (pipe, again)]
    assert np.array_equal(*drawn)


def test_threads_share_a_pipeline() -> None:
    pipe, found = small(side=5), {}

    def draw(seed: int) -> None:
        prompts = ["红" * seed, "圆形"]
        found[seed] = [pipe(prompts, generator=seeded(seed, seed + 9), output_type="np").images for _ in range(4)]

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = dict(found)
    for seed in range(6):
        draw(seed)
        assert all(np.array_equal(each, found[seed][0]) for each in [*together[seed], *found[seed]])


def test_threads_take_turns_at_the_tokenizer() -> None:
    """A fast tokenizer raises "Already borrowed" when two threads change its settings."""
    pipe, inside, met = small(), threading.Lock(), []
    real = pipe.tokenizer

    def slow(*given: Any, **more: Any) -> Any:
        met.append(not inside.acquire(blocking=False))
        time.sleep(0.02)
        result = real(*given, **more)
        if inside.locked():
            inside.release()
        return result

    pipe.tokenizer = slow
    threads = [threading.Thread(target=pipe.encode_prompt, args=(["红"],)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == [False] * 4


def test_offloaded_weights_draw_the_same() -> None:
    """Accelerate's sequential offload: weights live on no device, and come in for each module's forward."""
    accelerate = pytest.importorskip("accelerate")
    pipe = small()
    before = pipe(["红", "蓝"], generator=seeded(1, 2), output_type="np").images
    for part in (pipe.transformer, pipe.vqvae):
        accelerate.cpu_offload(part, torch.device("cpu"))
    assert pipe.transformer.gpt.wte.weight.is_meta
    assert np.array_equal(pipe(["红", "蓝"], generator=seeded(1, 2), output_type="np").images, before)


def test_a_model_that_is_brought_in_for_forward_only_is_brought_in() -> None:
    class Hook:
        def __init__(self) -> None:
            self.called = 0

        def pre_forward(self, module: torch.nn.Module, *given: Any) -> Any:
            self.called += 1
            return given

    pipe = small()
    pipe.transformer._hf_hook, hook = Hook(), Hook()
    pipe.vqvae._hf_hook = hook
    pipe.decode_codes(torch.zeros(1, 9, dtype=torch.int64))
    assert hook.called and not pipe.transformer._hf_hook.called
