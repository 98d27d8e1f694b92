"""A run needs the rights of infra/s3/policy.json and no others, on a server that checks them."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from codec.errors import ArchiveError
from tasks.storage.store import Store
from tests.infra.test_manifests import INFRA
from tests.support import archive_builder
from tests.support.archive_builder import pack, png
from tests.support.fake_s3 import serving

POLICY = (INFRA / "s3" / "policy.json").read_text().replace("PHOTOS", "photos").replace("ARCHIVE", "archive")
OWNER = {"aws_access_key_id": "owner", "aws_secret_access_key": "owner", "region_name": "us-east-1"}
USER = {"UserName": "run"}


class Cloud:
    """An S3 server with a bucket of photos, one for the archive, and a user with the policy."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.owner: Any = boto3.client("iam", endpoint_url=address, **OWNER)
        self.owner.create_user(**USER)
        self.key: dict[str, str] = self.owner.create_access_key(**USER)["AccessKey"]
        storage: Any = boto3.client("s3", endpoint_url=address, **OWNER)
        for bucket in ("photos", "archive"):
            storage.create_bucket(Bucket=bucket)
        storage.put_object(Bucket="photos", Key="a.png", Body=png(1))
        lifecycle = json.loads((INFRA / "s3" / "lifecycle.json").read_text())
        storage.put_bucket_lifecycle_configuration(Bucket="archive", LifecycleConfiguration=lifecycle)

    def grant(self, policy: dict[str, Any]) -> None:
        """Give the user this policy, and check rights from now on."""
        self.unchecked_requests("1000")
        self.owner.put_user_policy(**USER, PolicyName="archive", PolicyDocument=json.dumps(policy))
        self.unchecked_requests("0")

    def unchecked_requests(self, count: str) -> None:
        address, plain = f"{self.address}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(address, count.encode(), plain), timeout=60).close()


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with serving() as address, pytest.MonkeyPatch.context() as patch:
        cloud = Cloud(address)
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", cloud.key["AccessKeyId"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", cloud.key["SecretAccessKey"])
        yield cloud


def test_the_policy_is_enough_for_a_run(cloud: Cloud, tmp_path: Path) -> None:
    cloud.grant(json.loads(POLICY))
    outcome = pack("s3://photos", "s3://archive/whole", archive_builder.bundle(tmp_path / "bundle"))
    assert outcome.totals["compressed"] == 1
    with pytest.raises(ArchiveError):
        Store("s3://photos").replace("a.png", b"photos are never written")


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"])
def test_without_one_of_its_rights_a_run_fails_with_one_line(cloud: Cloud, tmp_path: Path, action: str) -> None:
    policy = json.loads(POLICY)
    for statement in policy["Statement"]:
        statement["Action"] = [each for each in statement["Action"] if each != action]
    cloud.grant(policy | {"Statement": [each for each in policy["Statement"] if each["Action"]]})
    with pytest.raises(ArchiveError, match=r"^[^\n]*cannot [^\n]*$"):
        pack("s3://photos", f"s3://archive/{action[3:]}", archive_builder.bundle(tmp_path / "bundle"))
