from tinylm.models.token_ids import cut_config, ids_in
from tinylm.tokenizer.rewrite import _cut_post_processor, cut_settings

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


def test_post_processors_of_all_kinds():
    template = {
        "type": "TemplateProcessing",
        "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}},
    }
    bert = {"type": "BertProcessing", "sep": ["</s>", 9], "cls": ["<s>", 5]}
    both = {"type": "Sequence", "processors": [template, bert, {"type": "ByteLevel"}]}
    _cut_post_processor(both, MAPPING)
    assert template["special_tokens"]["<s>"]["ids"] == [1]
    assert (bert["sep"], bert["cls"]) == (["</s>", 2], ["<s>", 1])


def test_settings_get_new_ids_and_the_class_that_reads_tokenizer_json():
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "added_tokens_decoder": {"5": {"content": "<s>"}, "6": {}},
    }
    assert cut_settings(settings, MAPPING) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {"1": {"content": "<s>"}},
    }
