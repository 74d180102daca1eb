"""Files of images -> batches of one size per step: decoding, folders, schedules, transforms, synthetic sets."""
