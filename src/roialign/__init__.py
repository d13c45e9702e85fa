"""RoIAlign for PyTorch that knows where its boxes live."""

from roialign import errors as errors
from roialign.backbones import BackboneTrace as BackboneTrace
from roialign.backbones import CalibratedTrace as CalibratedTrace
from roialign.backbones import calibrate as calibrate
from roialign.backbones import trace as trace
from roialign.doctor import Diagnosis as Diagnosis
from roialign.doctor import Finding as Finding
from roialign.doctor import Fix as Fix
from roialign.doctor import Report as Report
from roialign.doctor import diagnose as diagnose
from roialign.doctor import save_call as save_call
from roialign.doctor import watch as watch
from roialign.errors import RoIError as RoIError
from roialign.errors import RoIWarning as RoIWarning
from roialign.geometry import Boxes as Boxes
from roialign.geometry import FeatureGrid as FeatureGrid
from roialign.geometry import Frame as Frame
from roialign.ops import RoIAlign as RoIAlign
from roialign.ops import roi_align as roi_align
from roialign.ops.notice import get_policy as get_policy
from roialign.ops.notice import set_policy as set_policy
from roialign.regions import FPNLevels as FPNLevels
from roialign.regions import MultiScaleRoIAlign as MultiScaleRoIAlign
from roialign.regions import RegionExtractor as RegionExtractor
from roialign.regions import pool_regions as pool_regions
from roialign.version import __version__ as __version__
