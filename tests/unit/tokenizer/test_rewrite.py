from tinylm.tokenizer.rewrite import _cut_post_processor, cut_settings

MAPPING = {0: 0, 5: 1, 9: 2, 12: 3}


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
