from pathlib import Path

import pytest
from tokenizers import Tokenizer as BareTokenizer
from tokenizers import models, pre_tokenizers

from leapverify.train.tokenizers import HuggingFaceTokenizer, Tokenizer, load_tokenizer

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def words(folder: Path, vocabulary: dict[str, int], **special: str) -> Path:
    bare = BareTokenizer(models.WordLevel(vocabulary, unk_token="?"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="?", **special).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return words(tmp_path / "words", {"?": 0, "<end>": 1, "a": 2, "b": 3}, eos_token="<end>")


def test_bytes_are_utf8() -> None:
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.encode("aé\n") == [97, 195, 169, 10]
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (256, 0, 0)


def test_a_local_folder_is_read(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.encode("a b c a") == [2, 3, 0, 2]
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (4, 1, 1)


def test_both_kinds_satisfy_the_protocol_and_their_batches_agree(folder: Path) -> None:
    for name in ("bytes", str(folder)):
        tokenizer = load_tokenizer(name)
        assert isinstance(tokenizer, Tokenizer)
        texts = ["a b", "", "b a b", "é"]
        assert [row.tolist() for row in tokenizer.encode_batch(texts)] == [tokenizer.encode(text) for text in texts]


def test_the_slow_path_gives_the_same_ids(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    slow = HuggingFaceTokenizer(tokenizer._tokenizer, "slow")
    slow._fast = None
    assert slow.encode("b a c") == tokenizer.encode("b a c")


def test_identity_follows_the_vocabulary(tmp_path: Path, folder: Path) -> None:
    other = words(tmp_path / "other", {"?": 0, "<end>": 1, "b": 2, "a": 3}, eos_token="<end>")
    first, second, again = (load_tokenizer(str(path)).identity for path in (folder, other, folder))
    assert first == again
    assert len({first, second, "bytes"}) == 3


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    folder = words(tmp_path / "endless", {"?": 0, "a": 1})
    with pytest.raises(ValueError, match="has no end-of-text token: add one to its configuration, or use bytes"):
        load_tokenizer(str(folder))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"tokenizer folder {tmp_path}/none does not exist: give bytes"):
        load_tokenizer(f"{tmp_path}/none")


def test_a_broken_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_name_that_cannot_be_fetched_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def offline(name: str, **options: object) -> None:
        raise OSError("We couldn't connect\nto the server")

    monkeypatch.setattr("leapverify.train.hub.reachable", lambda address: False)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(ValueError, match=r"tokenizer 'some/name' cannot be loaded \(We couldn't connect\): give bytes"):
        load_tokenizer("some/name")


@pytest.mark.skipif(not (SHARED / "gpt2").is_dir(), reason="GPT-2's tokenizer folder is not at hand")
def test_gpt2_from_its_folder() -> None:
    tokenizer = load_tokenizer(str(SHARED / "gpt2"))
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (50257, 50256, 50256)
    assert tokenizer.encode("Hello, world!") == [15496, 11, 995, 0]
    assert tokenizer.encode("") == []
