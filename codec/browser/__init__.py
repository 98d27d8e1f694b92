"""A decoder of .fdc files in a browser: the page's modules, the networks as ONNX, and what serves or embeds them."""
