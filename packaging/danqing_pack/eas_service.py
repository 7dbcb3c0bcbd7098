"""A PAI-EAS service JSON in both styles, and the Dockerfile of an image.

Processor: EAS unpacks the bundle and the processor's package (`danqing eas processor`) and runs its app.py.
Image: a container mounts the folder of the bundle and runs `danqing serve`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from posixpath import basename
from typing import Any

from .eas_keepalive import needed_keepalive
from .eas_lint import lint
from .errors import RequestError, listing

MOUNT = "/eas/workspace/model"
PORT = 8000
ENTRY = "./app.py"
PACKAGE = "processor.tar.gz"
ARCHIVES = (".tar.gz", ".tar.bz2", ".tar", ".zip", ".tgz")


@dataclass(frozen=True)
class Deployment:
    """What a service is to be.

    model_path: oss:// (or, for a processor, http://) address of a bundle or of a folder with a checkpoint.
    image: name of an image that holds Danqing; none: a python processor, whose package lies at `processor_path`
    (default: beside the model). data_image: an image whose environment the processor runs in.
    instance_type: a machine of the public resource group; resource: id of a dedicated one. memory: MB.
    steps, images: the largest request to answer; its time is the keepalive, unless `keepalive` (milliseconds) is given.
    queue: requests that may wait. role_arn: the role that may read the bucket.
    """

    name: str
    model_path: str
    image: str | None = None
    processor_path: str | None = None
    data_image: str | None = None
    instance_type: str | None = None
    resource: str | None = None
    instances: int = 1
    cpu: int | None = None
    memory: int | None = None
    gpu: int | None = None
    keepalive: int | None = None
    steps: int = 50
    images: int = 4
    queue: int = 64
    threads: int = 8
    oss_endpoint: str | None = None
    role_arn: str | None = None


def service(deployment: Deployment) -> dict[str, Any]:
    """The service JSON of a deployment. Raises RequestError where `lint` would refuse it; every problem is named."""
    built = _image(deployment) if deployment.image is not None else _processor(deployment)
    problems = [each for each in lint(built, deployment.steps, deployment.images) if each.level == "error"]
    if problems:
        raise RequestError(f"EAS would refuse this service: {listing([_plain(each) for each in problems], 8)}.",
                           problems=[str(each) for each in problems])
    return built


def encode(built: dict[str, Any]) -> bytes:
    """The bytes of a service JSON: the same service gives the same ones."""
    return (json.dumps(built, ensure_ascii=False, indent=2) + "\n").encode()


def dockerfile(package: str = PACKAGE, base: str = "python:3.12-slim") -> str:
    """A Dockerfile that makes an image of the processor's package; build it in the folder where the package lies."""
    return f"""\
# docker build -t IMAGE . ; needs {package} beside it, as `danqing eas processor {package}` writes it.
FROM {base}
ADD {package} /opt/danqing/
RUN pip install --no-cache-dir --find-links /opt/danqing/wheelhouse "$(echo /opt/danqing/danqing-*.whl)[serve]"
ENV PYTHONUNBUFFERED=1
EXPOSE {PORT}
CMD ["danqing", "serve", "{MOUNT}", "--host", "0.0.0.0", "--port", "{PORT}"]
"""


def _keepalive(deployment: Deployment) -> int:
    return deployment.keepalive or needed_keepalive(deployment.steps, deployment.images)


def _metadata(deployment: Deployment, **rpc: int) -> dict[str, Any]:
    asked = {name: getattr(deployment, name) for name in ("cpu", "memory", "gpu", "resource")}
    if deployment.resource is not None and deployment.gpu is None:
        asked["gpu"] = 1
    return {"name": deployment.name, "instance": deployment.instances,
            **{name: value for name, value in asked.items() if value is not None},
            "rpc": {"keepalive": _keepalive(deployment), **rpc}}


def _machines(deployment: Deployment) -> dict[str, Any]:
    if deployment.instance_type is None:
        return {}
    return {"cloud": {"computing": {"instances": [{"type": deployment.instance_type}]}}}


def _credentials(deployment: Deployment) -> dict[str, Any]:
    given = {"oss_endpoint": deployment.oss_endpoint, "role_arn": deployment.role_arn}
    return {name: value for name, value in given.items() if value is not None}


def _processor(deployment: Deployment) -> dict[str, Any]:
    path = deployment.processor_path
    if path is None:
        path = f"{_folder(deployment.model_path)}{PACKAGE}"
    image = {"data_image": deployment.data_image} if deployment.data_image is not None else {}
    return {
        "name": deployment.name,
        "metadata": _metadata(deployment, worker_threads=deployment.threads, max_queue_size=deployment.queue),
        **_machines(deployment), "model_path": deployment.model_path, "processor_type": "python",
        "processor_path": path, "processor_entry": ENTRY, **image, **_credentials(deployment)}


def _image(deployment: Deployment) -> dict[str, Any]:
    if not deployment.model_path.startswith("oss://"):
        raise RequestError(f"An image mounts its model from OSS, and {deployment.model_path} lies elsewhere: upload it and "
                           "name it as oss://bucket/model.tar.gz.")
    if deployment.processor_path is not None or deployment.data_image is not None:
        raise RequestError("An image runs no processor: leave out the processor's package and environment, or the image.")
    is_file = deployment.model_path.endswith(ARCHIVES)
    model = f"{MOUNT}/{basename(deployment.model_path)}" if is_file else MOUNT
    source: dict[str, Any] = {"path": _folder(deployment.model_path) if is_file else _closed(deployment.model_path)}
    if deployment.oss_endpoint is not None:
        source["endpoint"] = deployment.oss_endpoint
    words = ["danqing", "serve", model, "--host", "0.0.0.0", "--port", str(PORT), "--keepalive",
             str(_keepalive(deployment)), "--queue", str(deployment.queue)]
    role = {"role_arn": deployment.role_arn} if deployment.role_arn is not None else {}
    return {
        "metadata": _metadata(deployment), **_machines(deployment),
        "containers": [{"image": deployment.image, "command": _command(words), "port": PORT}],
        "storage": [{"mount_path": f"{MOUNT}/", "oss": {**source, "readOnly": True},
                     "properties": {"resource_type": "model", "resource_use": "base"}}],
        **role}


def _command(words: list[str]) -> str:
    from shlex import join

    return join(words)


def _folder(path: str) -> str:
    """The folder that an address lies in, slash included; a folder's own address stands for itself."""
    if not path.endswith(ARCHIVES):
        return _closed(path)
    return f"{path.rpartition('/')[0]}/"


def _closed(path: str) -> str:
    return path if path.endswith("/") else f"{path}/"


def _plain(problem: Any) -> str:
    return f"{problem.place}: {problem.fact}, {problem.remedy}"
