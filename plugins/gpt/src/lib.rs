//! A decoder-only transformer.
//!
//! Source: karpathy/nanoGPT, `model.py` (GPT-2 in 300 lines), whose initial values, residual scaling and sharing of the first and last
//! matrix are kept.

use solstice_plugin_api::prelude::*;

/// Decoder-only transformer: tokens `[batch, time]` (i32) to logits `[batch, time, vocabulary]`.
#[config]
pub struct Gpt {
    /// Transformer blocks.
    #[schemars(range(min = 1, max = 256))]
    pub layers: u32,
    /// Attention heads; they share the width equally.
    #[schemars(range(min = 1, max = 256))]
    pub heads: u32,
    /// Width of the residual stream.
    #[schemars(range(min = 1, max = 65536))]
    pub width: u32,
    /// Longest sequence, in tokens; by default the length of the data set's samples.
    pub context: Option<u32>,
    /// Number of tokens; by default what the data set says (`vocabulary`).
    pub vocabulary: Option<u32>,
    /// Share of the values that training sets to zero after the embedding and at the end of each branch (not of the attention weights).
    #[schemars(range(min = 0.0, max = 0.95))]
    pub dropout: f64,
    /// Biases in the linear layers and norms.
    pub bias: bool,
    /// The last layer's matrix is that of the token embedding.
    pub tie_weights: bool,
}

impl Default for Gpt {
    // nanoGPT's setting for a laptop: `config/train_shakespeare_char.py` as its README shrinks it for CPUs.
    fn default() -> Self {
        Gpt { layers: 4, heads: 4, width: 128, context: None, vocabulary: None, dropout: 0.0, bias: false, tie_weights: true }
    }
}

/// Standard deviation of the initial weights. Source: nanoGPT, after GPT-2.
const WEIGHT_STD: f64 = 0.02;

impl Model for Gpt {
    const ID: &'static str = "gpt";

    fn forward(&self, g: &mut Graph, tokens: Tensor) -> Result<Tensor> {
        let &[_, time] = g.shape(tokens) else {
            return Err(Error::new(format!("gpt wants tokens [batch, time], got {}", g.ty(tokens))));
        };
        if !g.dtype(tokens).is_integer() {
            return Err(Error::new(format!("gpt wants whole numbers as tokens, got {}", g.ty(tokens))));
        }
        let vocabulary = self.vocabulary.map(|count| count as usize).or(g.fact("vocabulary"));
        let vocabulary = vocabulary.ok_or_else(|| Error::new("set `vocabulary`: the data set does not tell it"))?;
        let context = self.context.map_or(time, |length| length as usize);
        if time > context {
            return Err(Error::new(format!("samples of {time} tokens are longer than the context of {context}")));
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(Error::new(format!("a width of {} does not split into {} heads", self.width, self.heads)));
        }
        let width = self.width as usize;
        let token_weight = g.param("wte.weight", &[vocabulary, width], normal(WEIGHT_STD));
        let position_weight = g.param("wpe.weight", &[context, width], normal(WEIGHT_STD));
        let token = g.embedding_with(tokens, token_weight); // [batch, time, width]
        let position = g.slice(position_weight, 0, 0, time); // [time, width]
        let x = g.add(token, position);
        let mut x = g.dropout(x, self.dropout)?;
        for index in 0..self.layers {
            x = g.scope(&format!("block{index}"), |g| self.block(g, x))?;
        }
        let x = self.norm(g, "ln_f", x)?;
        if self.tie_weights { Ok(g.linear_with(x, token_weight, None)) } else { self.linear(g, "head", x, vocabulary, WEIGHT_STD, false) }
    }
}

