"""Hosts in fresh interpreters, from an installed wheel, with nothing imported but the host itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Environment = Any  # the class in conftest.py: test modules cannot import each other
ROOT = Path(__file__).parents[3]

IN_MODELSCOPE = """
import sys
from modelscope.pipelines import pipeline
folder, legacy = sys.argv[1:]
for name in ("diffusers", "danqing.pipelines.painter"):
    assert name not in sys.modules, name
rows = pipeline("text2image_generation", folder)(["宽松T恤", "连衣裙"], seed=1)
assert [list(row) for row in rows] == [["gen_imgbase64"]] * 2, rows
result = pipeline("text-to-image-synthesis", folder)({"text": "宽松T恤"})
assert [image.shape for image in result["output_imgs"]] == [(256, 256, 3)]
named = pipeline("text-to-image-synthesis", legacy, pipeline_name="danqing")
assert len(named("宽松T恤", num_images_per_prompt=2)["output_imgs"]) == 2
import danqing
print(danqing.__file__)
"""

MODELSCOPE_ALONE = """
import sys
from modelscope.pipelines import pipeline
try:
    pipeline("text2image_generation", sys.argv[1])
except KeyError as error:
    print("KeyError:", error)
assert not [name for name in sys.modules if name.startswith("danqing")]
import danqing
print(len(pipeline("text2image_generation", sys.argv[1])("宽松T恤")))
"""

IN_DIFFUSERS = """
import sys
from diffusers import DiffusionPipeline
assert "danqing.pipelines.painter" not in sys.modules
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
import diffusers
assert type(pipe) is diffusers.PainterPipeline and "PainterPipeline" in dir(diffusers)
assert type(pipe.transformer).__module__ == "danqing.components", type(pipe.transformer)
assert pipe("宽松T恤", output_type="codes").images.shape == (1, 256)
assert diffusers.DDIMScheduler.__name__ == "DDIMScheduler" and not hasattr(diffusers, "NoSuchPipeline")
saved = sys.argv[2]
pipe.save_pretrained(saved)
again = DiffusionPipeline.from_pretrained(saved)
assert type(again) is type(pipe)
print(open(saved + "/model_index.json").read())
"""

IN_TRANSFORMERS = """
import sys
from transformers import pipeline
assert "diffusers" not in sys.modules
draw = pipeline("text2image_generation", sys.argv[1])
row = draw("宽松T恤", seed=1)
assert [list(each) for each in row] == [["gen_imgbase64"]], row
from transformers import AutoConfig, AutoModel
assert AutoConfig.from_pretrained(sys.argv[1]).text_length == 32
assert type(AutoModel.from_pretrained(sys.argv[1])).__name__ == "PainterForText2ImageGeneration"
print("danqing" in sys.modules)
"""


def test_modelscope(installed: Environment, painter_folder: Path, painter_checkpoint: Path) -> None:
    output = installed.run(IN_MODELSCOPE, painter_folder, painter_checkpoint)
    assert Path(output.split()[-1]).is_relative_to(installed.site), "the wheel runs, not the checkout"


@pytest.mark.slow
def test_modelscope_with_the_hook_turned_off(installed: Environment, painter_folder: Path) -> None:
    output = installed.run(MODELSCOPE_ALONE, painter_folder, DANQING_AUTOLOAD="0").splitlines()
    assert output[0].startswith("KeyError:") and "danqing is not in the pipelines registry" in output[0]
    assert output[1] == "1", "import danqing registers with a ModelScope that is there already"


def test_diffusers(installed: Environment, painter_folder: Path, tmp_path: Path) -> None:
    index = installed.run(IN_DIFFUSERS, painter_folder, tmp_path / "saved")
    assert '"_class_name": "PainterPipeline"' in index and '"danqing.components"' in index


@pytest.mark.slow
def test_transformers(installed: Environment, painter_folder: Path) -> None:
    assert installed.run(IN_TRANSFORMERS, painter_folder) == "True\n"


@pytest.mark.slow
def test_diffusers_imported_at_once(installed: Environment, painter_folder: Path, tmp_path: Path) -> None:
    """With this variable diffusers is a plain module, and the hook fires in the middle of its import."""
    installed.run(IN_DIFFUSERS, painter_folder, tmp_path / "saved", DIFFUSERS_SLOW_IMPORT="1")


@pytest.mark.slow
def test_hosts_that_were_there_before_danqing(installed: Environment, painter_folder: Path, tmp_path: Path) -> None:
    first = "import {}\nassert not hasattr(__import__('diffusers'), 'PainterPipeline')\nimport danqing\n"
    diffusers = first.format("diffusers.pipelines.pipeline_utils") + IN_DIFFUSERS
    installed.run(diffusers, painter_folder, tmp_path / "saved", DANQING_AUTOLOAD="0")
    transformers = "import transformers.pipelines, danqing\n" + IN_TRANSFORMERS
    assert installed.run(transformers, painter_folder, DANQING_AUTOLOAD="0") == "True\n"


@pytest.mark.slow
def test_hosts_without_modelscope(
    make_environment: Callable[..., Environment], wheel: Path, painter_folder: Path
) -> None:
    environment = make_environment(with_libraries=True, without=("modelscope",))
    environment.pip("install", "--no-deps", "--no-index", wheel)
    assert environment.run(IN_TRANSFORMERS, painter_folder) == "True\n"
    done = environment.start("import modelscope")
    assert done.returncode == 1 and done.stderr.endswith("No module named 'modelscope'\n")


@pytest.mark.slow
def test_modelscope_from_an_editable_install(
    make_environment: Callable[..., Environment], painter_folder: Path, painter_checkpoint: Path
) -> None:
    environment = make_environment(with_libraries=True)
    environment.pip("install", "--no-deps", "--no-index", "--no-build-isolation", "--editable", ROOT)
    output = environment.run(IN_MODELSCOPE, painter_folder, painter_checkpoint)
    assert Path(output.split()[-1]) == ROOT / "plugin" / "danqing" / "__init__.py"


@pytest.mark.slow
def test_all_hosts_at_once_from_many_threads(installed: Environment, painter_folder: Path) -> None:
    """Imports of the hosts race with one another and with that of danqing."""
    script = """
import sys, threading
from importlib import import_module
hosts = ["modelscope.pipelines.builder", "diffusers.pipelines.pipeline_loading_utils", "transformers.pipelines"]
names = [*hosts, "danqing"]
start, failures = threading.Barrier(len(names)), []
def work(name):
    start.wait()
    try:
        import_module(name)
    except BaseException as error:
        failures.append((name, repr(error)))
threads = [threading.Thread(target=work, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join(120)
assert not failures and not any(thread.is_alive() for thread in threads), failures
from modelscope.pipelines import pipeline
print(len(pipeline("text2image_generation", sys.argv[1])("宽松T恤")))
from diffusers import PainterPipeline
from transformers.pipelines import PIPELINE_REGISTRY
print("text2image_generation" in PIPELINE_REGISTRY.supported_tasks)
"""
    done = installed.start(script, painter_folder, options=("-W", "error::RuntimeWarning"))
    assert done.stdout.splitlines() == ["1", "True"], done.stderr
    assert "danqing cannot register" not in done.stderr
