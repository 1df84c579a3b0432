"""The manifests against KubeRay's own schemas, strictly: a key that it does not know fails.

Kubernetes' own kinds that are used beside are held to what KubeRay's schemas say of them, as far as they do.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import boxmed_ray
from boxmed_ray.config import RunConfig, load_config
from tests.cluster.manifests import CLUSTER, render

SCHEMAS = Path(__file__).resolve().parents[3] / "shared" / "schemas"
KUBERAY = CLUSTER / "kuberay"
FOLDERS = [
    "base",
    "job",
    "service",
    *(f"overlays/{name}" for name in ("cpu", "monitoring", "qwen2-vl-2b", "qwen3-vl-8b")),
]


def strict(schema: Any) -> Any:
    """The schema with every object closed, and Kubernetes' own extensions put into words of JSON Schema."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if found.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    open_to_all = found.get("x-kubernetes-preserve-unknown-fields")
    if found.get("type") == "object" and isinstance(found.get("properties"), dict) and not open_to_all:
        found["additionalProperties"] = False
    return found


@cache
def kuberay(kind: str) -> Any:
    path = SCHEMAS / f"kuberay-{kind.lower()}.json"
    if not path.is_file():
        pytest.skip(f"KubeRay's schemas are not here: {path} is missing")
    return strict(json.loads(path.read_text())["openAPIV3Schema"])


def closed(*needed: str, **properties: Any) -> Any:
    return {"type": "object", "properties": properties, "required": list(needed), "additionalProperties": False}


def several(items: Any) -> Any:
    return {"type": "array", "items": items, "minItems": 1}


def beside(kind: str) -> Any:
    """Spec of a kind that is not KubeRay's: claims and selectors as in its pods, the rest after Kubernetes' API."""
    pod = kuberay("RayCluster")["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]["template"]
    volume = pod["properties"]["spec"]["properties"]["volumes"]["items"]["properties"]
    claim = volume["ephemeral"]["properties"]["volumeClaimTemplate"]["properties"]["spec"]
    selector, text = claim["properties"]["selector"], {"type": "string"}
    peers = several(closed(podSelector=selector, namespaceSelector=selector))
    ports = several(closed(port={"type": ["integer", "string"]}, protocol={"enum": ["TCP", "UDP", "SCTP"]}))
    relabelings = several(closed(sourceLabels=several(text), targetLabel=text))
    endpoints = several(closed("port", port=text, relabelings=relabelings))
    return {
        "PersistentVolumeClaim": claim | {"required": ["accessModes", "resources"]},
        "NetworkPolicy": closed(
            "podSelector",
            "policyTypes",
            "ingress",
            podSelector=selector,
            policyTypes=several({"enum": ["Ingress", "Egress"]}),
            ingress=several(closed("from", **{"from": peers}, ports=ports)),
        ),
        "PodMonitor": closed("selector", "podMetricsEndpoints", selector=selector, podMetricsEndpoints=endpoints),
    }[kind]


VERSIONS = {
    "Namespace": "v1",
    "PersistentVolumeClaim": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
}


def validator(kind: str) -> jsonschema.Draft202012Validator:
    if kind in VERSIONS:
        spec = {} if kind == "Namespace" else {"spec": beside(kind)}
        named: dict[str, Any] = {"apiVersion": {"const": VERSIONS[kind]}, "kind": {"const": kind}, "metadata": {}}
        schema = closed(*named, *spec, **named, **spec)
    else:
        schema = copy.deepcopy(kuberay(kind))
    # KubeRay leaves metadata to Kubernetes: what ours use of it.
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}, "labels": {"type": "object"}},
        "required": ["name"],
        "additionalProperties": False,
    }
    return jsonschema.Draft202012Validator(schema)


def of_kind(folder: str, kind: str) -> dict[str, Any]:
    return next(each for each in render(KUBERAY / folder) if each["kind"] == kind)


