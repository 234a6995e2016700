"""The part of PromQL that the alert rules use, evaluated on planted series of one sample per minute.

`increase` does not extrapolate, and vectors match by all labels, as without `on`. Where promtool is installed, a test
compares.
"""

import operator
import re
from collections.abc import Callable, Mapping

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Value = float | Vector

_TOKEN = re.compile(r'\d+(?:\.\d+)?[smh]?|"[^"]*"|\w+|[<>=!~]+|[()\[\]{},*/-]')
_UNITS = {"s": 1 / 60, "m": 1, "h": 60}
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
_ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def minutes(duration: str) -> float:
    return float(duration[:-1]) * _UNITS[duration[-1]]


def samples(notation: str) -> list[float]:
    """The samples of a series in the notation of promtool: `7x30 8x30`, `0+5x60`."""
    found: list[float] = []
    for part in notation.split():
        begin, step, count = re.fullmatch(r"([\d.]+)(?:\+([\d.]+))?x(\d+)", part).groups()  # type: ignore[union-attr]
        found += [float(begin) + float(step or 0) * number for number in range(int(count) + 1)]
    return found


def evaluate(expression: str, series: Mapping[str, str], *, minute: int) -> Vector:
    """The vector that an expression has at a minute."""
    found = _Evaluation(_TOKEN.findall(expression), series, minute).alternatives()
    assert isinstance(found, dict)
    return found


class _Evaluation:
    def __init__(self, tokens: list[str], series: Mapping[str, str], minute: int) -> None:
        self._tokens = tokens
        self._minute = minute
        self._series = [
            (name.partition("{")[0], frozenset(re.findall(r'(\w+)="([^"]*)"', name)), samples(notation))
            for name, notation in series.items()
        ]

    def alternatives(self) -> Value:
        found = self._comparison()
        while self._peek() == "or":
            self._take("or")
            other = self._comparison()
            assert isinstance(found, dict)
            assert isinstance(other, dict)
            found = other | found
        return found

    def _comparison(self) -> Value:
        left = self._sum()
        if self._peek() not in _COMPARISONS:
            return left
        compare = _COMPARISONS[self._take()]
        right = self._sum()
        assert isinstance(left, dict)
        limits = right if isinstance(right, dict) else dict.fromkeys(left, right)
        return {key: value for key, value in left.items() if key in limits and compare(value, limits[key])}

    def _sum(self) -> Value:
        found = self._product()
        while self._peek() == "-":
            found = _combined(_ARITHMETIC[self._take()], found, self._product())
        return found

    def _product(self) -> Value:
        found = self._operand()
        while self._peek() in {"*", "/"}:
            found = _combined(_ARITHMETIC[self._take()], found, self._operand())
        return found

    def _operand(self) -> Value:
        token = self._take()
        if token[0].isdigit():
            return float(token)
        if token == "time":
            self._take("(")
            self._take(")")
            return self._minute * 60.0
        if token in {"max", "sum"}:
            return self._aggregation(max if token == "max" else sum)
        if token in {"absent", "increase"}:
            self._take("(")
            found = self._selected(self._take())
            if token == "absent":
                self._take(")")
                return {} if any(values[: self._minute + 1] for _, values in found) else {frozenset(): 1.0}
            self._take("[")
            begin = max(0, self._minute - int(minutes(self._take())))
            self._take("]")
            self._take(")")
            return {labels: values[self._minute] - values[begin] for labels, values in found}
        return {labels: values[self._minute] for labels, values in self._selected(token)}

    def _aggregation(self, function: Callable[[list[float]], float]) -> Vector:
        by: set[str] = set()
        if self._peek() == "by":
            self._take("by")
            self._take("(")
            while (token := self._take()) != ")":
                by.add(token)
        self._take("(")
        found = self.alternatives()
        self._take(")")
        assert isinstance(found, dict)
        groups: dict[Labels, list[float]] = {}
        for labels, value in found.items():
            groups.setdefault(frozenset(one for one in labels if one[0] in by), []).append(value)
        return {labels: function(values) for labels, values in groups.items()}

    def _selected(self, name: str) -> list[tuple[Labels, list[float]]]:
        matchers: list[tuple[str, str, str]] = []
        if self._peek() == "{":
            self._take("{")
            while self._peek() != "}":
                matchers.append((self._take(), self._take(), self._take().strip('"')))
                if self._peek() == ",":
                    self._take(",")
            self._take("}")
        assert all(how in {"=", "!="} for _, how, _ in matchers)
        return [
            (labels, values)
            for one, labels, values in self._series
            if one == name and all((dict(labels).get(label) == text) is (how == "=") for label, how, text in matchers)
        ]

    def _peek(self) -> str:
        return self._tokens[0] if self._tokens else ""

    def _take(self, expected: str | None = None) -> str:
        token = self._tokens.pop(0)
        assert expected in {None, token}, f"expected {expected}, got {token}"
        return token


def _combined(function: Callable[[float, float], float], left: Value, right: Value) -> Value:
    match left, right:
        case float(), float():
            return function(left, right)
        case float(), dict():
            return {labels: function(left, value) for labels, value in right.items()}
        case dict(), float():
            return {labels: function(value, right) for labels, value in left.items()}
        case dict(), dict():
            return {labels: function(value, right[labels]) for labels, value in left.items() if labels in right}
    raise AssertionError
