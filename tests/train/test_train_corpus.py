import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leapverify.errors import NotWritten
from leapverify.train import corpus as corpus_module
from leapverify.train.corpus import Corpus, TokenSet, cut_passages, default_cache, prepare, split_documents
from leapverify.train.documents import Document, load_documents
from leapverify.train.tokenizers import ByteTokenizer, load_tokenizer

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
FRACTIONS = (0.9, 0.05, 0.05)
SETS = ("train", "heldout", "val")


class Counting(ByteTokenizer):
    """Bytes, with a count of how often the tokenizer was asked."""

    def __init__(self, vocab_size: int = 256) -> None:
        self.vocab_size = vocab_size
        self.identity = f"counting-{vocab_size}"
        self.calls = 0

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray[tuple[int], np.dtype[np.uint32]]]:
        self.calls += 1
        return [row + (self.vocab_size - 256) for row in super().encode_batch(texts)]


@pytest.fixture
def source(tmp_path: Path) -> str:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(60):
        paragraphs = (f"file {number} paragraph {part} " + "word " * (part + number % 7) for part in range(6))
        (folder / f"{number:02d}.txt").write_text("\n\n".join(paragraphs) + "\n")
    return f"text:{folder}"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def texts_of(tokens: TokenSet) -> list[str]:
    starts = tokens.documents
    return [bytes(tokens.tokens[a : b - 1].tolist()).decode() for a, b in pairwise(starts)]


def same(a: Corpus, b: Corpus) -> bool:
    return a.identity == b.identity and all(
        np.array_equal(getattr(getattr(a, split), field), getattr(getattr(b, split), field))
        for split in SETS
        for field in ("tokens", "documents", "passages")
    )


# Splits


def test_the_splits_hold_every_document_once(source: str, cache: Path) -> None:
    corpus = prepare(source, ByteTokenizer(), cache)
    found = [text for split in SETS for text in texts_of(getattr(corpus, split))]
    assert sorted(found) == sorted(document.text for document in load_documents(source))
    assert [len(texts_of(getattr(corpus, split))) for split in SETS] == [54, 3, 3]


def test_no_two_splits_share_a_text_even_under_two_names(tmp_path: Path, cache: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.txt").write_text(f"the text number {number % 50}\n")
    corpus = prepare(f"text:{tmp_path}", ByteTokenizer(), cache)
    found = [text for split in SETS for text in texts_of(getattr(corpus, split))]
    assert len(found) == len(set(found)) == 50


@given(st.sets(st.text(max_size=5), min_size=3, max_size=60), st.randoms())
def test_a_split_depends_on_the_names_and_not_on_their_order(names: set[str], random: object) -> None:
    documents = [Document(name, "text") for name in sorted(names)]
    wanted = split_documents(documents, FRACTIONS)
    random.shuffle(documents)  # type: ignore[attr-defined]
    assert split_documents(documents, FRACTIONS) == wanted


@given(st.integers(3, 300), st.sampled_from([FRACTIONS, (0.1, 0.45, 0.45), (0.5, 0.49, 0.01)]))
def test_every_split_has_its_share_and_at_least_one(count: int, fractions: tuple[float, float, float]) -> None:
    found = split_documents([Document(str(number), "") for number in range(count)], fractions)
    assert sum(len(documents) for documents in found.values()) == count
    assert min(len(documents) for documents in found.values()) >= 1
    for split, share in zip(SETS, fractions, strict=True):
        assert abs(len(found[split]) - share * count) <= 2


def test_fewer_than_three_documents_are_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": "one"}\n')
    with pytest.raises(ValueError, match=r"too little text in text:.*: 2 different documents found, 3 needed"):
        prepare(f"text:{tmp_path / 'rows.jsonl'}", ByteTokenizer(), cache)


@pytest.mark.parametrize("fractions", [(0.9, 0.1), (0.9, 0.1, 0.0), (0.9, 0.1, 0.1), (1.1, -0.05, -0.05)])
def test_wrong_fractions_are_refused(source: str, cache: Path, fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="are no three positive shares that add up to 1"):
        prepare(source, ByteTokenizer(), cache, fractions)


# Tokens


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(256, np.uint16), (1 << 16, np.uint16), ((1 << 16) + 1, np.uint32), (1 << 20, np.uint32)]
)
def test_the_bins_are_as_narrow_as_the_vocabulary_allows(
    source: str, cache: Path, vocab_size: int, dtype: type[np.unsignedinteger]
) -> None:
    tokens = prepare(source, Counting(vocab_size), cache).train.tokens
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == dtype
    assert not tokens.flags.writeable
    assert vocab_size - 256 < int(tokens.max()) < vocab_size


