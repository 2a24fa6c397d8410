"""Images to pixel_values, texts to input_ids: exactly as the reference does it."""
