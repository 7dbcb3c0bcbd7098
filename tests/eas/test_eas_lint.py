"""What `danqing eas lint` says: nothing of what the documentation shows, and everything at once of what is wrong."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from danqing_pack.eas_keepalive import needed_keepalive
from danqing_pack.eas_keys import SERVICE, Key
from danqing_pack.eas_lint import LEVELS, lint, lint_text
from danqing_pack.eas_view import View
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD_PROCESSOR: dict[str, Any] = {
    "name": "painter", "metadata": {"name": "painter", "instance": 1, "cpu": 8, "memory": 30000, "gpu": 1,
                                    "resource": "eas-r-abc", "rpc": {"keepalive": 50000}},
    "model_path": "oss://bucket/model.tar.gz", "processor_type": "python", "processor_entry": "./app.py",
    "processor_path": "oss://bucket/processor.tar.gz"}
GOOD_IMAGE: dict[str, Any] = {
    "metadata": {"name": "painter", "instance": 1, "rpc.keepalive": 50000},
    "cloud": {"computing": {"instances": [{"type": "ecs.gn6i-c4g1.xlarge"}]}},
    "containers": [{"image": "registry.example/danqing:1", "port": 8000,
                    "command": "danqing serve /eas/workspace/model --host 0.0.0.0 --port 8000"}],
    "storage": [{"mount_path": "/eas/workspace/model/", "oss": {"path": "oss://bucket/model/", "readOnly": True},
                 "properties": {"resource_type": "model", "resource_use": "base"}}]}

# After the vendor's own pages and projects: their keys, types and spellings, with our own values.
DOCUMENTED: dict[str, dict[str, Any]] = {
    "quick start": {
        "metadata": {"name": "demo", "instance": 1, "workspace_id": "your-workspace-id"},
        "cloud": {"computing": {"instances": [{"type": "ecs.c7a.large"}]}},
        "containers": [{"image": "registry.example/pai-eas/python-inference:py39", "script": "python app.py",
                        "port": 8000}]},
    "quick start, older": {
        "cloud": {"computing": {"instances": [{"type": "ecs.c7a.large"}]}},
        "containers": [{"image": "****-registry.example/***/***:latest", "port": 8000, "script": "python app.py"}],
        "metadata": {"cpu": 2, "instance": 1, "memory": 4000, "name": "demo"}},
    "fine-tuned": {
        "baseimage": "registry.example/eas/eas-worker-amd64:0.6.8", "data_image": "<environment image>",
        "metadata": {"cpu": 8, "gpu": 1, "instance": 1, "memory": 20000, "resource": "<your resource group>",
                     "rpc": {"keepalive": 50000, "worker_threads": 1}},
        "model_path": "oss://<bucket>/finetuned_model.tar.gz", "name": "<service name>",
        "processor_entry": "./app.py", "processor_path": "oss://<bucket>/processor.tar.gz", "processor_type": "python"},
    "tutorial, dotted": {
        "name": "eas_pytest", "processor_entry": "./app.py", "processor_type": "python",
        "processor_path": "oss://bucket/demo.tar.gz",
        "metadata": {"region": "beijing", "instance": 1, "memory": 2000, "cpu": 1, "rpc.keepalive": 50000}},
    "echo": {
        "metadata": {"cpu": 1, "instance": 1, "memory": 1024}, "name": "echo", "processor_entry": "libecho.so",
        "processor_path": "http://bucket.example/059247/echo_processor_release.tar.gz", "processor_type": "cpp"},
    "api reference": {
        "metadata": {"instance": 1, "memory": 7000, "cpu": 4}, "name": "foo", "model_config": {},
        "processor_type": "python", "processor_path": "oss://****", "processor_entry": "a.py",
        "model_path": "oss://****"},
    "ranking model": {
        "name": "ranker", "baseimage": "registry.example/eas/eas-worker-amd64:0.4.22", "generate_token": "false",
        "metadata": {"region": "us-west-1", "cpu": 6, "memory": 20000, "instance": 3},
        "model_config": "{\"url\": \"postgresql://<AccessKeyID>@<host>/db\", \"period\": 2880}",
        "model_path": "oss://<model_path>/", "processor_path": "oss://easyrec/processor.tar.gz",
        "processor_entry": "libtf_predictor.so", "token": "abc", "processor_type": "cpp"},
    "infrastructure as code": {
        "metadata": {"cpu": 1, "gpu": 0, "instance": 1, "memory": 2000, "name": "tfexample", "rpc": {"keepalive": 70000}},
        "model_path": "http://bucket.example/echo_processor_release.tar.gz", "processor_entry": "libecho.so",
        "processor_path": "http://bucket.example/echo_processor_release.tar.gz", "processor_type": "cpp"},
    "diffusers": {
        "cloud": {"computing": {"instance_type": "ml.gu7i.c8m30.1-gu30"}}, "name": "diffusers_demo",
        "containers": [{"image": "registry.example/pai-eas/diffuser-inference:2.2.1", "port": 8000,
                        "script": "python app.py"}],
        "features": {"eas.aliyun.com/extra-ephemeral-storage": "100Gi"},
        "metadata": {"cpu": 8, "enable_webservice": True, "gpu": 1, "instance": 1, "memory": 30000, "type": "Async",
                     "name": "diffusers_demo", "rpc": {"keepalive": 500000, "worker_threads": 1}},
        "storage": [{"mount_path": "/oss", "oss": {"endpoint": "oss-example.example", "path": "oss://bucket/models/"},
                     "properties": {"resource_type": "model"}},
                    {"mount_path": "/result", "oss": {"path": "oss://bucket/result/"}}]},
    "built-in processor": {
        "metadata": {"instance": 2, "name": "pmml_test", "cpu": 1, "memory": 2000},
        "cloud": {"computing": {"instance_type": "ecs.c6.large"}}, "processor": "pmml",
        "model_path": "oss://bucket/model.xml", "autoscaler": {"min": 1, "max": 3, "strategies": {"qps": 10}}},
}


def errors(service: Any) -> list[str]:
    return [str(each) for each in lint(service) if each.level == "error"]


def changed(service: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """The same with one value set, or removed where it is ``...``; the path may go through lists."""
    service = copy.deepcopy(service)
    *way, last = [int(part) if part.isdigit() else part for part in place.split("/")]
    inner: Any = service
    for part in way:
        inner = inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return service


@pytest.mark.parametrize("service", [GOOD_PROCESSOR, GOOD_IMAGE], ids=["processor", "image"])
def test_good_services_have_no_problem(service: dict[str, Any]) -> None:
    assert lint(service) == []


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_the_documentation_shows_passes_but_for_its_placeholders(name: str) -> None:
    assert [each for each in errors(DOCUMENTED[name]) if "placeholder" not in each] == []


@pytest.mark.parametrize("name", ["fine-tuned", "quick start, older", "api reference", "ranking model"])
def test_placeholders_are_named_where_they_stand(name: str) -> None:
    assert [each for each in errors(DOCUMENTED[name]) if "placeholder" in each]


P, IMAGE = GOOD_PROCESSOR, GOOD_IMAGE

WRONG: list[tuple[dict[str, Any], str, Any, str, str]] = [
    # service, place that is changed, value, place that is named, words of fact or remedy
    (P, "metadata/memmory", 1000, "metadata.memmory", "write memory"),
    (P, "processorEntry", "./app.py", "processorEntry", "write processor_entry"),
    (P, "model-path", "oss://b/c", "model-path", "write model_path"),
    (P, "instance", 1, "instance", "belongs at metadata.instance"),
    (P, "metadata/processor_type", "python", "metadata.processor_type", "belongs at processor_type"),
    (P, "metadata/rpc/keep_alive", 1, "metadata.rpc.keep_alive", "write keepalive"),
    (P, "metadata/rpc.keepalives", 1, "metadata.rpc.keepalives", "write rpc.keepalive"),
    (P, "metadata/memory", "30000", "metadata.memory", "write 30000 without quotes"),
    (P, "metadata/memory", "30GB", "metadata.memory", "write 30720"),
    (P, "metadata/memory", "8Gi", "metadata.memory", "write 8192"),
    (P, "metadata/memory", 30, "metadata.memory", "write 30000"),
    (P, "metadata/memory", 32_000_000_000, "metadata.memory", "counted in MB"),
    (P, "metadata/memory", 8000.0, "metadata.memory", "write 8000"),
    (P, "metadata/gpu", True, "metadata.gpu", "a whole number"),
    (P, "metadata/instance", -1, "metadata.instance", "at least 0"),
    (P, "metadata/instance", ..., "metadata.instance", '"instance": 1'),
    (P, "metadata/cpu", "4 cores", "metadata.cpu", "a whole number of cores"),
    (P, "metadata", ..., "metadata", "missing"),
    (P, "metadata", [], "metadata", "an object"),
    (P, "metadata/qos", "Guaranteed", "metadata.qos", "BestEffort"),
    (P, "metadata/enable_grpc", "yes", "metadata.enable_grpc", "true or false"),
    (P, "metadata/name", "My-Service!", "metadata.name", "write my_service"),
    (P, "metadata/name", "ab", "metadata.name", "3 to 63"),
    (P, "metadata/name", "9lives", "metadata.name", "a letter first"),
    (P, "name", "other", "name", "another name for it"),
    (P, "processor_entry", ..., "processor_entry", "./app.py"),
    (changed(P, "processor_type", "java"), "processor_entry", ..., "processor_mainclass", "missing"),
    (P, "processor_type", ..., "processor_type", '"processor_type": "python"'),
    (P, "processor_type", "Python", "processor_type", 'write "python"'),
    (P, "processor_path", ..., "processor_path", "no processor to run"),
    (P, "processor", "pmml", "processor", "exclude"),
    (P, "containers", IMAGE["containers"], "containers", "exclude"),
    (P, "cloud", IMAGE["cloud"], "metadata.resource", "exclude"),
    (P, "model_path", "./model.tar.gz", "model_path", "upload it"),
    (P, "model_path", "http://host.example/model.bin", "model_path", "must be an archive"),
    (P, "model_path", "oss://", "model_path", "no bucket"),
    (P, "model_path", "oss://<bucket>/m.tar.gz", "model_path", "placeholder <bucket>"),
    (P, "metadata/rpc/keepalive", 5000, "metadata.rpc.keepalive", "write at least 50000"),
    (P, "metadata/rpc/keepalive", 50, "metadata.rpc.keepalive", "counted in milliseconds"),
    (P, "metadata/rpc.keepalive", 60000, "metadata.rpc.keepalive", "another number"),
    (P, "rpc", {"keepalive": 60000}, "rpc.keepalive", "another number"),
    (P, "labels", {"a": 1}, "labels.a", "a text"),
    (IMAGE, "containers/0/port", 8080, "containers[0].port", "EAS keeps 8080"),
    (IMAGE, "containers/0/port", 9090, "containers[0].port", "EAS keeps 9090"),
    (IMAGE, "containers/0/port", "8000", "containers[0].port", "without quotes"),
    (IMAGE, "containers/0/port", 70000, "containers[0].port", "at most 65535"),
    (IMAGE, "containers/0/port", 8001, "containers[0].command", "--port 8001"),
    (IMAGE, "containers/0/script", "python app.py", "containers[0].command", "exclude"),
    (IMAGE, "containers/0/command", ..., "containers[0].script", "nothing is started"),
    (IMAGE, "containers/0/command", "cd x && python app.py", "containers[0].command", "write it as script"),
    (IMAGE, "containers/0/command", "danqing serve /m --port 8000", "containers[0].command", "--host 0.0.0.0"),
    (IMAGE, "containers/0/command", "danqing serve '/m", "containers[0].command", "quote"),
    (IMAGE, "containers/0/image", ..., "containers[0].image", "name the image"),
    (IMAGE, "containers/0/prepare", {"pythonRequirements": ["a"], "pythonRequirementsPath": "b"},
     "containers[0].prepare.pythonRequirements", "exclude"),
    (IMAGE, "containers", IMAGE["containers"][0], "containers", "put it into [ ]"),
    (IMAGE, "containers", [], "containers", "empty"),
    (IMAGE, "containers", ..., "containers", "neither an image nor a processor"),
    (IMAGE, "cloud/computing/instance_type", "ecs.g", "cloud.computing.instances", "exclude"),
    (IMAGE, "storage/0/mount_path", "model", "storage[0].mount_path", "write /model"),
    (IMAGE, "storage/0/mount_path", ..., "storage[0].mount_path", "missing"),
    (IMAGE, "storage/0/oss/path", "oss://bucket/model.tar.gz", "storage[0].oss.path", "cannot be mounted"),
    (IMAGE, "storage/0/oss/path", "bucket/model", "storage[0].oss.path", "no place in OSS"),
]


@pytest.mark.parametrize(("service", "place", "value", "named", "words"), WRONG,
                         ids=[f"{place}={json.dumps(value) if value is not ... else 'missing'}"[:60]
                              for _, place, value, _, _ in WRONG])
def test_an_error_is_named_with_place_and_remedy(
    service: dict[str, Any], place: str, value: Any, named: str, words: str
) -> None:
    found = [each for each in lint(changed(service, place, value)) if each.level == "error" and each.place == named]
    assert any(words in str(each) for each in found), lint(changed(service, place, value))


@pytest.mark.parametrize(("place", "value", "level", "named", "words"), [
    ("metadata/enable_grpc", "false", "hint", "metadata.enable_grpc", "write false without quotes"),
    ("metadata/rpc/keepalive", ..., "warning", "metadata.rpc.keepalive", "after 5 s"),
    ("model_path", ..., "warning", "model_path", "no model"),
    ("model_path", "oss://b/model.tgz", "warning", "model_path", "pack it as .tar.gz"),
    ("processor_entry", "app.so", "warning", "processor_entry", ".py"),
    ("quantum", 1, "warning", "quantum", "not documented"),
    ("metadata/name", "Painter", "warning", "metadata.name", "write painter"),
    ("metadata/cuda", "12.4", "warning", "metadata.cuda", "11.2"),
    ("metadata/workspace_id", "your-workspace-id", "warning", "metadata.workspace_id", "placeholder"),
    ("metadata/gpu", ..., "hint", "metadata.gpu", "CPU"),
])
def test_what_works_but_is_odd_is_no_error(place: str, value: Any, level: str, named: str, words: str) -> None:
    service = changed(GOOD_PROCESSOR, "name", ...)
    found = lint(changed(service, place, value))
    assert [(each.level, each.place) for each in found] == [(level, named)]
    assert words in str(found[0])


def test_every_problem_comes_at_once_and_errors_come_first() -> None:
    service = {"metadata": {"name": "A B", "memory": "8Gi", "enable_grpc": "true"}, "containrs": [], "token": "<token>"}
    found = lint(service)
    places = {each.place for each in found}
    assert {"metadata.name", "metadata.memory", "metadata.instance", "metadata.enable_grpc", "containrs", "containers",
            "token"} <= places
    assert [LEVELS.index(each.level) for each in found] == sorted(LEVELS.index(each.level) for each in found)


@pytest.mark.parametrize("spelling", [
    {"rpc": {"keepalive": 50000}}, {"rpc.keepalive": 50000}, {"metadata": {"rpc": {"keepalive": 50000}}},
    {"metadata": {"rpc.keepalive": 50000}}, {"metadata.rpc.keepalive": 50000}, {"metadata.rpc": {"keepalive": 50000}}])
def test_rpc_is_found_in_every_spelling(spelling: dict[str, Any]) -> None:
    service = changed(GOOD_PROCESSOR, "metadata/rpc", ...)
    service |= {name: value for name, value in spelling.items() if name != "metadata"}
    service["metadata"] |= spelling.get("metadata", {})
    assert lint(service) == []


def test_the_keepalive_must_suit_the_steps() -> None:
    assert needed_keepalive(20, 1) == 50_000                       # what the documentation sets for its own request
    assert not lint(GOOD_PROCESSOR, steps=20, images=1)
    [problem] = lint(GOOD_PROCESSOR, steps=50, images=4)
    assert problem.place == "metadata.rpc.keepalive" and "write at least 230000" in str(problem)


@pytest.mark.parametrize(("text", "words"), [
    ("", "not JSON"), ("{", "line 1, column 2"), ('{"a": 1,}', "commas"), (b"\xff{}", "byte 0"), ("[" * 100_000, "not JSON"),
    ("[]", "a service is a JSON object"), ("null", "null"), ('{"metadata": {}, "metadata": {}}', "given twice"),
    ("9" * 5000, "not JSON"),
])
def test_what_is_no_service_is_one_sentence(text: str | bytes, words: str) -> None:
    assert words in str(lint_text(text)[0])


def test_a_byte_order_mark_is_passed_over() -> None:
    text = json.dumps(GOOD_PROCESSOR)
    assert lint_text(f"\ufeff{text}") == lint_text(f"\ufeff{text}".encode()) == []


def names(key: Key) -> set[str]:
    found = set(key.keys)
    for inner in [*key.keys.values(), *([key.items] if key.items else [])]:
        found |= names(inner)
    return found


KNOWN = sorted(names(SERVICE)) + ["rpc.keepalive", "metadata.rpc.keepalive", "", ".", "a..b", "<x>", "Metadata"]
LEAVES = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(
    ["", "<your bucket>", "oss://b/c", "python", "danqing serve x --port", "'", "8Gi", "true", "http://", "\ud800", "9" * 50]))
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
    st.sampled_from(KNOWN) | st.text(max_size=8), inner, max_size=5), max_leaves=8)
SERVICES = st.dictionaries(st.sampled_from(sorted(SERVICE.keys)), JSON, max_size=5)


@settings(max_examples=150, deadline=None)
@given(JSON | SERVICES)
def test_lint_never_fails_whatever_the_json(value: Any) -> None:
    for problem in lint(value):
        assert problem.level in LEVELS and problem.place and problem.fact and problem.remedy
        assert str(problem).isprintable()
        str(problem).encode()


@settings(max_examples=50, deadline=None)
@given(st.text() | st.binary() | JSON.map(json.dumps))
def test_lint_never_fails_whatever_the_text(text: str | bytes) -> None:
    lint_text(text)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([GOOD_PROCESSOR, GOOD_IMAGE]), st.sampled_from(sorted(SERVICE.keys)), JSON)
def test_one_wild_value_is_never_overlooked_where_a_type_is_known(service: dict[str, Any], name: str, value: Any) -> None:
    if SERVICE.keys[name].kind == "text" and not isinstance(value, str):
        assert any(each.place == name and each.level == "error" for each in lint({**service, name: value}))


def test_deep_nesting_ends() -> None:
    value: Any = 1
    for _ in range(800):
        value = {"options": value}
    assert any("nested more deeply" in str(each) for each in lint({"options": value}))


def test_a_view_finds_values_through_lists_and_dots() -> None:
    view = View({"containers": [{"port": 1}, "x", {"prepare": {"a": 2}}], "metadata": {"rpc.keepalive": 3}})
    assert list(view.find("containers[].port")) == [("containers[0].port", 1)]
    assert list(view.find("containers[].prepare.a")) == [("containers[2].prepare.a", 2)]
    assert view.get("metadata.rpc.keepalive") == 3 and view.get("metadata.rpc.x", 4) == 4
