"""ONNX models of deployed ones, with codes as INT2 or INT4 and their activations rounded to such."""
