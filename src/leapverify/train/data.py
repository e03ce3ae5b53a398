"""The data room's names in one place: sources, tokenizers, splits, sequences."""

from leapverify.train.corpus import Corpus, TokenSet, cut_passages, default_cache, prepare, split_documents
from leapverify.train.sources import Document, load_documents
from leapverify.train.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer
from leapverify.train.windows import Batch, Windows, batch_indices, make_batch

__all__ = [
    "Batch",
    "ByteTokenizer",
    "Corpus",
    "Document",
    "TokenSet",
    "Tokenizer",
    "Windows",
    "batch_indices",
    "cut_passages",
    "default_cache",
    "load_documents",
    "load_tokenizer",
    "make_batch",
    "prepare",
    "split_documents",
]
