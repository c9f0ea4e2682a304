"""The manifests: what kustomize would send is right, and each of many mistakes in it would be found."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsestudy import operations
from tests.cluster.kustomize import Manifest, load, render
from tests.cluster.rules import named, pods, problems, ray_spec, walk

TOP = Path(__file__).parents[2]
FOLDER = TOP / "cluster/kubernetes"
(RAY_VERSION,) = re.findall(r"^ray==([\d.]+)", (TOP / "requirements.lock").read_text(), re.M)
STUDIES = ["study", "gpu", "raycluster"]


def everything(study: str) -> list[Manifest]:
    return [*render(FOLDER / "base"), *render(FOLDER / study)]


@pytest.mark.parametrize("study", STUDIES)
def test_nothing_is_wrong(study: str) -> None:
    assert problems(everything(study), RAY_VERSION) == []


def test_what_is_there() -> None:
    """The rules hold of nothing, too; so this is what they were held against."""
    objects = everything("study")
    assert {pod.name for pod in pods(objects)} == {
        *("StatefulSet postgres", "StatefulSet objects", "Deployment mlflow"),
        *("RayJob study submitter", "RayJob study head", "RayJob study trials"),
    }
    assert set(named(objects, "Service")) == {"postgres", "objects", "mlflow"}
    assert set(named(objects, "NetworkPolicy")) == {"nobody", "postgres", "objects", "mlflow", "ray"}


HEAD = ("RayJob study", "spec", "rayClusterSpec", "headGroupSpec")
WORKER = ("RayJob study", "spec", "rayClusterSpec", "workerGroupSpecs", 0)
POD = ("template", "spec")
CONTAINER = (*POD, "containers", 0)
MLFLOW = ("Deployment mlflow", "spec", *CONTAINER)
SPOIL: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "has no field backofLimit": lambda at: at("RayJob study", "spec").update(backofLimit=1),
    "has no field readynessProbe": lambda at: at(*MLFLOW).update(readynessProbe={}),
    "rayVersion 2.59.0": lambda at: at("RayJob study", "spec", "rayClusterSpec").update(rayVersion="2.59.0"),
    "Ray asks nobody for a token": lambda at: at("RayJob study", "spec", "rayClusterSpec").pop("authOptions"),
    "a retry would be a second job": lambda at: at("RayJob study", "spec").pop("jobId"),
    "the loss of its head would end": lambda at: at("RayJob study", "spec").pop("backoffLimit"),
    "submissionMode InteractiveMode": lambda at: at("RayJob study", "spec").update(submissionMode="InteractiveMode"),
    "go on costing": lambda at: at("RayJob study", "spec").update(shutdownAfterJobFinishes=False),
    "trials would run beside the driver": lambda at: at(*HEAD, "rayStartParams").clear(),
    "counts its workers once": lambda at: at(*WORKER).update(maxReplicas=9),
    "run different images": lambda at: at(*WORKER, *CONTAINER).update(image="sparsestudy:0.0.9"),
    "has no version": lambda at: at("StatefulSet postgres", "spec", *CONTAINER).update(image="postgres:latest"),
    "does not say what it needs": lambda at: at(*WORKER, *CONTAINER, "resources", "requests").pop("cpu"),
    "runs as root": lambda at: at(*HEAD, *POD, "securityContext").pop("runAsNonRoot"),
    "may gain rights": lambda at: at(*MLFLOW, "securityContext").pop("capabilities"),
    "no seccomp profile": lambda at: at(*WORKER, *POD, "securityContext").pop("seccompProfile"),
    "a token of the Kubernetes API": lambda at: at(*WORKER, *POD).pop("automountServiceAccountToken"),
    "POSTGRES_PASSWORD stands in clear": lambda at: at(*HEAD, *CONTAINER, "env", 2).update(value="x"),
    "no secret state with POSTGRES_PASSWORD": lambda at: at("Secret state", "stringData").pop("POSTGRES_PASSWORD"),
    "no secret stat": lambda at: at("StatefulSet objects", "spec", *CONTAINER, "envFrom", 0).update(
        secretRef={"name": "stat"}
    ),
    "no config map study": lambda at: at("ConfigMap study", "metadata").update(name="studies"),
    "no volume claim studies": lambda at: at("PersistentVolumeClaim studies", "metadata").update(name="study"),
    "no volume shm": lambda at: at(*WORKER, *POD, "volumes").pop(),
    "has no readiness probe": lambda at: at(*MLFLOW).pop("readinessProbe"),
    "asks at port web": lambda at: at(*MLFLOW, "readinessProbe", "httpGet").update(port="web"),
    "Service mlflow: open to the public": lambda at: at("Service mlflow", "spec").update(type="LoadBalancer"),
    "Service objects: selects no pod": lambda at: at("Service objects", "spec", "selector").update(tier="state"),
    "Service postgres: its pods have no port sql": lambda at: at("Service postgres", "spec", "ports", 0).update(
        targetPort="sql"
    ),
    "no service mlflow at port 5000": lambda at: at("Service mlflow", "spec", "ports", 0).update(port=80),
    "all doors that are not listed": lambda at: at("NetworkPolicy nobody", "spec").update(ingress=[{}]),
    "NetworkPolicy ray: its pods have no port": lambda at: at(*HEAD, *CONTAINER, "ports").pop(1),
    "does not let it to mlflow": lambda at: at("NetworkPolicy mlflow", "spec", "ingress", 0, "from").clear(),
    "$(POSTGRES_PASSWORD) is not defined": lambda at: at(*HEAD, *CONTAINER, "env").pop(2),
}


@pytest.mark.parametrize("problem", SPOIL)
def test_a_mistake_is_found(problem: str) -> None:
    objects = everything("study")
    SPOIL[problem](lambda *path: walk(objects, *path))
    found = problems(objects, RAY_VERSION)
    assert [text for text in found if problem in text], found


def test_the_standing_cluster_is_the_one_of_a_study() -> None:
    """They are two files, because YAML cannot share; only the study's own file is not in the standing one."""
    (job,) = named(render(FOLDER / "study"), "RayJob").values()
    (standing,) = named(render(FOLDER / "raycluster"), "RayCluster").values()
    spec = ray_spec(job)
    assert spec is not None
    pod = spec["headGroupSpec"]["template"]["spec"]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "study"]
    container = pod["containers"][0]
    container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != "study"]
    assert spec == standing["spec"]


