"""Images to pixel_values and texts to input_ids, exactly as the reference does it."""
