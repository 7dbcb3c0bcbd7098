"""The keys of a PAI-EAS service JSON, as data: type, unit, bounds, values, and what lies below.

Sources: the vendor's page on JSON deployment, the key registry in its Go client, the service files of its own projects
and of its Python SDK. What is documented without an inside (`networking`, `autoscaler`, `features`) is open: any key
may stand there. A key of any map may also be written with dots instead of braces, as `"rpc.keepalive"` in `metadata`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Key:
    """What may stand under a key.

    kind: text, whole (a number), flag (true or false), map, list, or `any`; several with `|`.
    least, most: bounds of a number. values: the known texts. unit: of a number.
    keys: of a map; `open` where others may stand beside them. items: what a list holds.
    """

    kind: str
    unit: str = ""
    least: int | None = None
    most: int | None = None
    values: tuple[str, ...] = ()
    keys: Mapping[str, Key] = field(default_factory=dict)
    open: bool = False
    items: Key | None = None

    def below(self, name: str) -> Key | None:
        """What a name in this map means, written whole or with dots; None where nothing is known of it."""
        if name in self.keys:
            return self.keys[name]
        first, dot, rest = name.partition(".")
        if dot and first in self.keys and "map" in self.keys[first].kind:
            return self.keys[first].below(rest)
        return None

    def names_below(self) -> tuple[str, ...]:
        """The dotted names of what lies two levels down, such as `rpc.keepalive`."""
        return tuple(f"{name}.{inner}" for name, key in self.keys.items() for inner in key.keys)


def whole(least: int | None = 0, most: int | None = None, unit: str = "") -> Key:
    """A whole number."""
    return Key("whole", unit=unit, least=least, most=most)


def known(keys: Mapping[str, Key]) -> Key:
    """A map of these keys alone."""
    return Key("map", keys=keys)


def many(items: Key) -> Key:
    """A list."""
    return Key("list", items=items)


TEXT, FLAG, ANY = Key("text"), Key("flag"), Key("any")
OPEN = Key("map", open=True)
SHARE = Key("whole|text", least=0)          # 2 or "20%"
TEXT_OR_MAP = Key("text|map", open=True)
LABELS = replace(OPEN, items=TEXT)          # any name, texts

RPC = known({
    "batching": FLAG, "keepalive": whole(1, unit="milliseconds"), "io_threads": whole(1),
    "max_batch_size": whole(1), "max_batch_timeout": whole(0, unit="milliseconds"), "max_queue_size": whole(1),
    "worker_threads": whole(1), "rate_limit": whole(0), "enable_sigterm": FLAG, "enable_jemalloc": FLAG,
    "proxy_path": TEXT, "health_check_path": TEXT, "health_check_port": whole(1, 65535), "trace_id_header": TEXT})

CUDA = ("8.0", "9.0", "10.0", "10.1", "10.2", "11.0", "11.1", "11.2")
KINDS_OF_SERVICE = ("Standard", "Async", "Queue", "LLMGatewayService", "SDCluster", "ScalableJob", "ScalableJobService")

METADATA = known({
    "name": TEXT, "instance": whole(0), "cpu": whole(1, 1024, "cores"), "memory": whole(1, unit="MB"),
    "gpu": whole(0, 64), "gpu_memory": whole(0, 1024, "GB"), "gpu_core_percentage": whole(1, 100, "percent"),
    "qos": Key("text", values=("", "BestEffort")), "resource": TEXT, "cuda": Key("text", values=CUDA), "rdma": whole(0),
    "enable_grpc": FLAG, "enable_webservice": FLAG, "type": Key("text", values=KINDS_OF_SERVICE), "workspace_id": TEXT,
    "region": TEXT, "disk": TEXT, "shm_size": whole(0, 4096, "GB"), "workload_type": TEXT,
    "rolling_strategy": known({"max_surge": SHARE, "max_unavailable": SHARE}),
    "scheduling": known({"spread": known({"policy": Key("text", values=("host", "zone", "default"))})}),
    "resource_rebalancing": FLAG, "resource_burstable": FLAG, "group": TEXT, "rpc": RPC,
    "eas": Key("map", keys={"termination_grace_period": whole(0, unit="seconds")}, open=True),
    "autoscaling": OPEN, "created_by": TEXT, "quota_id": TEXT, "quota_type": TEXT})

HEALTH_CHECK = OPEN
CONTAINER = known({
    "image": TEXT, "command": TEXT, "script": TEXT, "port": whole(1, 65535), "health_check": HEALTH_CHECK,
    "startup_check": HEALTH_CHECK, "name": TEXT, "dataset_configs": many(OPEN),
    "env": many(known({"name": TEXT, "value": TEXT})),
    "prepare": known({"pythonRequirements": many(TEXT), "pythonRequirementsPath": TEXT})})

PLACE = {"path": TEXT, "readOnly": FLAG, "endpoint": TEXT}
STORAGE = Key("map", open=True, keys={
    "mount_path": TEXT,
    "oss": Key("map", keys=PLACE, open=True),
    "nfs": Key("map", keys={**PLACE, "server": TEXT}, open=True),
    "empty_dir": known({"medium": TEXT, "size_limit": whole(0, unit="GB")}),
    "properties": Key("map", keys={"resource_type": TEXT, "resource_use": TEXT}, open=True)})

COMPUTING = known({
    "instance_type": TEXT, "disable_spot_protection_period": FLAG,
    "instances": many(known({"type": TEXT, "spot_price_limit": ANY, "capacity": SHARE}))})
CLOUD = Key("map", open=True, keys={
    "computing": COMPUTING, "networking": OPEN, "logging": OPEN})

CREDENTIAL = known({"token": TEXT, "generate_token": FLAG, "role_arn": TEXT, "docker_auth": TEXT})
RUNTIME = Key("map", open=True, keys={
    "base_image": TEXT, "worker_image": TEXT, "enable_crash_block": FLAG,
    "termination_grace_period": whole(0, unit="seconds")})

SERVICE = known({
    "name": TEXT, "metadata": METADATA, "rpc": RPC, "credential": CREDENTIAL, "token": TEXT, "generate_token": FLAG,
    "role_arn": TEXT, "dockerAuth": TEXT, "model_path": TEXT, "oss_endpoint": TEXT, "model_entry": TEXT,
    "model_config": TEXT_OR_MAP, "processor": TEXT, "processor_path": TEXT, "processor_entry": TEXT,
    "processor_mainclass": TEXT, "processor_type": Key("text", values=("cpp", "java", "python")),
    "processor_envs": ANY, "processor_image": TEXT, "processor_jvm_options": ANY, "processors": ANY,
    "requirements": ANY, "uncompress": FLAG, "source": ANY, "models": ANY, "multi_models": ANY, "baseimage": TEXT,
    "worker_image": TEXT, "data_image": TEXT, "warm_up_data_path": TEXT, "runtime": RUNTIME, "storage": many(STORAGE),
    "containers": many(CONTAINER), "cloud": CLOUD, "networking": OPEN, "autoscaler": OPEN, "cronscaler": OPEN,
    "labels": LABELS, "features": OPEN, "sinker": ANY, "unit": Key("map", keys={"size": whole(1)}, open=True),
    "confidential": ANY, "aimaster": ANY, "options": OPEN, "metering_mode": TEXT})

CLOSED_VALUES = frozenset({"qos", "processor_type", "policy"})
"""Keys whose `values` are all there are; those of others may grow."""
EXCLUSIVE = (
    ("containers[].command", "containers[].script"),
    ("containers[].prepare.pythonRequirements", "containers[].prepare.pythonRequirementsPath"),
    ("cloud.computing.instances", "cloud.computing.instance_type"),
    ("metadata.resource", "cloud.computing"),
    ("containers", "processor"), ("containers", "processor_type"), ("containers", "processor_path"),
    ("processor", "processor_path"))
"""Keys that cannot stand together."""
ALIASES = (
    ("name", "metadata.name"), ("rpc", "metadata.rpc"), ("token", "credential.token"),
    ("generate_token", "credential.generate_token"), ("role_arn", "credential.role_arn"),
    ("dockerAuth", "credential.docker_auth"), ("baseimage", "runtime.base_image"),
    ("worker_image", "runtime.worker_image"),
    ("runtime.termination_grace_period", "metadata.eas.termination_grace_period"))
"""Two places of one setting."""
RESERVED_PORTS = (8080, 9090)
KEEPALIVE_DEFAULT = 5000
"""Milliseconds after which EAS ends the requests of a processor whose service JSON sets none."""


def places(name: str, within: Key = SERVICE, path: str = "") -> Iterator[str]:
    """Where a key of this name is known, such as `metadata.instance` for `instance`."""
    for each, key in within.keys.items():
        here = f"{path}.{each}" if path else each
        if each == name:
            yield here
        yield from places(name, key, here)
        if key.items is not None:
            yield from places(name, key.items, f"{here}[]")
