"""Predict with a finished model: `FastRnn` from its weights or its ONNX file, without torch.

`BatchPredictor` answers columns of data, for engines of many processes.
"""
