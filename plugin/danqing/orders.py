"""What all calls have in common, from hosts or the command line: the forms prompts come in, keywords, seeds, one lock.

A host hands over a string, a dict with ``text``, or a list of either; a dict's other keys are keywords of the pipeline
for that element alone. Later levels win: what was given at construction, at the call, in the element.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from danqing_pack.errors import RequestError, listing
from PIL import Image

from danqing.images import to_pil

if TYPE_CHECKING:
    from danqing.upscaling import Upscaler

SEEDING = {"seed", "generator"}
RESERVED = {"self", "prompt", "output_type", "return_dict", "batch_size"}
"""Parameters of a pipeline's call that the host sets."""
DEPRECATED = {"callback", "callback_steps"}
"""What stock pipelines still take as ``**kwargs``; whatever else they find there they pass over in silence."""
UPSCALE = "upscale"
ALIASES = {"max_generated_num": "num_images_per_prompt"}
"""EasyNLP's name -> the pipeline's."""

Images = list[Image.Image]
Drawn = list[list[Images]]
"""Element, text, image."""


@dataclass(frozen=True)
class Order:
    """One prompt, the keywords it is drawn with, and a generator for each of its images where they were asked for."""

    text: str
    keywords: Mapping[str, Any]
    generators: tuple[torch.Generator, ...]

    def goes_with(self, other: Order) -> bool:
        """Whether one call of the pipeline can draw both."""
        return (
            bool(self.generators) == bool(other.generators)
            and self.keywords.keys() == other.keywords.keys()
            and all(_same(value, other.keywords[name]) for name, value in self.keywords.items())
        )


def _same(one: Any, other: Any) -> bool:
    """Equal without doubt: comparing arrays gives arrays."""
    return one is other or (isinstance(one, (str, int, float)) and type(one) is type(other) and one == other)


