"""An archive holds by hash all that its files need, and whoever reads it finds that there."""

import subprocess
import tracemalloc
from pathlib import Path

import pytest
import torch

from codec.browser.embedding import embedded_page
from codec.bundle import Bundle
from codec.errors import ArchiveError, BackboneError, SettingsError
from tasks.archive import escrow, layout
from tasks.processes.codec_process import Models
from tasks.storage.store import StorageError, Store, sha256_of
from tests.support import archive_builder
from tests.support.archive_builder import folder, pack, png
from tests.support.fake_codec import FAKE
from tests.support.tiny_bundles import tiny_backbone, tiny_bundle

pytestmark = pytest.mark.usefixtures("children_are_played_here")


def sums(place: Path) -> subprocess.CompletedProcess[str]:
    """The output of sha256sum for a list of hashes."""
    command = ["sha256sum", "--check", "--strict", "--quiet", layout.SUMS]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Store, str]:
    """A local archive that holds a bundle of the fake codec, and its id."""
    archive = Store(str(tmp_path / "archive"))
    about = escrow.keep(archive, Models(str(archive_builder.bundle(tmp_path / "bundle")), codec=FAKE))
    return archive, about["bundle_id"]


def entries(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_everything_is_listed_by_hash_in_lists_that_common_tools_check(kept: tuple[Store, str]) -> None:
    folder = Path(str(kept[0])) / "escrow"
    lists = sorted(folder.rglob(layout.SUMS))
    assert [path.parent.name == kept[1] for path in lists] == [True, False]
    listed = {path.parent / line.split("  ")[1] for path in lists for line in entries(path)}
    assert listed | set(lists) == {path for path in folder.rglob("*") if path.is_file()}
    assert [sums(path.parent).returncode for path in lists] == [0, 0]
    (folder / kept[1] / "salt").write_bytes(b"other")
    assert "salt: FAILED" in sums(folder / kept[1]).stdout


def test_the_software_is_kept_with_versions_licenses_and_instructions(kept: tuple[Store, str]) -> None:
    (software,) = (Path(str(kept[0])) / "escrow" / "software").iterdir()
    (wheel,) = software.glob("*.whl")
    texts = {path.name: path.read_text() for path in software.iterdir() if path != wheel}
    formats = {"FORMAT.md", "archive-format.md"}
    assert texts.keys() == {*formats, "LICENSES.md", "LICENSE", "RESTORE.md", "SHA256SUMS", "constraints.txt"}
    assert "Apache License" in texts["LICENSE"]
    assert wheel.name in texts["RESTORE.md"]
    for line in texts["constraints.txt"].splitlines():
        name, version = line.split("==")
        assert name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        assert "/" not in version and "+" not in version
    assert f"torch=={torch.__version__.partition('+')[0]}\n" in texts["constraints.txt"]


def test_keeping_again_adds_nothing(kept: tuple[Store, str], tmp_path: Path) -> None:
    before = sorted(item.name for item in kept[0].list())
    escrow.keep(kept[0], Models(str(tmp_path / "bundle"), codec=FAKE))
    assert sorted(item.name for item in kept[0].list()) == before


def test_faults_names_what_is_missing_or_damaged(kept: tuple[Store, str]) -> None:
    archive, bundle_id = kept
    assert list(escrow.faults(archive)) == []
    bundle = Path(str(archive)) / "escrow" / bundle_id
    (bundle / "salt").write_bytes(b"other")
    (bundle / "CARD.md").unlink()
    found = list(escrow.faults(archive))
    assert len(found) == 2
    assert "CARD.md: missing" in found[0]
    assert "salt: damaged" in found[1]


def test_a_remote_copy_is_fetched_and_checked(tmp_path: Path) -> None:
    archive = Store(f"memory://{tmp_path.name}")
    about = escrow.keep(archive, Models(str(archive_builder.bundle(tmp_path / "bundle")), codec=FAKE))
    with escrow.bundle(archive, about["bundle_id"]) as path:
        assert {file.name: file.read_bytes() for file in Path(path).iterdir()} == {
            "salt": b"salt",
            "CARD.md": b"made by the tests\n",
        }
    archive.replace(f"{layout.escrow(about['bundle_id'])}/salt", b"tampered with")
    with pytest.raises(ArchiveError, match="salt: damaged"), escrow.bundle(archive, about["bundle_id"]):
        pass
    with pytest.raises(ArchiveError, match="no copy of this bundle"), escrow.bundle(archive, "0" * 64):
        pass


def test_a_remote_copy_is_fetched_in_bounded_memory() -> None:
    archive, weights = Store("memory://large-escrow"), bytes(64 << 20)
    archive.publish("escrow/0/weights.safetensors", weights)
    archive.publish("escrow/0/SHA256SUMS", f"{sha256_of(weights)}  weights.safetensors\n".encode())
    assert archive.size("escrow/0/weights.safetensors") == len(weights)  # for which this store copies it, once
    tracemalloc.start()
    try:
        with escrow.bundle(archive, "0") as path:
            assert (Path(path) / "weights.safetensors").stat().st_size == len(weights)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_a_page_that_decodes_in_a_browser_is_kept_with_the_bundle_and_not_fetched_to_decode(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    for name in ("local", "remote"):
        archive = Store(str(tmp_path / name) if name == "local" else f"memory://{tmp_path.name}-page")
        escrow.keep(archive, Models(str(bundle.path)))
        page = f"{layout.escrow(bundle.id)}/{layout.DECODER_PAGE}"
        assert archive.read(page) == embedded_page(bundle.path, bundle.id)
        assert page in escrow.sums(archive, layout.escrow(bundle.id))
        with escrow.bundle(archive, bundle.id) as copy:
            assert (Path(copy) / layout.DECODER_PAGE).exists() == (name == "local")
            assert Bundle.open(copy).id == bundle.id


def test_a_list_that_leads_out_of_the_archive_is_refused(tmp_path: Path) -> None:
    archive = Store(f"memory://{tmp_path.name}-hostile")
    archive.replace(f"{layout.escrow('b')}/{layout.SUMS}", b"0" * 64 + b"  ../../../outside\n")
    with pytest.raises(ArchiveError, match="SHA256SUMS: damaged"), escrow.bundle(archive, "b"):
        pass


def test_a_backbone_that_is_not_embedded_is_kept_with_its_license(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    tiny_backbone().save(weights)
    bundle = tiny_bundle(tmp_path / "bundle", backbone_source=str(weights))
    for name in ("local", "remote"):
        archive = Store(str(tmp_path / name) if name == "local" else f"memory://{tmp_path.name}-backbone")
        (weights / "LICENSE").unlink(missing_ok=True)
        with pytest.raises(SettingsError, match="no license next to the weights"):
            escrow.keep(archive, Models(str(bundle.path), threads=1))
        (weights / "LICENSE").write_text("as you like it")
        escrow.keep(archive, Models(str(bundle.path), threads=1))
        kept = layout.backbone(bundle.config.backbone_hash)
        assert archive.read(f"{kept}/LICENSE") == b"as you like it"
        assert list(escrow.faults(archive)) == []
        with pytest.MonkeyPatch.context() as patch, escrow.bundle(archive, bundle.id) as path:
            patch.chdir(tmp_path)
            weights.rename(tmp_path / "elsewhere")
            assert Bundle.open(path).load_backbone().content_hash == bundle.config.backbone_hash
            moved = Store(str(tmp_path / f"{name}-moved"))
            escrow.keep(moved, Models(path, threads=1))
            assert moved.read(f"{kept}/LICENSE") == b"as you like it"
            assert list(escrow.faults(moved)) == []
            (tmp_path / "elsewhere").rename(weights)
    with escrow.bundle(archive, bundle.id, with_backbone=False) as path:
        weights.rename(tmp_path / "elsewhere")
        with pytest.raises(BackboneError, match="no backbone at"):
            Bundle.open(path).load_backbone()


def test_an_archive_is_no_source_so_that_recompressing_starts_from_originals(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1)})
    pack(source, tmp_path / "a", fake_bundle)
    with pytest.raises(ArchiveError, match="is an archive; lossy files are not compressed again"):
        pack(tmp_path / "a", tmp_path / "b", fake_bundle)
    assert not (tmp_path / "b").exists()


def test_bundles_that_share_a_backbone_keep_each_its_own_texts(tmp_path: Path) -> None:
    archive = Store(str(tmp_path / "a"))
    shared = "../backbones/b0"
    for number, license in enumerate((b"one license", b"another license", b"one license")):
        contents = {"bundle.json": b"%d" % number, f"{shared}/LICENSE": license, f"{shared}/unet/w.safetensors": b"w"}
        escrow._publish(archive, layout.escrow(str(number) * 64), contents)
    assert list(escrow.faults(archive)) == []
    names = [name for name in archive.children(f"{layout.BACKBONES}/b0") if name.startswith("LICENSE")]
    texts = {archive.read(f"{layout.BACKBONES}/b0/{name}") for name in names}
    assert texts == {b"one license", b"another license"}
    listed = [set(escrow.sums(archive, layout.escrow(str(number) * 64))) for number in range(3)]
    assert listed[0] & listed[1] == {f"{layout.BACKBONES}/b0/unet/w.safetensors"}
    assert {name.rpartition("/")[2] for name in listed[2]} == {name.rpartition("/")[2] for name in listed[0]}


def test_weights_that_stand_otherwise_in_the_archive_are_no_escrow(tmp_path: Path) -> None:
    archive = Store(str(tmp_path / "a"))
    archive.publish(f"{layout.BACKBONES}/b0/w.safetensors", b"damaged")
    with pytest.raises(StorageError, match="audit the archive"):
        escrow._publish(archive, layout.escrow("0" * 64), {"../backbones/b0/w.safetensors": b"w"})
    assert not archive.exists(f"{layout.escrow('0' * 64)}/{layout.SUMS}")