def test_documents_end_with_the_end_of_text_token(source: str, cache: Path) -> None:
    train = prepare(source, ByteTokenizer(), cache).train
    assert train.documents[0] == 0
    assert train.documents[-1] == len(train)
    assert np.flatnonzero(np.asarray(train.tokens) == 0).tolist() == (train.documents[1:] - 1).tolist()


def test_passages_cover_all_but_the_ends(source: str, cache: Path) -> None:
    train = prepare(source, ByteTokenizer(), cache).train
    covered = np.zeros(len(train), dtype=int)
    for start, end in train.passages:
        covered[start:end] += 1
    covered[train.documents[1:] - 1] += 1
    assert np.array_equal(covered, np.ones(len(train)))


@given(st.text(alphabet="ab \n\r\t", max_size=300))
def test_passages_joined_are_the_text(text: str) -> None:
    passages = cut_passages(text)
    assert "".join(passages) == text
    assert all(passages)
    assert all(len(passage) >= 32 and passage.endswith("\n") for passage in passages[:-1])


def test_passages_end_at_blank_lines() -> None:
    first, second, third = "x" * 40 + "\n\n", "  y" * 20 + "\ny\n \t\n\n", "    z" * 20 + "\n"
    assert cut_passages(first + second + third) == [first, second, third]
    assert cut_passages("short\n\n" + first) == ["short\n\n" + first]


# Sequences


def test_packed_sequences_are_the_tokens_end_to_end(source: str, cache: Path) -> None:
    train = prepare(source, ByteTokenizer(), cache).train
    windows = train.windows(64)
    joined = windows.batch(range(len(windows))).tokens.flatten().numpy()
    assert len(windows) == len(train) // 64
    assert np.array_equal(joined, train.tokens[: len(joined)])
    assert windows.batch([0, 1]).counted is None


def test_padded_sequences_are_a_passage_each(source: str, cache: Path) -> None:
    train = prepare(source, ByteTokenizer(), cache).train
    wanted = [passage for text in texts_of(train) for passage in cut_passages(text)]
    windows = train.windows(48, "padded", pad_id=7)
    assert len(windows) == len(wanted)
    for index, passage in enumerate(wanted):
        row = list(passage.encode()[:48])
        assert windows.sequence(index).tolist() == row + [7] * (48 - len(row))


def test_passages_that_predict_nothing_are_left_out() -> None:
    tokens = TokenSet("s", "train", np.arange(9), np.array([0, 9]), np.array([[0, 1], [1, 3], [3, 8]]), pad_id=0)
    assert tokens.windows(4, "padded").starts.tolist() == [1, 3]


def test_too_little_text_names_source_found_and_needed(source: str, cache: Path) -> None:
    heldout = prepare(source, ByteTokenizer(), cache).heldout
    with pytest.raises(ValueError, match="too little text") as caught:
        heldout.windows(256, at_least=32)
    assert str(caught.value) == (
        f"too little text in {source} for its heldout set: {len(heldout)} tokens found ({len(heldout) // 256} "
        "sequences of 256), 8192 needed; give more text or shorter sequences"
    )
    with pytest.raises(ValueError, match=f"for its heldout set: {len(heldout)} tokens found"):
        heldout.windows(10**6)


def test_unknown_forms_and_lengths_are_refused(source: str, cache: Path) -> None:
    train = prepare(source, ByteTokenizer(), cache).train
    with pytest.raises(ValueError, match="form 'loose' is unknown: give packed or padded"):
        train.windows(8, "loose")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sequence length 1 is too short: at least 2 tokens are needed"):
        train.windows(1)


# Cache


def test_a_second_call_tokenises_nothing(source: str, cache: Path) -> None:
    tokenizer = Counting()
    first = prepare(source, tokenizer, cache)
    calls = tokenizer.calls
    assert calls > 0
    assert same(prepare(source, tokenizer, cache), first)
    assert tokenizer.calls == calls


