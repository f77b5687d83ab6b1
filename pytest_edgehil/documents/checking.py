"""A document held against a pydantic model: a frozen value, or every problem there is with it."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pytest_edgehil.documents.complaints import problems_of
from pytest_edgehil.documents.reading import Document

_Model = TypeVar("_Model", bound=BaseModel)


class Section(BaseModel):
    """Base of every mapping in a file that a person wrote.

    Unknown keys are refused, ``"22"`` is no number and ``22`` is no text. Nor is ``.nan``: every comparison with it
    is false, so it would pass each limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def checked(document: Document, model: type[_Model]) -> _Model:
    """Validate a document.

    Raises:
        UserError: of the document's kind, with every problem that the model has with it.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as wrong:
        errors = wrong.errors(include_url=False)
        raise document.refuse(problems_of(errors, document, model.model_json_schema())) from wrong
