"""A bundle tried as EAS would run it: the whole way once, and with processors of straw what the trial must catch."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from danqing import cli, eas_trial
from danqing.eas_trial import Report, Trial
from danqing_pack import archives
from danqing_pack.eas_service import Deployment, service
from danqing_pack.errors import RequestError
from PIL import Image

STRAW = '''
import json, os, signal, sys
from danqing.eas_processor import standin

class Straw(standin.BaseProcessor):
    def process(self, data):
        try:
            request = json.loads(data)
        except ValueError:
            return b"{{}}", {refusal}
        pictures = [{picture!r}] * request["num_images"]
        return json.dumps({{"text": request["text"], "images_base64": pictures, {success}}}).encode(), 0

assert os.path.exists("../model/config.json") and os.path.exists("../config/config.json")
{before}
Straw(2, 1, os.environ["DANQING_ENDPOINT"]).run()
{after}
'''


def cell(flat: bool = False, encode: Callable[[bytes], bytes] = base64.urlsafe_b64encode) -> str:
    file = io.BytesIO()
    (Image.new("RGB", (64, 48)) if flat else Image.effect_noise((64, 48), 80).convert("RGB")).save(file, "PNG")
    return encode(file.getvalue()).decode()


@pytest.fixture
def tried(bundle: Path, tmp_path: Path) -> Callable[..., Report]:
    """The report on the bundle with a processor of straw; ``tried(before="...", picture=...)``."""

    def run(before: str = "", after: str = "", refusal: int = 400, success: str = '"success": True', picture: str = "",
            bundle: Path = bundle, seconds: float = 60, **more: Any) -> Report:
        app = STRAW.format(before=before, after=after, refusal=refusal, success=success, picture=picture or cell())
        package = tmp_path / "straw.tar.gz"
        archives.write_archive(package, {"app.py": app.encode()})
        return Trial(bundle, processor=package, seconds=seconds, **more).run()

    return run


def failed(report: Report) -> list[str]:
    return [each.name for each in report.checks if not each.holds]


def test_a_good_processor_passes_and_the_report_says_so(tried: Callable[..., Report]) -> None:
    report = tried(images=2)
    assert report.passed, report.describe()
    assert [each.name for each in report.checks] == [
        "bundle", "processor", "start", "documented request", "fine-tuned request", "broken request", "stop"]
    said = report.describe()
    assert "4 files, flat, 3 digests match" in said and "2 pictures, 64 x 48 PNG, " in said and said.endswith("uploaded.")
    assert report.start_seconds is not None and json.loads(json.dumps(report.to_json()))["passed"]


def test_success_may_be_a_number(tried: Callable[..., Report]) -> None:
    assert tried(success='"success": 1').passed


@pytest.mark.parametrize(("fault", "step"), [
    ({"before": "sys.exit('no model here')"}, "start"),
    ({"before": "import time; time.sleep(60)", "seconds": 1}, "start"),
    ({"picture": cell(flat=True)}, "documented request"),
    ({"picture": cell(encode=base64.b64encode)}, "documented request"),
    ({"picture": cell().rstrip("=")[:-1]}, "documented request"),
    ({"picture": "AAAA"}, "documented request"),
    ({"success": '"success": False'}, "documented request"),
    ({"success": '"good": True'}, "documented request"),
    ({"refusal": 200}, "broken request"),
    ({"after": "sys.exit(3)"}, "stop"),
], ids=["ends", "hangs", "one colour", "other alphabet", "no padding", "no picture", "no success", "no word of success",
        "takes anything", "ends badly"])
def test_a_faulty_processor_is_caught(fault: dict[str, Any], step: str, tried: Callable[..., Report]) -> None:
    report = tried(**fault)
    assert step in failed(report), report.describe()
    assert "Not ready" in report.describe()


def test_the_last_lines_of_the_service_are_shown(tried: Callable[..., Report]) -> None:
    report = tried(before="sys.exit('no model here')")
    assert "no model here" in report.describe() and "ended with code 1" in report.describe()


def test_a_process_that_will_not_stop_is_killed(tried: Callable[..., Report], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eas_trial, "STOP_SECONDS", 0.5)
    report = tried(after="import time; print('pid', os.getpid(), flush=True); time.sleep(60)")
    assert failed(report) == ["stop"] and "went on" in report.describe()
    pid = int(report.log.split("pid ")[1].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_keepalive_of_the_service_json_is_that_of_the_trial(bundle: Path, tmp_path: Path) -> None:
    """A service without one gets EAS's five seconds, here as there."""
    described = service(Deployment("painter", "oss://b/model.tar.gz", instance_type="t", steps=20, images=1))
    del described["metadata"]["rpc"]["keepalive"]
    app = ('import os, json\nfrom pathlib import Path\nfrom danqing.eas_processor import processor, standin\n'
           'config = processor.service_json(Path(__file__).parent)\n'
           'assert config["name"] == "painter" and "keepalive" not in config["metadata"]["rpc"]\n'
           'class Straw(standin.BaseProcessor):\n'
           '    def process(self, data):\n        import time; time.sleep(1); return b"", 0\n'
           'processor.Processor = Straw\n'
           'standin.DEFAULTS["rpc.keepalive"] = 5; standin._PROPERTIES = standin.Properties()\n'
           'Straw.service = None\n'
           'processor.serve(os.path.dirname(os.path.abspath(__file__)))\n')
    package = tmp_path / "p.tar.gz"
    archives.write_archive(package, {"app.py": app.encode()})
    report = Trial(bundle, described, package, seconds=60).run()
    assert "answered 408" in report.describe(), report.describe()


