"""Quantizes an ONNX model as onnxruntime does it: int8 weights per channel, inputs rounded at run time.

usage: quantize_onnx.py OUT.onnx IN.onnx
"""

import sys

from onnxruntime.quantization import QuantType, quantize_dynamic

out, model = sys.argv[1:]
quantize_dynamic(model, out, weight_type=QuantType.QInt8, per_channel=True)
