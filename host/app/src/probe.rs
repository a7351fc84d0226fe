//! Answers to what callbacks ask about a run: state, gradients, samples, predictions. Programs for it are compiled when first asked for.

use crate::train::{Run, fill_mask};
use anyhow::{Context, Result, bail};
use solstice_engine::{CompileOptions, ProgramId, Session, compile};
use solstice_ir::{DType, Graph, NodeId, Output, TensorType};
use solstice_plugin_abi::run::{NamedTensor, Question};
use solstice_plugin_abi::wire::StepTrace;
use std::collections::BTreeMap;

impl Run {
    /// The answer to one question. Waits for the device; changes nothing.
    pub fn answer(&mut self, question: &Question, tensors: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        match question {
            Question::States => Ok(self.state_list()),
            Question::State { name } => {
                let Some(ty) = self.session.states().get(name).cloned() else { bail!("the run has no state tensor `{name}`") };
                let bytes = self.session.read_state(name)?;
                Ok(vec![NamedTensor { name: name.clone(), ty, role: None, bytes }])
            }
            Question::Gradients => self.gradients(),
            Question::Samples { split, indices } => self.samples(split, indices),
            Question::Predict => self.predict(tensors),
            Question::Live { key } => {
                let Some(value) = self.live().get(key) else { bail!("the run has no live scalar `{key}`") };
                let bytes = (*value as f32).to_le_bytes().to_vec();
                Ok(vec![NamedTensor { name: key.clone(), ty: TensorType::new(DType::F32, []), role: None, bytes }])
            }
        }
    }

    fn state_list(&self) -> Vec<NamedTensor> {
        let roles: BTreeMap<&str, _> =
            self.train.trace.graph.parameters().map(|(_, parameter, _)| (parameter.name.as_str(), parameter.role)).collect();
        let states = self.session.states().iter();
        let named = states.map(|(name, ty)| (roles.get(name.as_str()).copied(), name, ty));
        named.map(|(role, name, ty)| NamedTensor { name: name.clone(), ty: ty.clone(), role, bytes: vec![] }).collect()
    }

    fn gradients(&mut self) -> Result<Vec<NamedTensor>> {
        if self.step == 0 {
            bail!("there are no gradients before the first step");
        }
        let trace = &self.train.trace;
        if trace.gradients.is_empty() {
            bail!("the experiment does not tell its gradients: it was built for an older ABI, or trains by other means than `minimize`");
        }
        if self.probes.gradients.is_none() {
            self.probes.gradients = Some(load_probe(&mut self.session, trace, &trace.gradients).context("the gradients")?);
        }
        let program = self.probes.gradients.expect("compiled above");
        let loaded = self.load_step(self.step - 1)?;
        let (inputs, scalars) = self.step_inputs(self.step - 1, &loaded);
        run_probe(&mut self.session, program, &inputs, &scalars)
    }

    fn samples(&self, split: &str, indices: &[u64]) -> Result<Vec<NamedTensor>> {
        let programs = std::iter::once(&self.train).chain(&self.evaluations);
        let mut datas = programs.map(|program| &program.data);
        let Some(data) = datas.find(|data| data.split == split) else { bail!("the run has no split `{split}`") };
        if indices.is_empty() || indices.len() > self.batch_size {
            bail!("wanted 1 to {} samples (a batch), got {}", self.batch_size, indices.len());
        }
        let fields = data.fill(0, indices, indices.len())?;
        let tensor = |(field, bytes): (&solstice_plugin_abi::wire::Field, Vec<u8>)| {
            let shape: Vec<usize> = std::iter::once(indices.len()).chain(field.shape.iter().copied()).collect();
            NamedTensor { name: field.name.clone(), ty: TensorType::new(field.dtype, shape), role: None, bytes }
        };
        Ok(data.fields.iter().zip(fields).map(tensor).collect())
    }

    fn predict(&mut self, given: &[NamedTensor]) -> Result<Vec<NamedTensor>> {
        let Some(evaluation) = self.evaluations.first() else { bail!("predictions need a split that is evaluated, and the run has none") };
        let trace = &evaluation.trace;
        if trace.observed.is_empty() {
            bail!("the experiment observes nothing in an evaluation step");
        }
        let count = given.first().and_then(|tensor| tensor.ty.shape.first()).copied().unwrap_or(0);
        if count == 0 || count > self.batch_size {
            bail!("wanted 1 to {} samples (a batch), got {count}", self.batch_size);
        }
        let mut inputs = vec![];
        for field in &evaluation.data.fields {
            let mut bytes = vec![0; field.sample_bytes() * self.batch_size];
            if let Some(tensor) = given.iter().find(|tensor| tensor.name == field.name) {
                let wanted = field.sample_bytes() * count;
                if tensor.bytes.len() != wanted || tensor.ty.dtype != field.dtype {
                    let found = (&tensor.ty, tensor.bytes.len());
                    bail!(
                        "`{}` must be {} with {wanted} bytes for {count} samples, got {} with {}",
                        field.name,
                        field.dtype,
                        found.0,
                        found.1
                    );
                }
                bytes[..wanted].copy_from_slice(&tensor.bytes);
            }
            inputs.push((format!("batch.{}", field.name), bytes));
        }
        let mut mask = vec![];
        fill_mask(&mut mask, count, self.batch_size);
        inputs.push(("batch.mask".into(), mask));
        let scalars = self.evaluation_scalars(evaluation);
        if self.probes.predict.is_none() {
            self.probes.predict = Some(load_probe(&mut self.session, trace, &trace.observed).context("the predictions")?);
        }
        let program = self.probes.predict.expect("compiled above");
        let mut answers = run_probe(&mut self.session, program, &inputs, &scalars)?;
        for answer in &mut answers {
            // Rows of the padding are nobody's.
            if answer.ty.shape.first() == Some(&self.batch_size) {
                answer.bytes.truncate(answer.bytes.len() / self.batch_size * count);
                answer.ty.shape[0] = count;
            }
        }
        Ok(answers)
    }
}

/// The step with other outputs and without effects.
fn load_probe(session: &mut Session, trace: &StepTrace, outputs: &BTreeMap<String, NodeId>) -> Result<ProgramId> {
    let mut graph: Graph = trace.graph.clone();
    graph.updates.clear();
    graph.outputs = outputs.iter().map(|(name, node)| Output { name: name.clone(), node: *node }).collect();
    Ok(session.load(compile(&graph, &CompileOptions::default())?.plan)?)
}

fn run_probe(
    session: &mut Session,
    program: ProgramId,
    inputs: &[(String, Vec<u8>)],
    scalars: &[(String, u32)],
) -> Result<Vec<NamedTensor>> {
    let inputs: Vec<(&str, &[u8])> = inputs.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let scalars: Vec<(&str, u32)> = scalars.iter().map(|(name, bits)| (name.as_str(), *bits)).collect();
    let values = session.run(program, &inputs, &scalars)?;
    let ports = session.plan(program).outputs.iter();
    Ok(ports.zip(values).map(|(port, bytes)| NamedTensor { name: port.name.clone(), ty: port.ty.clone(), role: None, bytes }).collect())
}
