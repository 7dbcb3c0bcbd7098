"""How a model was trained, as far as its trainer wrote that down: rows of a table in either language.

``danqing train`` leaves ``training.json`` and ``log.jsonl`` beside the model's folder, EasyNLP ``train_config.json`` in
it. Paths in them are shortened to their last part: where somebody's disk was mounted is nobody's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from .json_files import read_json

ROWS: Mapping[str, tuple[str, str]] = {
    "recipe": ("Recipe", "训练方法"),
    "model": ("Started from", "起点"),
    "first_stage": ("First stage", "第一阶段模型"),
    "data": ("Data", "训练数据"),
    "examples": ("Examples", "样本数"),
    "validation": ("Validation data", "验证数据"),
    "steps": ("Steps", "步数"),
    "weights_of_step": ("Weights of step", "权重取自第几步"),
    "epochs": ("Epochs", "轮数"),
    "batch_size": ("Examples per process and forward pass", "每进程批大小"),
    "accumulation": ("Forward passes per step", "每步累积次数"),
    "resolution": ("Resolution", "分辨率"),
    "size": ("Pixels of a side", "边长（像素）"),
    "random_crop": ("Random crop", "随机裁剪"),
    "rank": ("Rank", "秩"),
    "learning_rate": ("Learning rate", "学习率"),
    "schedule": ("Schedule", "学习率调度"),
    "warmup": ("Warm-up steps", "预热步数"),
    "betas": ("Betas", "Betas"),
    "weight_decay": ("Weight decay", "权重衰减"),
    "clip": ("Largest norm of the gradient", "梯度范数上限"),
    "precision": ("Mixed precision", "混合精度"),
    "seed": ("Seed", "随机种子"),
}
"""What a record may say, in English and Chinese, in the order of the table."""
EASYNLP = {
    "pretrained_model_name_or_path": "model", "tables": "data", "epoch_num": "epochs", "micro_batch_size": "batch_size",
    "train_batch_size": "batch_size", "gradient_accumulation_steps": "accumulation", "random_seed": "seed",
    "max_grad_norm": "clip", "learning_rate": "learning_rate", "weight_decay": "weight_decay",
}
"""EasyNLP's names for the same."""
PLACES = ("model", "first_stage", "data", "validation")
JOURNAL = {"train": ("Training, last entry", "训练末次记录"), "validation": ("Validation, last entry", "验证末次记录")}
"""Entries of the journal; the last ones up to the step that the weights are of."""
AT_STEP = ("{} at step {}", "{}（第 {} 步）")
LANGUAGES = ("en", "zh")


def training_rows(folder: Path, language: str) -> str | None:
    """The rows of a Markdown table, None where nobody wrote anything down.

    Raises:
        FormatError: a record that is no JSON object.
    """
    record, journal = _record(folder)
    if record is None:
        return None
    column = LANGUAGES.index(language)
    rows = [f"| {names[column]} | {shown} |" for key, names in ROWS.items()
            if record.get(key) not in (None, "", [], False) and (shown := _shown(key, record[key]))]
    rows += [f"| {JOURNAL[kind][column]} | {_measured(line, AT_STEP[column])} |" for kind, line in journal.items()]
    return "\n".join(rows) or None


def base_model(folder: Path) -> str | None:
    """The hub repository that training started from, where the record names one."""
    record, _ = _record(folder)
    hub, _, name = str((record or {}).get("model") or "").partition(":")
    return name if hub in ("hf", "ms") and name.count("/") == 1 else None


def _record(folder: Path) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
    """What the trainer set, flat, and the journal's last line of each kind."""
    resolved = folder.resolve()
    beside = [resolved.parent] if resolved.name == "model" else []
    for place in (folder, *beside, resolved.with_name(f"{resolved.name}.training")):
        if (place / "training.json").is_file():
            record = read_json(place / "training.json")
            return _flat(record), _journal(place / "log.jsonl", record.get("weights_of_step"))
    if (folder / "train_config.json").is_file():
        settings = read_json(folder / "train_config.json")
        found = {EASYNLP[name]: value for name, value in settings.items() if name in EASYNLP}
        return (found, {}) if found else (None, {})
    return None, {}


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without its one level of nesting, and without what another entry decides or what switches off."""
    loop = record.get("loop")
    flat = {**{name: value for name, value in record.items() if name != "loop"}, **(loop if isinstance(loop, Mapping) else {})}
    if flat.get("steps") is not None:
        flat.pop("epochs", None)
    if flat.get("weights_of_step") == flat.get("steps"):
        flat.pop("weights_of_step", None)
    if flat.get("precision") == "no":
        flat.pop("precision")
    if flat.get("accumulation") == 1:
        flat.pop("accumulation")
    return flat


def _journal(place: Path, step: object) -> dict[str, dict[str, Any]]:
    last: dict[str, dict[str, Any]] = {}
    if place.is_file():
        for line in place.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:          # a run that was killed while it wrote
                continue
            if isinstance(entry, dict) and entry.get("kind") in JOURNAL and not _later(entry.get("step"), step):
                last[entry["kind"]] = entry
    return {kind: last[kind] for kind in JOURNAL if kind in last}


def _later(step: object, than: object) -> bool:
    return isinstance(step, int) and isinstance(than, int) and step > than


def _measured(line: Mapping[str, Any], form: str) -> str:
    numbers = [f"{name} {value:.4g}" for name, value in line.items()
               if name not in ("step", "kind") and isinstance(value, (int, float))]
    return form.format(", ".join(numbers), line.get("step", "?"))


def _shown(key: str, value: Any) -> str:
    if key in PLACES:
        several = str(value).split(",") if key == "data" else [str(value)]
        return ", ".join(f"`{place}`" for each in several if (place := _place(each.strip())))
    if isinstance(value, bool):
        return "✓"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _place(words: str) -> str:
    """A hub's repository as it is, a path by its last part; ``model``, as every trainer calls it, by the one before."""
    if words.startswith(("hf:", "ms:")):
        return words
    path = PurePath(words.replace("\\", "/"))
    return path.parent.name if path.name == "model" else path.name
