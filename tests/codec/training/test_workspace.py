"""What a run made last stays until what comes after it stands."""

from pathlib import Path

import pytest

from codec.bundle import Bundle
from codec.training import __main__ as training
from codec.training.workspace import put_in_place, recovered


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "a").write_text(content)
    return path


def test_a_folder_is_replaced_and_killed_anywhere_one_of_the_two_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = folder(tmp_path / "bundle", "old")
    put_in_place(folder(tmp_path / "new", "new"), target)
    assert (target / "a").read_text() == "new"
    rename, calls = Path.rename, list[Path]()
    for fatal in (1, 2):
        with monkeypatch.context() as patch:

            def killed(self: Path, other: Path, fatal: int = fatal) -> Path:
                calls.append(self)
                if len(calls) == fatal:
                    raise KeyboardInterrupt
                return rename(self, other)

            calls.clear()
            patch.setattr(Path, "rename", killed)
            with pytest.raises(KeyboardInterrupt):
                put_in_place(folder(tmp_path / f"new{fatal}", "newer"), target)
        assert (recovered(target) / "a").read_text() == "new"
    put_in_place(tmp_path / "new2", target)
    assert (target / "a").read_text() == "newer"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "new1"]


def test_the_last_good_bundle_stays_when_the_next_cannot_be_measured(
    tars: Path, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(
        f'{{"start": "{bundle.path}", "evaluation_images": 1, "evaluation_qualities": [8.0],'
        ' "stages": {"entropy": {"steps": 1, "batch_size": 1, "crop_size": 32}}}'
    )
    command = [str(settings), "--data", str(tars), "--output", str(tmp_path / "out")]
    assert training.main(command) == 0
    good = Bundle.open(tmp_path / "out" / "bundle").id

    def broken(*_: object, **_named: object) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr("codec.training.run.evaluate_bundle", broken)
    with pytest.raises(RuntimeError):
        training.main(command)
    assert Bundle.open(tmp_path / "out" / "bundle").id == good
