from tinylm.models.token_ids import cut_config, ids_in

MAPPING = {0: 0, 5: 1, 9: 2, 12: 3}
CONFIG = {
    "vocab_size": 20,
    "eos_token_id": [5, 9],
    "pad_token_id": -1,
    "bos_token_id": 7,
    "image_token_index": 12,
    "hidden_size": 20,
    "text_config": {"vocab_size": 20, "eos_token_id": 9, "layers": [1, 2]},
    "vision_config": {"vocab_size": 99},
    "suppress_tokens": [5, 6, 7, 12],
    "forced_decoder_ids": [[1, 9], [2, None]],
    "bad_words_ids": [[5], [5, 6]],
    "sequence_bias": [[[9, 12], -1.0], [[8], 2.0]],
}


def test_ids_at_any_depth_go_through_the_map():
    cut = cut_config(CONFIG, MAPPING, 20)
    assert (cut["eos_token_id"], cut["pad_token_id"], cut["bos_token_id"]) == ([1, 2], -1, None)
    assert cut["image_token_index"] == 3 and cut["hidden_size"] == 20
    assert cut["text_config"] == {"vocab_size": 4, "eos_token_id": 2, "layers": [1, 2]}
    assert cut["vision_config"] == {"vocab_size": 99} and cut["vocab_size"] == 4
    assert cut["suppress_tokens"] == [1, 3]
    assert cut["forced_decoder_ids"] == [[1, 2], [2, None]]
    assert cut["bad_words_ids"] == [[1]] and cut["sequence_bias"] == [[[2, 3], -1.0]]


def test_ids_that_must_stay_are_found_and_suppressed_ones_are_not():
    assert set(ids_in(CONFIG)) == {5, 9, -1, 7, 12}
