"""Reading a checkpoint folder: configuration, tokenizer, image processor, and weights in any dialect."""
