"""A card says what its folder shows, and nothing else; what a person wrote into it stays."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from danqing_pack import cards, front_matter, manifests
from danqing_pack.errors import CardError, FormatError, RequestError
from PIL import Image
from PIL.PngImagePlugin import PngInfo

FAMILIES = ("painter", "chinese-ldm", "pai-diffusion")
TERMS = "https://terms.alicdn.com/legal-agreement/terms/common_platform_service/20230505180457947/20230505180457947.html"
ENTRIES = {"license", "pipeline_tag", "library_name", "language", "tags", "tasks", "frameworks", "domain"}


def card(folder: Path, out: Path | None = None, **options: Any) -> str:
    return cards.write_card(folder, out, **options).path.read_text(encoding="utf-8")


def values(text: str) -> dict[str, Any]:
    return front_matter.values(front_matter.split(text)[0] or "")


def picture(path: Path, **words: str) -> None:
    text = PngInfo()
    for name, value in words.items():
        text.add_itxt(name, value)
    Image.new("RGB", (8, 8), "red").save(path, pnginfo=text)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_card_of_every_family_in_both_languages(
    family: str, language: str, converted: Mapping[str, Path], tmp_path: Path,
) -> None:
    text = card(converted[family], tmp_path / "README.md", language=language)
    assert cards.validate(text, tmp_path) == []
    found = values(text)
    assert ENTRIES == found.keys()
    assert found["license"] == "apache-2.0" and found["tasks"] == ["text-to-image-synthesis"] and family in found["tags"]
    assert "{{" not in text and "None" not in text and not re.search(r"\n{4,}", text)
    manifest = manifests.read(converted[family])
    for name, digest in {**manifest["files"], **manifest["source"]["files"]}.items():
        assert (digest in text) == name.endswith((".safetensors", ".bin", ".pth")), name
    assert (TERMS in text) == (family != "painter")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert len(headings) == len(set(headings)) and len(headings) >= 7
    chinese = len(re.findall(r"[\u4e00-\u9fff]", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    assert (chinese > 250) == (language == "zh")


def test_both_languages_have_the_same_parts_and_values(converted: Mapping[str, Path], tmp_path: Path) -> None:
    for family, folder in converted.items():
        texts = [card(folder, tmp_path / f"{family}.{language}.md", language=language) for language in ("en", "zh")]
        parts = [re.findall(r"danqing:begin ([\w-]+)", text) for text in texts]
        numbers = [sorted(re.findall(r"\b\d[\d,.]*\b", re.sub(r"<!--.*?-->", "", text))) for text in texts]
        assert parts[0] == parts[1] and numbers[0] == numbers[1], family


def test_the_sizes_are_the_folders(converted: Mapping[str, Path], tmp_path: Path) -> None:
    text = card(converted["painter"], tmp_path / "README.md")
    assert "up to 32 tokens" in text and "256 image codes" in text and "256 x 256 pixels" in text
    assert "| `transformer` | `PainterTransformer` | 68,288 |" in text and "in fp32" in text
    assert "2 layers of width 32 with 4 heads" in text
    assert "Unknown: the folder holds no record" in text


def test_a_legacy_folder_has_a_card_without_what_it_cannot_do(tmp_path: Path, painter_copy: Path) -> None:
    text = card(painter_copy)
    assert values(text)["library_name"] == "danqing" and "diffusers" not in values(text)["tags"]
    assert "DiffusionPipeline" not in text and "danqing convert DIR OUT --to diffusers" in text
    from danqing_pack.tensors import sha256_of

    assert sha256_of(painter_copy / "pytorch_model.bin") in text and "danqing.json" not in text


def test_without_configuration_json_modelscope_is_told_the_pipeline(painter_copy: Path) -> None:
    """And on a hub it is not, since a push adds the file."""
    named = 'pipeline("text-to-image-synthesis", "checkpoint", pipeline_name="danqing")'
    text = card(painter_copy)
    assert named in text and "`danqing init DIR` writes one" in text
    assert "ModelScope then runs this model" in text and "ModelScope, diffusers" not in text
    assert 'pipeline("text-to-image-synthesis", "me/pt")' in cards.for_hub(text, "ms", "me/pt")
    assert "pipeline_name=" not in card(painter_copy, repository="ms:me/pt")
    chinese = card(painter_copy, painter_copy / "README.zh.md", language="zh")
    assert named in chinese and "此后 ModelScope 无需" in chinese and "diffusers 和 transformers 无需" not in chinese
    (painter_copy / "configuration.json").write_text('{"framework": "pytorch", "task": "text-to-image-synthesis"}')
    assert "pipeline_name" not in card(painter_copy, painter_copy.with_name("third.md"))


def test_the_prompts_are_such_as_the_vocabulary_holds(tmp_path: Path) -> None:
    """The small painter inside draws shapes, and nothing else."""
    from danqing.mini import CHECKPOINT, DEMO_PROMPTS

    assert cards.prompts("painter", frozenset("宽松山水画远和湖的")) == cards.prompts("painter") == ("宽松T恤", "山水画，远山和湖")
    assert cards.prompts("painter", frozenset("红色")) == cards.prompts("painter"), "it would know the others no better"
    text = card(CHECKPOINT, tmp_path / "README.md")
    assert DEMO_PROMPTS[0] in text and "宽松T恤" not in text
    assert set(cards.templates.template("painter", "en").other_prompts[0]) <= set(DEMO_PROMPTS)


def test_what_is_cut_off_and_how_danqing_is_installed(converted: Mapping[str, Path], tmp_path: Path) -> None:
    for family, folder in converted.items():
        texts = [card(folder, tmp_path / f"{family}.{language}.md", language=language) for language in ("en", "zh")]
        assert all("`pip install .`" in text for text in texts)
        assert not any(words in text for text in texts for words in ("without a word", "没有提示", "布局", "plain。", "所关注"))
    assert "`danqing generate` says what it leaves out" in (tmp_path / "painter.en.md").read_text(encoding="utf-8")
    chinese = (tmp_path / "chinese-ldm.zh.md").read_text(encoding="utf-8")
    assert "EMA 权重" in chinese or "普通权重（非 EMA）" in chinese
    assert "交叉注意力维度为" in (tmp_path / "pai-diffusion.zh.md").read_text(encoding="utf-8")


def test_writing_again_changes_nothing(painter: Path) -> None:
    first = card(painter)
    assert card(painter) == first
    assert cards.write_card(painter).notes == ()


# ---------------------------------------------------------------- how it was trained

def test_the_trainers_record_is_told_without_its_paths(painter: Path) -> None:
    run = painter.parent / "run"
    run.mkdir()
    painter.rename(run / "model")
    record = {"recipe": "painter", "data": "/home/someone/secret/shirts.tsv", "model": "hf:alibaba-pai/some-painter",
              "output": "/home/someone/out", "first_stage": None, "random_crop": False,
              "loop": {"steps": 2000, "epochs": 1.0, "batch_size": 8, "learning_rate": 1e-4, "precision": "bf16", "seed": 3}}
    (run / "training.json").write_text(json.dumps(record))
    (run / "log.jsonl").write_text(
        '{"step": 1990, "kind": "train", "loss": 9.0}\n{"step": 2000, "kind": "train", "loss": 2.25}\n'
        '{"step": 2000, "kind": "validation", "loss": 2.5}\n{"step": 20')
    text = card(run / "model")
    assert "| Data | `shirts.tsv` |" in text and "someone" not in text
    assert "| Steps | 2000 |" in text and "Epochs" not in text and "| Learning rate | 0.0001 |" in text
    assert "loss 2.25 at step 2000" in text and "loss 2.5 at step 2000" in text and "Unknown" not in text
    assert values(text)["base_model"] == ["alibaba-pai/some-painter"]
    assert "| 训练数据 | `shirts.tsv` |" in card(run / "model", run / "zh.md", language="zh")


def test_of_the_best_weights_the_card_tells_their_own_loss(painter: Path) -> None:
    run = painter.parent / "run"
    run.mkdir()
    painter.rename(run / "model")
    (run / "training.json").write_text('{"recipe": "painter", "weights_of_step": 40, "loop": {"steps": 60}}')
    (run / "log.jsonl").write_text("".join(
        f'{{"step": {step}, "kind": "{kind}", "loss": {loss}}}\n' for step, kind, loss in (
            (20, "validation", 3.5), (40, "validation", 2.5), (40, "train", 2.25), (60, "train", 1.5), (60, "validation", 4.5))))
    text = card(run / "model")
    assert "| Weights of step | 40 |" in text and "loss 2.5 at step 40" in text and "loss 2.25 at step 40" in text
    assert "step 60" not in text
    (run / "training.json").write_text('{"recipe": "painter", "weights_of_step": 60, "loop": {"steps": 60}}')
    text = card(run / "model", run / "last.md")
    assert "Weights of step" not in text and "loss 4.5 at step 60" in text


@pytest.mark.parametrize(("place", "shown"), [
    ("/data/runs/vqgan-7/model", "`vqgan-7`"), ("model", None), ("/mnt/vqgan.pt", "`vqgan.pt`"), ("hf:me/model", "`hf:me/model`"),
])
def test_a_folder_that_every_run_has_names_nothing(painter: Path, place: str, shown: str | None) -> None:
    record = {"recipe": "painter", "first_stage": place}
    painter.with_name(f"{painter.name}.training").mkdir()
    (painter.with_name(f"{painter.name}.training") / "training.json").write_text(json.dumps(record))
    text = card(painter, language="zh")
    assert "训练方法" in text and ("第一阶段模型" in text) == (shown is not None)
    assert shown is None or f"| 第一阶段模型 | {shown} |" in text


def test_a_record_of_easynlp_is_read(painter: Path) -> None:
    (painter / "train_config.json").write_text(json.dumps({"epoch_num": 3, "tables": "a/train.tsv,a/dev.tsv", "x": 1}))
    text = card(painter)
    assert "| Epochs | 3 |" in text and "| Data | `train.tsv`, `dev.tsv` |" in text and "base_model" not in values(text)


def test_a_stray_record_beside_a_folder_of_another_name_is_not_its(painter: Path) -> None:
    (painter.parent / "training.json").write_text('{"recipe": "painter", "loop": {"steps": 7}}')
    assert "Unknown" in card(painter)


# ---------------------------------------------------------------- example pictures

def test_pictures_are_shown_with_prompt_and_seed_and_the_code_draws_the_first(painter: Path) -> None:
    picture(painter / "example-1.png", prompt="山|水", seed="7", dtype="fp32", device="cpu")
    picture(painter / "example-2.png", prompt="连衣裙", seed="8", dtype="fp32", device="cpu")
    text = card(painter)
    assert "| `example-1.png` | 山\\|水 | 7 |" in text and "![连衣裙](example-2.png)" in text
    assert "with fp32 on cpu" in text
    assert "danqing generate '山|水' -m painter --seed 7" in text and "manual_seed(7)" in text
    assert cards.validate(text, painter) == []
    (painter / "example-2.png").unlink()
    assert any("example-2.png" in problem for problem in cards.validate(text, painter))


def test_pictures_of_other_weights_or_without_words_are_not_shown(painter: Path) -> None:
    picture(painter / "example-1.png", prompt="山水", seed="7", weights="0123456789abcdef")
    picture(painter / "example-2.png")
    assert "example-" not in card(painter)


def test_a_damaged_picture_is_one_sentence(painter: Path) -> None:
    (painter / "example-1.png").write_bytes(b"no picture")
    with pytest.raises(CardError, match="example-1.png cannot be read"):
        cards.write_card(painter)
    assert not (painter / "README.md").exists()


@pytest.mark.parametrize("prompt", ["it's \"so\" $HOME `x`", "换\n行", "a](http://x)"])
def test_any_prompt_is_safe_in_code(painter: Path, prompt: str) -> None:
    import ast
    import shlex

    picture(painter / "example-1.png", prompt=prompt, seed="1")
    text = card(painter)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for language, code in blocks:
        if language == "python":
            ast.parse(code)
    assert shlex.split(blocks[0][1])[:3] == ["danqing", "generate", prompt]
    assert len(re.findall(r"^\| `example-1.png` \|.*\|$", text, re.MULTILINE)) == 1


# ---------------------------------------------------------------- what a person wrote

def test_what_was_written_by_hand_stays(painter: Path) -> None:
    text = card(painter)
    text = text.replace("# painter\n", "# Our shirts\n\nDrawn for the summer catalogue.\n")
    text = text.replace("<!-- danqing:end networks -->\n", "<!-- danqing:end networks -->\n\n## Thanks\n\nTo everybody.\n")
    text = text.replace("license: apache-2.0", "license: mit  # our own").replace("tags:\n", "tags:\n- shirts\n")
    text = text.replace("language:\n", "widget:\n- text: 宽松T恤\nlanguage:\n")
    (painter / "README.md").write_text(text, encoding="utf-8")
    picture(painter / "example-1.png", prompt="山水", seed="7")
    again = card(painter)
    for kept in ("# Our shirts\n\nDrawn for the summer catalogue.", "## Thanks\n\nTo everybody.", "license: mit  # our own",
                 "- shirts\n", "widget:\n- text: 宽松T恤\n"):
        assert kept in again
    assert "![山水](example-1.png)" in again and "--seed 7" in again, "the parts are renewed"
    assert again.index("example-1.png") < again.index("How to run it"), "a new part comes where it belongs"
    assert "Apache License" not in again and "`mit`." in again, "the text follows the licence"
    assert card(painter) == again
    assert cards.validate(again, painter) == []


def test_a_changed_part_stays_and_is_told(painter: Path) -> None:
    text = card(painter).replace("Nothing checks prompts", "We check prompts by hand; nothing else checks prompts")
    (painter / "README.md").write_text(text, encoding="utf-8")
    done = cards.write_card(painter)
    assert "We check prompts by hand" in done.path.read_text(encoding="utf-8")
    [note] = done.notes
    assert "limits" in note


def test_a_part_and_a_key_that_were_taken_away_stay_away(painter: Path) -> None:
    text = re.sub(r"<!-- danqing:begin background.*?end background -->\n", "", card(painter), flags=re.DOTALL)
    text = text.replace("library_name: diffusers\n", "")
    (painter / "README.md").write_text(text, encoding="utf-8")
    assert card(painter) == text


def test_a_card_written_by_hand_keeps_every_word(painter: Path) -> None:
    own = "---\nlicense: cc-by-4.0\ntags: [ mine ]   # short\n---\n\n# Mine\n\nWords.\n"
    (painter / "README.md").write_text(own, encoding="utf-8")
    text = card(painter)
    assert text.startswith("---\nlicense: cc-by-4.0\ntags: [ mine ]   # short\n") and "\n# Mine\n\nWords.\n" in text
    assert "# painter" not in text and "## How to run it" in text and values(text)["pipeline_tag"] == "text-to-image"
    assert card(painter) == text


def test_options_win_over_what_is_there(painter: Path) -> None:
    (painter / "README.md").write_text("---\nlicense: mit\n---\nWords.\n", encoding="utf-8")
    text = card(painter, licence="gpl-3.0", base_model="org/base", repository="hf:org/name")
    assert values(text)["license"] == "gpl-3.0" and values(text)["base_model"] == ["org/base"]
    assert "hf:org/name" in card(painter), "the card remembers where the model is"


@pytest.mark.parametrize(("there", "says"), [
    (b"---\nlicense: [mit\n---\n", "front matter"), (b"---\nlicense: \xff\n---\n", "UTF-8"),
    (b"---\nlicense: mit\nlicense: gpl\n---\n", "twice"),
])
def test_a_card_that_cannot_be_read_is_left_alone(painter: Path, there: bytes, says: str) -> None:
    (painter / "README.md").write_bytes(there)
    with pytest.raises(CardError, match=says):
        cards.write_card(painter)
    assert (painter / "README.md").read_bytes() == there


def test_what_would_be_refused_is_not_written(painter: Path) -> None:
    for options, error in (({"licence": "my-own"}, CardError), ({"base_model": "no repository"}, CardError),
                           ({"language": "fr"}, RequestError), ({"repository": "name"}, RequestError)):
        with pytest.raises(error):
            cards.write_card(painter, **options)
    assert not (painter / "README.md").exists()
    with pytest.raises(CardError, match="no folder"):
        cards.write_card(painter / "model_index.json")
    with pytest.raises(FormatError):
        cards.write_card(painter.parent)


# ---------------------------------------------------------------- the two hubs

def test_each_hub_reads_its_own_words(painter: Path) -> None:
    text = card(painter)
    on_ms = cards.for_hub(text, "ms", "me/painter")
    on_hf = cards.for_hub(text, "hf", "you/painter-2")
    assert values(on_ms)["license"] == "Apache License 2.0" and values(on_hf)["license"] == "apache-2.0"
    assert "-m ms:me/painter" in on_ms and 'pipeline("text-to-image-synthesis", "me/painter")' in on_ms
    assert 'danqing.load("hf:you/painter-2")' in on_hf and 'from_pretrained("you/painter-2")' in on_hf
    assert "danqing pull hf:you/painter-2 painter-2\ndanqing pack painter-2 model.tar.gz" in on_hf
    assert "api/predict/painter_2" in on_hf
    for moved in (on_ms, on_hf):
        assert cards.validate(moved) == []
    assert cards.for_hub(on_ms, "hf", "you/painter-2") == on_hf, "there and on is as good as there at once"
    assert cards.for_hub(cards.for_hub(text, "ms"), "hf") == text


def test_a_moved_card_is_still_renewed(painter: Path) -> None:
    (painter / "README.md").write_text(cards.for_hub(card(painter), "ms", "me/painter"), encoding="utf-8")
    done = cards.write_card(painter)
    again = done.path.read_text(encoding="utf-8")
    assert done.notes == () and "ms:me/painter" in again and values(again)["license"] == "Apache License 2.0"


def test_moving_keeps_what_a_person_wrote(painter: Path) -> None:
    text = card(painter).replace("# painter\n", "# painter\n\nMine: `danqing.load(\"painter\")`.\n")
    text = text.replace("license: apache-2.0", "license: cc-by-4.0")
    moved = cards.for_hub(text, "ms", "me/painter")
    assert "Mine: `danqing.load(\"painter\")`." in moved and values(moved)["license"] == "cc-by-4.0"


def test_cards_without_front_matter_pass_and_are_told() -> None:
    assert cards.for_hub("# Mine\n", "ms", "a/b") == "# Mine\n"
    assert len(cards.validate("# Mine\n")) == 1
    with pytest.raises(RequestError, match="hf and ms"):
        cards.for_hub("# Mine\n", "gitee")


def test_a_damaged_marker_is_told(painter: Path) -> None:
    text = card(painter).replace("<!-- danqing:end limits -->\n", "")
    assert [problem for problem in cards.validate(text) if "limits" in problem]


def test_the_hubs_own_library_reads_the_card(painter: Path) -> None:
    from huggingface_hub import ModelCard

    loaded = ModelCard(card(painter))
    assert loaded.data.license == "apache-2.0" and loaded.data.pipeline_tag == "text-to-image"
    assert loaded.data.to_dict()["tasks"] == ["text-to-image-synthesis"]
    loaded.data.tags = [*(loaded.data.tags or []), "more"]
    (painter / "README.md").write_text(str(loaded), encoding="utf-8")
    again = card(painter)
    assert "- more" in again and cards.validate(again, painter) == []
