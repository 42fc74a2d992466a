"""Fitting to a store and scoring it: which clips take part, what is read, and how often."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import detector
from detector import Detector, Fusion, passes
from detector.dataset import StoreReader, choose, live_rows, training_rows
from detector.errors import FitError
from detector.passes import over_crops
from featurestore.errors import ProvenanceMismatch, UsageError
from tests.detector.making import clips, dataset, store

TRAIN = {f"v{row:02d}": int(row > 8) for row in range(12)}  # v09, v10, v11 test


@pytest.fixture(scope="module")
def made() -> tuple[np.ndarray, ...]:
    return clips(crops=10)


@pytest.fixture(scope="module")
def ds(made: tuple[np.ndarray, ...]) -> xr.Dataset:
    return dataset(*made, TRAIN)


def by_hand(made: tuple[np.ndarray, ...], name: str = "density") -> tuple[Detector, np.ndarray]:
    x, videos, labels = made
    trains = np.array([TRAIN[video] == 0 for video in videos])
    found = Detector(name).fit(x[trains], videos[trains], labels[trains])
    return found, found.score_samples(x, videos)


@pytest.mark.parametrize("name", ["density", "gmm", "oneclass"])
def test_a_store_and_arrays_give_the_same(name: str, ds: xr.Dataset, made: Any) -> None:
    found = detector.fit(ds, features="r3d", detector=name, split="weak")
    assert isinstance(found, Detector)
    scores = detector.score(ds, found)
    _, wanted = by_hand(made, name)
    np.testing.assert_allclose(scores.clip_score, wanted, rtol=1e-6, atol=1e-6)
    assert scores.videos == tuple(f"v{row:02d}" for row in range(12))
    assert len(scores.video_score) == 12
    assert not scores.left_out
    assert "density of r3d" in repr(found) or name != "density"


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 1 << 16))
@settings(max_examples=15)
def test_chunks_do_not_matter(sizes: list[int], most: int) -> None:
    """Bit for bit the same detector and scores, however a store is cut and read."""
    x, videos, labels = clips(channels=8, crops=2)
    whole = dataset(x, videos, labels, TRAIN)
    wanted = detector.fit(whole, features="r3d")
    cuts, left = [], len(x)
    for size in sizes:
        cuts.append(min(size, left))
        left -= cuts[-1]
        if not left:
            break
    chunks = (*cuts, left) if left else tuple(cuts)
    cut = whole.chunk({"clip": chunks, "crop": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detector.dataset.BLOCK_BYTES", most)
        found = detector.fit(cut, features="r3d")
        scores = detector.score(cut, found)
    assert isinstance(found, Detector)
    assert isinstance(wanted, Detector)
    np.testing.assert_array_equal(found.fitted.projection.basis, wanted.fitted.projection.basis)
    np.testing.assert_array_equal(scores.clip_score, detector.score(whole, wanted).clip_score)


def on_disk(url: Path, made: Any, block: int) -> xr.Dataset:
    """A real store of ten crops, with labels and a split as other commands add them."""
    x, videos, labels = made
    store(url, x, videos, block=block)
    found: xr.Dataset = xr.open_zarr(url, chunks=None)
    firsts = np.unique(videos, return_index=True)[1]
    there = [dim for dim in ("split_name",) if dim in found.dims]  # a store has splits of its own
    return found.drop_dims(there).assign(
        label=("video", labels[firsts].astype(np.int8)),
        split=(("split_name", "video"), np.array([list(TRAIN.values())], np.int8)),
        split_name=("split_name", ["weak"]),
    )


@pytest.fixture(params=["few clips", "held in memory", "read twice"])
def sized(request: pytest.FixtureRequest, made: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Clips in each way that a fit reads them, and the number of its passes."""
    if request.param == "few clips":  # fewer than 720 channels, which are two columns of chunks
        return (np.concatenate([made[0]] * 30, axis=2), *made[1:]), 1
    if request.param == "held in memory":
        return made, 1
    monkeypatch.setattr("detector.fitted.HELD_BYTES", 0)
    return made, 2


