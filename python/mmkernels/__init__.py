"""The kernels of multimedia AI, with the same bits every time, for any array library.

>>> import numpy as np, mmkernels as mmk
>>> mmk.add(np.ones(3, np.float32), 1.0)
array([2., 2., 2.], dtype=float32)
"""

from . import _core, contract, ops
from .anchors import anchor_boxes, grid_cells
from .errors import BackendError, ContractError, ContractTypeError
from .ops.activation import dropout, exp, gelu, leaky_relu, log, log_softmax, relu, sigmoid, silu, softmax, sqrt, tanh
from .ops.activation_channels import local_response_norm, prelu
from .ops.activation_rectifiers import (
    celu,
    elu,
    hardsigmoid,
    hardswish,
    hardtanh,
    mish,
    quick_gelu,
    relu6,
    selu,
    softplus,
)
from .ops.attention import additive_attention, attention, attention_packed, attention_weights
from .ops.boxes import box_area, box_convert, box_iou, clip_boxes, paired_box_iou
from .ops.boxes_coding import box_decode, box_encode, distance_decode, yolo_grid_decode
from .ops.conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from .ops.deform import deform_conv2d
from .ops.deform_attention import ms_deform_attention
from .ops.detect import batched_nms, box_iou_rotated, nms, nms_rotated, soft_nms
from .ops.diffusion import add_noise, diffusion_step
from .ops.embed import embedding, fourier_features, sinusoidal_features
from .ops.matmul import linear, matmul
from .ops.noise import philox_normal, philox_uniform
from .ops.norm import group_norm, instance_norm, layer_norm, rms_norm
from .ops.norm_batch import batch_norm
from .ops.pointwise import add, div, mean, mul, sub, sum, where  # noqa: A004
from .ops.pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
    stochastic_pool1d,
    stochastic_pool2d,
    stochastic_pool3d,
)
from .ops.resample import interpolate
from .ops.roi import ps_roi_align, ps_roi_pool, roi_align
from .ops.roi_chosen import roi_pool
from .ops.roi_levels import multi_scale_roi_align
from .ops.roi_rotated import roi_align_rotated
from .settings import get_num_threads, plan, set_num_threads

__version__: str = _core.version
__arithmetic__: str = "1"
