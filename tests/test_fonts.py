"""`zoo.show.use_fonts`: labels in Chinese, with and without a font that has the characters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import zoo

matplotlib = pytest.importorskip("matplotlib")
plt = pytest.importorskip("matplotlib.pyplot")

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """matplotlib's settings come back after the test."""
    plt.switch_backend("Agg")
    with matplotlib.rc_context(), warnings.catch_warnings():
        yield


def installed(monkeypatch: pytest.MonkeyPatch, *names: str, since: tuple[str, ...] = ()) -> None:
    """matplotlib's list has these names; `since` were installed after it was made."""
    fonts = [SimpleNamespace(name=name, fname=f"{name}.ttf") for name in names]
    manager = matplotlib.font_manager.fontManager

    def add(path: str) -> None:
        if path == "broken.ttf":
            raise RuntimeError("Can not load face")
        fonts.append(SimpleNamespace(name=path.removesuffix(".ttf"), fname=path))

    monkeypatch.setattr(manager, "ttflist", fonts)
    monkeypatch.setattr(manager, "addfont", add)
    found = [f"{name}.ttf" for name in (*names, *since)]
    monkeypatch.setattr(matplotlib.font_manager, "findSystemFonts", lambda: found)


def test_latin_letters_keep_their_font_and_chinese_ones_get_the_first_that_is_installed(
    monkeypatch: pytest.MonkeyPatch,
):
    installed(monkeypatch, "DejaVu Sans", "SimHei", "Arial", "Microsoft YaHei")
    assert zoo.show.use_fonts() == ["DejaVu Sans", "Microsoft YaHei"]
    assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "Microsoft YaHei"]


def test_a_font_that_was_installed_after_matplotlib_made_its_list_is_found(monkeypatch: pytest.MonkeyPatch):
    installed(monkeypatch, "DejaVu Sans", since=("broken", "WenQuanYi Zen Hei"))
    assert zoo.show.use_fonts() == ["DejaVu Sans", "WenQuanYi Zen Hei"]


def test_without_a_chinese_font_a_figure_is_drawn_and_nothing_warns(monkeypatch: pytest.MonkeyPatch):
    figure, axis = plt.subplots()
    axis.set_title("损失")
    with pytest.warns(UserWarning, match="missing from font"):
        figure.canvas.draw()  # as it is without the function
    installed(monkeypatch, "DejaVu Sans")
    assert zoo.show.use_fonts() == ["DejaVu Sans"]
    monkeypatch.undo()
    with warnings.catch_warnings(record=True) as said:
        figure.canvas.draw()
    plt.close(figure)
    assert said == []
