"""transformers' own common tests on every family and inter encoding; `make test-upstream` downloads and runs them.

No `test_` in the name of this file, so plain pytest passes it over: without the download it cannot be imported.
"""

import unittest
from dataclasses import fields
from typing import NamedTuple

import torch
from families import FAMILIES, HEADS, Family
from transformers import PreTrainedConfig, set_seed
from transformers.models.auto import modeling_auto
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, global_rng, ids_tensor
from transformers_tests.utils.test_configuration_utils import config_common_kwargs


INTER_ENCODINGS = ("rope", "alibi")


class Skip(NamedTuple):
    inter_encodings: tuple[str, ...]
    reason: str


NOTHING_ROTARY = Skip(("alibi",), "expects rope_parameters to change the output, and ALiBi rotates nothing")
# Every test of transformers that we do not run. A name that transformers does not have is an error.
SKIPS = {
    "test_generation_tester_mixin_inheritance": Skip(
        INTER_ENCODINGS,
        "asks for transformers' generation tests, which its source distribution lacks; ours are test_generation.py",
    ),
    "test_model_rope_scaling_from_config_0_linear": NOTHING_ROTARY,
    "test_model_rope_scaling_from_config_1_dynamic": NOTHING_ROTARY,
    "test_model_rope_scaling_from_config_2_yarn": NOTHING_ROTARY,
}

# transformers' tests look up here what a class is for; `register` of the Auto classes does not write to these.
MAPPINGS = {
    "Model": modeling_auto.MODEL_MAPPING_NAMES,
    "ForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "ForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "ForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "ForQuestionAnswering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
}
for family in FAMILIES.values():
    for head in HEADS:
        MAPPINGS[head][family.config.model_type] = family.head(head).__name__


class TinyModel:
    """What `ModelTesterMixin` asks of its `model_tester`: a small configuration and inputs for it."""

    batch_size = 3
    seq_length = 12
    vocab_size = 96
    hidden_size = 64
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, family: Family, inter_encoding: str):
        self.family = family
        self.config_fields = {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": 96,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "inter_encoding": inter_encoding,
            # Four tokens in five: the test of dynamic scaling reads 1.5 times max_position_embeddings tokens and
            # expects more than max_position_embeddings positions, which here are segments. Others take 15 tokens away
            # from the vocabulary, which must not be separators.
            "separator_token_ids": list(range(1, self.vocab_size - 16)),
            "max_segment_length": 6,
        }
        self.gives_segment_ids = False

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        config = self.family.make_config(**self.config_fields)
        input_ids = ids_tensor([self.batch_size, self.seq_length], self.vocab_size)
        lengths = torch.tensor([self.seq_length, self.seq_length - 3, self.seq_length - 5])
        is_token = (torch.arange(self.seq_length) < lengths[:, None]).to(input_ids.device)
        inputs = {"input_ids": input_ids, "attention_mask": is_token.long()}
        if self.gives_segment_ids:
            separators = torch.tensor(config.separator_token_ids, device=input_ids.device)
            ends_segment = torch.isin(input_ids, separators).long()
            segment_ids = ends_segment.cumsum(dim=1) - ends_segment
            inputs["segment_ids"] = segment_ids.where(is_token, -1)
        return config, inputs


class CommonTests(ModelTesterMixin):
    """All of transformers' tests, on one family with one inter encoding."""

    family: Family
    inter_encoding: str
    test_can_init_all_missing_weights_before_2023 = True  # run it, whatever the year in our files

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.all_model_classes = tuple(cls.family.head(head) for head in HEADS)
        for name, skip in SKIPS.items():
            if name not in dir(cls):
                raise AttributeError(f"SKIPS names {name}, which transformers does not have: delete the entry")
            if cls.inter_encoding in skip.inter_encodings:
                # the prefix lets scripts/test_upstream.py tell our skips from those of transformers
                setattr(cls, name, unittest.skip(f"bipe_hf: {skip.reason}")(getattr(cls, name)))

    def setUp(self):
        global_rng.seed(0)  # transformers draws inputs from it unseeded
        set_seed(0)
        self.model_tester = TinyModel(self.family, self.inter_encoding)

    # Separators cannot be read from embeddings: the model rightly refuses them without segment_ids.

    def test_inputs_embeds(self):
        self.model_tester.gives_segment_ids = True
        super().test_inputs_embeds()

    def test_inputs_embeds_matches_input_ids(self):
        self.model_tester.gives_segment_ids = True
        super().test_inputs_embeds_matches_input_ids()

    # These build models of four and of ten tokens: the model rightly refuses separators beyond its vocabulary.

    def test_resize_tokens_embeddings(self):
        self.model_tester.config_fields["separator_token_ids"] = [1, 2, 3]
        super().test_resize_tokens_embeddings()

    def test_load_with_mismatched_shapes(self):
        self.model_tester.config_fields["separator_token_ids"] = [1, 2, 3]
        super().test_load_with_mismatched_shapes()

    # These are not part of `ModelTesterMixin`.

    def test_config(self):
        tester = ConfigTester(self, config_class=self.family.config, **self.model_tester.config_fields)
        tester.run_common_tests()

    def test_config_tester_knows_every_field_of_the_base_configuration(self):
        missing = {field.name for field in fields(PreTrainedConfig)} - set(config_common_kwargs)
        assert not missing, f"add values for {missing} to MADE_FILES in scripts/test_upstream.py"


for family in FAMILIES.values():
    for inter_encoding in INTER_ENCODINGS:
        name = f"Test{family.prefix}_{inter_encoding}"
        attributes = {"family": family, "inter_encoding": inter_encoding}
        globals()[name] = type(name, (CommonTests, unittest.TestCase), attributes)
