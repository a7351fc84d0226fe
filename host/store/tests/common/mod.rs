//! What the tests share: a run to write, tensors to save, and random numbers from a printed seed.
#![allow(dead_code)]

use solstice_store::{At, DType, NewCheckpoint, NewRun, Tensor};

pub fn new_run() -> NewRun {
    NewRun {
        name: "mnist-convnet".to_string(),
        recipe: "Recipe(model: \"convnet\")".to_string(),
        config: serde_json::json!({"optimizer": {"lr": 0.001}}),
        seed: u64::MAX,
        ..NewRun::default()
    }
}

pub fn checkpoint_at(step: u64) -> NewCheckpoint {
    NewCheckpoint {
        at: At { step, epoch: step as f64 / 100.0, samples: step * 64 },
        position: step * 64 % 6400,
        reason: "cadence".to_string(),
        metrics: [("val/loss".to_string(), 0.5), ("val/odd".to_string(), f64::NAN), ("val/far".to_string(), f64::NEG_INFINITY)].into(),
        pinned: false,
        metadata: [("config".to_string(), "{\"lr\": \"µ\"}".to_string())].into(),
    }
}

pub fn tensors() -> Vec<Tensor> {
    let f32_bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    vec![
        Tensor {
            name: "conv1.weight".into(),
            dtype: DType::F32,
            shape: vec![2, 3],
            bytes: f32_bytes(&[1.0, f32::NAN, f32::INFINITY, -0.0, 1e-45, 3.5]),
        },
        Tensor { name: "step".into(), dtype: DType::U32, shape: vec![], bytes: 0xdead_beef_u32.to_le_bytes().to_vec() },
        Tensor {
            name: "label".into(),
            dtype: DType::I32,
            shape: vec![2],
            bytes: [-1i32, i32::MIN].iter().flat_map(|value| value.to_le_bytes()).collect(),
        },
        Tensor { name: "mask".into(), dtype: DType::Bool, shape: vec![3], bytes: vec![0, 1, 1] },
        Tensor { name: "empty".into(), dtype: DType::F32, shape: vec![0, 7], bytes: vec![] },
        Tensor { name: "also-empty".into(), dtype: DType::F32, shape: vec![0], bytes: vec![] },
    ]
}

/// SplitMix64, after Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
