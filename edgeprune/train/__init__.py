"""Training: loop, losses, distillation, recalibration."""
