"""What a PAI-EAS service JSON must say beyond the type of each key: names, resources, ports, processors, time-outs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from posixpath import normpath
from typing import Any

from .eas_keepalive import needed_keepalive
from .eas_keys import KEEPALIVE_DEFAULT, RESERVED_PORTS
from .eas_view import Problem, View, shown

Rule = Callable[[View, int, int], Iterator[Problem]]
NAME = re.compile(r"[a-z][a-z0-9_]{2,62}")
UNPACKED = (".tar.gz", ".tar.bz2", ".zip", ".tar")
"""Endings of archives that EAS unpacks."""
PACKED = (*UNPACKED, ".tgz", ".tbz2", ".tar.xz", ".7z", ".rar")
LEAST_MEMORY, MOST_MEMORY = 256, 4 << 20
"""MB between which a machine's memory lies: below, GB were meant; above, bytes or KB."""
LEAST_KEEPALIVE = 1000
"""Milliseconds below which seconds were meant."""
CHAINING = re.compile(r"&&|\|\||[;|\n]")


def _name(view: View, steps: int, images: int) -> Iterator[Problem]:
    name = view.get("metadata.name", view.get("name"))
    if name is None:
        yield Problem("metadata.name", "the service has no name", "write one, unique in its region")
    elif isinstance(name, str) and not NAME.fullmatch(name) and "<" not in name:
        place = "metadata.name" if view.get("metadata.name") is not None else "name"
        mended = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")[:63]
        remedy = f"write {mended}" if NAME.fullmatch(mended) else (
            "write 3 to 63 lower-case letters, digits and underscores, a letter first")
        only_case = bool(NAME.fullmatch(name.lower()))
        yield Problem(place, f"{shown(name)} is no name of 3 to 63 lower-case letters, digits and underscores", remedy,
                      "warning" if only_case else "error")


def _instances(view: View, steps: int, images: int) -> Iterator[Problem]:
    if view.get("metadata") is None:
        yield Problem("metadata", "it is missing", 'write "metadata": {"name": "...", "instance": 1}')
    elif view.get("metadata.instance") is None:
        yield Problem("metadata.instance", "the number of instances is missing", 'write "instance": 1')


def _resources(view: View, steps: int, images: int) -> Iterator[Problem]:
    memory = view.get("metadata.memory")
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        if memory < LEAST_MEMORY:
            yield Problem("metadata.memory", f"memory is counted in MB, and {memory} MB starts no service",
                          f"write {memory * 1000} if GB were meant")
        elif memory > MOST_MEMORY:
            yield Problem("metadata.memory", f"memory is counted in MB, and {shown(memory)} MB has no machine",
                          "divide by 1024 as often as it takes")
    resource = view.text("metadata.resource")
    if resource and "<" not in resource and not resource.startswith("eas-r-"):
        yield Problem("metadata.resource", f"{shown(resource)} does not look like the id of a resource group",
                      "write its id, which begins with eas-r-", "warning")
    if resource and not view.get("metadata.gpu"):
        yield Problem("metadata.gpu", "no GPU is asked of the resource group, so pictures are drawn on the CPU",
                      'write "gpu": 1 if it has some', "hint")
    asked = ("metadata.resource", "cloud.computing", "metadata.cpu", "metadata.memory", "metadata.gpu")
    if all(view.get(place) is None for place in asked):
        yield Problem("cloud.computing", "no machine is asked for",
                      'write {"instances": [{"type": "..."}]} there, or a resource group in metadata.resource', "warning")


def _processor(view: View, steps: int, images: int) -> Iterator[Problem]:
    kind, entry = view.text("processor_type"), view.text("processor_entry")
    wanted = {"python": "processor_entry", "cpp": "processor_entry", "java": "processor_mainclass"}.get(kind)
    if wanted and not view.get(wanted):
        example = {"python": "./app.py", "cpp": "libprocessor.so", "java": "com.example.Processor"}[kind]
        yield Problem(wanted, f"it is missing, and a {kind} processor needs it", f'write "{wanted}": "{example}"')
    if kind and not any(view.get(place) for place in ("processor_path", "processor_image", "source")):
        yield Problem("processor_path", "it is missing, so there is no processor to run",
                      "write where the processor's package lies, such as oss://bucket/processor.tar.gz")
    for place in ("processor_path", "processor_entry"):
        if view.get(place) and not kind:
            yield Problem("processor_type", f"it is missing beside {place}", 'write "processor_type": "python"')
            break
    ending = {"python": ".py", "cpp": ".so"}.get(kind)
    if ending and entry and not entry.endswith(ending):
        yield Problem("processor_entry", f"{shown(entry)} is no file of a {kind} processor", f"name its {ending} file",
                      "warning")
    processed = any(view.get(place) for place in ("processor", "processor_type", "processor_path"))
    if processed and not any(view.get(place) for place in ("model_path", "models", "multi_models", "storage")):
        yield Problem("model_path", "it is missing, so the processor gets no model",
                      "write where the bundle lies, such as oss://bucket/model.tar.gz", "warning")
    ordinary = view.text("metadata.type") in ("", "Standard", "Async")
    if not processed and not view.get("containers") and ordinary:
        yield Problem("containers", "there is neither an image nor a processor",
                      "write containers with an image, or processor_path, processor_type and processor_entry")


