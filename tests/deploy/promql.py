"""Follows the labels through a PromQL expression: which metrics it reads, and which labels each step has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import promql_parser as promql

TARGET = frozenset({"job", "instance"})
"""Labels that every scrape adds."""
ALL = frozenset({"*"})
"""Any label: of metrics that are not ours."""
RANKING = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})


@dataclass(slots=True)
class Schema:
    """What is known of metrics."""

    labels: Mapping[str, frozenset[str]]
    """By the whole name of the metric: its labels, those of the target included."""
    foreign: tuple[str, ...]
    """Starts of the names of metrics that others export."""
    wrong: list[str] = field(default_factory=list)
    """What was found to be wrong."""
    read: set[str] = field(default_factory=set)
    """Metrics that were read."""
    matched: list[tuple[str, str, str]] = field(default_factory=list)
    """Metric, label and value of each comparison with a value."""

    def follow(self, text: str) -> frozenset[str]:
        """Labels of what an expression results in; notes on the way what is wrong."""
        return self._follow(promql.parse(text))

    def _follow(self, expr: promql.Expr) -> frozenset[str]:
        match expr:
            case promql.VectorSelector():
                return self._select(expr)
            case promql.MatrixSelector():
                return self._select(expr.vector_selector)
            case promql.AggregateExpr():
                return self._aggregate(expr)
            case promql.BinaryExpr():
                return self._combine(expr)
            case promql.Call():
                return self._call(expr)
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                return self._follow(expr.expr)
            case _:
                return frozenset()

    def _select(self, expr: promql.VectorSelector) -> frozenset[str]:
        name = expr.name
        assert name is not None, "every selector names its metric"
        if name.startswith(self.foreign):
            return ALL
        self.read.add(name)
        labels = self.labels.get(name)
        if labels is None:
            self.wrong.append(f"there is no metric {name}")
            return ALL
        for matcher in expr.matchers.matchers:
            self._has({matcher.name}, labels, f"{name}{{}}")
            regex = matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe)
            for value in matcher.value.strip("()").split("|") if regex else [matcher.value]:
                self.matched.append((name, matcher.name, value))
        return labels

    def _aggregate(self, expr: promql.AggregateExpr) -> frozenset[str]:
        labels = self._follow(expr.expr)
        if expr.modifier is None:
            return labels if str(expr.op) in RANKING else frozenset()
        named = frozenset(expr.modifier.labels)
        self._has(named, labels, str(expr.op))
        if str(expr.op) in RANKING:
            return labels
        return named if expr.modifier.type == promql.AggModifierType.By else labels - named

    def _combine(self, expr: promql.BinaryExpr) -> frozenset[str]:
        left, right = self._follow(expr.lhs), self._follow(expr.rhs)
        modifier = expr.modifier
        if modifier is not None and modifier.matching is not None:
            named = set(modifier.matching.labels)
            if modifier.matching.type == promql.LabelModifierType.Include:
                for side in (left, right):
                    self._has(named, side, str(expr.op))
            else:
                self._has(named, left | right, str(expr.op))
        added = frozenset((modifier and modifier.group_labels) or ())
        if modifier is not None and modifier.card == promql.VectorMatchCardinality.OneToMany:
            self._has(added, left, "group_right")
            return right | added
        self._has(added, right, "group_left")
        return (left or right) | added

    def _call(self, expr: promql.Call) -> frozenset[str]:
        found = [self._follow(argument) for argument in expr.args]
        labels = max(found, key=len, default=frozenset())
        if expr.func.name == "histogram_quantile":
            self._has({"le"}, labels, "histogram_quantile")
            return labels - {"le"}
        if expr.func.name in ("absent", "scalar", "vector", "time"):
            return frozenset()
        return labels

    def _has(self, named: set[str] | frozenset[str], labels: frozenset[str], where: str) -> None:
        missing = named - labels
        if missing and "*" not in labels:
            self.wrong.append(f"{where}: no label {', '.join(sorted(missing))} among {', '.join(sorted(labels))}")
