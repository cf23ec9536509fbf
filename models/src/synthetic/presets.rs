//! Configurations of real models, as their model cards publish them.

use crate::config::ModelConfig;
use crate::error::Result;

/// A row of [`PRESETS`].
#[derive(Debug)]
pub struct Preset {
    /// What follows `synth:`.
    pub name: &'static str,
    /// The repository on the Hugging Face Hub whose `config.json` the numbers are.
    pub source: &'static str,
    /// Parameters in millions, tied ones once, counted from the published shapes.
    pub parameters_millions: f64,
    config: &'static str,
}

impl Preset {
    /// Its configuration.
    ///
    /// # Errors
    /// Never, unless the table is damaged.
    pub fn config(&self) -> Result<ModelConfig> {
        ModelConfig::from_json(&format!("synth:{}", self.name), self.config.as_bytes())
    }
}

/// Every preset.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "distilbert-base",
        source: "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
        parameters_millions: 66.955,
        config: r#"{"architectures": ["DistilBertForSequenceClassification"], "vocab_size": 30522, "dim": 768,
            "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "max_position_embeddings": 512, "activation": "gelu",
            "id2label": {"0": "NEGATIVE", "1": "POSITIVE"}, "pad_token_id": 0, "torch_dtype": "float32"}"#,
    },
    Preset {
        name: "tinybert",
        source: "huawei-noah/TinyBERT_General_4L_312D",
        parameters_millions: 14.351,
        config: r#"{"architectures": ["BertForSequenceClassification"], "vocab_size": 30522, "hidden_size": 312,
            "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 1200, "hidden_act": "gelu",
            "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0, "torch_dtype": "float32"}"#,
    },
    Preset {
        name: "tinybert-6l",
        source: "huawei-noah/TinyBERT_General_6L_768D",
        parameters_millions: 66.957,
        config: r#"{"architectures": ["BertForSequenceClassification"], "vocab_size": 30522, "hidden_size": 768,
            "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu",
            "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0, "torch_dtype": "float32"}"#,
    },
    Preset {
        name: "bert-base",
        source: "google-bert/bert-base-uncased",
        parameters_millions: 109.484,
        config: r#"{"architectures": ["BertForSequenceClassification"], "vocab_size": 30522, "hidden_size": 768,
            "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu",
            "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0, "torch_dtype": "float32"}"#,
    },
    Preset {
        name: "bert-large",
        source: "google-bert/bert-large-uncased",
        parameters_millions: 335.144,
        config: r#"{"architectures": ["BertForSequenceClassification"], "vocab_size": 30522, "hidden_size": 1024,
            "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "hidden_act": "gelu",
            "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0, "torch_dtype": "float32"}"#,
    },
    Preset {
        name: "minilm-l6",
        source: "sentence-transformers/all-MiniLM-L6-v2",
        parameters_millions: 22.565,
        config: r#"{"architectures": ["BertModel"], "vocab_size": 30522, "hidden_size": 384,
            "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536, "hidden_act": "gelu",
            "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0, "torch_dtype": "float32"}"#,
    },
    Preset {
        name: "roberta-base",
        source: "FacebookAI/roberta-base",
        parameters_millions: 124.647,
        config: r#"{"architectures": ["RobertaForSequenceClassification"], "vocab_size": 50265, "hidden_size": 768,
            "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu",
            "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5,
            "torch_dtype": "float32"}"#,
    },
    Preset {
        name: "gpt2",
        source: "openai-community/gpt2",
        parameters_millions: 124.440,
        config: r#"{"architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_positions": 1024, "n_embd": 768,
            "n_layer": 12, "n_head": 12, "activation_function": "gelu_new", "eos_token_id": 50256,
            "torch_dtype": "float32"}"#,
    },
    Preset {
        name: "gpt2-medium",
        source: "openai-community/gpt2-medium",
        parameters_millions: 354.823,
        config: r#"{"architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_positions": 1024, "n_embd": 1024,
            "n_layer": 24, "n_head": 16, "activation_function": "gelu_new", "eos_token_id": 50256,
            "torch_dtype": "float32"}"#,
    },
    Preset {
        name: "gpt2-large",
        source: "openai-community/gpt2-large",
        parameters_millions: 774.030,
        config: r#"{"architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_positions": 1024, "n_embd": 1280,
            "n_layer": 36, "n_head": 20, "activation_function": "gelu_new", "eos_token_id": 50256,
            "torch_dtype": "float32"}"#,
    },
    Preset {
        name: "gpt2-xl",
        source: "openai-community/gpt2-xl",
        parameters_millions: 1557.611,
        config: r#"{"architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_positions": 1024, "n_embd": 1600,
            "n_layer": 48, "n_head": 25, "activation_function": "gelu_new", "eos_token_id": 50256,
            "torch_dtype": "float32"}"#,
    },
    Preset {
        name: "pythia-70m",
        source: "EleutherAI/pythia-70m",
        parameters_millions: 70.427,
        config: r#"{"architectures": ["GPTNeoXForCausalLM"], "vocab_size": 50304, "hidden_size": 512,
            "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048, "hidden_act": "gelu",
            "max_position_embeddings": 2048, "rotary_pct": 0.25, "rotary_emb_base": 10000, "layer_norm_eps": 1e-5,
            "use_parallel_residual": true, "eos_token_id": 0, "torch_dtype": "float16"}"#,
    },
    Preset {
        name: "bloom-560m",
        source: "bigscience/bloom-560m",
        parameters_millions: 559.215,
        config: r#"{"architectures": ["BloomForCausalLM"], "vocab_size": 250880, "hidden_size": 1024, "n_layer": 24,
            "n_head": 16, "layer_norm_epsilon": 1e-5, "seq_length": 2048, "eos_token_id": 2,
            "torch_dtype": "float16"}"#,
    },
    Preset {
        name: "bloomz-7b1",
        source: "bigscience/bloomz-7b1",
        parameters_millions: 7069.016,
        config: r#"{"architectures": ["BloomForCausalLM"], "vocab_size": 250880, "hidden_size": 4096, "n_layer": 30,
            "n_head": 32, "layer_norm_epsilon": 1e-5, "seq_length": 2048, "eos_token_id": 2,
            "torch_dtype": "float16"}"#,
    },
    Preset {
        name: "tinyllama-1.1b",
        source: "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        parameters_millions: 1100.048,
        config: r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 2048,
            "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "intermediate_size": 5632,
            "hidden_act": "silu", "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "eos_token_id": 2,
            "tie_word_embeddings": false, "torch_dtype": "bfloat16"}"#,
    },
    Preset {
        name: "llama-7b",
        source: "meta-llama/Llama-2-7b-hf",
        parameters_millions: 6738.416,
        config: r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 4096,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 11008,
            "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "eos_token_id": 2,
            "tie_word_embeddings": false, "torch_dtype": "float16"}"#,
    },
    Preset {
        name: "llama-3.1-8b",
        source: "meta-llama/Llama-3.1-8B",
        parameters_millions: 8030.261,
        config: r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 4096,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
            "hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}, "eos_token_id": 128001, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16"}"#,
    },
    Preset {
        name: "mistral-7b",
        source: "mistralai/Mistral-7B-v0.1",
        parameters_millions: 7241.732,
        config: r#"{"architectures": ["MistralForCausalLM"], "vocab_size": 32000, "hidden_size": 4096,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
            "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "sliding_window": 4096, "eos_token_id": 2, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}"#,
    },
    Preset {
        name: "neural-chat-7b",
        source: "Intel/neural-chat-7b-v3-1",
        parameters_millions: 7241.732,
        config: r#"{"architectures": ["MistralForCausalLM"], "vocab_size": 32000, "hidden_size": 4096,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
            "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "sliding_window": 4096, "eos_token_id": 2, "tie_word_embeddings": false, "torch_dtype": "float16"}"#,
    },
    Preset {
        name: "yi-6b",
        source: "01-ai/Yi-6B",
        parameters_millions: 6061.036,
        config: r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 64000, "hidden_size": 4096,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 4, "intermediate_size": 11008,
            "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 5000000.0,
            "eos_token_id": 2, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}"#,
    },
    Preset {
        name: "qwen2.5-0.5b",
        source: "Qwen/Qwen2.5-0.5B",
        parameters_millions: 494.033,
        config: r#"{"architectures": ["Qwen2ForCausalLM"], "vocab_size": 151936, "hidden_size": 896,
            "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
            "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
            "use_sliding_window": false, "eos_token_id": 151643, "tie_word_embeddings": true,
            "torch_dtype": "bfloat16"}"#,
    },
    Preset {
        name: "qwen2.5-7b",
        source: "Qwen/Qwen2.5-7B",
        parameters_millions: 7615.617,
        config: r#"{"architectures": ["Qwen2ForCausalLM"], "vocab_size": 152064, "hidden_size": 3584,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944,
            "hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
            "use_sliding_window": false, "eos_token_id": 151643, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16"}"#,
    },
    Preset {
        name: "deepseek-r1-distill-qwen-1.5b",
        source: "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        parameters_millions: 1777.088,
        config: r#"{"architectures": ["Qwen2ForCausalLM"], "vocab_size": 151936, "hidden_size": 1536,
            "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 8960,
            "hidden_act": "silu", "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
            "use_sliding_window": false, "eos_token_id": 151643, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16"}"#,
    },
];