def test_a_service_that_eas_would_refuse_is_not_started(bundle: Path) -> None:
    report = Trial(bundle, {"metadata": {"name": "painter", "memory": 16}}).run()
    assert {each.name for each in report.checks} == {"service JSON"} and not report.passed
    assert "counted in MB" in report.describe()


def test_a_bundle_with_a_top_folder_is_told(bundle: Path, tried: Callable[..., Report], tmp_path: Path,
                                            painter_checkpoint: Path) -> None:
    deep = tmp_path / "deep.tar.gz"
    with tarfile.open(deep, "w:gz") as archive:
        archive.add(painter_checkpoint, "checkpoint")
    report = tried(bundle=deep)
    assert "not flat" in report.describe() and failed(report) == ["start"]          # straw looks for a flat one


def test_a_damaged_bundle_is_told(bundle: Path, tried: Callable[..., Report], tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(bundle.read_bytes()[:-5000])
    report = tried(bundle=cut)
    assert failed(report) == ["bundle"] and "cut off" in report.describe()
    files: dict[str, Path | bytes] = {"danqing.json": json.dumps(
        {"format": 1, "files": {"config.json": "0" * 64}}).encode(), "config.json": b"{}"}
    archives.write_archive(tmp_path / "wrong.tar.gz", files)
    assert "sha256 differs" in tried(bundle=tmp_path / "wrong.tar.gz").describe()


@pytest.mark.parametrize("command", ["python app.py", "bash -c 'rm -rf x'", "danqing generate x"])
def test_only_our_own_server_is_run_for_an_image(command: str, bundle: Path) -> None:
    described = service(Deployment("painter", "oss://b/model.tar.gz", image="x", instance_type="t"))
    described["containers"][0]["command"] = command
    with pytest.raises(RequestError, match="danqing serve"):
        Trial(bundle, described).run()


@pytest.mark.parametrize("entry", ["../../outside.py", "/etc/passwd", "none.py"])
def test_only_the_packages_own_file_is_run(entry: str, bundle: Path, package: Path) -> None:
    described = service(Deployment("painter", "oss://b/model.tar.gz", instance_type="t"))
    with pytest.raises(RequestError, match="no file of a python processor"):
        Trial(bundle, {**described, "processor_entry": entry}, package).run()


def test_what_is_not_there_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], bundle: Path) -> None:
    assert cli.main(["eas", "test", str(tmp_path / "none.tar.gz")]) == 1
    (tmp_path / "service.json").write_text("{")
    assert cli.main(["eas", "test", str(bundle), "--service", str(tmp_path / "service.json")]) == 1
    assert "line 1" in capsys.readouterr().err
    assert cli.main(["eas", "test", str(bundle), "--steps", "0"]) == 1


@pytest.mark.slow
def test_the_whole_way_from_a_checkpoint_to_a_service(
    painter_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    bundle, package, described, image = (
        str(tmp_path / name) for name in ("model.tar.gz", "processor.tar.gz", "service.json", "image.json"))
    common = ["--model-path", "oss://bucket/painter/model.tar.gz", "--name", "painter", "--instance-type", "t"]
    for words in (
        ["pack", str(painter_checkpoint), bundle],
        ["eas", "processor", package],
        ["eas", "service", described, *common],
        ["eas", "service", image, *common, "--image", "danqing:1"],
        ["eas", "lint", described, image, "--strict"],
        ["eas", "test", bundle, "--service", described, "--processor", package, "--device", "cpu", "--images", "2"],
        ["eas", "test", bundle, "--service", image, "--device", "cpu"],
    ):
        assert cli.main(words) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert said.count("Ready to be uploaded.") == 2 and "2 pictures, 256 x 256 PNG" in said
