"""What infra/ ships for other machines passes the schemas of the tools that read it, and holds no secret."""

import json
import re
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
        assert resource["metadata"]["namespace"] == "fdcodec"
    found[-1]["spec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(found[-1], KUBERNETES, strict=True)


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
    harmless = re.compile(r"\.\.\.$|\$|\{|false$|/etc/fdcodec/tls/|fdcodec$")
    for path in (path for path in INFRA.rglob("*") if path.is_file() and path.name != "constraints.txt"):
        for found in secret.finditer(path.read_text()):
            assert harmless.match(found["value"]), f"{path.name}: {found[0]}"


def test_abandoned_uploads_are_ended_by_the_lifecycle_rule() -> None:
    [rule] = json.loads((INFRA / "s3" / "lifecycle.json").read_text())["Rules"]
    assert rule["Status"] == "Enabled"
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] >= 2, "a run that still uploads is left alone"


def test_scripts_are_a_screenful_and_hold_no_python_logic() -> None:
    for script in INFRA.glob("*.sh"):
        assert len(script.read_text().splitlines()) <= 40, script.name
    assert not list(INFRA.rglob("*.py"))
