"""The operators as ONNX has them, for torch.onnx.export."""

from roialign.ops.onnx.operators import EXPORTED as EXPORTED
from roialign.ops.onnx.operators import is_exporting as is_exporting
from roialign.ops.onnx.operators import refuse as refuse
