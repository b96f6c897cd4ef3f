"""Early stopping, TensorBoard, progress: what hangs on the engines, one file each."""
