"""A stand-in for the vendor's inference tool: the ONNX file in ONNX Runtime, AIPP in NumPy."""
