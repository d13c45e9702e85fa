"""RoIAlign for PyTorch that knows where its boxes live."""

from roialign import errors as errors
from roialign.errors import RoIError as RoIError
from roialign.errors import RoIWarning as RoIWarning
from roialign.ops import RoIAlign as RoIAlign
from roialign.ops import roi_align as roi_align
from roialign.ops.notice import set_policy as set_policy

from roialign.version import __version__ as __version__