def _paths(view: View, steps: int, images: int) -> Iterator[Problem]:
    for place in ("model_path", "processor_path"):
        path = view.text(place)
        if not path or "<" in path:
            continue
        if not path.startswith(("oss://", "http://", "https://")):
            yield Problem(place, f"{shown(path)} is no address, and EAS reads no files of your machine",
                          "upload it and write oss://bucket/path")
        elif path.startswith("http") and not path.endswith(UNPACKED):
            yield Problem(place, "what is fetched over HTTP must be an archive",
                          f"name a file that ends in {', '.join(UNPACKED)}")
        elif path.endswith(PACKED) and not path.endswith(UNPACKED):
            yield Problem(place, "EAS unpacks no archive with this ending", "pack it as .tar.gz", "warning")
        elif not path.partition("://")[2].strip("/").partition("/")[0]:
            yield Problem(place, f"{shown(path)} names no bucket", "write oss://bucket/path")


def _containers(view: View, steps: int, images: int) -> Iterator[Problem]:
    containers = view.get("containers")
    if not isinstance(containers, list):
        return
    if not containers:
        yield Problem("containers", "the list is empty", "write one container with its image")
    for index, container in enumerate(containers):
        if isinstance(container, dict):
            yield from _container(View(container), f"containers[{index}]")


def _container(view: View, place: str) -> Iterator[Problem]:
    if not view.get("image"):
        yield Problem(f"{place}.image", "it is missing", "name the image")
    if not view.get("command") and not view.get("script"):
        yield Problem(f"{place}.script", "there is neither command nor script, so nothing is started",
                      "write one of them, such as danqing serve /eas/workspace/model --host 0.0.0.0 --port 8000")
    port = view.get("port")
    if port in RESERVED_PORTS and not isinstance(port, bool):
        yield Problem(f"{place}.port", f"EAS keeps {port} for itself", "take another port, such as 8000")
    if CHAINING.search(view.text("command").strip()):
        yield Problem(f"{place}.command", "this is more than one command", "write it as script, which takes several")
    for word in ("command", "script"):
        yield from _our_server(view.text(word), port, f"{place}.{word}")


def _our_server(line: str, port: Any, place: str) -> Iterator[Problem]:
    """What is wrong with a container that runs `danqing serve`."""
    try:
        words = shlex.split(line)
    except ValueError:
        yield Problem(place, "a quote is not closed", "close it")
        return
    if words[:2] != ["danqing", "serve"]:
        return
    given = dict(zip(words, words[1:], strict=False)) | dict(
        word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    if given.get("--host", "127.0.0.1") in ("127.0.0.1", "localhost", "::1"):
        yield Problem(place, "danqing serve listens to its own container alone", "add --host 0.0.0.0")
    if isinstance(port, int) and given.get("--port", "8080") != str(port):
        yield Problem(place, f"danqing serve listens on {shown(given.get('--port', '8080'))}, and port says {port}",
                      f"write --port {port}")


def _storage(view: View, steps: int, images: int) -> Iterator[Problem]:
    storage = view.get("storage")
    taken: set[str] = set()
    for index, item in enumerate(storage if isinstance(storage, list) else ()):
        if not isinstance(item, dict):
            continue
        place, mount = f"storage[{index}]", View(item).text("mount_path")
        if "mount_path" not in item:
            yield Problem(f"{place}.mount_path", "it is missing", "write where it is to lie, such as /eas/workspace/model")
        elif mount and not mount.startswith("/") and "<" not in mount:
            yield Problem(f"{place}.mount_path", f"{shown(mount)} is not absolute", f"write /{mount.lstrip('./')}")
        elif mount and normpath(mount) in taken:
            yield Problem(f"{place}.mount_path", f"{shown(mount)} is taken by another entry", "mount it elsewhere")
        taken.add(normpath(mount) if mount else "")
        path = View(item).text("oss.path")
        if path and not path.startswith("oss://") and "<" not in path:
            yield Problem(f"{place}.oss.path", f"{shown(path)} is no place in OSS", "write oss://bucket/folder/")
        elif path.endswith(PACKED):
            yield Problem(f"{place}.oss.path", "a file cannot be mounted, and nothing is unpacked here",
                          f"write its folder, {shown(path.rpartition('/')[0])}/")


def _keepalive(view: View, steps: int, images: int) -> Iterator[Problem]:
    needed = needed_keepalive(steps, images)
    found = [each for place in ("metadata.rpc.keepalive", "rpc.keepalive") for each in view.find(place)]
    numbers = {value for _, value in found if isinstance(value, int) and not isinstance(value, bool)}
    if len(found) > 1 and len(numbers) > 1:
        yield Problem(found[1][0], f"it says another number than {found[0][0]}", "keep one of them")
    reason = f"{images} picture{'s' if images != 1 else ''} of {steps} steps may take {needed // 1000} s"
    for place, value in found:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            continue                                    # said already
        if value < LEAST_KEEPALIVE:
            yield Problem(place, f"keepalive is counted in milliseconds, and {value} ms ends every request",
                          f"write {max(needed, value * 1000)}")
        elif value < needed:
            yield Problem(place, f"requests end after {value / 1000:g} s, and {reason}", f"write at least {needed}")
    if not found:
        processed = view.get("processor_type") is not None or view.get("processor_path") is not None
        default = f"EAS then ends each request after {KEEPALIVE_DEFAULT / 1000:g} s" if processed else (
            "the gateway's own limit then holds")
        yield Problem("metadata.rpc.keepalive", f"it is missing: {default}, and {reason}", f"write {needed}",
                      "warning" if processed else "hint")


RULES: tuple[Rule, ...] = (
    _name, _instances, _resources, _processor, _paths, _containers, _storage, _keepalive)