impl Gpt {
    /// Attention and a two-layer perceptron, each on a normalised copy of the residual stream `[batch, time, width]`.
    fn block(&self, g: &mut Graph, x: Tensor) -> Result<Tensor> {
        let width = self.width as usize;
        // Every branch adds to the stream, so its last layer starts smaller by the root of their number. Source: GPT-2, nanoGPT.
        let branch_std = WEIGHT_STD / f64::from(2 * self.layers).sqrt();

        let h = self.norm(g, "ln1", x)?;
        let h = g.scope("attention", |g| {
            let all = self.linear(g, "qkv", h, 3 * width, WEIGHT_STD, self.bias)?; // [batch, time, 3 * width]
            let query = self.split_heads(g, all, 0);
            let key = self.split_heads(g, all, 1);
            let value = self.split_heads(g, all, 2);
            let mixed = g.scaled_dot_product_attention(query, key, value, true)?; // [batch, head, time, width / heads]
            let mixed = g.transpose(mixed, &[0, 2, 1, 3]);
            let shape = g.shape(x).to_vec();
            let mixed = g.reshape(mixed, &shape);
            self.linear(g, "proj", mixed, width, branch_std, self.bias)
        })?;
        let h = g.dropout(h, self.dropout)?;
        let x = g.add(x, h);

        let h = self.norm(g, "ln2", x)?;
        let h = g.scope("mlp", |g| {
            let h = self.linear(g, "fc", h, 4 * width, WEIGHT_STD, self.bias)?;
            let h = g.gelu(h);
            self.linear(g, "proj", h, width, branch_std, self.bias)
        })?;
        let h = g.dropout(h, self.dropout)?;
        Ok(g.add(x, h))
    }

    /// Third `part` of `[batch, time, 3 * width]` as `[batch, head, time, width / heads]`.
    fn split_heads(&self, g: &mut Graph, all: Tensor, part: usize) -> Tensor {
        let (width, heads) = (self.width as usize, self.heads as usize);
        let x = g.slice(all, 2, part * width, (part + 1) * width);
        let (batch, time) = (g.shape(x)[0], g.shape(x)[1]);
        let x = g.reshape(x, &[batch, time, heads, width / heads]);
        g.transpose(x, &[0, 2, 1, 3])
    }

    fn norm(&self, g: &mut Graph, name: &str, x: Tensor) -> Result<Tensor> {
        if self.bias { g.layer_norm(name, x) } else { g.layer_norm_no_bias(name, x) }
    }

    /// Dense layer over the last axis that starts with the deviation `std`.
    fn linear(&self, g: &mut Graph, name: &str, x: Tensor, outputs: usize, std: f64, bias: bool) -> Result<Tensor> {
        g.check()?;
        let inputs = g.shape(x)[g.shape(x).len() - 1];
        g.scope(name, |g| {
            let weight_out_in = g.param("weight", &[outputs, inputs], normal(std));
            let bias = bias.then(|| g.param("bias", &[outputs], Init::Constant(0.0)));
            Ok(g.linear_with(x, weight_out_in, bias))
        })
    }
}

fn normal(std: f64) -> Init {
    Init::Normal { mean: 0.0, std }
}

export_plugin! { models: [Gpt] }

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter_count(model: &Gpt) -> Result<usize> {
        let mut g = Graph::new("forward", true).with_facts([("vocabulary".to_owned(), 65.into())].into());
        let x = g.input("x", TensorType::new(DType::I32, [2, 64]));
        let y = model.forward(&mut g, x)?;
        assert_eq!(g.shape(y), [2, 64, 65]);
        let count = g.params().iter().map(|(_, weight)| g.ty(*weight).element_count()).sum();
        g.output("y", y);
        g.finish().map(|_| count)
    }

    #[test]
    fn parameters_are_those_of_nanogpt() -> Result<()> {
        // 65 * 128 tokens + 64 * 128 positions + 4 * (12 * 128 * 128 + 2 * 128) blocks + 128. nanoGPT prints 0.80M, which leaves the
        // positions out.
        assert_eq!(parameter_count(&Gpt::default())?, 804_096);
        assert_eq!(parameter_count(&Gpt { tie_weights: false, ..Gpt::default() })?, 804_096 + 65 * 128);
        // Biases: 3 + 1 + 4 + 1 widths of linear layers and 2 of norms a block, 1 for the last norm.
        assert_eq!(parameter_count(&Gpt { bias: true, ..Gpt::default() })?, 804_096 + 4 * 11 * 128 + 128);
        Ok(())
    }

    #[test]
    fn a_sample_longer_than_the_context_is_refused() {
        let refused = parameter_count(&Gpt { context: Some(63), ..Gpt::default() });
        assert!(refused.is_err_and(|error| error.message.contains("longer than the context")));
    }
}
