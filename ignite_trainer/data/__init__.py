"""Data: orders, loaders and datasets of images."""

from .csv_images import CSVImages as CSVImages
from .glyphs import glyphs as glyphs
from .images import fashion_mnist as fashion_mnist
from .images import image_folder as image_folder
from .images import mnist as mnist
from .loaders import DataLoaders as DataLoaders
from .loaders import random_split as random_split
from .order import BatchOrder as BatchOrder
from .order import OrderedLoader as OrderedLoader
from .samples import SampleError as SampleError
from .samples import SampleLoader as SampleLoader
from .tensors import ImageTensors as ImageTensors
from .tensors import TensorLoader as TensorLoader
