"""One suite for every detector: what each promises on plain arrays."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import detector
from detector import Detector, Fusion
from detector.errors import FitError
from detector.methods import METHODS, OneClassMethod
from featurestore.errors import UsageError
from tests.detector.making import LABELS, clips

TWO_CLASS = [name for name, its in METHODS.items() if not its.normal_only]
ONE_CLASS = [name for name, its in METHODS.items() if its.normal_only]


@pytest.fixture(scope="module")
def train() -> tuple[np.ndarray, ...]:
    return clips()


@pytest.fixture(scope="module")
def test() -> tuple[np.ndarray, ...]:
    return clips(seed=1, labels=[0, 1, 0, 1, 1])


@pytest.fixture(scope="module")
def fitted(train: tuple[np.ndarray, ...]) -> dict[str, Detector]:
    return {name: Detector(name).fit(*train) for name in METHODS}


every = pytest.mark.parametrize("name", METHODS)


@every
def test_scores_tell_abnormal_clips(name: str, fitted: Any, test: Any) -> None:
    x, videos, labels = test
    scores = fitted[name].score_samples(x, videos)
    assert scores.shape == videos.shape
    assert np.isfinite(scores).all()
    assert scores[labels == 1].mean() > scores[labels == 0].mean()


@every
def test_a_video_is_scored_by_itself(name: str, fitted: Any, test: Any) -> None:
    """Whatever other videos are scored with it, in whatever order: the same score."""
    x, videos, _ = test
    scores = fitted[name].score_samples(x, videos)
    for video in np.unique(videos):
        its = videos == video
        alone = fitted[name].score_samples(x[its], videos[its])
        np.testing.assert_allclose(alone, scores[its], rtol=1e-5, atol=1e-5)
    # Clips of a video stay in order; those of different videos may be interleaved.
    within = np.concatenate(
        [np.arange(count) for count in np.unique(videos, return_counts=True)[1]]
    )
    turned = np.argsort(within, kind="stable")
    np.testing.assert_allclose(
        fitted[name].score_samples(x[turned], videos[turned]), scores[turned], rtol=1e-5, atol=1e-5
    )


@every
def test_crops_are_no_samples(name: str, train: Any, test: Any, fitted: Any) -> None:
    """Each crop twice, or their mean alone: the same detector."""
    x, videos, labels = (part.astype(np.float64) if part.ndim == 3 else part for part in train)
    other = test[0].astype(np.float64), test[1]
    whole = Detector(name).fit(x, videos, labels).score_samples(*other)
    doubled = Detector(name).fit(np.concatenate([x, x], axis=1), videos, labels)
    np.testing.assert_allclose(
        doubled.score_samples(np.concatenate([other[0]] * 2, axis=1), other[1]), whole, atol=1e-6
    )
    averaged = Detector(name).fit(x.mean(axis=1), videos, labels)
    np.testing.assert_allclose(
        averaged.score_samples(other[0].mean(axis=1), other[1]), whole, atol=1e-6
    )
    # And float32, as stores have it, makes no difference that matters.
    np.testing.assert_allclose(fitted[name].score_samples(*test[:2]), whole, rtol=0.01, atol=0.02)


@every
def test_the_order_of_videos_does_not_matter(name: str, train: Any, test: Any) -> None:
    x, videos, labels = train
    x = x.astype(np.float64)
    turned = np.argsort(-np.unique(videos, return_inverse=True)[1], kind="stable")
    one = Detector(name).fit(x, videos, labels).score_samples(*test[:2])
    other = Detector(name).fit(x[turned], videos[turned], labels[turned])
    np.testing.assert_allclose(other.score_samples(*test[:2]), one, rtol=1e-7, atol=1e-7)


@every
def test_saved_and_loaded(name: str, fitted: Any, test: Any, tmp_path: Path) -> None:
    fitted[name].save(tmp_path / "saved")
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["arrays.npz", "detector.json"]
    loaded = detector.load(tmp_path / "saved")
    np.testing.assert_array_equal(
        loaded.score_samples(*test[:2]), fitted[name].score_samples(*test[:2])
    )
    assert repr(loaded) == repr(fitted[name])
    assert loaded.fitted.settings == fitted[name].fitted.settings
    assert loaded.fitted.passes == fitted[name].fitted.passes


@every
def test_held_out_scores_of_the_training_clips(name: str, fitted: Any, train: Any) -> None:
    """They are kept, of every training clip, and lower than in-sample ones for abnormal clips."""
    its = fitted[name].fitted
    assert its.training.held_out
    labels = its.training.videos.clip_labels
    assert len(its.training.judged.score) == len(labels) == len(its.training.raw)
    normal = its.training.judged.score[labels == 0]
    assert its.clip_unit == (pytest.approx(normal.mean()), pytest.approx(normal.std()))
    if name in TWO_CLASS:
        assert len(labels) == len(train[1])
        assert normal.mean() < its.training.judged.score[labels == 1].mean()


@pytest.mark.parametrize("name", TWO_CLASS)
def test_probabilities(name: str, fitted: Any, test: Any) -> None:
    x, videos, labels = test
    scores = fitted[name].score(x, videos)
    truth = np.array([labels[videos == video][0] for video in scores.videos])
    for found in (scores.clip_probability, scores.video_probability):
        assert found is not None
        assert ((found >= 0) & (found <= 1)).all()
    assert scores.video_probability[truth == 1].mean() > 0.5
    assert scores.video_probability[truth == 0].mean() < 0.5
    assert not fitted[name].notes


@pytest.mark.parametrize("name", ONE_CLASS)
def test_one_class_sees_normal_videos_only(name: str, train: Any, test: Any) -> None:
    x, videos, labels = train
    garbage = x.copy()
    garbage[labels == 1] = np.random.default_rng(0).normal(size=garbage[labels == 1].shape) * 1e6
    one = Detector(name).fit(x, videos, labels)
    other = Detector(name).fit(garbage, videos, labels)
    np.testing.assert_array_equal(one.score_samples(*test[:2]), other.score_samples(*test[:2]))
    assert one.score(*test[:2]).clip_probability is None
    normal = Detector(name).fit(x[labels == 0], videos[labels == 0], labels[labels == 0])
    np.testing.assert_array_equal(one.score_samples(*test[:2]), normal.score_samples(*test[:2]))


@every
def test_clips_with_nan_are_left_out(name: str, train: Any, test: Any) -> None:
    """The rest is fitted and scored as if they were not there."""
    x, videos, labels = train
    gone = np.zeros(len(x), bool)
    gone[[3, 40, 41, 77]] = True
    gone[videos == "v02"] = True
    damaged = x.copy()
    damaged[gone, 1, 5] = np.nan
    damaged[3, 0, 0] = np.inf
    found = Detector(name).fit(damaged, videos, labels)
    without = Detector(name).fit(x[~gone], videos[~gone], labels[~gone])
    np.testing.assert_allclose(
        found.score_samples(*test[:2]), without.score_samples(*test[:2]), rtol=1e-4, atol=1e-4
    )
    seen = gone if name in TWO_CLASS else gone & (labels == 0)
    assert found.fitted.left_out == seen.sum()
    assert found.notes == ("training videos without any clip with features: v02",)
    scores = found.score(damaged, videos)
    np.testing.assert_array_equal(np.isnan(scores.clip_score), gone)
    np.testing.assert_array_equal(scores.left_out["not finite"], np.flatnonzero(gone))
    assert "v02" in scores.left_out_videos
    assert np.isnan(scores.video_score[scores.videos.index("v02")])
    np.testing.assert_allclose(
        scores.clip_score[~gone],
        found.score_samples(x[~gone], videos[~gone]),
        rtol=1e-5,
        atol=1e-5,
    )


@every
def test_videos_of_one_clip(name: str, train: Any, test: Any) -> None:
    x, videos, labels = train
    firsts = np.unique(videos, return_index=True)[1]
    single = Detector(name).fit(x[firsts], videos[firsts], labels[firsts])
    assert np.isfinite(single.score_samples(*test[:2])).all()
    assert np.isfinite(single.score_samples(test[0][:1], test[1][:1])).all()


@pytest.mark.parametrize("name", TWO_CLASS)
@pytest.mark.parametrize("one", [0, 1])
def test_one_training_video_of_a_class(name: str, one: int, train: Any, test: Any) -> None:
    x, videos, labels = train
    only = videos[labels == one][0]
    keep = (labels != one) | (videos == only)
    found = Detector(name).fit(x[keep], videos[keep], labels[keep])
    scores = found.score(*test[:2])
    assert np.isfinite(scores.clip_score).all()
    assert scores.clip_probability is None
    assert scores.video_probability is None
    assert any("too few training videos" in note for note in found.notes)
    assert not found.fitted.training.held_out


@pytest.mark.parametrize("name", TWO_CLASS)
@pytest.mark.parametrize(("left", "missing"), [(0, "abnormal"), (1, "normal")])
def test_a_class_without_videos(name: str, left: int, missing: str, train: Any) -> None:
    x, videos, labels = train
    keep = labels == left
    with pytest.raises(FitError, match=f"there is no {missing} one.*oneclass"):
        Detector(name).fit(x[keep], videos[keep], labels[keep])


@pytest.mark.parametrize("name", ONE_CLASS)
def test_one_class_without_normal_videos(name: str, train: Any) -> None:
    x, videos, labels = (part[train[2] == 1] for part in train)
    with pytest.raises(FitError, match="normal training videos, and there is none"):
        Detector(name).fit(x, videos, labels)


@every
def test_constant_features(name: str, train: Any) -> None:
    x, videos, labels = train
    with pytest.raises(FitError, match="are the same"):
        Detector(name).fit(np.full_like(x, 0.7), videos, labels)
    with pytest.raises(FitError, match="No normal training video has a clip"):
        Detector(name).fit(np.full_like(x, np.nan), videos, labels)


@every
def test_some_constant_channels(name: str, train: Any, test: Any, fitted: Any) -> None:
    """Channels that do not vary say nothing, in training or later."""
    x, videos, labels = train
    padded = np.concatenate([x, np.full((*x.shape[:2], 3), 0.7, np.float32)], axis=2)
    found = Detector(name).fit(padded, videos, labels)
    other = np.concatenate([test[0], np.full((*test[0].shape[:2], 3), 0.7, np.float32)], axis=2)
    np.testing.assert_allclose(
        found.score_samples(other, test[1]), fitted[name].score_samples(*test[:2]),
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip


@every
def test_fewer_clips_than_channels(name: str) -> None:
    x, videos, labels = clips(labels=[0, 1, 0, 1], channels=150)
    assert len(x) < 150
    other = clips(labels=[0, 1], channels=150, seed=1)
    assert np.isfinite(Detector(name).fit(x, videos, labels).score_samples(*other[:2])).all()


def test_videos_that_are_the_same() -> None:
    x, videos, _ = clips(labels=[0])
    twice = np.concatenate([x, x])
    names = np.concatenate([videos, np.char.add(videos, "b")])
    with pytest.raises(FitError, match="Are the labels right"):
        Detector().fit(twice, names, np.repeat([0, 1], len(x)))


def test_labels_by_name_or_by_clip(train: Any, test: Any, fitted: Any) -> None:
    x, videos, _ = train
    named = {f"v{row:02d}": label for row, label in enumerate(LABELS)}
    found = Detector().fit(x, videos, named)
    np.testing.assert_array_equal(
        found.score_samples(*test[:2]), fitted["density"].score_samples(*test[:2])
    )


def test_wrong_arguments(train: Any, fitted: Any) -> None:
    x, videos, labels = train
    with pytest.raises(UsageError, match="these are: density, ratio"):
        Detector("svm")
    with pytest.raises(UsageError, match="ratio has no option 'k'; it has: smooth, aggregate"):
        Detector("ratio", k=3)
    with pytest.raises(UsageError, match="no aggregate"):
        Detector("ratio", aggregate="min").fit(x, videos, labels)
    with pytest.raises(UsageError, match="0 or more"):
        Detector("ratio", smooth=-1).fit(x, videos, labels)
    with pytest.raises(UsageError, match="no density"):
        OneClassMethod("svm")
    with pytest.raises(UsageError, match="not fitted"):
        Detector().score_samples(x, videos)
    with pytest.raises(UsageError, match="as many videos"):
        Detector().fit(x, videos[:-1], labels)
    with pytest.raises(UsageError, match="as many labels"):
        Detector().fit(x, videos, labels[:-1])
    with pytest.raises(UsageError, match="got float32 of shape"):
        Detector().fit(x[:, 0, 0], videos, labels)
    with pytest.raises(UsageError, match="24 channels, and these clips have 23"):
        fitted["density"].score_samples(x[..., :-1], videos)
    mixed = labels.copy()
    mixed[0] = 1
    with pytest.raises(UsageError, match="'v00' have different labels"):
        Detector().fit(x, videos, mixed)
    with pytest.raises(FitError, match="'v00' has the label -1.*leave them out"):
        Detector().fit(x, videos, np.where(videos == "v00", -1, labels))
    with pytest.raises(FitError, match="no label for video 'v00' \\(12"):
        Detector().fit(x, videos, {"other": 1})


def test_options_change_the_scores(train: Any, test: Any, fitted: Any) -> None:
    for name, options in {
        "density": {"smooth": 0.0, "video_components": 5, "place_components": 3},
        "ratio": {"aggregate": "none", "lambdas": (0.5,), "exponent": 0.0, "components": 4},
        "gaussian": {"components": 2, "aggregate": "mean"},
        "gmm": {"mixed": 1},
        "knn": {"nearest": 1, "aggregate": "highest"},
    }.items():
        before = fitted[name].score_samples(*test[:2])
        for option, value in options.items():
            changed = Detector(name, **{option: value}).fit(*train)
            assert changed.fitted.settings[option] == (
                list(value) if isinstance(value, tuple) else value
            )
            assert np.abs(changed.score_samples(*test[:2]) - before).max() > 1e-3, option


def test_seeds(train: Any, test: Any) -> None:
    one, same = (Detector("gmm", seed=3).fit(*train).score_samples(*test[:2]) for _ in range(2))
    np.testing.assert_array_equal(one, same)


def test_density_is_the_sum_of_its_terms(fitted: Any, test: Any) -> None:
    """score = log P(video) + 0.7 log P(place), by the curves that were fitted."""
    found, scores = fitted["density"], fitted["density"].score(*test[:2])
    context = found.fitted.context
    of_clip = np.searchsorted(scores.videos, test[1])
    log_video = np.log(scores.video_probability)[of_clip]
    np.testing.assert_allclose(scores.clip_score, log_video + scores.clip_place, atol=1e-9)
    np.testing.assert_allclose(
        scores.video_probability, context.video_curve.probability(scores.video_score)
    )
    np.testing.assert_allclose(
        scores.clip_probability,
        scores.video_probability[of_clip] * np.exp(scores.clip_place / 0.7),
    )


def test_fusion(train: Any, test: Any, tmp_path: Path) -> None:
    x, videos, labels = train
    members = [Detector("density"), Detector("gaussian"), Detector("oneclass")]
    found = Fusion(members).fit([x, x[..., :20], x], videos, labels)
    other = [test[0], test[0][..., :20], test[0]]
    scores = found.score(other, test[1])
    by_hand = [
        (member.score_samples(values, test[1]) - member.fitted.clip_unit[0])
        / member.fitted.clip_unit[1]
        for member, values in zip(members, other, strict=True)
    ]
    np.testing.assert_allclose(scores.clip_score, np.mean(by_hand, axis=0))
    both = [m.score(v, test[1]).clip_probability for m, v in zip(members, other, strict=True)][:2]
    np.testing.assert_allclose(scores.clip_probability, np.mean(both, axis=0))
    found.save(tmp_path / "fused")
    loaded = detector.load(tmp_path / "fused")
    assert isinstance(loaded, Fusion)
    np.testing.assert_array_equal(loaded.score_samples(other, test[1]), scores.clip_score)
    damaged = [test[0].copy(), other[1], other[2]]
    damaged[0][2] = np.nan
    again = found.score(damaged, test[1])
    assert np.flatnonzero(np.isnan(again.clip_score)).tolist() == [2]
    assert again.left_out["not finite"].tolist() == [2]
    with pytest.raises(UsageError, match="one for each of the 3"):
        found.score(other[:2], test[1])
    with pytest.raises(UsageError, match="needs detectors"):
        Fusion([])


def test_fusion_of_one_array(train: Any, test: Any) -> None:
    found = Fusion([Detector("gaussian"), Detector("knn")]).fit(*train)
    scores = found.score_samples(*test[:2])
    labels = test[2]
    assert scores[labels == 1].mean() > scores[labels == 0].mean()
    # Of normal training clips, held out, each member has mean 0 and deviation 1.
    for member in found.members:
        its = member.fitted
        normal = its.training.judged.score[its.training.videos.clip_labels == 0]
        assert ((normal - its.clip_unit[0]) / its.clip_unit[1]).std() == pytest.approx(1)


@given(st.integers(1, 200))
@settings(max_examples=12)
def test_how_many_are_read_at_a_time_does_not_matter(size: int) -> None:
    """Bit for bit: arithmetic is in batches, whatever the blocks."""
    x, videos, labels = clips(labels=[0, 1, 0, 1], channels=6)
    whole = Detector().fit(x, videos, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "detector.passes.ArrayReader.blocks",
            property(
                lambda self: [
                    slice(i, min(i + size, self.count)) for i in range(0, self.count, size)
                ]
            ),
        )
        cut = Detector().fit(x, videos, labels)
    for field in dataclasses.fields(whole.fitted.projection):
        np.testing.assert_array_equal(
            getattr(whole.fitted.projection, field.name), getattr(cut.fitted.projection, field.name)
        )
    np.testing.assert_array_equal(whole.fitted.model.offsets, cut.fitted.model.offsets)


def test_the_basis_of_many_clips_is_that_of_some(
    train: Any, test: Any, fitted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second clip of each video gives the components; all are fitted, and checked for NaN."""
    x, videos, labels = train
    monkeypatch.setattr("detector.fitted.BASIS_CLIPS", len(x) // 2)
    damaged = x.copy()
    damaged[1, 0, 0] = np.nan  # not among those of the basis
    found = Detector("density").fit(damaged, videos, labels)
    assert found.fitted.left_out == 1
    assert found.fitted.training.videos.clips == len(x) - 1
    within = np.concatenate([np.arange(n) for n in np.unique(videos, return_counts=True)[1]])
    its = x.mean(axis=1)[(within % 3 == 0) if len(x) % 2 else (within % 2 == 0)]
    np.testing.assert_allclose(found.fitted.projection.mean, its.mean(axis=0), rtol=1e-5)
    scores = found.score_samples(*test[:2])
    whole = fitted["density"].score_samples(*test[:2])
    assert np.corrcoef(scores, whole)[0, 1] > 0.95
