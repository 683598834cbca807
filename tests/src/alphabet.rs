//! A model that recites the alphabet, for tests that do not depend on the answer: a GGUF file of one layer that real
//! engines load, thousands of times cheaper under emulation than the default model.
//!
//! Embeddings are one-hot and every layer adds zero, so the last token alone determines the next one: `b` follows
//! `a`, and `a` follows `z` and every token that is not a letter. At a temperature above zero the next token may be
//! any letter or one of a few long words. In a prompt, one byte is one token.

/// Embedding length: at least one dimension per token of the vocabulary, and a multiple of the number of heads.
const WIDTH: usize = 320;
const HEADS: u32 = 5;
/// Context length in tokens: the longest conversation.
pub const CONTEXT: u32 = 1024;
/// Tokens that are not bytes. The first is the end-of-sequence token; the model never generates it.
const SPECIAL: [&str; 3] = ["<|im_end|>", "<|im_start|>", "<|endoftext|>"];
/// Number of words in the vocabulary: `la` repeated, 4 to 42 letters long.
const WORDS: usize = 20;
/// The last tokens of the vocabulary: the beginning of a tool call, and what ends it. A logit bias makes the model write them.
const CALL: [&str; 2] = ["<tool_call>{\"name\":\"weather\"", "</tool_call>"];
/// Weight of the next letter. Other letters and words have 0, so the difference is small against the noise of a
/// temperature above zero. All other tokens have -1. The norm before makes the logits 18 times as large, the root of [`WIDTH`].
const WANTED: f32 = 0.02;
const TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Returns the first `count` letters of the model's answer.
pub fn answer(count: usize) -> String {
    ('a'..='z').cycle().take(count).collect()
}

/// Returns the complete GGUF file, with one layer.
pub fn gguf() -> Vec<u8> {
    of_layers(1)
}

/// Returns the same model with `layers` layers. Each one costs time and 3 MB, and none changes an answer.
pub fn of_layers(layers: u32) -> Vec<u8> {
    let tokens = tokens();
    let vocabulary = tokens.len();
    let square = || vec![0.0; WIDTH * WIDTH];
    let ones = || vec![1.0; WIDTH];
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = vec![
        (
            "token_embd.weight".into(),
            vec![WIDTH, vocabulary],
            one_hot(vocabulary),
        ),
        ("output_norm.weight".into(), vec![WIDTH], ones()),
        (
            "output.weight".into(),
            vec![WIDTH, vocabulary],
            successors(vocabulary),
        ),
    ];
    for layer in 0..layers {
        for name in ["attn_norm", "ffn_norm"] {
            let name = format!("blk.{layer}.{name}.weight");
            tensors.push((name, vec![WIDTH], ones()));
        }
        for name in [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ] {
            let name = format!("blk.{layer}.{name}.weight");
            tensors.push((name, vec![WIDTH, WIDTH], square()));
        }
    }

    let width = u32::try_from(WIDTH).unwrap_or(u32::MAX);
    let special = 256..256 + SPECIAL.len();
    let types: Vec<i32> = (0..vocabulary)
        .map(|token| if special.contains(&token) { 3 } else { 1 })
        .collect();
    let mut values = Values::default();
    values.text("general.architecture", "llama");
    values.number("llama.block_count", layers);
    values.number("llama.context_length", CONTEXT);
    values.number("llama.embedding_length", width);
    values.number("llama.feed_forward_length", width);
    values.number("llama.attention.head_count", HEADS);
    values.number("llama.attention.head_count_kv", HEADS);
    values.number("llama.rope.dimension_count", width / HEADS);
    values.real("llama.attention.layer_norm_rms_epsilon", 1e-5);
    values.text("tokenizer.ggml.model", "gpt2");
    values.texts("tokenizer.ggml.tokens", &tokens);
    values.texts("tokenizer.ggml.merges", &[]);
    values.integers("tokenizer.ggml.token_type", &types);
    values.number("tokenizer.ggml.eos_token_id", 256);
    values.number("tokenizer.ggml.bos_token_id", 258);
    values.text("tokenizer.chat_template", TEMPLATE);
    file(&values, &tensors)
}

