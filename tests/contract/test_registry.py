"""What every registry promises."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from exchange.open import open_registry
from exchange.registry.artifacts import describe_folder
from exchange.registry.files import FilesystemRegistry
from exchange.registry.port import Registry
from schemas.errors import ConfigError, IntegrityError, InvalidInput, NotFound, Unavailable
from schemas.manifests import (
    AdapterManifest,
    FileDigest,
    GuidanceKind,
    GuidanceManifest,
    SnapshotManifest,
    files_digest,
)
from tests.golden.samples import SAMPLES

WEIGHTS = bytes(range(256)) * 5000


@pytest.fixture(params=["memory", "file", "fsspec"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """In memory, in a folder, and in a store that has no rename (fsspec's own memory file system)."""
    if request.param == "memory":
        yield open_registry("memory:")
    elif request.param == "file":
        yield open_registry(f"file://{tmp_path / 'registry'}")
    else:
        yield open_registry("memory://registry")
        fsspec.filesystem("memory").store.clear()


@pytest.fixture
def store(tmp_path: Path) -> FilesystemRegistry:
    return FilesystemRegistry.at(f"file://{tmp_path / 'registry'}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter as a trainer leaves it."""
    made = tmp_path / "adapter"
    (made / "notes").mkdir(parents=True)
    (made / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (made / "adapter_config.json").write_text('{"r": 16}')
    (made / "notes" / "card.md").write_text("# what it is\n")
    return made


# fsspec's memory file system is a test double that hands one file object to all its readers: no threads there.
threaded = pytest.mark.parametrize("registry", ["memory", "file"], indirect=True)


def adapter(folder: Path, version: int = 1, **changes: Any) -> AdapterManifest:
    base = SAMPLES["adapter_manifest"]
    assert isinstance(base, AdapterManifest)
    files = describe_folder(folder)
    facts = {"version": version, "files": files, "digest": files_digest(files)}
    return base.model_copy(update=facts | changes)


def snapshot(folder: Path) -> SnapshotManifest:
    base = SAMPLES["snapshot_manifest"]
    assert isinstance(base, SnapshotManifest)
    files = describe_folder(folder)
    return base.model_copy(update={"files": files, "digest": files_digest(files)})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_published_is_fetched_byte_for_byte(registry: Registry, folder: Path, tmp_path: Path) -> None:
    manifest = adapter(folder)
    assert registry.versions("support") == ()
    registry.publish_adapter(folder, manifest)
    assert registry.versions("support") == (1,)
    assert registry.adapter("support", 1) == manifest
    local = registry.fetch_adapter("support", 1, tmp_path / "cache")
    assert contents(local) == contents(folder)
    assert local == tmp_path / "cache" / manifest.digest
    assert os.listdir(tmp_path / "cache") == [manifest.digest]


def test_versions_are_listed_in_order_of_number_and_by_policy(registry: Registry, folder: Path) -> None:
    for version in (10, 2, 9):
        registry.publish_adapter(folder, adapter(folder, version))
    registry.publish_adapter(folder, adapter(folder, 4, policy="sales"))
    assert registry.versions("support") == (2, 9, 10)
    assert registry.versions("sales") == (4,)
    assert registry.versions("nobody") == ()


def test_a_version_never_changes(registry: Registry, folder: Path) -> None:
    first = adapter(folder)
    registry.publish_adapter(folder, first)
    registry.publish_adapter(folder, first)
    (folder / "adapter_config.json").write_text('{"r": 32}')
    for other in (adapter(folder), first.model_copy(update={"seed": 99})):
        with pytest.raises(IntegrityError, match="exists with another content"):
            registry.publish_adapter(folder, other)
    assert registry.adapter("support", 1) == first


@threaded
def test_racing_publishers_of_one_version_leave_one(registry: Registry, folder: Path, tmp_path: Path) -> None:
    lost: list[int] = []

    def publish(seed: int) -> None:
        try:
            registry.publish_adapter(folder, adapter(folder, seed=seed))
        except IntegrityError:
            lost.append(seed)

    threads = [threading.Thread(target=publish, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.adapter("support", 1).seed not in lost
    assert contents(registry.fetch_adapter("support", 1, tmp_path / "cache")) == contents(folder)


def test_what_is_not_there_is_not_found(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="support@v7"):
        registry.adapter("support", 7)
    with pytest.raises(NotFound):
        registry.fetch_adapter("support", 7, tmp_path / "cache")
    with pytest.raises(NotFound):
        registry.fetch_artifact("reports", "0" * 64, tmp_path / "cache")
    with pytest.raises(NotFound):
        registry.snapshot("0" * 64)


def test_files_that_do_not_match_the_manifest_are_not_published(registry: Registry, folder: Path) -> None:
    manifest = adapter(folder)
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors are not those"):
        registry.publish_adapter(folder, manifest)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(IntegrityError, match="not in the folder"):
        registry.publish_adapter(folder, manifest)
    assert registry.versions("support") == ()


def test_a_manifest_whose_digest_lies_is_refused(registry: Registry, folder: Path) -> None:
    with pytest.raises(IntegrityError, match="digest"):
        registry.publish_adapter(folder, adapter(folder, digest="0" * 64))


@pytest.mark.parametrize(
    "name",
    [
        "../x.json",
        "/etc/x.json",
        "a/../../x.json",
        "./x.json",
        "a//x.json",
        "a\\..\\x.json",
        ".hidden.json",
        "x.bin",
        "x.pt",
        "x.pkl",
        "x.py",
        "x.json\n",
        "",
    ],
)
def test_names_that_climb_out_or_could_run_code_are_refused(registry: Registry, folder: Path, name: str) -> None:
    files = {name: FileDigest(sha256="0" * 64, size=1)}
    with pytest.raises(IntegrityError, match=r"is no name|is of a kind"):
        registry.publish_artifact("reports", folder, files)
    with pytest.raises(IntegrityError, match=r"is no name|is of a kind"):
        registry.publish_adapter(folder, adapter(folder).model_copy(update={"files": files}))


def test_links_are_not_followed_when_publishing(registry: Registry, folder: Path, tmp_path: Path) -> None:
    manifest = adapter(folder)
    secret = tmp_path / "secret.json"
    (folder / "adapter_config.json").rename(secret)
    (folder / "adapter_config.json").symlink_to(secret)
    with pytest.raises(IntegrityError, match="symbolic link"):
        registry.publish_adapter(folder, manifest)
    with pytest.raises(IntegrityError, match="link"):
        describe_folder(folder)


def test_a_kind_or_policy_that_is_no_plain_name_is_refused(registry: Registry, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        registry.publish_artifact("../up", folder, describe_folder(folder))
    with pytest.raises(InvalidInput):
        registry.fetch_artifact("reports", "../../x", tmp_path)
    with pytest.raises(InvalidInput):
        registry.versions("../sales")
    with pytest.raises(InvalidInput):
        registry.adapter("support", -1)


def test_artifacts_go_by_their_content(registry: Registry, folder: Path, tmp_path: Path) -> None:
    files = describe_folder(folder)
    digest = registry.publish_artifact("reward-models", folder, files)
    assert digest == files_digest(files) == registry.publish_artifact("reward-models", folder, files)
    assert contents(registry.fetch_artifact("reward-models", digest, tmp_path / "cache")) == contents(folder)
    with pytest.raises(NotFound):
        registry.fetch_artifact("reports", digest, tmp_path / "elsewhere")


def test_a_snapshot_is_found_by_its_digest(registry: Registry, folder: Path, tmp_path: Path) -> None:
    manifest = snapshot(folder)
    registry.publish_snapshot(folder, manifest)
    registry.publish_snapshot(folder, manifest)
    assert registry.snapshot(manifest.digest) == manifest
    assert contents(registry.fetch_artifact("snapshots", manifest.digest, tmp_path / "cache")) == contents(folder)
    with pytest.raises(IntegrityError, match="another content"):
        registry.publish_snapshot(folder, manifest.model_copy(update={"watermark": 5}))


def test_snapshots_are_listed_and_their_files_read_one_by_one(registry: Registry, folder: Path) -> None:
    assert registry.snapshots() == ()
    first = snapshot(folder)
    registry.publish_snapshot(folder, first)
    (folder / "more.json").write_text("{}")
    second = snapshot(folder)
    registry.publish_snapshot(folder, second)
    assert registry.snapshots() == tuple(sorted([first.digest, second.digest]))
    assert registry.read_artifact_file("snapshots", first.digest, "notes/card.md") == b"# what it is\n"
    assert registry.read_artifact_file("snapshots", second.digest, "more.json") == b"{}"
    for digest, name in ((first.digest, "more.json"), ("0" * 64, "more.json"), (first.digest, "../more.json")):
        with pytest.raises(NotFound):
            registry.read_artifact_file("snapshots", digest, name)
    with pytest.raises(InvalidInput):
        registry.read_artifact_file("../snapshots", first.digest, "more.json")


def guidance(folder: Path, version: int = 1, **changes: Any) -> GuidanceManifest:
    files = describe_folder(folder)
    facts = {"kind": "guidelines", "policy": "support", "version": version, "created_at": 5}
    return GuidanceManifest.model_validate(facts | {"files": files, "digest": files_digest(files)} | changes)


def test_guidance_goes_by_kind_policy_and_version_and_never_changes(registry: Registry, folder: Path) -> None:
    rules = GuidanceKind.GUIDELINES
    assert registry.guidance_versions(rules, "support") == ()
    first, later = guidance(folder), guidance(folder, 10, note="clearer")
    for manifest in (later, first, first):
        registry.publish_guidance(folder, manifest)
    registry.publish_guidance(folder, guidance(folder, 4, policy="sales"))
    registry.publish_guidance(folder, guidance(folder, 7, kind="prompts"))
    assert registry.guidance_versions(rules, "support") == (1, 10)
    assert registry.guidance_versions(rules, "sales") == (4,)
    assert registry.guidance_versions(GuidanceKind.PROMPTS, "support") == (7,)
    assert registry.guidance(rules, "support", 10) == later
    assert registry.read_artifact_file("guidelines", first.digest, "notes/card.md") == b"# what it is\n"
    with pytest.raises(IntegrityError, match="exists with another content"):
        registry.publish_guidance(folder, guidance(folder, note="other"))
    with pytest.raises(NotFound, match=r"constitution support@v1"):
        registry.guidance(GuidanceKind.CONSTITUTION, "support", 1)
    with pytest.raises(InvalidInput):
        registry.guidance_versions(rules, "../sales")


def test_a_manifest_of_guidance_in_another_s_place_is_refused(
    store: FilesystemRegistry, folder: Path, tmp_path: Path
) -> None:
    store.publish_guidance(folder, guidance(folder))
    place = tmp_path / "registry" / "guidance" / "guidelines" / "support"
    shutil.copy(place / "v1.json", place / "v2.json")
    with pytest.raises(IntegrityError, match="that of another version"):
        store.guidance(GuidanceKind.GUIDELINES, "support", 2)


def test_one_tampered_file_is_refused_where_it_is_read_alone(
    store: FilesystemRegistry, folder: Path, tmp_path: Path
) -> None:
    digest = store.publish_artifact("reports", folder, describe_folder(folder))
    (tmp_path / "registry/artifacts/reports" / digest / "adapter_config.json").write_text('{"r": 17}')
    with pytest.raises(IntegrityError):
        store.read_artifact_file("reports", digest, "adapter_config.json")


def test_a_damaged_cache_heals(registry: Registry, folder: Path, tmp_path: Path) -> None:
    registry.publish_adapter(folder, adapter(folder))
    cache = tmp_path / "cache"
    local = registry.fetch_adapter("support", 1, cache)
    (local / "adapter_model.safetensors").write_bytes(WEIGHTS[::-1])
    assert contents(registry.fetch_adapter("support", 1, cache)) == contents(folder)
    (local / "planted.json").write_text("{}")
    assert contents(registry.fetch_adapter("support", 1, cache)) == contents(folder)
    shutil.rmtree(local)
    local.symlink_to(folder)
    assert contents(registry.fetch_adapter("support", 1, cache)) == contents(folder)
    assert os.listdir(cache) == [local.name]


@threaded
def test_concurrent_fetches_share_a_cache(registry: Registry, folder: Path, tmp_path: Path) -> None:
    registry.publish_adapter(folder, adapter(folder))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(registry.fetch_adapter("support", 1, tmp_path / "cache")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    assert contents(found[0]) == contents(folder)
    assert os.listdir(tmp_path / "cache") == [found[0].name]


# What only a store that others can reach into must withstand.


def _stored(store: FilesystemRegistry, manifest: AdapterManifest, tmp_path: Path) -> Path:
    return tmp_path / "registry" / "artifacts" / "adapters" / manifest.digest


def test_tampered_bytes_are_refused(store: FilesystemRegistry, folder: Path, tmp_path: Path) -> None:
    manifest = adapter(folder)
    store.publish_adapter(folder, manifest)
    weights = _stored(store, manifest, tmp_path) / "adapter_model.safetensors"
    for bad in (WEIGHTS[:-1] + b"\0", WEIGHTS + b"\0", WEIGHTS[:-1], b""):
        weights.write_bytes(bad)
        with pytest.raises(IntegrityError, match="are not those of its manifest"):
            store.fetch_adapter("support", 1, tmp_path / "cache")
    weights.unlink()
    with pytest.raises(IntegrityError, match="lacks"):
        store.fetch_adapter("support", 1, tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


def test_planted_files_and_links_are_refused(store: FilesystemRegistry, folder: Path, tmp_path: Path) -> None:
    manifest = adapter(folder)
    store.publish_adapter(folder, manifest)
    stored = _stored(store, manifest, tmp_path)
    (stored / "planted.py").write_text("raise SystemExit")
    with pytest.raises(IntegrityError, match="does not name"):
        store.fetch_adapter("support", 1, tmp_path / "cache")
    (stored / "planted.py").unlink()
    weights = stored / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(IntegrityError, match="is a link"):
        store.fetch_adapter("support", 1, tmp_path / "cache")


def test_a_tampered_manifest_is_refused(store: FilesystemRegistry, folder: Path, tmp_path: Path) -> None:
    store.publish_adapter(folder, adapter(folder))
    marker = tmp_path / "registry" / "adapters" / "support" / "v1.json"
    body = json.loads(marker.read_text())
    for change in (
        {"files": {"../../x.json": {"sha256": "0" * 64, "size": 1}}},
        {"digest": "0" * 64},
        {"version": 2},
        {"policy": "sales"},
        {"rank": "many"},
    ):
        marker.write_text(json.dumps(body | change))
        with pytest.raises(IntegrityError):
            store.fetch_adapter("support", 1, tmp_path / "cache")
    marker.write_text("{")
    with pytest.raises(IntegrityError, match="cannot be read"):
        store.adapter("support", 1)


class Torn(BaseException):
    """The process dies here: nothing may take that for an error of the store."""


@pytest.mark.parametrize("step", ["_stage", "_rename", "_create"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_torn_publish_is_invisible_and_can_be_done_again(
    store: FilesystemRegistry, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: int
) -> None:
    """Publishing dies before a step, or between its first call and its second (of which a rename has none)."""
    real = getattr(FilesystemRegistry, step)
    calls = iter(range(100))

    def torn(self: FilesystemRegistry, *arguments: Any) -> Any:
        if next(calls) >= after:
            raise Torn
        return real(self, *arguments)

    manifest = adapter(folder)
    if not (step == "_rename" and after):
        with monkeypatch.context() as patch:
            patch.setattr(FilesystemRegistry, step, torn)
            with pytest.raises(Torn):
                store.publish_adapter(folder, manifest)
    assert store.versions("support") == ()
    with pytest.raises(NotFound):
        store.adapter("support", 1)
    store.publish_adapter(folder, manifest)
    assert contents(store.fetch_adapter("support", 1, tmp_path / "cache")) == contents(folder)


def test_what_a_dead_publisher_left_half_done_is_replaced(
    store: FilesystemRegistry, folder: Path, tmp_path: Path
) -> None:
    manifest = adapter(folder)
    left = _stored(store, manifest, tmp_path)
    left.mkdir(parents=True)
    (left / "adapter_config.json").write_text("torn")
    store.publish_adapter(folder, manifest)
    assert contents(store.fetch_adapter("support", 1, tmp_path / "cache")) == contents(folder)
    assert [path.name for path in left.parent.iterdir() if path.name.startswith(".")] == []


def test_a_store_that_cannot_be_used_is_unavailable(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "registry").write_text("a file, no folder")
    store = FilesystemRegistry.at(f"file://{tmp_path / 'registry'}")
    with pytest.raises(Unavailable):
        store.publish_adapter(folder, adapter(folder))


def test_a_relative_folder_is_of_the_working_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_registry("file:store").publish_adapter(folder, adapter(folder))
    assert (tmp_path / "store" / "adapters" / "support" / "v1.json").is_file()
    assert open_registry(f"file://{tmp_path}/store").versions("support") == (1,)


@pytest.mark.parametrize("url", ["", "registry", "nosuch://x", "file:", "file://"])
def test_a_url_that_is_no_registry_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        open_registry(url)
