"""Typed reading of one JSON object whose fields have several names, with errors that name field and value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from estimator.errors import EstimatorError

COUNT_MAX = 2**32
"""No field of a model is larger; a number beyond it is a broken file, and would cost memory or time to work with."""


@dataclass(frozen=True, slots=True)
class ConfigFields:
    """One level of a model configuration. The first name of each call is the one that errors speak of."""

    model: str
    values: Mapping[str, object]

    def has(self, name: str) -> bool:
        """Whether the field says anything: null, false, 0 and empty do not."""
        return bool(self.values.get(name))

    def count(self, *names: str) -> int:
        """A whole number of at least 1 and at most `COUNT_MAX`.

        Raises:
            EstimatorError: where it is missing or anything else.
        """
        found = self.count_if_any(*names)
        if found is None:
            others = f" (nor {', '.join(names[1:])})" if names[1:] else ""
            raise EstimatorError(f"The configuration of {self.model} has no field {names[0]!r}{others}.")
        return found

    def count_if_any(self, *names: str) -> int | None:
        """The same, None where all names are missing or null.

        Raises:
            EstimatorError: where it is there but no such number.
        """
        for name in names:
            value = self.values.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= COUNT_MAX:
                raise EstimatorError(
                    f"Field {name!r} of {self.model} is {_short(value)}, not a whole number from 1 to {COUNT_MAX:,}."
                )
            return value
        return None

    def any_count(self, *names: str) -> int:
        """The first of these that is there and not 0; 0 where there is none.

        Raises:
            EstimatorError: where it is no such number.
        """
        return next((self.count(name) for name in names if self.has(name)), 0)

    def whole(self, name: str, default: int = 0) -> int:
        """A whole number from 0 to `COUNT_MAX`; the default where it is missing or null.

        Raises:
            EstimatorError: where it is there but no such number.
        """
        value = self.values.get(name)
        if value is None:
            return default
        return 0 if value == 0 and not isinstance(value, bool) else self.count(name)

    def text(self, *names: str) -> str:
        """A string; empty where all names are missing."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str) and value:
                return value
        return ""

    def items(self, name: str) -> Sequence[object]:
        """A list; empty where it is missing.

        Raises:
            EstimatorError: where it is something else.
        """
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise EstimatorError(f"Field {name!r} of {self.model} is {_short(value)}, not a list.")
        return value

    def inner(self, *names: str) -> ConfigFields | None:
        """A nested object, if there is one of these names."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, Mapping):
                return ConfigFields(self.model, value)
        return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