/// Returns the vocabulary: the 256 bytes, the special tokens, the words and the parts of a call. Byte-level tokenizers write
/// each byte that is not printable as a character beyond U+00FF.
fn tokens() -> Vec<String> {
    let mut beyond = 256..;
    let bytes = (0..=255_u8).map(|byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte).to_string(),
        _ => beyond
            .next()
            .and_then(char::from_u32)
            .unwrap_or_default()
            .to_string(),
    });
    bytes
        .chain(SPECIAL.iter().map(|token| (*token).to_owned()))
        .chain((2..2 + WORDS).map(|times| "la".repeat(times)))
        .chain(CALL.iter().map(|token| (*token).to_owned()))
        .collect()
}

fn one_hot(vocabulary: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; vocabulary * WIDTH];
    for token in 0..vocabulary {
        matrix[token * WIDTH + token] = 1.0;
    }
    matrix
}

/// Returns the output matrix: one row per next token, one column per previous token.
fn successors(vocabulary: usize) -> Vec<f32> {
    let letters = usize::from(b'a')..=usize::from(b'z');
    let words = vocabulary - CALL.len() - WORDS..vocabulary - CALL.len();
    let mut matrix = vec![0.0; vocabulary * WIDTH];
    for (token, row) in matrix.chunks_mut(WIDTH).enumerate() {
        if !letters.contains(&token) && !words.contains(&token) {
            row.fill(-1.0);
        }
    }
    for before in 0..vocabulary {
        let next = if letters.contains(&before) && before != *letters.end() {
            before + 1
        } else {
            *letters.start()
        };
        matrix[next * WIDTH + before] = WANTED;
    }
    matrix
}

/// Metadata of the file, in the value types of GGUF version 3.
#[derive(Default)]
struct Values {
    count: u64,
    bytes: Vec<u8>,
}

impl Values {
    fn key(&mut self, name: &str, kind: u32) {
        self.count += 1;
        text(&mut self.bytes, name);
        self.bytes.extend(kind.to_le_bytes());
    }

    fn number(&mut self, name: &str, value: u32) {
        self.key(name, 4);
        self.bytes.extend(value.to_le_bytes());
    }

    fn real(&mut self, name: &str, value: f32) {
        self.key(name, 6);
        self.bytes.extend(value.to_le_bytes());
    }

    fn text(&mut self, name: &str, value: &str) {
        self.key(name, 8);
        text(&mut self.bytes, value);
    }

    fn texts(&mut self, name: &str, values: &[String]) {
        self.list(name, 8, values.len());
        values.iter().for_each(|value| text(&mut self.bytes, value));
    }

    fn integers(&mut self, name: &str, values: &[i32]) {
        self.list(name, 5, values.len());
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.bytes.extend(bytes);
    }

    fn list(&mut self, name: &str, kind: u32, length: usize) {
        self.key(name, 9);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((length as u64).to_le_bytes());
    }
}

fn text(bytes: &mut Vec<u8>, value: &str) {
    bytes.extend((value.len() as u64).to_le_bytes());
    bytes.extend(value.as_bytes());
}

/// Encodes the header, the metadata, the tensor table, and the tensors' data in the same order, aligned to 32 bytes.
fn file(values: &Values, tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(values.count.to_le_bytes());
    bytes.extend(&values.bytes);
    let mut data = Vec::new();
    for (name, shape, numbers) in tensors {
        text(&mut bytes, name);
        bytes.extend(u32::try_from(shape.len()).unwrap_or(0).to_le_bytes());
        for length in shape {
            bytes.extend((*length as u64).to_le_bytes());
        }
        // Tensor type: F32.
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        data.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    bytes
}
