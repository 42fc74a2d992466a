"""Fitted detectors on disk: whole or not there, no pickle, damage is told."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import detector
from detector import Detector, saving
from detector.errors import UnknownDetector
from featurestore.errors import UsageError
from tests.detector.making import clips


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    Detector("ratio").fit(*clips()).save(tmp_path / "saved")
    return tmp_path / "saved"


def test_nothing_in_it_is_code(saved: Path) -> None:
    with np.load(saved / "arrays.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "fiu" for name in arrays)
    text = (saved / "detector.json").read_text()
    evil = text.replace('"class": "Linear"', '"class": "Path"')
    assert evil != text
    (saved / "detector.json").write_text(evil)
    with pytest.raises(UnknownDetector, match="is damaged.*Fit it again"):
        detector.load(saved)


def test_it_is_not_written_over(saved: Path) -> None:
    other = Detector("gaussian").fit(*clips())
    with pytest.raises(UsageError, match="is there already.*or replace it"):
        other.save(saved)
    assert detector.load(saved).name == "ratio"
    other.save(saved, replace=True)
    assert detector.load(saved).name == "gaussian"
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    (saved.parent / "mine").mkdir()
    with pytest.raises(UsageError, match="Give another name$"):
        other.save(saved.parent / "mine", replace=True)


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        Detector("ratio").fit(*clips()).save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_what_is_no_detector(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownDetector, match="no detector is saved there"):
        detector.load(tmp_path)
    plain = json.loads((saved / "detector.json").read_text())
    (saved / "detector.json").write_text(json.dumps({**plain, "format": 99}))
    with pytest.raises(UnknownDetector, match="another version.*99; this one knows 1"):
        detector.load(saved)
    (saved / "detector.json").write_text(json.dumps({**plain, "content": {"map": {}}}))
    with pytest.raises(UnknownDetector, match="is damaged"):
        detector.load(saved)
    (saved / "detector.json").write_text("{")
    with pytest.raises(UnknownDetector, match="is damaged"):
        detector.load(saved)
    (saved / "detector.json").write_text(json.dumps(plain))
    (saved / "arrays.npz").write_bytes((saved / "arrays.npz").read_bytes()[:-100])
    with pytest.raises(UnknownDetector, match="is damaged"):
        detector.load(saved)


def test_only_known_classes_are_saved() -> None:
    with pytest.raises(TypeError, match="not among"):
        saving._to_plain(saving.dataclasses.make_dataclass("Other", ["a"])(1), {})


def test_the_package_starts_without_its_maths() -> None:
    """Help and tables need no scipy; fitting needs neither torch nor jobs."""
    code = (
        "import sys, detector; assert 'scipy' not in sys.modules and 'numpy' not in sys.modules\n"
        "detector.fit, detector.METHODS, detector.load\n"
        "heavy = {'torch', 'jobs', 'distributed', 'xarray', 'sklearn', 'matplotlib'}\n"
        "assert not heavy & {name.split('.')[0] for name in sys.modules}\n"
        "try: detector.nothing\n"
        "except AttributeError: print('ok')"
    )
    root = Path(detector.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.stdout == "ok\n", done.stderr
