"""What must hold of the Kubernetes manifests; every rule says what is wrong, in words, and an empty list is right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.cluster.kustomize import Manifest

# Fields of KubeRay 1.7, as far as they are used here: https://docs.ray.io/en/master/kuberay/references/api.html
FIELDS: dict[str, set[str]] = {
    "RayJob": {
        *("entrypoint", "jobId", "submissionMode", "submitterConfig", "backoffLimit", "submitterPodTemplate"),
        *("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"),
    },
    "RayCluster": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "head": {"rayStartParams", "template"},
    "worker": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
    # And of the pods of Kubernetes 1.34, likewise.
    "pod": {
        *("automountServiceAccountToken", "containers", "initContainers", "restartPolicy", "securityContext"),
        *("terminationGracePeriodSeconds", "tolerations", "volumes"),
    },
    "container": {
        *("name", "image", "command", "env", "envFrom", "ports", "readinessProbe", "livenessProbe", "resources"),
        *("securityContext", "volumeMounts"),
    },
    "probe": {"exec", "httpGet", "tcpSocket", "periodSeconds", "initialDelaySeconds", "failureThreshold"},
    "volume": {"name", "emptyDir", "configMap", "persistentVolumeClaim"},
}
RAY_LABELS = {"ray.io/is-ray-node": "yes"}  # given to its pods by KubeRay
# Secrets whose literal value would stand in clear.
SENSITIVE = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY")


class Pod(NamedTuple):
    """A pod template and what of it the cluster knows."""

    name: str
    labels: dict[str, str]
    spec: Manifest

    @property
    def containers(self) -> list[Manifest]:
        """All of them, those that prepare it too."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        """Ports by name."""
        return {port["name"]: port["containerPort"] for c in self.containers for port in c.get("ports", [])}


def ray_spec(manifest: Manifest) -> Manifest | None:
    """The specification of the Ray cluster in a RayJob or RayCluster."""
    spec: Manifest = manifest["spec"]
    if manifest["kind"] == "RayJob":
        spec = spec["rayClusterSpec"]
    return spec if manifest["kind"] in ("RayJob", "RayCluster") else None


def pods(objects: list[Manifest]) -> Iterator[Pod]:
    """Every pod template."""
    for found in objects:
        name = f"{found['kind']} {found['metadata']['name']}"
        if found["kind"] in ("Deployment", "StatefulSet"):
            yield _pod(name, found["spec"]["template"], {})
        if found["kind"] == "RayJob":
            yield _pod(f"{name} submitter", found["spec"]["submitterPodTemplate"], {})
        if (ray := ray_spec(found) if "spec" in found else None) is not None:
            yield _pod(f"{name} head", ray["headGroupSpec"]["template"], RAY_LABELS)
            for group in ray["workerGroupSpecs"]:
                yield _pod(f"{name} {group['groupName']}", group["template"], RAY_LABELS)


def _pod(name: str, template: Manifest, labels: dict[str, str]) -> Pod:
    return Pod(name, {**template.get("metadata", {}).get("labels", {}), **labels}, template["spec"])


def named(objects: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Objects of a kind by name."""
    return {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}


def problems(objects: list[Manifest], ray_version: str) -> list[str]:
    """Everything that is wrong."""
    found = [*_unknown_fields(objects), *_ray(objects, ray_version), *_services(objects), *_network(objects)]
    for pod in pods(objects):
        found += [
            f"{pod.name}: {text}" for text in (*_rights(pod), *_references(pod, objects), *_addresses(pod, objects))
        ]
        for container in pod.containers:
            found += [f"{pod.name}/{container['name']}: {text}" for text in _container(pod, container)]
    return found


