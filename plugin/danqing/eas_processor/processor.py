"""The processor itself: the service of `danqing serve` without its HTTP, on the vendor's runtime or our stand-in."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danqing_pack.detection import find_layout
from danqing_pack.errors import DanqingError, FormatError, RequestError, listing

WORKSPACES = (Path("/home/admin/docker_ml/workspace"), Path("/eas/workspace"))
"""Where EAS unpacks model/, predictor/ and config/: older and newer images."""
ENDPOINT = "DANQING_ENDPOINT"
KEEPALIVE = 300_000
"""Milliseconds of a request where no service JSON is found that says."""
BATCH = 8
SETTINGS = {"device": str, "dtype": str, "text_length": int, "translator": str, "batch": int, "queue": int}
"""What `model_config` of the service JSON may say to the processor."""
CLOSING_SECONDS = 60.0


def _runtime() -> Any:
    """The vendor's `allspark` where the image has it; a package of that name on the index is another one."""
    try:
        runtime = importlib.import_module("allspark")
    except ImportError:
        runtime = None
    if hasattr(runtime, "BaseProcessor"):
        return runtime
    from danqing.eas_processor import standin

    return standin


RUNTIME = _runtime()
_BaseProcessor: Any = RUNTIME.BaseProcessor


class Processor(_BaseProcessor):  # type: ignore[misc]
    """Loads the model that EAS unpacked, then answers with pictures. ``home`` is the folder of app.py."""

    home = Path.cwd()
    service: Any = None

    def initialize(self, model_path: str | None = None, *others: Any) -> None:
        """Load and draw once. ``model_path``: where the model lies, from runtimes that say so.

        Raises FormatError where no place of EAS holds a model; the sentence lists them.
        """
        from danqing.loading import load
        from danqing.serve.contract import Limits
        from danqing.serve.served_model import ServedModel
        from danqing.serve.service import Service
        from danqing.serve.translation import Translator

        config = service_json(self.home)
        settings = model_settings(config)
        place = find_model([*self._told(model_path), *usual_places(self.home)])
        print(f"Loading {place}", flush=True)
        translator = settings.get("translator")
        pipe = load(place, device=os.environ.get("DANQING_DEVICE") or settings.get("device", "auto"),
                    dtype=settings.get("dtype", "auto"), text_length=settings.get("text_length"))
        self.service = Service(
            ServedModel(pipe), Limits(), translator=Translator(translator) if translator else None,
            queue=settings.get("queue", 64), batch=settings.get("batch", BATCH), keepalive=keepalive(config) / 1000)
        self.service.warm_up()

    def process(self, data: bytes) -> tuple[bytes, int]:
        """The reply to a request and its status."""
        reply: tuple[bytes, int] = self.service.process(bytes(data))
        return reply

    def _told(self, model_path: str | None) -> Iterator[Path]:
        """Places that the runtime names itself."""
        if model_path:
            yield Path(os.fsdecode(model_path))
        asked = getattr(self, "get_model_path", None)
        if callable(asked) and (answer := asked()):
            yield Path(os.fsdecode(answer))


def serve(home: str) -> None:
    """Run the processor whose app.py lies in ``home`` until the runtime ends. Raises SystemExit with a sentence."""
    Processor.home = Path(home)
    config = service_json(Path(home))
    if not config:
        RUNTIME.default_properties().put("rpc.keepalive", KEEPALIVE)
    elif RUNTIME.__name__.endswith(".standin"):         # the vendor's runtime reads the file itself
        for name, value in rpc_settings(config).items():
            RUNTIME.default_properties().put(name, value)
    threads = rpc_settings(config).get("rpc.worker_threads", BATCH)
    try:
        processor = Processor(threads, 1, os.environ.get(ENDPOINT))
        processor.run()
    except (DanqingError, OSError) as error:
        raise SystemExit(f"danqing: {error}") from error
    if processor.service is not None:
        processor.service.close(CLOSING_SECONDS)


# ---- where EAS lays things

def usual_places(home: Path) -> Iterator[Path]:
    """Where EAS may have laid the model, seen from the folder of app.py and from the working directory."""
    for start in dict.fromkeys((home, Path.cwd())):
        for up in ("..", "../.."):
            yield Path(os.path.normpath(start / up / "model"))
    for workspace in WORKSPACES:
        yield workspace / "model"


def find_model(places: list[Path]) -> Path:
    """The first of these places that holds a model: as a folder, a folder in it, or a bundle in it.

    Raises FormatError where none does.
    """
    tried = list(dict.fromkeys(places))
    for place in tried:
        for path in (place, *(sorted(place.iterdir()) if place.is_dir() else ())):
            if _is_model(path):
                return Path(path)
    looked = [f"{place} ({_held(place)})" for place in tried]
    raise FormatError(f"EAS laid no model where one is looked for: {listing(looked)}; set model_path in the service JSON "
                      "to a bundle that `danqing pack` made.", tried=tried)


def _is_model(path: Path) -> bool:
    if path.is_file():
        return path.name.endswith((".tar.gz", ".tgz", ".tar", ".tar.bz2", ".zip"))
    try:
        find_layout(path)
    except (DanqingError, OSError):
        return False
    return True


def _held(place: Path) -> str:
    if not place.is_dir():
        return "not there"
    return f"holds {listing(sorted(each.name for each in place.iterdir()), 5) or 'nothing'}"


def service_json(home: Path) -> dict[str, Any]:
    """The service JSON as EAS lays it beside the processor; empty where there is none that can be read."""
    for folder in (home.parent, *WORKSPACES):
        try:
            config = json.loads((folder / "config" / "config.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(config, dict):
            return config
    return {}


def rpc_settings(config: dict[str, Any]) -> dict[str, int]:
    """Every whole number of `rpc` under its dotted name, in whichever spelling and place it stands."""
    found: dict[str, int] = {}
    metadata = config.get("metadata")
    for level in (config, metadata if isinstance(metadata, dict) else {}):
        nested = level.get("rpc")
        pairs = {f"rpc.{name}": value for name, value in nested.items()} if isinstance(nested, dict) else {}
        for name, value in {**level, **pairs}.items():
            if name.startswith("rpc.") and isinstance(value, int) and not isinstance(value, bool) and value > 0:
                found[name] = value
    return found


def keepalive(config: dict[str, Any]) -> int:
    """Milliseconds that a request may take: what the service JSON says, else a number that suits pictures."""
    return rpc_settings(config).get("rpc.keepalive", KEEPALIVE)


def model_settings(config: dict[str, Any]) -> dict[str, Any]:
    """`model_config` of the service JSON, as an object or as its text. Raises RequestError for what it may not say."""
    given = config.get("model_config") or {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise RequestError("model_config of the service JSON is no JSON: write an object.") from error
    if not isinstance(given, dict):
        raise RequestError("model_config of the service JSON must be an object.")
    bad = [name for name, value in given.items()
           if name not in SETTINGS or not isinstance(value, SETTINGS[name]) or isinstance(value, bool)]
    if bad:
        known = [f"{name} ({kind.__name__})" for name, kind in SETTINGS.items()]
        raise RequestError(f"model_config of the service JSON says {listing(bad)}: it may say {listing(known)}.", bad=bad)
    return given
