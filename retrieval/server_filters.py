"""Our filters in the Qdrant server's form."""

from __future__ import annotations

from qdrant_client import models

from retrieval.filters import RANGES, And, Comparison, Filter, Not, Op, Or


def to_server(where: Filter) -> models.Filter:
    match where:
        case And(filters):
            return models.Filter(must=[to_server(part) for part in filters])
        case Or(filters):
            return models.Filter(should=[to_server(part) for part in filters])
        case Not(inner):
            return models.Filter(must_not=[to_server(inner)])
        case Comparison(key, op, values):
            if op in RANGES:
                bound = models.Range(**{op.value: values[0]})
                return models.Filter(must=[models.FieldCondition(key=key, range=bound)])
            conditions = [_equals(key, value) for value in values]
            if op in (Op.NE, Op.NIN):
                return models.Filter(must_not=conditions)
            return models.Filter(should=conditions)


def _equals(key: str, value: str | float | bool) -> models.FieldCondition:
    if isinstance(value, str | bool):
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))
    # The server matches integers by value and fractions only by range.
    return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
