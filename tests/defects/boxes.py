"""Defects that can be planted into csrc/cuda/boxes*.cu: the call that shows each."""

DEFECTS = {
    "boxes_next_row": ("box_decode", "few", "float32"),
    "boxes_same_pair": ("box_iou", "pairs", "float32"),
    "boxes_ragged_pairs": ("box_iou", "row by row", "float32"),
    "boxes_last_row": ("box_encode", "ragged", "float32"),
    "boxes_area_stride": ("box_area", "few", "float32"),
    "boxes_one_gradient": ("box_iou_grad", "row by row", "float32"),
    "boxes_confidence": ("yolo_grid_decode", "two boxes", "float32"),
    "boxes_class_shift": ("yolo_grid_decode", "two boxes", "float32"),
    "boxes_row_of_sample": ("yolo_grid_decode", "two boxes", "float32"),
}
