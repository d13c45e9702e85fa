"""The family of errors: what each can be caught as, its code, and that it survives a process boundary."""

import pickle
import warnings

import pytest

import roialign
from roialign import errors

FAMILY = [
    (errors.BoxesShapeError, AssertionError),
    (errors.BoxesValueError, ValueError),
    (errors.FrameError, ValueError),
    (errors.BatchIndexError, IndexError),
    (errors.FeatureMapError, ValueError),
    (errors.MaskError, ValueError),
    (errors.TraceError, ValueError),
    (errors.ScaleError, ValueError),
    (errors.LevelError, ValueError),
    (errors.OutputSizeError, ValueError),
    (errors.OptionError, ValueError),
    (errors.DtypeError, RuntimeError),
    (errors.ExportError, ValueError),
    (errors.DerivativeError, RuntimeError),
    (errors.CollectionError, ValueError),
    (errors.AnnotationError, ValueError),
    (errors.StoreError, ValueError),
    (errors.SampleError, ValueError),
    (errors.WorkerError, RuntimeError),
    (errors.CoverageError, ValueError),
]


def test_the_table_is_the_whole_family():
    assert {error for error, _ in FAMILY} == set(errors.RoIError.__subclasses__())


@pytest.mark.parametrize(("error", "also"), FAMILY)
def test_each_can_be_caught_as(error, also):
    for base in (also, roialign.RoIError, ValueError):
        with pytest.raises(base, match="RA999: words"):
            raise error("RA999: words")


@pytest.mark.parametrize("error", [errors.RoIError, *(row[0] for row in FAMILY)])
def test_the_code_is_what_the_message_starts_with(error):
    assert error("RA105: expected spatial_scale: more").code == "RA105"
    assert error().code == ""


@pytest.mark.parametrize("error", [errors.RoIError, *(row[0] for row in FAMILY)])
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error("RA206: words")))
    assert type(copy) is error
    assert (copy.code, str(copy)) == ("RA206", "RA206: words")


def test_the_warning_is_a_user_warning_and_no_error():
    assert issubclass(roialign.RoIWarning, UserWarning)
    assert not issubclass(roialign.RoIWarning, roialign.RoIError)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("RA101: words", roialign.RoIWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["RA101: words"]
