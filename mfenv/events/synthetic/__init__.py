"""The synthetic society: generated English events whose dynamics are known exactly."""
