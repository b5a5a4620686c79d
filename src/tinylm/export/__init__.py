"""Models for phones and laptops: GGUF, ONNX and the model card."""

from tinylm import make_callable

make_callable(__name__)
