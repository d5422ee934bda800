"""Run exported ONNX models with ONNX Runtime."""