class SharedPipeline:
    """A diffusers pipeline that several threads may call.

    ``defaults`` are keywords of its call; ``seed=S`` is one more, for which image k of a call draws from ``S + k``
    (or image k of an element that brings its own), and ``upscale=True`` another, which hands the images on four times
    as wide and high. Schedulers and caches keep state, so calls take turns.

    ``upscaler`` opens the upscaler, that of the checkpoint by default. With ``truncate``, values become bytes by
    truncation as in EasyNLP's rows, also where a stock pipeline would round.
    """

    def __init__(
        self, pipe: Any, defaults: Mapping[str, Any], upscaler: Callable[[], Upscaler] | None = None,
        truncate: bool = False,
    ) -> None:
        self.pipe = pipe
        self._upscaler, self._truncate = upscaler or self._own_upscaler, truncate
        self._lock = threading.Lock()
        parameters = inspect.signature(type(pipe).__call__).parameters.values()
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self._stock = stock = type(pipe).__module__.startswith("diffusers.")
        self._takes_anything = open_ended and not stock
        names = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
        names |= DEPRECATED if open_ended and stock else set()
        self._accepted, self._divides = names - RESERVED, "batch_size" in names
        self._defaults = self._checked(defaults)

    def draw(self, given: Any, batch_size: int | None = None, **keywords: Any) -> Drawn:
        """The images of a string, a dict, or a list of either; all of it is checked before anything is drawn.

        ``batch_size`` prompts are drawn together where their keywords agree; by default each by itself, unless the
        pipeline divides its work by itself. What is drawn does not depend on it.

        Raises:
            RequestError: a prompt that is no text, an unknown keyword, a count below one.
        """
        orders = list(self._orders(given if isinstance(given, (list, tuple)) else [given], keywords))
        together = max(1, sum(map(len, orders))) if self._divides else 1
        return list(self._drawn(orders, together if batch_size is None else batch_size))

    def draw_each(self, given: Iterable[Any], batch_size: int | None = None, **keywords: Any) -> Iterator[list[Images]]:
        """The same for elements that come one by one."""
        return self._drawn(self._orders(given, keywords), 1 if batch_size is None else batch_size)

    def _orders(self, elements: Iterable[Any], keywords: Mapping[str, Any]) -> Iterator[list[Order]]:
        call = self._checked(keywords)
        drawn = 0  # images of the call so far: what its seed counts on from
        for element in elements:
            texts, own = _texts_and_keywords(element)
            own = self._checked(own)
            merged = _merged(self._defaults, call, own)
            count = _at_least_one("num_images_per_prompt", merged.get("num_images_per_prompt", 1))
            first = 0 if SEEDING & own.keys() else drawn
            generators = _generators(merged, first, count * len(texts))
            plain = {name: value for name, value in merged.items() if name not in SEEDING or not generators}
            plain.pop("seed", None)
            yield [
                Order(text, plain, tuple(generators[index * count : (index + 1) * count]))
                for index, text in enumerate(texts)
            ]
            drawn += count * len(texts)

    def _drawn(self, per_element: Iterable[list[Order]], batch_size: int) -> Iterator[list[Images]]:
        sizes: deque[int] = deque()

        def orders() -> Iterator[Order]:
            for each in per_element:
                sizes.append(len(each))
                yield from each

        done: list[Images] = []
        for images in self._in_batches(orders(), _at_least_one("batch_size", batch_size)):
            done.append(images)
            while sizes and len(done) >= sizes[0]:
                size = sizes.popleft()
                yield done[:size]
                del done[:size]
        yield from ([] for _ in sizes)  # elements without a text

    def _in_batches(self, orders: Iterable[Order], batch_size: int) -> Iterator[Images]:
        batch: list[Order] = []
        for order in orders:
            if batch and not batch[0].goes_with(order):
                yield from self._batch(batch)
                batch = []
            batch.append(order)
            if len(batch) == batch_size:
                yield from self._batch(batch)
                batch = []
        if batch:
            yield from self._batch(batch)

    def _batch(self, orders: list[Order]) -> Iterator[Images]:
        keywords = dict(orders[0].keywords)
        upscale = keywords.pop(UPSCALE, False)
        if orders[0].generators:
            keywords["generator"] = [generator for order in orders for generator in order.generators]
        # What is enlarged, or cut down to bytes here, has not been rounded before.
        exact = self._stock and (upscale or self._truncate)
        with self._lock:
            images = self.pipe(
                prompt=[order.text for order in orders], output_type="np" if exact else "pil",
                **self._for_each(keywords, len(orders))
            ).images
            if upscale:
                images = self._upscaler()(images)
        if exact and not upscale:
            images = to_pil((255 * images).astype(np.uint8))
        count = len(images) // len(orders)
        for index in range(len(orders)):
            yield list(images[index * count : (index + 1) * count])

    def _own_upscaler(self) -> Upscaler:
        from danqing.upscaling import upscaler_of

        return upscaler_of(self.pipe)

    def _for_each(self, keywords: dict[str, Any], prompts: int) -> dict[str, Any]:
        """The keywords of which stock pipelines want one for each prompt, or one for each image.

        An image to start from is given once for each image to draw, so that each draws its noise from its own generator.
        """
        spread = dict(keywords)
        if isinstance(spread.get("negative_prompt"), str):
            spread["negative_prompt"] = [spread["negative_prompt"]] * prompts
        if "strength" in self._accepted and isinstance(spread.get("image"), Image.Image):
            spread["image"] = [spread["image"]] * (prompts * spread.get("num_images_per_prompt", 1))
        return spread

    def _checked(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords under the pipeline's own names. Raises RequestError for those that it does not take."""
        named = {ALIASES.get(name, name): value for name, value in keywords.items() if name != "return_dict"}
        if named.pop("output_type", "pil") != "pil":
            raise RequestError("output_type is fixed here; call the attribute .pipeline for other outputs.")
        unknown = sorted(named.keys() - self._accepted - SEEDING - {UPSCALE})
        if unknown and not self._takes_anything:
            raise RequestError(
                f"{type(self.pipe).__name__} takes no keyword {listing(unknown)}; "
                f"it takes {listing(sorted(self._accepted | {'seed', UPSCALE}), limit=100)}.",
                unknown=unknown,
            )
        if len(SEEDING & named.keys()) == 2:
            raise RequestError("seed and generator exclude each other: give one of them.")
        if not isinstance(named.get(UPSCALE, False), bool):
            raise RequestError(f"upscale must be True or False, not {named[UPSCALE]!r:.80}.")
        if named.get(UPSCALE):
            self._upscaler()  # a checkpoint without one is told before anything is drawn
        return named


def _texts_and_keywords(element: Any) -> tuple[list[str], dict[str, Any]]:
    if isinstance(element, Mapping):
        if "text" not in element:
            raise RequestError(f"The prompt is missing: a dict needs the key 'text', and this one has {list(element)}.")
        text, own = element["text"], {name: value for name, value in element.items() if name != "text"}
    else:
        text, own = element, {}
    texts = list(text) if isinstance(text, (list, tuple)) and isinstance(element, Mapping) else [text]
    for text in texts:
        if not isinstance(text, str):
            raise RequestError(f"A prompt must be text, not {type(text).__name__}: {text!r:.80}.")
    return texts, own


def _merged(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """Later levels win; a seed of one level replaces a generator of another, and the other way round."""
    merged: dict[str, Any] = {}
    for level in levels:
        if SEEDING & level.keys():
            merged = {name: value for name, value in merged.items() if name not in SEEDING}
        merged.update(level)
    return merged


def _generators(keywords: Mapping[str, Any], first: int, count: int) -> list[torch.Generator]:
    """The generators of images ``first`` to ``first + count``, or none where the pipeline is to see to that itself."""
    seed, given = keywords.get("seed"), keywords.get("generator")
    if isinstance(given, (list, tuple)):
        if len(given) < first + count:
            raise RequestError(
                f"{len(given)} generators were given for at least {first + count} images; give one for each."
            )
        return list(given[first : first + count])
    if seed is None:
        return []
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise RequestError(f"seed must be a whole number, not {seed!r}.")
    return [torch.Generator("cpu").manual_seed(seed + index) for index in range(first, first + count)]


def _at_least_one(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(f"{name} must be a whole number of at least 1, not {value!r}.")
    return value