def objects() -> Iterator[Any]:
    """Of every folder; what overlays take from the base as it is, once."""
    seen = []
    for folder in FOLDERS:
        for each in render(KUBERAY / folder):
            if each not in seen:
                seen.append(each)
                yield pytest.param(each, id=f"{folder}-{each['kind']}-{each['metadata']['name']}")


OBJECTS = list(objects())


@pytest.mark.parametrize("manifest", OBJECTS)
def test_the_manifests_are_what_kuberay_takes(manifest: dict[str, Any]) -> None:
    errors = [f"{list(e.absolute_path)}: {e.message}" for e in validator(manifest["kind"]).iter_errors(manifest)]
    assert not errors, "\n".join(errors)


def keys(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key of a manifest that KubeRay gives a meaning."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*path, key)
            yield from keys(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from keys(value, (*path, index))


_FREE = {"rayStartParams", "requests", "limits", "labels", "matchLabels", "clusterSelector", "metadata"}
"""Below these any key may be."""


@pytest.mark.parametrize("manifest", OBJECTS)
def test_any_misspelt_key_is_found(manifest: dict[str, Any]) -> None:
    check = validator(manifest["kind"])
    spelt = [path for path in keys(manifest) if not _FREE & set(path[1:-1])]
    assert len(spelt) > 4
    missed = []
    for path in spelt:
        wrong = copy.deepcopy(manifest)
        node = wrong
        for part in path[:-1]:
            node = node[part]
        node[f"{path[-1]}x"] = node.pop(path[-1])
        if check.is_valid(wrong):
            missed.append(path)
    assert not missed


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which has kustomize, is not here")
@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_itself_makes_the_same_of_them(folder: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(KUBERAY / folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def ordered(objects: list[Any]) -> list[Any]:
        return sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert ordered(list(yaml.safe_load_all(done.stdout))) == ordered(render(KUBERAY / folder))


def pods(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    spec = manifest["spec"].get("rayClusterConfig", manifest["spec"])
    yield "head", spec["headGroupSpec"]["template"]["spec"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


CLUSTERS = [("base", "RayCluster"), ("service", "RayService"), ("overlays/cpu", "RayCluster")]


@pytest.mark.parametrize(("folder", "kind"), CLUSTERS)
def test_pods_suit_autoscaler_v2_and_run_without_rights(folder: str, kind: str) -> None:
    manifest = of_kind(folder, kind)
    spec = manifest["spec"].get("rayClusterConfig", manifest["spec"])
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["authOptions"]["mode"] == "token"
    assert spec["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
    for name, pod in pods(manifest):
        assert pod["restartPolicy"] == "Never", name
        (container,) = pod["containers"]
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"] == container["resources"]["limits"], name  # never evicted first
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}, name
        assert "shm" in mounted
        assert container["image"].startswith("registry.example/boxmed-")


def test_training_pods_are_probed_and_keep_time_for_a_checkpoint() -> None:
    for _, pod in pods(of_kind("base", "RayCluster")):
        (container,) = pod["containers"]
        assert {"readinessProbe", "livenessProbe"} <= set(container)
        assert pod["terminationGracePeriodSeconds"] > 120  # submit.STOP_WAIT_S


@pytest.mark.parametrize(("folder", "kind"), CLUSTERS)
def test_nodes_are_started_with_options_of_rays(folder: str, kind: str) -> None:
    from ray.scripts.scripts import start

    known = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    spec = of_kind(folder, kind)["spec"]
    spec = spec.get("rayClusterConfig", spec)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert group["rayStartParams"]
        assert set(group["rayStartParams"]) <= known


def test_keys_of_trackers_and_keys_of_readers_are_different_secrets() -> None:
    def named(folder: str, kind: str) -> set[str]:
        return set(re.findall(r"boxmed-[a-z-]*keys", json.dumps(of_kind(folder, kind))))

    assert named("base", "RayCluster") == {"boxmed-keys"}
    assert named("service", "RayService") == {"boxmed-serve-keys"}


def test_groups_without_work_cost_nothing() -> None:
    groups = {group["groupName"]: group for group in of_kind("base", "RayCluster")["spec"]["workerGroupSpecs"]}
    assert {name: (group["minReplicas"], group["replicas"]) for name, group in groups.items()} == {
        "learners": (0, 0), "rollouts": (0, 0), "rewards": (0, 0)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "recipe"),
    [("overlays/qwen2-vl-2b", "boxmed-qwen2-vl-2b"), ("overlays/qwen3-vl-8b", "radvlm-qwen3-vl-8b")],
)
def test_an_overlay_has_what_its_recipe_asks_for(folder: str, recipe: str) -> None:
    resources = load_config(recipe).resources
    room = {"nvidia.com/gpu": 0.0, "cpu": 0.0}
    largest: dict[str, float] = {}
    for group in of_kind(folder, "RayCluster")["spec"]["workerGroupSpecs"]:
        has = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for name in room:
            room[name] += group["maxReplicas"] * float(has.get(name, 0))
        largest[group["groupName"]] = group["maxReplicas"] * float(has.get("nvidia.com/gpu", 0))
    assert room["nvidia.com/gpu"] >= resources.gpus
    assert largest["learners"] >= max(resources.learner_ranks, resources.train_workers)
    assert largest["rollouts"] >= resources.rollout_workers.max
    rewards = next(g for g in of_kind(folder, "RayCluster")["spec"]["workerGroupSpecs"] if g["groupName"] == "rewards")
    cores = rewards["maxReplicas"] * float(rewards["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert cores >= resources.reward_workers.max * resources.cpus_per_reward


def test_the_job_is_a_command_of_ours_on_the_cluster_of_the_base() -> None:
    job = of_kind("job", "RayJob")["spec"]
    assert job["clusterSelector"] == {"ray.io/cluster": of_kind("base", "RayCluster")["metadata"]["name"]}
    words = job["entrypoint"].split()
    assert words[:3] == ["boxmed", "train", "--recipe"]
    assert isinstance(load_config(words[3], [words[-1]]), RunConfig)
    assert set(yaml.safe_load(job["runtimeEnvYAML"])) == {"env_vars"}


def test_the_job_has_nothing_that_the_operator_refuses_on_a_cluster_that_is_there() -> None:
    # Beyond its schema: with clusterSelector it makes no cluster, so none can be tried again, suspended or ended.
    refused = {"backoffLimit", "suspend", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}
    assert not refused & set(of_kind("job", "RayJob")["spec"])


def test_the_serve_config_has_no_key_that_serve_does_not_know() -> None:
    from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

    config = yaml.safe_load(of_kind("service", "RayService")["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(config)
    assert set(config) <= set(ServeDeploySchema.model_fields)
    assert set(config["http_options"]) <= set(HTTPOptionsSchema.model_fields)
    (app,) = config["applications"]
    assert set(app) <= set(ServeApplicationSchema.model_fields)
    assert app["import_path"] == "serve.cluster:build"


def test_serve_on_a_cluster_logs_no_word_of_a_client_and_gives_batches_their_time() -> None:
    from serve.app import LAST_RESORT_S
    from serve.deployment import QUIET_LOGS

    config = yaml.safe_load(of_kind("service", "RayService")["spec"]["serveConfigV2"])
    assert config["logging_config"] == QUIET_LOGS
    assert config["http_options"]["request_timeout_s"] == LAST_RESORT_S


def test_versions_are_those_of_the_project() -> None:
    import ray

    for folder, kind in CLUSTERS:
        spec = of_kind(folder, kind)["spec"]
        assert spec.get("rayClusterConfig", spec)["rayVersion"] == ray.__version__
        for _, pod in pods(of_kind(folder, kind)):
            assert pod["containers"][0]["image"].endswith(f":{boxmed_ray.__version__}")
