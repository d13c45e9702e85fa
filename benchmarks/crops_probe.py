"""A linear classifier on frozen features."""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # C, the inverse of the penalty
FOLDS = 3


def predictions(features: Tensor, kinds: Tensor, groups: Tensor, asked: Tensor) -> Tensor:
    """The kinds [L] of `asked` [L, C], by logistic regression on `features` [K, C].

    Standardised; the strength is chosen by cross-validation on `features`, whole groups in a fold.
    """
    classifier = LogisticRegression(class_weight="balanced", max_iter=1000)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), classifier),
        {"logisticregression__C": STRENGTHS},
        scoring="balanced_accuracy",
        cv=StratifiedGroupKFold(FOLDS),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(features.numpy(), kinds.numpy(), groups=groups.numpy())
    return torch.from_numpy(search.predict(asked.numpy()))