def test_other_content_tokenizer_or_fractions_do_not_meet_in_the_cache(source: str, cache: Path) -> None:
    found = {prepare(source, ByteTokenizer(), cache).identity, prepare(source, Counting(), cache).identity}
    found.add(prepare(source, ByteTokenizer(), cache, (0.8, 0.1, 0.1)).identity)
    (Path(source.removeprefix("text:")) / "00.txt").write_text("something else\n")
    found.add(prepare(source, ByteTokenizer(), cache).identity)
    assert len(found) == 4


@pytest.mark.parametrize("part", [f"{split}.{kind}" for split in SETS for kind in ("bin", "documents", "passages")])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_bins_are_built_again(
    source: str, cache: Path, caplog: pytest.LogCaptureFixture, part: str, damage: str
) -> None:
    tokenizer = Counting()
    first = prepare(source, tokenizer, cache)
    wanted = {field: np.array(getattr(first.train, field)) for field in ("tokens", "documents", "passages")}
    calls, path = tokenizer.calls, next(cache.iterdir()) / part
    content = path.read_bytes()
    path.unlink()
    if damage != "remove":
        path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with caplog.at_level(logging.WARNING):
        again = prepare(source, tokenizer, cache)
    assert tokenizer.calls > calls
    assert "tokenising text:" in caplog.text
    assert path.read_bytes() == content
    assert all(np.array_equal(getattr(again.train, field), value) for field, value in wanted.items())


@pytest.mark.parametrize("manifest", ["", "{}", "[]", '{"dtype": "nonsense", "sha256": {}}', '{"dtype": "uint16"}'])
def test_an_unreadable_manifest_is_written_again(source: str, cache: Path, manifest: str) -> None:
    first = prepare(source, ByteTokenizer(), cache)
    path = next(cache.iterdir()) / "manifest.json"
    path.write_text(manifest)
    assert same(prepare(source, ByteTokenizer(), cache), first)
    assert "uint16" in path.read_text()


def test_a_build_that_stopped_half_way_is_taken_up(source: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = prepare(source, ByteTokenizer(), cache / "whole")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, ByteTokenizer(), cache / "half")
    assert same(prepare(source, ByteTokenizer(), cache / "half"), wanted)


def test_a_full_disk_gives_one_sentence(source: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NotWritten, match=r"train\.bin cannot be written: the disk is full: free some space") as caught:
        prepare(source, ByteTokenizer(), cache)
    assert "\n" not in str(caught.value)


def test_the_default_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LEAPVERIFY_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache() == tmp_path / ".cache" / "leapverify"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "leapverify"
    monkeypatch.setenv("LEAPVERIFY_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own"


def test_the_default_cache_is_used(source: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAPVERIFY_CACHE", str(cache))
    identity = prepare(source, ByteTokenizer()).identity
    assert [path.name for path in cache.iterdir()] == [identity[:32]]


# Real text


def test_the_standard_library_gives_enough_of_everything(cache: Path) -> None:
    corpus = prepare("stdlib", ByteTokenizer(), cache)
    assert len(corpus.train) > 4_000_000
    assert len(corpus.heldout.windows(128, at_least=512)) >= 512
    assert len(corpus.val.windows(128, at_least=512)) >= 512
    texts = [set(texts_of(getattr(corpus, split))) for split in SETS]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]


@pytest.mark.skipif(not (SHARED / "gpt2").is_dir(), reason="GPT-2's tokenizer and the wikitext files are not at hand")
def test_wikitext_files_with_the_tokens_of_gpt2(cache: Path) -> None:
    tokenizer = load_tokenizer(str(SHARED / "gpt2"))
    corpus = prepare(f"text:{SHARED / 'wikitext'}", tokenizer, cache)
    assert corpus.train.tokens.dtype == np.uint16
    assert 400_000 < sum(len(getattr(corpus, split)) for split in SETS) < 700_000
    assert len(corpus.heldout.windows(256, at_least=32)) >= 32
    assert len(corpus.train.windows(256, "padded", at_least=32)) > 100


@pytest.mark.skipif(not (SHARED / "kernel-docs.txt.xz").is_file(), reason="kernel-docs.txt.xz is not at hand")
def test_an_xz_file_as_bytes(cache: Path) -> None:
    corpus = prepare(f"text:{SHARED / 'kernel-docs.txt.xz'}", ByteTokenizer(), cache)
    assert len(corpus.train) > 10_000_000
    assert len(corpus.heldout.windows(256, at_least=32)) >= 32
