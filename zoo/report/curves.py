"""Line charts as SVG that needs no JavaScript, in the colours of the page's style sheet."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from zoo.report.words import number

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 230, 48, 10, 8, 40  # of a chart and its margins, in CSS pixels

MOST_DOTS = 60  # of a curve

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Curve:
    """A line; a value of None is a gap. `hue` is a colour of report.css."""

    name: str
    hue: str
    points: Sequence[Point]
    dots: bool = True  # a mark at each point, which shows its value
    dash: tuple[int, ...] = ()


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most so many round numbers between two, or the two alone."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * k for k in (1, 2, 5, 10, 20) if span / (power * k) <= most - 1)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [float(f"{(first + i) * step:.12g}") for i in range(max(count, 0))] or [low]


def element(tag: str, content: str = "", **attributes: object) -> Markup:
    """An element of SVG, its values escaped; `_` in the name of an attribute stands for a hyphen."""
    given = "".join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), value)
        for name, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(tag, Markup(given), content)


@dataclass(frozen=True)
class Axes:
    """The axes of a chart, from 0 to `right` and from `low` to `high`."""

    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        """Where a value is across."""
        return round(LEFT + (WIDTH - LEFT - RIGHT) * value / self.right, 1)

    def y(self, value: float) -> float:
        """Where a value is down."""
        share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share, 1)

    def chart(self, description: str, x_name: str, marks: Sequence[Markup]) -> Markup:
        """The marks over a grid, with labels; `description` is its text for screen readers."""
        end = {"text_anchor": "end"}
        levels, bottom, right = ticks(self.low, self.high), HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = [
            *(element("line", class_="grid", x1=LEFT, x2=right, y1=self.y(v), y2=self.y(v))
              for v in levels),
            *(element("text", f"{v:g}", x=LEFT - 8, y=self.y(v) + 4, **end) for v in levels),
            *(element("text", f"{v:g}", x=self.x(v), y=bottom + 18, text_anchor="middle")
              for v in ticks(0, self.right)),
            element("text", x_name, x=WIDTH - RIGHT, y=HEIGHT - 4, **end),
        ]  # fmt: skip
        box = f"0 0 {WIDTH} {HEIGHT}"
        inside = Markup("").join([*parts, *marks])
        return element("svg", inside, class_="curves", viewBox=box, role="img", aria_label=description)


def line_chart(description: str, x_name: str, curves: Sequence[Curve]) -> Markup:
    """The curves over an x axis that starts at 0."""
    drawn = [(x, y) for curve in curves for x, y in curve.points if y is not None]
    low, high = min((y for _, y in drawn), default=0.0), max((y for _, y in drawn), default=1.0)
    margin = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    bottom = max(0.0, low - margin) if low >= 0 else low - margin
    axes = Axes(max((x for x, _ in drawn), default=1.0), bottom, high + margin)
    return axes.chart(description, x_name, [mark for curve in curves for mark in _line(curve, axes)])


def _line(curve: Curve, axes: Axes) -> Iterator[Markup]:
    """The line of a curve, broken at its gaps, and its dots."""
    path, pen = "", "M"
    for x, y in curve.points:
        path += "" if y is None else f"{pen}{axes.x(x):g} {axes.y(y):g}"
        pen = "M" if y is None else "L"
    dash = " ".join(map(str, curve.dash)) or "none"
    width = 1.75 if curve.dots else 1
    yield element("path", d=path, stroke=f"var(--{curve.hue})", stroke_dasharray=dash, stroke_width=width)
    for x, y in curve.points if curve.dots and len(curve.points) <= MOST_DOTS else ():
        if y is not None:
            title = element("title", f"{curve.name}, {x:g}: {number(y)}")
            yield element("circle", title, cx=axes.x(x), cy=axes.y(y), r=2.5, fill=f"var(--{curve.hue})")


def reliability_chart(description: str, bins: Sequence[tuple[float, float | None, float | None]]) -> Markup:
    """A reliability diagram: the share, mean confidence and accuracy of the examples in each bin."""
    axes, width, bars = Axes(1.0, 0.0, 1.0), (WIDTH - LEFT - RIGHT) / len(bins) - 2, []
    for i, (share, confidence, accuracy) in enumerate(bins):
        if confidence is not None and accuracy is not None:
            title = f"{100 * share:.1f} % of examples: confidence {confidence:.3f}, accuracy {accuracy:.3f}"
            x, y = axes.x(i / len(bins)) + 1, axes.y(accuracy)
            size = {"width": f"{width:.1f}", "height": f"{axes.y(0) - y:.1f}"}
            bars.append(element("rect", element("title", title), x=f"{x:.1f}", y=y, **size))
    line = f"M{axes.x(0)} {axes.y(0)}L{axes.x(1)} {axes.y(1)}"
    return axes.chart(description, "confidence", [*bars, element("path", d=line, class_="diagonal")])
