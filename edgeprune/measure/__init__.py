"""Measuring: mIoU, boundary IoU, bootstrap intervals, interleaved timing."""