def test_the_entrypoint_runs_the_file_that_is_mounted() -> None:
    objects = render(FOLDER / "study")
    (job,) = named(objects, "RayJob").values()
    mounts = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    (folder,) = (mount["mountPath"] for mount in mounts if mount["name"] == "study")
    (file,) = named(objects, "ConfigMap")["study"]["data"]
    assert job["spec"]["entrypoint"] == f"sparsestudy run {folder}/{file}"


def test_the_example_study_is_valid() -> None:
    assert operations.plan(FOLDER / "study/study.yaml").trials == 16


def test_records_outlive_the_pods() -> None:
    objects = everything("study")
    (job,) = named(objects, "RayJob").values()
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    environment = {variable["name"]: variable.get("value") for variable in head["containers"][0]["env"]}
    mounted = {mount["mountPath"]: mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in head["volumes"]}
    assert "persistentVolumeClaim" in volumes[mounted[str(environment["SPARSESTUDY_HOME"])]]
    for state in named(objects, "StatefulSet").values():
        (claim,) = state["spec"]["volumeClaimTemplates"]
        mounts = state["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        assert claim["metadata"]["name"] in {mount["name"] for mount in mounts}
    assert str(environment["SPARSESTUDY_DATABASE_URL"]).endswith("/sparsestudy")
    assert "CREATE DATABASE mlflow" in named(objects, "ConfigMap")["postgres-init"]["data"]["databases.sql"]


def test_mlflow_is_one_worker_without_jobs_that_keeps_the_keys_to_itself() -> None:
    (server,) = (pod.spec["containers"][0] for pod in pods(render(FOLDER / "base")) if "mlflow" in pod.name)
    assert "--workers=1" in server["command"]
    assert {"name": "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "value": "false"} in server["env"]
    assert "--artifacts-destination=s3://mlflow" in server["command"]
    (hosts,) = (text.split("=")[1].split(",") for text in server["command"] if text.startswith("--allowed-hosts"))
    assert "mlflow:5000" in hosts  # as the head calls it; others are refused with 403


def test_a_gpu_is_requested_and_limited_alike() -> None:
    (job,) = named(render(FOLDER / "gpu"), "RayJob").values()
    resources = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"


def test_secrets_are_not_in_the_repository() -> None:
    example = (FOLDER / "base/secrets.example.env").read_text().splitlines()
    assert all(line.endswith("=") for line in example)
    (entry,) = load(FOLDER / "base/kustomization.yaml")["secretGenerator"]
    ignored = (TOP / ".gitignore").read_text().splitlines()
    assert [f"cluster/kubernetes/base/{name}" for name in entry["envs"] if name] == [
        line for line in ignored if line.endswith(".env")
    ]


def test_the_image_is_of_this_version() -> None:
    (image,) = load(FOLDER / "image/kustomization.yaml")["images"]
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert image["newTag"] == project["version"]