def _unknown_fields(objects: list[Manifest]) -> Iterator[str]:
    parts: list[tuple[str, str, Manifest]] = []
    for o in objects:
        if (ray := ray_spec(o) if "spec" in o else None) is not None:
            parts += [(o["metadata"]["name"], "RayCluster", ray), ("head", "head", ray["headGroupSpec"])]
            parts += [(group["groupName"], "worker", group) for group in ray["workerGroupSpecs"]]
            parts += [(o["metadata"]["name"], "RayJob", o["spec"])] if o["kind"] == "RayJob" else []
    for pod in pods(objects):
        parts += [(pod.name, "pod", pod.spec)]
        parts += [(pod.name, "volume", volume) for volume in pod.spec.get("volumes", [])]
        for container in pod.containers:
            parts += [(pod.name, "container", container)]
            probes = ("readinessProbe", "livenessProbe")
            parts += [(pod.name, "probe", container[key]) for key in probes if key in container]
    for name, kind, part in parts:
        if unknown := set(part) - FIELDS[kind]:
            yield f"{name}: {kind} has no field {', '.join(sorted(unknown))}"


def _ray(objects: list[Manifest], ray_version: str) -> Iterator[str]:
    for job in named(objects, "RayJob").values():
        spec = job["spec"]
        if not spec.get("jobId"):
            yield "RayJob: without jobId a retry would be a second job"
        if not spec.get("backoffLimit"):
            yield "RayJob: the loss of its head would end the study"
        if spec.get("submissionMode") not in ("K8sJobMode", "HTTPMode"):
            yield f"RayJob: submissionMode {spec.get('submissionMode')}"
        if not spec.get("shutdownAfterJobFinishes"):
            yield "RayJob: the cluster would go on costing after the study"
    for found in objects:
        if (ray := ray_spec(found) if "spec" in found else None) is None:
            continue
        if ray["rayVersion"] != ray_version:
            yield f"rayVersion {ray['rayVersion']}, the lock has {ray_version}"
        if ray.get("authOptions", {}).get("mode") != "token":
            yield "Ray asks nobody for a token"
        if ray["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
            yield "trials would run beside the driver"
        for group in ray["workerGroupSpecs"]:
            if not group["minReplicas"] == group["replicas"] == group["maxReplicas"]:
                yield "a study counts its workers once, when it starts"
        images = {p.containers[0]["image"] for p in pods([found])}
        if len(images) > 1:
            yield f"head, workers and submitter run different images: {', '.join(sorted(images))}"


def _services(objects: list[Manifest]) -> Iterator[str]:
    for kind in ("Ingress", "HTTPRoute", "Gateway"):
        if named(objects, kind):
            yield f"{kind}: nothing here is for the public"
    for name, service in named(objects, "Service").items():
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"Service {name}: open to the public"
        behind = [pod for pod in pods(objects) if _selects(service["spec"]["selector"], pod)]
        if not behind:
            yield f"Service {name}: selects no pod"
        for port in service["spec"]["ports"]:
            if any(port["targetPort"] not in pod.ports for pod in behind):
                yield f"Service {name}: its pods have no port {port['targetPort']}"


def _selects(selector: dict[str, str], pod: Pod) -> bool:
    return selector.items() <= pod.labels.items()


def _network(objects: list[Manifest]) -> Iterator[str]:
    policies = named(objects, "NetworkPolicy")
    if policies and not any(p["spec"]["podSelector"] == {} and "ingress" not in p["spec"] for p in policies.values()):
        yield "NetworkPolicy: without one for all pods, all doors that are not listed are open"
    for name, policy in policies.items():
        selected = [pod for pod in pods(objects) if _selects(policy["spec"]["podSelector"].get("matchLabels", {}), pod)]
        for rule in policy["spec"].get("ingress", []):
            for port in rule.get("ports", []):
                if selected and not any(port["port"] in pod.ports for pod in selected):
                    yield f"NetworkPolicy {name}: its pods have no port {port['port']}"


def _rights(pod: Pod) -> Iterator[str]:
    security = pod.spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        yield "runs as root"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "holds a token of the Kubernetes API"


def _container(pod: Pod, container: Manifest) -> Iterator[str]:
    if not re.search(r":\d", container["image"]):
        yield f"image {container['image']} has no version"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
        yield "does not say what it needs"
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False or security.get("capabilities") != {"drop": ["ALL"]}:
        yield "may gain rights"
    for variable in container.get("env", []):
        if SENSITIVE.search(variable["name"]) and "value" in variable:
            yield f"{variable['name']} stands in clear"
    # KubeRay puts probes of its own into Ray's pods.
    if container.get("ports") and "readinessProbe" not in container and not _selects(RAY_LABELS, pod):
        yield "has no readiness probe"
    for key in ("readinessProbe", "livenessProbe"):
        probe = container.get(key, {})
        port = {**probe.get("httpGet", {}), **probe.get("tcpSocket", {})}.get("port")
        if port is not None and port not in pod.ports:
            yield f"{key} asks at port {port}, which is not there"


def _references(pod: Pod, objects: list[Manifest]) -> Iterator[str]:
    secrets = {name: set(secret["stringData"]) for name, secret in named(objects, "Secret").items()}
    for container in pod.containers:
        for variable in container.get("env", []):
            wanted = variable.get("valueFrom", {}).get("secretKeyRef")
            if wanted and wanted["key"] not in secrets.get(wanted["name"], set()):
                yield f"no secret {wanted['name']} with {wanted['key']}"
        for source in container.get("envFrom", []):
            if source["secretRef"]["name"] not in secrets:
                yield f"no secret {source['secretRef']['name']}"
    own = {o["metadata"]["name"] for found in objects for o in found.get("spec", {}).get("volumeClaimTemplates", [])}
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    for volume in volumes.values():
        if "configMap" in volume and volume["configMap"]["name"] not in named(objects, "ConfigMap"):
            yield f"no config map {volume['configMap']['name']}"
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and claim not in named(objects, "PersistentVolumeClaim"):
            yield f"no volume claim {claim}"
    for container in pod.containers:
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in {*volumes, *own}:
                yield f"no volume {mount['name']}"


def _addresses(pod: Pod, objects: list[Manifest]) -> Iterator[str]:
    """Every URL has a service behind it that lets this pod in, and every `$(NAME)` in one a variable before it."""
    for container in pod.containers:
        defined: set[str] = set()
        for variable in [*container.get("env", []), *({"value": text} for text in container.get("command", []))]:
            value = str(variable.get("value", ""))
            for name in re.findall(r"\$\((\w+)\)", value):
                if name not in defined:
                    yield f"$({name}) is not defined before {variable.get('name', 'the command')}"
            for url in re.findall(r"(?:https?|postgresql\S*?)://\S+", value):
                parts = urlsplit(re.sub(r"\$\(\w+\)", "x", url))
                yield from _reached(pod, str(parts.hostname), parts.port, objects)
            defined.add(variable.get("name", ""))


def _reached(pod: Pod, host: str, port: int | None, objects: list[Manifest]) -> Iterator[str]:
    service = named(objects, "Service").get(host)
    target = {p["port"]: p["targetPort"] for p in service["spec"]["ports"]}.get(port) if service else None
    if service is None or target is None:
        yield f"no service {host} at port {port}"
        return
    policies = [p["spec"] for p in named(objects, "NetworkPolicy").values()]
    guards = [p for p in policies if p["podSelector"] == {"matchLabels": service["spec"]["selector"]}]
    allowed = [
        source.get("podSelector", {}).get("matchLabels", {})
        for guard in guards
        for rule in guard["ingress"]
        if {"port": target} in rule["ports"]
        for source in rule["from"]
    ]
    if not any(_selects(labels, pod) for labels in allowed):
        yield f"the network does not let it to {host}"


def walk(objects: list[Manifest], *path: str | int) -> Any:
    """The node at ``kind name``, key, index, ...; for tests that change one thing."""
    kind, name = str(path[0]).split()
    node: Any = named(objects, kind)[name]
    for key in path[1:]:
        node = node[key]
    return node
