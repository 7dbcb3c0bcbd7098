"""Prompts, keywords, seeds and batches, with a pipeline that writes down how it was called."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from danqing.orders import SharedPipeline
from danqing_pack.errors import RequestError
from PIL import Image


class Recorder:
    """Its images are one pixel each: the number of the prompt's letters, and one number from the image's generator."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.inside = 0

    def __call__(
        self, prompt: list[str], num_images_per_prompt: int = 1, generator: Any = None, top_k: int = 100,
        words: Any = None, output_type: str = "pil", return_dict: bool = True,
    ) -> Any:  # fmt: skip
        self.inside += 1
        assert self.inside == 1, "two threads are inside the pipeline"
        time.sleep(0.001)
        self.calls.append({"prompt": prompt, "number": num_images_per_prompt, "top_k": top_k, "words": words})
        count = len(prompt) * num_images_per_prompt
        each = generator if isinstance(generator, list) else [generator] * count
        assert len(each) == count
        drawn = [0 if one is None else int(torch.randint(256, (), generator=one)) for one in each]
        images = [
            Image.new("RGB", (1, 1), (len(prompt[index // num_images_per_prompt]), number, 0))
            for index, number in enumerate(drawn)
        ]
        self.inside -= 1
        return type("Output", (), {"images": images})()


class Divider(Recorder):
    """The same, with a batch size of its own."""

    def __call__(self, prompt: list[str], batch_size: int = 16, **keywords: Any) -> Any:  # type: ignore[override]
        return super().__call__(prompt, **keywords)


def pixels(drawn: Any) -> list[list[list[tuple[int, int]]]]:
    """Element, text, image: the prompt's length and the number drawn."""
    return [[[tuple(image.tobytes()[:2]) for image in images] for images in texts] for texts in drawn]


def number(seed: int) -> int:
    """What the image of that seed draws."""
    return int(torch.randint(256, (), generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(
    "given", ["ab", {"text": "ab"}, ["ab"], ("ab",), [{"text": "ab"}]], ids=["str", "dict", "list", "tuple", "dicts"]
)
def test_one_prompt_in_every_form(given: Any) -> None:
    assert pixels(SharedPipeline(Recorder(), {}).draw(given)) == [[[(2, 0)]]]


def test_elements_texts_and_images_keep_their_order() -> None:
    shared = SharedPipeline(Recorder(), {})
    drawn = shared.draw(["a", {"text": ["bb", "ccc"], "num_images_per_prompt": 2}, {"text": "dddd"}, {"text": []}])
    assert [[len(images) for images in texts] for texts in drawn] == [[1], [2, 2], [1], []]
    assert [[images[0].tobytes()[0] for images in texts] for texts in drawn] == [[1], [2, 3], [4], []]


def test_the_element_wins_over_the_call_and_the_call_over_the_construction() -> None:
    pipe = Recorder()
    SharedPipeline(pipe, {"top_k": 1}).draw(["a", {"text": "b", "top_k": 3}])
    SharedPipeline(pipe, {"top_k": 1}).draw(["a", {"text": "b", "top_k": 3}], top_k=2)
    assert [call["top_k"] for call in pipe.calls] == [1, 3, 2, 3]


def test_easynlps_name_for_the_number_of_images() -> None:
    assert pixels(SharedPipeline(Recorder(), {}).draw("a", max_generated_num=3)) == [[[(1, 0)] * 3]]
    assert pixels(SharedPipeline(Recorder(), {"max_generated_num": 2}).draw("a")) == [[[(1, 0)] * 2]]


def test_image_k_of_a_call_draws_from_seed_plus_k() -> None:
    drawn = SharedPipeline(Recorder(), {}).draw(["a", "bb"], seed=7, num_images_per_prompt=2)
    assert pixels(drawn) == [[[(1, number(7)), (1, number(8))]], [[(2, number(9)), (2, number(10))]]]


def test_an_element_with_a_seed_counts_from_its_own() -> None:
    drawn = SharedPipeline(Recorder(), {}).draw(["a", {"text": "b", "seed": 100}, "c"], seed=7)
    assert pixels(drawn) == [[[(1, number(7))]], [[(1, number(100))]], [[(1, number(9))]]]


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 8])
@pytest.mark.parametrize("kind", [Recorder, Divider])
def test_batches_change_nothing(kind: type[Recorder], batch_size: int | None) -> None:
    given = ["a", "bb", {"text": "ccc", "seed": 40}, {"text": ["dddd", "eeeee"]}, {"text": "ffffff", "top_k": 5}, "g"]
    alone = pixels(SharedPipeline(Recorder(), {}).draw(given, batch_size=1, seed=1))
    assert pixels(SharedPipeline(kind(), {}).draw(given, batch_size=batch_size, seed=1)) == alone


def test_prompts_go_together_where_their_keywords_agree() -> None:
    pipe = Recorder()
    given = ["a", "b", "c", {"text": "d", "top_k": 5}, {"text": "e", "top_k": 5}, {"text": "f", "top_k": 6}]
    SharedPipeline(pipe, {}).draw(given, batch_size=2)
    assert [call["prompt"] for call in pipe.calls] == [["a", "b"], ["c"], ["d", "e"], ["f"]]


def test_keywords_that_cannot_be_compared_stay_apart() -> None:
    pipe, words = Recorder(), torch.zeros(2)
    given = [{"text": "a", "words": words}, {"text": "b", "words": words}, {"text": "c", "words": torch.zeros(2)}]
    SharedPipeline(pipe, {}).draw(given, batch_size=9)
    assert [call["prompt"] for call in pipe.calls] == [["a", "b"], ["c"]]


def test_without_a_batch_size_a_pipeline_that_divides_its_work_gets_all_of_it() -> None:
    for kind, calls in ((Recorder, [["a"], ["b"], ["c"]]), (Divider, [["a", "b", "c"]])):
        pipe = kind()
        SharedPipeline(pipe, {}).draw(["a", "b", "c"])
        assert [call["prompt"] for call in pipe.calls] == calls


@pytest.mark.parametrize("batch_size", [None, 2])
def test_generators_are_dealt_out_in_order(batch_size: int | None) -> None:
    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    shared = SharedPipeline(Recorder(), {})
    assert pixels(shared.draw(["a", "b"], batch_size=batch_size, generator=generators(5, 6))) == [
        [[(1, number(5))]], [[(1, number(6))]],
    ]  # fmt: skip
    own = [{"text": "a", "generator": generators(8)}, {"text": "b", "generator": generators(9)}]
    assert pixels(shared.draw(own, batch_size=batch_size)) == [[[(1, number(8))]], [[(1, number(9))]]]
    with pytest.raises(RequestError, match="1 generators were given for at least 2 images"):
        shared.draw(["a", "b"], generator=generators(5))


def test_a_generator_replaces_a_seed_of_an_outer_level_and_the_other_way_round() -> None:
    generator = torch.Generator().manual_seed(3)
    assert pixels(SharedPipeline(Recorder(), {"seed": 1}).draw("a", generator=[generator])) == [[[(1, number(3))]]]
    assert pixels(SharedPipeline(Recorder(), {"generator": generator}).draw("a", seed=1)) == [[[(1, number(1))]]]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_an_iterator_is_drawn_as_it_comes(batch_size: int | None) -> None:
    pipe, taken = Recorder(), 0

    def prompts() -> Any:
        nonlocal taken
        for text in ("a", "bb", "ccc"):
            taken += 1
            yield text

    drawn = SharedPipeline(pipe, {}).draw_each(prompts(), batch_size=batch_size, seed=4)
    assert taken == 0
    first = next(drawn)
    assert taken == (batch_size or 1)
    assert pixels([first, *drawn]) == [[[(1, number(4))]], [[(2, number(5))]], [[(3, number(6))]]]


@pytest.mark.parametrize(
    ("given", "keywords", "sentence"),
    [
        (7, {}, "A prompt must be text, not int: 7."),
        (["a", None], {}, "A prompt must be text, not NoneType: None."),
        ([["a", "b"]], {}, "A prompt must be text, not list"),
        ({"prompt": "a"}, {}, "a dict needs the key 'text', and this one has ['prompt']"),
        ("a", {"steps": 3}, "Recorder takes no keyword steps; it takes generator, num_images_per_prompt, seed, top_k"),
        ({"text": "a", "steps": 3}, {}, "Recorder takes no keyword steps"),
        ("a", {"prompt": "b"}, "Recorder takes no keyword prompt"),
        ("a", {"output_type": "np"}, "output_type is fixed here"),
        ("a", {"seed": 1, "generator": None}, "seed and generator exclude each other"),
        ("a", {"seed": "1"}, "seed must be a whole number, not '1'."),
        ("a", {"seed": True}, "seed must be a whole number, not True."),
        ("a", {"num_images_per_prompt": 0}, "num_images_per_prompt must be a whole number of at least 1, not 0."),
        ("a", {"max_generated_num": 1.5}, "num_images_per_prompt must be a whole number of at least 1, not 1.5."),
        ("a", {"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0."),
    ],
)
def test_what_cannot_be_drawn_is_said_before_anything_is(given: Any, keywords: Any, sentence: str) -> None:
    pipe = Recorder()
    with pytest.raises(RequestError) as caught:
        SharedPipeline(pipe, {}).draw(given, **keywords)
    assert sentence in str(caught.value)
    assert pipe.calls == []


def test_a_default_that_the_pipeline_does_not_take_is_refused_at_construction() -> None:
    with pytest.raises(RequestError, match="takes no keyword steps"):
        SharedPipeline(Recorder(), {"steps": 3})


def test_output_type_pil_and_return_dict_pass_for_scripts_that_name_them() -> None:
    drawn = SharedPipeline(Recorder(), {}).draw({"text": "a", "output_type": "pil", "return_dict": False})
    assert pixels(drawn) == [[[(1, 0)]]]


def test_threads_take_turns_and_get_their_own_images() -> None:
    shared, results = SharedPipeline(Recorder(), {}), {}

    def work(index: int) -> None:
        results[index] = pixels(shared.draw(["a" * index] * 4, seed=100 * index))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {
        index: [[[(index, number(100 * index + image))]] for image in range(4)] for index in range(1, 9)
    }


def test_a_pipeline_that_fails_can_be_called_again() -> None:
    class Failing(Recorder):
        def __call__(self, prompt: list[str], **keywords: Any) -> Any:  # type: ignore[override]
            if prompt == ["bad"]:
                raise RuntimeError("out of memory")
            return super().__call__(prompt, **keywords)

    shared = SharedPipeline(Failing(), {})
    with pytest.raises(RuntimeError, match="out of memory"):
        shared.draw("bad")
    assert pixels(shared.draw("a")) == [[[(1, 0)]]]
