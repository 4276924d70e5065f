"""Annotations of other tools (COCO, LabelMe, CVAT) -> a folder of images and masks."""
