"""Data: orders, loaders and images."""

from .images import fashion_mnist as fashion_mnist
from .images import mnist as mnist
from .loaders import DataLoaders as DataLoaders
from .loaders import random_split as random_split
from .order import BatchOrder as BatchOrder
from .order import OrderedLoader as OrderedLoader
from .samples import SampleError as SampleError
from .samples import SampleLoader as SampleLoader
from .tensors import ImageTensors as ImageTensors
from .tensors import TensorLoader as TensorLoader
