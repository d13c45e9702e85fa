"""What may come of a question: "yes", an RA code, "no", "wrong", or "-" where it does not arise."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

YES, NO, WRONG, NOT_APPLICABLE = "yes", "no", "wrong", "-"


class NotApplicableError(Exception):
    """The question does not arise."""


class WrongError(Exception):
    """It runs, and what comes out is wrong."""


def agree(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
        raise WrongError(f"{found} is not {expected}")


def outcome(question: Callable[[Any], None], subject: Any) -> str:
    """The answer, in a word."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            question(subject)
    except NotApplicableError:
        return NOT_APPLICABLE
    except (WrongError, GradcheckError):
        return WRONG
    except Exception as error:
        code = re.search(r"\bRA\d{3}\b", str(error))
        return code[0] if code else NO
    return YES
