"""What infra/ ships for other machines passes the schemas of the tools that read it, and holds no secret."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import kubernetes_validate
import pytest
import yaml

INFRA = Path(__file__).parents[2] / "infra"
KUBERNETES = "1.34"
DOCKERFILE = (INFRA / "Dockerfile").read_text()
VERSION = tomllib.loads((INFRA.parent / "pyproject.toml").read_text())["project"]["version"]
IMAGE = f"fdcodec:{VERSION}"
COMPOSE = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "compose-spec.json"


def resources() -> Iterator[dict[str, Any]]:
    for path in sorted((INFRA / "kubernetes").glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return found


def valid_compose(document: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(json.loads(COMPOSE.read_text())).is_valid(document))


def test_compose_passes_its_schema_and_has_every_part() -> None:
    document = compose()
    assert valid_compose(document)
    assert {"database", "server", "s3", "worker"} < set(document["services"])
    document["services"]["worker"]["depend_on"] = ["server"]
    assert not valid_compose(document), "a misspelt key is found"


def test_kubernetes_manifests_pass_their_schemas() -> None:
    found = list(resources())
    assert {"StatefulSet", "Deployment", "Service", "Role", "ServiceAccount"} <= {each["kind"] for each in found}
    for resource in found:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        own = "name" if resource["kind"] == "Namespace" else "namespace"
        assert resource["metadata"][own] == "fdcodec"
    (broken,) = [each for each in found if each["kind"] == "StatefulSet"]
    broken["spec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def job() -> dict[str, Any]:
    """The job of a run on Kubernetes, with the defaults of its template in their places."""
    template = yaml.safe_load((INFRA / "pools" / "kubernetes.yaml").read_text())
    values = {name: about.get("default") for name, about in template["variables"]["properties"].items()}
    values |= {"env": [], "labels": {}, "name": "run", "image": IMAGE, "command": ["prefect"]}

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: filled(value) for key, value in node.items()}
        if isinstance(node, list):
            return [filled(value) for value in node]
        if not isinstance(node, str):
            return node
        whole = re.fullmatch(r"\{\{ (\w+) \}\}", node)
        return values[whole[1]] if whole else re.sub(r"\{\{ (\w+) \}\}", lambda found: str(values[found[1]]), node)

    found: dict[str, Any] = filled(template["job_configuration"]["job_manifest"])
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod of everything that runs in a cluster."""
    for resource in [*resources(), job()]:
        if resource["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield resource["metadata"].get("name", "run"), resource["spec"]["template"]


def variables(pod: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in pod["spec"]["containers"][0]["env"]}


def test_the_job_of_a_run_passes_the_schema() -> None:
    kubernetes_validate.validate(job(), KUBERNETES, strict=True)


@pytest.mark.parametrize(("name", "pod"), [*pods()], ids=lambda each: each if isinstance(each, str) else "")
def test_every_pod_is_restricted_and_has_its_limits(name: str, pod: dict[str, Any]) -> None:
    about, (container,) = pod["spec"]["securityContext"], pod["spec"]["containers"]
    assert about["runAsNonRoot"] and isinstance(about["runAsUser"], int) and about["runAsUser"] > 0
    assert about["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["requests"])
    assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
    assert name == "fdcodec-worker" or pod["spec"]["automountServiceAccountToken"] is False
    if name != "run":
        assert {"startupProbe", "livenessProbe"} <= set(container)


def test_a_run_asks_for_a_gpu_and_room_where_it_is_told_to() -> None:
    asked = job()["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert asked["limits"]["nvidia.com/gpu"] == "0"
    properties = yaml.safe_load((INFRA / "pools" / "kubernetes.yaml").read_text())["variables"]["properties"]
    assert {"gpus", "storage_limit", "memory_limit", "cpu_limit"} <= set(properties)


def test_the_namespace_refuses_pods_that_are_not_restricted() -> None:
    (namespace,) = [each for each in resources() if each["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_worker_watches_the_namespace_that_its_role_allows() -> None:
    (role,) = [each for each in resources() if each["kind"] == "Role"]
    assert not [each for each in resources() if each["kind"].startswith("ClusterRole")]
    watched = variables(dict(pods())["fdcodec-worker"])["PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"]
    assert watched == role["metadata"]["namespace"]
    rights = {(kind, verb) for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]}
    assert {("jobs", "watch"), ("pods", "watch"), ("jobs", "create")} <= rights


def test_only_who_has_to_reaches_the_server_and_its_database() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in resources() if each["kind"] == "NetworkPolicy"}
    assert policies.pop("deny-ingress") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    labels = {pod["metadata"]["labels"]["app"] for _, pod in pods()}
    reached = {
        policy["podSelector"]["matchLabels"]["app"]: {
            each["podSelector"]["matchLabels"]["app"] for rule in policy["ingress"] for each in rule["from"]
        }
        for policy in policies.values()
    }
    assert reached == {"prefect": {"fdcodec-worker", "fdcodec-run"}, "database": {"prefect"}}
    assert labels == {"prefect", "database", "fdcodec-worker", "fdcodec-run"}


def test_prefect_s_api_asks_for_a_password_everywhere() -> None:
    kept = dict(pods())
    assert "secretKeyRef" in variables(kept["prefect"])["PREFECT_SERVER_API_AUTH_STRING"]
    assert "secretKeyRef" in variables(kept["prefect"])["PREFECT_SERVER_ENCRYPTION_KEY"]
    worker = variables(kept["fdcodec-worker"])
    assert "secretKeyRef" in worker["PREFECT_API_AUTH_STRING"]
    secret = worker["PREFECT_API_AUTH_STRING"]["secretKeyRef"]
    runs = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET"
    assert (worker[f"{runs}_NAME"], worker[f"{runs}_KEY"]) == (secret["name"], secret["key"])
    services = compose()["services"].values()
    clients = [each for each in services if "PREFECT_API_URL" in each.get("environment", {})]
    assert len(clients) == 2 and all("PREFECT_API_AUTH_STRING" in each["environment"] for each in clients)
    server = compose()["services"]["server"]["environment"]
    assert {"PREFECT_SERVER_API_AUTH_STRING", "PREFECT_SERVER_ENCRYPTION_KEY"} <= set(server)


def test_images_are_tagged_by_version() -> None:
    images = {pod["spec"]["containers"][0]["image"] for _, pod in pods()}
    images |= {service["image"] for service in compose()["services"].values()}
    assert IMAGE in images
    for image in images - {IMAGE}:
        assert re.fullmatch(r"[\w./-]+:(RELEASE\.\d{4}[\w-]+|\d+\.\d+(\.\d+)?)", image), image
    assert re.search(r"^FROM python:\d+\.\d+\.\d+-slim$", DOCKERFILE, re.MULTILINE)


def test_passwords_of_compose_come_from_a_file_that_is_in_no_image_and_no_commit() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", (INFRA / "compose.yaml").read_text()))
    given = set(re.findall(r"^(\w+)=$", (INFRA / "env.example").read_text(), re.MULTILINE))
    assert asked == given
    for ignored in (INFRA / "Dockerfile.dockerignore", INFRA.parent / ".gitignore"):
        assert "infra/.env" in ignored.read_text().splitlines()


def test_a_change_of_code_leaves_the_layer_of_dependencies() -> None:
    before, code, after = DOCKERFILE.partition("COPY codec")
    assert code and "--requirement requirements.txt" in before
    installs = re.findall(r"pip install ([^\n&]+)", after)
    assert installs == ["--no-deps --no-build-isolation ."]
    assert not re.search(r"COPY (?!infra/constraints\.txt|pyproject\.toml|README)", before)


def test_every_install_of_the_image_is_constrained() -> None:
    assert "PIP_CONSTRAINT=/opt/fdcodec/infra/constraints.txt" in DOCKERFILE
    fixed = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (INFRA / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    for line in re.findall(r"pip install ([^\n&]+)", DOCKERFILE):
        named = [word for word in line.split() if re.fullmatch(r"[a-z][a-z0-9-]+", word)]
        assert set(named) <= fixed, line
    project = tomllib.loads((INFRA.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["archive"], *extras["dask"], *extras["evaluate"]]
    assert {re.split(r"[^\w.-]", each)[0].lower().replace("_", "-") for each in needed} <= fixed


def test_the_image_runs_as_a_number_and_says_how_it_is() -> None:
    assert re.search(r"^USER \d+:\d+$", DOCKERFILE, re.MULTILINE)
    assert "HEALTHCHECK" in DOCKERFILE
    assert '"--with-healthcheck"' in DOCKERFILE, "which is what the check asks"


def test_nothing_is_reachable_from_other_machines() -> None:
    for service in compose()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for resource in resources():
        assert resource["kind"] != "Ingress"
        if resource["kind"] == "Service":
            assert resource["spec"].get("type", "ClusterIP") == "ClusterIP"


def test_no_value_of_a_secret_is_written_down() -> None:
    secret = re.compile(
        r"(password|secret|token|_key)[\w.-]*['\"]?\s*[:=]\s*['\"]?(?P<value>[^\s'\",}]+)", re.IGNORECASE
    )
    harmless = re.compile(r"\.\.\.$|\$|\{|false$|/etc/fdcodec/tls/|fdcodec$|\?set$|#$")
    for path in (path for path in INFRA.rglob("*") if path.is_file() and path.name not in ("constraints.txt", ".env")):
        for found in secret.finditer(path.read_text()):
            assert harmless.match(found["value"]), f"{path.name}: {found[0]}"


def test_abandoned_uploads_are_ended_by_the_lifecycle_rule() -> None:
    [rule] = json.loads((INFRA / "s3" / "lifecycle.json").read_text())["Rules"]
    assert rule["Status"] == "Enabled"
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] >= 2, "a run that still uploads is left alone"


def test_scripts_are_a_screenful_and_hold_no_python_logic() -> None:
    for script in INFRA.rglob("*.sh"):
        assert len(script.read_text().splitlines()) <= 40, script.name
    (settings,) = (path for path in INFRA.rglob("*.py") if path.parent.name != "examples")
    assert settings == INFRA / "docs" / "conf.py"
    for statement in ast.parse(settings.read_text()).body:
        plain = isinstance(statement, ast.Assign | ast.Expr) and ast.literal_eval(statement.value)
        assert plain, "the site's settings are constants"
