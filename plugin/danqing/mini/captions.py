"""Captions of the drawn scenes in many wordings of natural Chinese, and the small vocabulary that spells them.

What a caption leaves unsaid has a usual value (big, in the middle, on white, two things side by side in the order they
are named) or now and then another one, so one short prompt gives several pictures.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass, replace

from .drawing import BACKGROUNDS, PAIRS, PLACES, Scene, Thing, held_out, random_scene

TEXT_LENGTH = 32
UNSAID = ""  # in place of a background, size or place that a caption does not name

COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("红色", "红", "鲜红色"), "yellow": ("黄色", "黄", "金黄色"),
    "green": ("绿色", "绿", "翠绿色"), "blue": ("蓝色", "蓝", "深蓝色"), "purple": ("紫色", "紫"),
    "pink": ("粉色", "粉红色", "粉"), "black": ("黑色", "黑"), "white": ("白色", "白"),
}
BACKGROUND_WORDS: dict[str, tuple[str, ...]] = {
    "white": ("白色", "白"), "black": ("黑色", "黑"), "blue": ("蓝色", "蓝", "天蓝色"),
    "green": ("绿色", "绿", "浅绿色"), "yellow": ("黄色", "黄", "浅黄色"), "pink": ("粉色", "粉红色", "粉"),
}
#: shape -> its nouns, and the measure words that go with them
SHAPE_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "circle": (("圆形", "圆圈", "圆", "圆形", "圆球"), ("个",)),
    "square": (("方形", "方块", "正方形", "四方形"), ("个", "块")),
    "triangle": (("三角形", "三角形", "三角"), ("个",)),
    "star": (("星形", "星星", "五角星", "星星"), ("颗", "个")),
    "diamond": (("菱形", "菱形", "钻石"), ("个", "块")),
    "heart": (("心形", "爱心", "桃心", "心形"), ("颗", "个")),
    "cross": (("十字", "十字形", "加号"), ("个",)),
    "crescent": (("月牙", "月亮", "弯月", "月牙形"), ("个", "弯", "轮")),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "big": ("大", "大的", "很大的", "大大的", "巨大的"), "small": ("小", "小的", "很小的", "小小的"),
}
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "centre": ("中间", "中央", "中心", "正中间", "正中"), "left": ("左边", "左侧", "左面"), "right": ("右边", "右侧", "右面"),
    "top": ("上方", "上面", "上边", "顶部"), "bottom": ("下方", "下面", "下边", "底部"),
    "top left": ("左上角", "左上方"), "top right": ("右上角", "右上方"),
    "bottom left": ("左下角", "左下方"), "bottom right": ("右下角", "右下方"),
}
_BARE = ("{np}", "{np}", "画{np}", "请画{np}", "有{np}", "图中有{np}", "一张图，{np}", "{np}。")
_PLACED = ("{place}有{np}", "{np}在{place}", "{place}的{np}", "{place}{np}", "{place}是{np}", "{np}，{place}",
           "{np}位于{place}", "画面{place}有{np}", "在{place}画{np}", "{np}，在{place}")
_GROUNDED = ("{ground}背景上有{np}", "{ground}背景，{np}", "{np}，{ground}背景", "在{ground}背景上画{np}",
             "{ground}的背景，{np}", "{np}，背景是{ground}", "{ground}背景上的{np}", "{ground}底，{np}", "{ground}背景下有{np}",
             "背景{ground}，{np}")
_FULL = ("{ground}背景，{place}有{np}", "{ground}背景上，{place}有{np}", "{ground}背景的{place}有{np}",
         "{place}{np}，{ground}背景", "{ground}背景，{np}在{place}", "{np}在{place}，背景是{ground}",
         "{ground}背景{place}的{np}", "{ground}底，{place}是{np}", "{np}位于{ground}背景的{place}",
         "在{ground}背景的{place}画{np}", "{place}有{np}，{ground}的背景",
         "{ground}背景上有{np}，在{place}", "{ground}背景上{place}有{np}", "{np}，{place}，{ground}背景")
_GROUNDS = ("{ground}背景，{pair}", "{ground}背景上，{pair}", "{pair}，{ground}背景", "{pair}，背景是{ground}",
            "{ground}底，{pair}", "{ground}的背景，{pair}", "在{ground}背景上，{pair}")
_PAIRS = ("{p}{a}，{q}{b}", "{p}是{a}，{q}是{b}", "{p}有{a}，{q}有{b}", "{a}在{p}，{b}在{q}", "{p}{a}和{q}{b}",
          "{p}的{a}和{q}的{b}", "{p}一{am}{a0}，{q}一{bm}{b0}")
_RELATIONS = ("{a}在{b}的{p}", "{b}的{p}有{a}", "{b}的{p}是{a}", "{b}{p}有{a}", "{a}在{b}{p}")
_LISTS = ("{a}和{b}", "{a}与{b}", "{a}、{b}", "{a}，{b}", "{a}跟{b}", "画{a}和{b}", "有{a}和{b}")
_SHORT_PLACES = {"left": "左", "right": "右", "top": "上", "bottom": "下"}


@dataclass(frozen=True)
class Caption:
    """A text and what it says: a scene with `UNSAID` for what the text leaves open."""

    text: str
    says: Scene


def _thing(rng: random.Random, thing: Thing, counted: bool | None = None) -> str:
    nouns, measures = SHAPE_WORDS[thing.shape]
    noun, colour = rng.choice(nouns), rng.choice(COLOUR_WORDS[thing.colour][:1] * 2 + COLOUR_WORDS[thing.colour])
    size = rng.choice(SIZE_WORDS[thing.size]) if thing.size else ""
    count = "一" + rng.choice(measures) if (rng.random() < 0.5 if counted is None else counted) else ""
    if len(colour) > 1 and rng.random() < 0.4:
        colour += "的"
        if size and rng.random() < 0.5:
            return count + colour + size + noun
    return count + size + colour + noun


def _single(rng: random.Random, scene: Scene) -> str:
    thing = scene.things[0]
    patterns = {(False, False): _BARE, (True, False): _PLACED, (False, True): _GROUNDED, (True, True): _FULL}
    pattern = rng.choice(patterns[thing.place != UNSAID, scene.background != UNSAID])
    place = rng.choice(PLACE_WORDS[thing.place]) if thing.place else ""
    ground = rng.choice(BACKGROUND_WORDS[scene.background]) if scene.background else ""
    return pattern.format(np=_thing(rng, thing), place=place, ground=ground)


def _pair(rng: random.Random, scene: Scene) -> str:
    first, second = scene.things
    if not first.place:
        text = rng.choice(_LISTS).format(a=_thing(rng, first), b=_thing(rng, second))
    else:
        if rng.random() < 0.4:
            first, second = second, first
        words = PLACE_WORDS[first.place], PLACE_WORDS[second.place]
        index = rng.randrange(len(words[0]))
        p, q = words[0][index], words[1][index]
        if first.place in _SHORT_PLACES and rng.random() < 0.15:
            p, q = _SHORT_PLACES[first.place], _SHORT_PLACES[second.place]
            text = f"{_thing(rng, first)}在{p}，{_thing(rng, second)}在{q}"
        else:
            relation = rng.random() < 0.3 and p not in ("顶部", "底部") and not p.endswith("角")
            pattern = rng.choice(_RELATIONS if relation else _PAIRS)
            measures = [rng.choice(SHAPE_WORDS[thing.shape][1]) for thing in (first, second)]
            text = pattern.format(p=p, q=q, a=_thing(rng, first), b=_thing(rng, second), am=measures[0], bm=measures[1],
                                  a0=_thing(rng, first, False), b0=_thing(rng, second, False))
    if scene.background:
        grounds = _GROUNDS if first.place else (*_GROUNDS, "{ground}背景上有{pair}")
        text = rng.choice(grounds).format(ground=rng.choice(BACKGROUND_WORDS[scene.background]), pair=text)
    return text


def caption_of(scene: Scene, rng: random.Random) -> Caption:
    """One of many wordings of what `scene` says; parts of it may be `UNSAID`. At most 32 characters long."""
    while True:
        text = _single(rng, scene) if len(scene.things) == 1 else _pair(rng, scene)
        if len(text) <= TEXT_LENGTH:
            return Caption(text, scene)


def random_example(
    rng: random.Random, things: int, complete: bool = False, outside: bool = False,
) -> tuple[Scene, Caption]:
    """A scene and a caption of it.

    `complete`: the caption names background and place.
    `outside`: the scene is of a combination that training never sees; otherwise never of such a one.
    """
    while True:
        scene = said = random_scene(rng, things)
        if not complete and rng.random() < 0.3:
            said = replace(said, background=UNSAID)
            free = [name for name in sorted(BACKGROUNDS) if all(thing.colour != name for thing in scene.things)]
            white = "white" in free and rng.random() < 0.5
            scene = replace(scene, background="white" if white else rng.choice(free))
        if not complete and rng.random() < 0.25:
            said = replace(said, things=tuple(replace(thing, place=UNSAID) for thing in said.things))
            usual = ("centre" if rng.random() < 0.6 else rng.choice(sorted(PLACES)),) if things == 1 else PAIRS[0]
            scene = replace(scene, things=tuple(replace(thing, place=place)
                                                for thing, place in zip(scene.things, usual, strict=True)))
        sizes = [(thing.size, thing.size) if rng.random() < 0.5 else _unsaid_size(rng) for thing in said.things]
        scene = replace(scene, things=tuple(replace(thing, size=size)
                                            for thing, (size, _) in zip(scene.things, sizes, strict=True)))
        said = replace(said, things=tuple(replace(thing, size=size)
                                          for thing, (_, size) in zip(said.things, sizes, strict=True)))
        if held_out(scene) == outside:
            return scene, caption_of(said, rng)


def _unsaid_size(rng: random.Random) -> tuple[str, str]:
    return ("big" if rng.random() < 0.8 else "small"), UNSAID


def vocabulary() -> list[str]:
    """Lines of `vocab.txt`: five special tokens, marks, digits, letters, and every character that captions use."""
    tables = [COLOUR_WORDS, BACKGROUND_WORDS, SIZE_WORDS, PLACE_WORDS]
    words = [word for table in tables for group in table.values() for word in group]
    words += [word for groups in SHAPE_WORDS.values() for group in groups for word in group]
    words += ["一", *_SHORT_PLACES.values()]
    words += [*_BARE, *_PLACED, *_GROUNDED, *_FULL, *_GROUNDS, *_PAIRS, *_RELATIONS, *_LISTS]
    marks = "，。、；：！？“”（）,.;:!?\"'()-"
    letters = string.digits + string.ascii_lowercase
    characters = sorted({character for word in words for character in word if ord(character) > 0x2FFF} - set(marks))
    pieces = ["##" + letter for letter in letters]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *marks, *letters, *pieces, *characters]