@pytest.mark.parametrize("chunks", [None, {"clip": 32, "crop": -1}])
def test_each_chunk_is_read_once_a_pass(
    chunks: Any, sized: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, times = sized
    x = made[0]
    found = on_disk(tmp_path / "a.zarr", made, block=8)
    if chunks:
        found = found.chunk(chunks)
    reads: Counter[str] = Counter()
    from zarr.storage import LocalStore

    get = LocalStore.get

    async def counting(self: Any, key: str, *rest: Any, **more: Any) -> Any:
        reads[key] += 1
        return await get(self, key, *rest, **more)

    monkeypatch.setattr(LocalStore, "get", counting)
    monkeypatch.setattr("detector.dataset.BLOCK_BYTES", 1 << 20)
    fitted = detector.fit(found, features="timm_tiny")
    assert isinstance(fitted, Detector)
    of_features = {key: n for key, n in reads.items() if key.startswith("timm_tiny/c/")}
    assert set(of_features.values()) == {times}, "each chunk once a pass"
    wanted = {clip // 8 for clip in range(len(x)) if TRAIN[made[1][clip]] == 0}
    assert {int(key.split("/")[2]) for key in of_features} == wanted, "of training videos only"
    read = sum(min(8, len(x) - 8 * row) for row in wanted) * x[0].nbytes
    assert [its.bytes for its in fitted.fitted.passes] == [read] * times
    reads.clear()
    scores = detector.score(found, fitted)
    assert {n for key, n in reads.items() if key.startswith("timm_tiny/c/")} == {1}
    assert [its.bytes for its in scores.passes] == [x.nbytes]
    np.testing.assert_allclose(scores.clip_score, by_hand(made)[1], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


def test_passes_on_other_processes(
    sized: Any, tmp_path: Path, processes: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = sized
    found = on_disk(tmp_path / "a.zarr", made, block=8)
    monkeypatch.setattr("detector.passes.TASK_CLIPS", 40)
    monkeypatch.setattr("detector.dataset.BLOCK_BYTES", 10_000)
    fitted = detector.fit(found, features="timm_tiny", executor=processes)
    scores = detector.score(found, fitted, executor=processes)
    np.testing.assert_allclose(scores.clip_score, by_hand(made)[1], rtol=1e-5, atol=1e-5)
    with ThreadPoolExecutor(2) as threads:
        again = detector.fit(found, features="timm_tiny", executor=threads)
    assert isinstance(fitted, Detector)
    assert isinstance(again, Detector)
    np.testing.assert_array_equal(again.fitted.projection.basis, fitted.fitted.projection.basis)


def test_the_bits_do_not_depend_on_the_number_of_cores(
    sized: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = sized
    found = on_disk(tmp_path / "a.zarr", made, block=8)
    monkeypatch.setattr("detector.dataset.BLOCK_BYTES", 10_000)
    monkeypatch.setattr("detector.moments.PANEL", 7)
    monkeypatch.setattr("detector.passes.batched", partial(passes.batched, size=16))
    scores = []
    for cores in (1, 5):
        monkeypatch.setattr("detector.passes._threads", lambda executor, cores=cores: cores)
        fitted = detector.fit(found, features="timm_tiny")
        scores.append(detector.score(found, fitted).clip_score)
    np.testing.assert_array_equal(*scores)


def test_clips_held_in_memory_give_the_same_bits(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = on_disk(tmp_path / "a.zarr", made, block=8)
    monkeypatch.setattr("detector.passes.batched", partial(passes.batched, size=16))
    scores = []
    for held in (1 << 20, 0):
        monkeypatch.setattr("detector.fitted.HELD_BYTES", held)
        scores.append(detector.score(found, detector.fit(found, features="timm_tiny")).clip_score)
    np.testing.assert_array_equal(*scores)


def test_test_ground_truth_is_never_read(ds: xr.Dataset) -> None:
    """Garbage in its place: fit and scores are the same, bit for bit."""
    wanted = detector.fit(ds, features="r3d")
    garbage = ds.assign(
        label=ds["label"].where(ds["split"].isel(split_name=0) == 0, 77).astype(np.int8),
        frame_label=("frame", np.full(100, -99, np.int8)),
    )
    found = detector.fit(garbage, features="r3d")
    np.testing.assert_array_equal(
        detector.score(garbage, found).clip_score, detector.score(ds, wanted).clip_score
    )


def test_the_order_of_videos_does_not_matter(made: Any) -> None:
    x, videos, labels = made
    x = x.astype(np.float64)
    turned = np.argsort(-np.unique(videos, return_inverse=True)[1], kind="stable")
    one = dataset(x, videos, labels, TRAIN)
    other = dataset(x[turned], videos[turned], labels[turned], TRAIN)
    assert list(other["video"].values) == list(one["video"].values)[::-1]
    wanted = detector.score(one, detector.fit(one, features="r3d"))
    found = detector.score(other, detector.fit(other, features="r3d"))
    np.testing.assert_allclose(found.clip_score, wanted.clip_score[turned], rtol=1e-8, atol=1e-8)


def test_clips_that_are_not_there(made: Any) -> None:
    x, videos, labels = made
    status = np.ones(len(x), np.uint8)
    status[[2, 3]], status[50] = 2, 0
    damaged = x.copy()
    damaged[[2, 3, 50]] = np.nan
    damaged[90, 4, 7] = np.nan  # done, and NaN all the same
    found = dataset(damaged, videos, labels, TRAIN, status=status)
    fitted = detector.fit(found, features="r3d")
    assert isinstance(fitted, Detector)
    scores = detector.score(found, fitted)
    gone = {reason: its.tolist() for reason, its in scores.left_out.items()}
    assert gone == {"failed": [2, 3], "missing": [50], "not finite": [90]}
    assert set(scores.left_out_videos) == {videos[2], videos[50], videos[90]}
    assert np.flatnonzero(np.isnan(scores.clip_score)).tolist() == [2, 3, 50, 90]
    keep = ~np.isnan(scores.clip_score)
    _, wanted = by_hand((x[keep], videos[keep], labels[keep]))
    np.testing.assert_allclose(scores.clip_score[keep], wanted, rtol=1e-4, atol=1e-4)
    assert fitted.fitted.left_out == 3, "of training videos"


def test_a_store_without_any_features_yet(ds: xr.Dataset) -> None:
    for name in ("density", "kde", "oneclass"):
        found = detector.fit(ds, features="r3d", detector=name)
        empty = ds.assign(status_r3d=ds["status_r3d"] * 0)
        scores = detector.score(empty, found)
        assert np.isnan(scores.clip_score).all()
        assert np.isnan(scores.video_score).all()
        assert len(scores.left_out["missing"]) == ds.sizes["clip"]


def test_a_clip_needs_all_parts_of_a_fused_array(made: Any) -> None:
    found = dataset(*made, TRAIN, features="swin_i3d")
    status = np.ones(len(made[0]), np.uint8)
    status[7] = 0
    found["status_i3d"] = ("clip", status)
    rows = live_rows(found)
    chosen = choose(found, "swin_i3d", rows)
    assert chosen.left_out["missing"].tolist() == [7]
    assert 7 not in chosen.clips


def test_superseded_rows_are_left_out(made: Any) -> None:
    """A replaced file's old row: neither fitted nor scored, even before its state says so."""
    x, videos, labels = made
    old = videos == "v03"
    twice = np.concatenate([x, x[old] + 9])
    both = np.concatenate([videos, np.full(old.sum(), "zz")]), np.concatenate([labels, labels[old]])
    found = dataset(twice, *both, {**TRAIN, "zz": 0})
    names = [str(name) for name in found["video"].values]
    renamed = found.assign_coords(video=["v03" if name == "zz" else name for name in names])
    marked = renamed.assign(
        state=("video", ["superseded" if name == "v03" else "ok" for name in names])
    )
    for its in (renamed, marked):
        scores = detector.score(its, detector.fit(its, features="r3d"))
        assert np.isnan(scores.clip_score[: len(x)][old]).all()
        assert np.isfinite(scores.clip_score[len(x) :]).all()
        assert np.isnan(scores.video_score[names.index("v03")])
    replaced = x.copy()
    replaced[old] += 9
    _, wanted = by_hand((replaced, videos, labels))
    np.testing.assert_allclose(
        scores.clip_score[: len(x)][~old], wanted[~old], rtol=1e-5, atol=1e-5
    )


def test_splits(ds: xr.Dataset) -> None:
    values = ds["split"].values[0]
    assert training_rows(ds, None).sum() == 9
    assert (training_rows(ds, values) == training_rows(ds, "weak")).all()
    two = xr.concat([ds["split"], ds["split"]], "split_name", join="exact").assign_coords(
        split_name=["weak", "other"]
    )
    several = ds.drop_dims("split_name").assign(split=two)
    with pytest.raises(UsageError, match="Several splits are there; choose one of: weak, other"):
        training_rows(several, None)
    with pytest.raises(UsageError, match="no split 'x'; choose one of: weak"):
        training_rows(ds, "x")
    with pytest.raises(UsageError, match="The store has no split"):
        training_rows(ds.drop_dims("split_name"), "weak")
    with pytest.raises(UsageError, match="one value a row"):
        training_rows(ds, values[:-1])


def test_what_cannot_be_fitted(ds: xr.Dataset, made: Any) -> None:
    with pytest.raises(UsageError, match="no features 'swin'; it has: r3d"):
        detector.fit(ds, features="swin")
    with pytest.raises(FitError, match="no training video"):
        detector.fit(ds, features="r3d", split=np.ones(12))
    unlabelled = ds.assign(label=ds["label"] * 0 - 1)
    with pytest.raises(FitError, match="without a label: v00, .* and 4 more.*take them out"):
        detector.fit(unlabelled, features="r3d")
    with pytest.raises(FitError, match="no labels of videos"):
        detector.fit(ds.drop_vars("label"), features="r3d")
    with pytest.raises(FitError, match="there is no abnormal one"):
        detector.fit(ds.assign(label=ds["label"] * 0), features="r3d")
    missing = dataset(*made, TRAIN, status=np.zeros(len(made[0]), np.uint8))
    with pytest.raises(FitError, match="no clip of the training videos has features yet"):
        detector.fit(missing, features="r3d")
    with pytest.raises(UsageError, match="open a feature store"):
        detector.fit(xr.Dataset(), features="r3d")
    with pytest.raises(UsageError, match="dimensions"):
        detector.fit(ds.rename(clip="time"), features="r3d")
    with pytest.raises(UsageError, match="one of each at least"):
        detector.fit(ds, features=[])
    apart = ds.isel(clip=np.argsort(np.arange(len(made[0])) % 2, kind="stable"))
    with pytest.raises(UsageError, match="do not lie together"):
        detector.fit(apart, features="r3d")


def test_an_all_normal_split_has_one_class(ds: xr.Dataset) -> None:
    normal = ds["split"].where(ds["label"] == 0, -1).astype(np.int8)
    found = detector.fit(ds.assign(split=normal), features="r3d", detector="oneclass")
    assert np.isfinite(detector.score(ds, found).clip_score).all()


def test_a_detector_scores_a_store_it_has_never_seen(
    ds: xr.Dataset, made: Any, tmp_path: Path
) -> None:
    fitted = detector.fit(ds, features="r3d")
    fitted.save(tmp_path / "saved")
    loaded = detector.load(tmp_path / "saved")
    x, videos, _ = clips(labels=[0, 1, 0], crops=10, seed=5)
    other = dataset(x, videos, np.zeros(len(x)), {}).drop_vars(["label", "split", "state"])
    other["r3d"].attrs["versions"] = {"torch": "3"}  # another version makes the same features
    scores = detector.score(other, loaded)
    np.testing.assert_allclose(
        scores.clip_score, by_hand(made)[0].score_samples(x, videos), rtol=1e-4, atol=1e-4
    )


def test_features_made_otherwise_are_refused(ds: xr.Dataset) -> None:
    fitted = detector.fit(ds, features="r3d")
    other = ds.copy()
    other["r3d"] = ds["r3d"].assign_attrs(
        weights="sha256:1234", preprocessing={"resize": [128, 171], "crop": 100}
    )
    message = (
        r"r3d: .*made otherwise.*r3d weights: RANDOM\(seed=0\) -> sha256:1234; "
        r"r3d preprocessing\.crop: 112 -> 100.*Fit a detector to these"
    )
    with pytest.raises(ProvenanceMismatch, match=message):
        detector.score(other, fitted)
    narrow = ds.drop_vars("r3d").assign(r3d=ds["r3d"][..., :-1].rename(channel_24="channel_23"))
    with pytest.raises(ProvenanceMismatch, match="has 23 channels, and the detector .* to 24"):
        detector.score(narrow, fitted)
    with pytest.raises(UsageError, match="no features 'r3d'"):
        detector.score(ds.rename(r3d="s3d"), fitted)
    with pytest.raises(UsageError, match="plain array"):
        detector.score(ds, by_hand(clips())[0])


def test_fusion_of_arrays_of_a_store(ds: xr.Dataset, made: Any, tmp_path: Path) -> None:
    both = ds.assign(s3d=ds["r3d"][..., :16].rename(channel_24="channel_16"))
    found = detector.fit(both, features=["r3d", "s3d"], detector="fusion")
    assert isinstance(found, Fusion)
    assert [member.features for member in found.members] == ["r3d", "s3d"]
    scores = detector.score(both, found)
    each = [detector.score(both, member) for member in found.members]
    wanted = np.mean(
        [
            (s.clip_score - m.fitted.clip_unit[0]) / m.fitted.clip_unit[1]
            for s, m in zip(each, found.members, strict=True)
        ],
        axis=0,
    )
    np.testing.assert_allclose(scores.clip_score, wanted)
    found.save(tmp_path / "fused")
    again = detector.score(both, detector.load(tmp_path / "fused"))
    np.testing.assert_array_equal(again.clip_score, scores.clip_score)
    several = detector.fit(ds, features="r3d", detector=["density", "knn"])
    assert isinstance(several, Fusion)
    assert [member.name for member in several.members] == ["density", "knn"]


def test_blocks_cover_the_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(100, 2, 3)).astype(np.float32)
    array = xr.DataArray(values, dims=("clip", "crop", "c")).chunk({"clip": 10})
    wanted = np.array([3, 4, 25, 26, 30, 31, 99])
    monkeypatch.setattr("detector.dataset.BLOCK_BYTES", 20 * 24)
    reader = StoreReader(array, wanted)
    assert [(b.start, b.stop) for b in reader.blocks] == [(0, 2), (2, 6), (6, 7)]
    assert [reader.bytes_of(b) for b in reader.blocks] == [240, 480, 240]
    read = np.concatenate([reader.read(block) for block in reader.blocks])
    np.testing.assert_array_equal(read, over_crops(values[wanted]))
    assert StoreReader(array, wanted[:0]).blocks == []
    flat = StoreReader(array[:, 0], wanted)
    np.testing.assert_array_equal(flat.read(flat.blocks[0]), values[[3, 4], 0])
