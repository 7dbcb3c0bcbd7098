"""The small model inside: its pictures, captions, the function that measures them, and the shipped weights."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from danqing.mini.captions import TEXT_LENGTH, UNSAID, random_example, vocabulary
from danqing.mini.drawing import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, Thing, combination, draw, held_out
from danqing.mini.making import accuracy, install, main, measure, questions, write_tables
from danqing.mini.measuring import agrees, matches, read
from PIL import Image

CHECKPOINT = Path(str(files("danqing.mini"))) / "checkpoint"


def test_the_same_scene_gives_the_same_picture() -> None:
    scene = Scene("blue", (Thing("star", "yellow", "big", "top"), Thing("heart", "red", "small", "bottom")))
    first, second = draw(scene), draw(scene)
    assert first.size == (64, 64) and first.mode == "RGB"
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_shape_stays_inside_its_box(shape: str, size: str) -> None:
    pixels = np.asarray(draw(Scene("white", (Thing(shape, "black", size, "top left"),))))
    assert (pixels[32:] == 250).all() and (pixels[:, 32:] == 250).all()


def test_measuring_reads_fresh_pictures() -> None:
    rng = random.Random(11)
    examples = [random_example(rng, 1 + turn % 2) for turn in range(250)]
    seen = [read(draw(scene)) for scene, _ in examples]
    right = [matches(found, scene) and matches(found, caption.says)
             for found, (scene, caption) in zip(seen, examples, strict=True)]
    assert sum(right) >= 249


@pytest.mark.parametrize("field", ["shape", "colour", "size", "place"])
def test_measuring_rejects_a_changed_thing(field: str) -> None:
    names = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "place": PLACES}[field]
    rng = random.Random(12)
    for turn in range(24):
        scene, _ = random_example(rng, 1 if field == "place" else 1 + turn % 2)
        thing = scene.things[-1]
        shown = scene.things[-1:] if field == "size" else scene.things
        taken = {scene.background, *(getattr(each, field) for each in shown)}
        other = replace(thing, **{field: rng.choice([name for name in names if name not in taken])})
        assert not agrees(draw(Scene(scene.background, (*scene.things[:-1], other))), scene)


def test_measuring_rejects_other_backgrounds_numbers_and_orders() -> None:
    left, right = Thing("circle", "red", "big", "left"), Thing("square", "green", "big", "right")
    both = Scene("white", (left, right))
    assert agrees(draw(both), Scene("white", (right, left)))
    assert not agrees(draw(replace(both, background="pink")), both)
    assert not agrees(draw(Scene("white", (left,))), both)
    assert not agrees(draw(both), Scene("white", (left,)))
    swapped = Scene("white", (replace(left, colour="green"), replace(right, colour="red")))
    assert not agrees(draw(swapped), both)


def test_measuring_leaves_free_what_a_caption_leaves_open() -> None:
    picture = draw(Scene("green", (Thing("crescent", "yellow", "big", "top right"),)))
    assert agrees(picture, Scene(UNSAID, (Thing("crescent", "yellow", "big", UNSAID),)))
    assert not agrees(picture, Scene(UNSAID, (Thing("crescent", "white", "big", UNSAID),)))


def test_measuring_rejects_noise_blank_and_half_a_thing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    says = Scene("white", (Thing("circle", "red", "big", "centre"),))
    whole = np.asarray(draw(says)).copy()
    whole[32:] = 250
    assert not agrees(Image.fromarray(noise), says)
    assert not agrees(Image.new("RGB", (64, 64), BACKGROUNDS["white"]), says)
    assert not agrees(Image.fromarray(whole), says)


def test_measuring_bears_a_little_noise() -> None:
    rng, noise = random.Random(13), np.random.default_rng(1)
    for turn in range(20):
        scene, _ = random_example(rng, 1 + turn % 2)
        pixels = np.asarray(draw(scene)).astype(np.float32) + noise.normal(0, 4, (64, 64, 3))
        assert agrees(Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)), scene), scene


def test_captions_are_short_and_spelt_by_the_vocabulary() -> None:
    words, rng = set(vocabulary()), random.Random(14)
    assert vocabulary()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] and len(words) == len(vocabulary())
    texts = [random_example(rng, 1 + turn % 2)[1].text for turn in range(2000)]
    assert max(map(len, texts)) <= TEXT_LENGTH
    assert {character for text in texts for character in text} <= words
    assert len(set(texts)) > 1900


def test_a_caption_says_what_its_scene_shows() -> None:
    rng = random.Random(15)
    for turn in range(500):
        scene, caption = random_example(rng, 1 + turn % 2)
        assert matches(scene, caption.says)


def test_training_never_sees_a_held_out_combination() -> None:
    rng = random.Random(16)
    seen = {combination(random_example(rng, 1 + turn % 2)[0]) for turn in range(3000)}
    asked = [caption.says for things in (1, 2) for caption in questions(things, 200, 17)]
    assert not any(held_out(scene) for scene in [random_example(rng, 1)[0] for _ in range(300)])
    assert all(held_out(scene) for scene in asked)
    assert not seen & {combination(scene) for scene in asked}


def test_tables_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tables(tmp_path / name, rows=20, seed=3, validation_rows=5)
    for name in ("train.tsv", "validation.tsv", "vocab.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len((tmp_path / "a" / "train.tsv").read_text("utf-8").splitlines()) == 20


def test_accuracy_counts_right_pictures() -> None:
    captions = questions(1, 6, 18)
    pictures = [draw(caption.says) for caption in captions[:3]] + [Image.new("RGB", (64, 64))] * 3
    assert accuracy(pictures, captions) == 0.5


# ---- the shipped weights

def test_the_checkpoint_is_small_and_as_easynlp_wrote_it() -> None:
    found = {path.name: path.stat().st_size for path in CHECKPOINT.iterdir()}
    assert found.keys() == {"config.json", "pytorch_model.bin", "vocab.txt"}
    assert sum(found.values()) <= 4_000_000
    config = json.loads((CHECKPOINT / "config.json").read_text("utf-8"))
    assert config["model_type"] == "artist"
    assert config["vocab_size"] == config["img_vocab_size"] + config["text_vocab_size"]
    assert (CHECKPOINT / "vocab.txt").read_text("utf-8").splitlines() == vocabulary()


@pytest.mark.slow
def test_the_shipped_weights_draw_what_unseen_captions_say() -> None:
    from danqing import load

    found = measure(load(CHECKPOINT, device="cpu", dtype="fp32"), count=40, seed=77)
    assert found["one thing"] >= 0.85 and found["two things"] >= 0.8


def test_the_steps_of_making(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    main(["tables", str(tmp_path / "work"), "--rows", "3"])
    assert (tmp_path / "work" / "train.tsv").is_file()
    source = tmp_path / "trained"
    source.mkdir()
    for name in ("config.json", "pytorch_model.bin", "vocab.txt", "danqing.json"):
        (source / name).write_text(name)
    install(source, tmp_path / "checkpoint")
    found = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert found == {"config.json", "pytorch_model.bin", "vocab.txt"}
