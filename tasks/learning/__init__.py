"""An archive as training data: datasets for PyTorch, WebDataset and Hugging Face `datasets`.

from tasks.learning import ArchivePictures
pictures = ArchivePictures("s3://bucket/archive", columns=("lpips",), where="width >= 256")
pixels, labels = pictures[0]  # uint8 (3, H, W), {"lpips": 0.21}
"""

from tasks.learning.hugging_face import hugging_face
from tasks.learning.pictures import ArchivePictures
from tasks.learning.stream import ArchiveStream, Order
from tasks.learning.webdataset import FdcDecoder

__all__ = ["ArchivePictures", "ArchiveStream", "FdcDecoder", "Order", "hugging_face"]
