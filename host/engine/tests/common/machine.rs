//! A graph run step after step on any device: state by name, inputs and scalars as f64, results as f64.

use solstice_engine::cpu::CpuRuntime;
use solstice_engine::reference::{self, Tensor};
use solstice_engine::{CompileOptions, ProgramId, Runtime, Session, compile, gpu, init};
use solstice_ir::{DType, Graph, Role, TensorType};
use std::collections::BTreeMap;

/// Where a graph runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The oracle, in f64.
    Reference,
    /// Native code.
    Cpu,
    /// WGSL on the first adapter.
    Gpu,
}

impl Device {
    /// `exact` on the oracle, `rounded` on a device.
    pub fn pick(self, exact: f64, rounded: f64) -> f64 {
        if self == Device::Reference { exact } else { rounded }
    }

    fn open(self) -> Option<Box<dyn Runtime>> {
        match self {
            Device::Reference => None,
            Device::Cpu => Some(Box::new(CpuRuntime::new(Some(2)).expect("threads start"))),
            Device::Gpu => Some(open_gpu()),
        }
    }
}

// A real GPU before a software one.
fn open_gpu() -> Box<dyn Runtime> {
    let adapter = gpu::adapters()
        .into_iter()
        .min_by_key(|adapter| adapter.is_software)
        .expect("an adapter: `cargo xtask setup` installs Mesa's software Vulkan");
    Box::new(gpu::GpuRuntime::new(&adapter).unwrap_or_else(|error| panic!("{}: {error}", adapter.name)))
}

/// A graph on a device with its state.
pub struct Machine {
    graph: Graph,
    /// State of the oracle; on a device the session has it.
    states: BTreeMap<String, Tensor>,
    loaded: Option<(Session, ProgramId)>,
}

impl Machine {
    /// The graph with its state at the start, for which `given` has values or the graph an `Init`.
    pub fn new(device: Device, graph: &Graph, given: &BTreeMap<String, Vec<f64>>) -> Machine {
        let mut states = BTreeMap::new();
        for (_, parameter, ty) in graph.parameters().filter(|(_, parameter, _)| parameter.role.is_state()) {
            let values = match (given.get(&parameter.name), &parameter.init) {
                (Some(values), _) => values.clone(),
                (None, Some(init)) => init::initial_values(init, &ty.shape, 0, &parameter.name),
                (None, None) => panic!("`{}` has no value", parameter.name),
            };
            states.insert(parameter.name.clone(), Tensor::from_f64(ty, &values));
        }
        let loaded = device.open().map(|runtime| {
            let mut session = Session::new(runtime);
            for (name, tensor) in &states {
                session.write_state(name, &tensor.ty, &to_bytes(tensor)).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            let stages = compile(graph, &CompileOptions::default()).unwrap_or_else(|error| panic!("{}: {error}", graph.name));
            let program = session.load(stages.plan).unwrap_or_else(|error| panic!("{}: {error}", graph.name));
            (session, program)
        });
        Machine { graph: graph.clone(), states, loaded }
    }

    /// One run: outputs by name. Scalars that are not among the inputs have their first value.
    pub fn run(&mut self, inputs: &[(&str, &[f64])]) -> BTreeMap<String, Vec<f64>> {
        let mut leaves = BTreeMap::new();
        let mut scalars = vec![];
        for (_, parameter, ty) in self.graph.parameters().filter(|(_, parameter, _)| !parameter.role.is_state()) {
            let name = parameter.name.as_str();
            let value = match inputs.iter().find(|(input, _)| *input == name) {
                Some((_, values)) => Tensor::from_f64(ty, values),
                None => {
                    let init = parameter.init.as_ref().unwrap_or_else(|| panic!("`{name}` was not given"));
                    Tensor::from_f64(ty, &init::initial_values(init, &ty.shape, 0, name))
                }
            };
            if parameter.role == Role::Scalar {
                scalars.push((name, u32::from_le_bytes(to_bytes(&value).try_into().expect("a scalar is a word"))));
            }
            leaves.insert(name.to_owned(), value);
        }
        let Some((session, program)) = &mut self.loaded else {
            leaves.extend(self.states.clone());
            let evaluation = reference::evaluate(&self.graph, &leaves).unwrap_or_else(|error| panic!("{}: {error}", self.graph.name));
            self.states.extend(evaluation.updates);
            return evaluation.outputs.into_iter().map(|(name, tensor)| (name, tensor.to_f64())).collect();
        };
        let bytes: Vec<(&str, Vec<u8>)> = leaves.iter().map(|(name, tensor)| (name.as_str(), to_bytes(tensor))).collect();
        let borrowed: Vec<(&str, &[u8])> = bytes.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
        let results = session.run(*program, &borrowed, &scalars).unwrap_or_else(|error| panic!("{}: {error}", self.graph.name));
        let outputs = self.graph.outputs.iter().map(|output| (output.name.clone(), self.graph.ty(output.node)));
        outputs.zip(results).map(|((name, ty), bytes)| (name, from_bytes(ty, &bytes))).collect()
    }

    /// A state tensor.
    pub fn state(&mut self, name: &str) -> Vec<f64> {
        let ty = self.states[name].ty.clone();
        match &mut self.loaded {
            Some((session, _)) => from_bytes(&ty, &session.read_state(name).unwrap_or_else(|error| panic!("{name}: {error}"))),
            None => self.states[name].to_f64(),
        }
    }

    /// Makes a state tensor zero, as the host does with a metric that it has reported.
    pub fn clear(&mut self, name: &str) {
        let ty = self.states[name].ty.clone();
        let zeros = Tensor::from_f64(&ty, &vec![0.0; ty.element_count()]);
        if let Some((session, _)) = &mut self.loaded {
            session.write_state(name, &ty, &to_bytes(&zeros)).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        self.states.insert(name.to_owned(), zeros);
    }
}

fn to_bytes(tensor: &Tensor) -> Vec<u8> {
    let values = tensor.to_f64();
    match tensor.ty.dtype {
        DType::F32 => values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect(),
        DType::I32 => values.iter().flat_map(|&value| (value as i32).to_le_bytes()).collect(),
        DType::U32 | DType::Bool => values.iter().flat_map(|&value| (value as u32).to_le_bytes()).collect(),
        DType::U8 => values.iter().map(|&value| value as u8).collect(),
    }
}

fn from_bytes(ty: &TensorType, bytes: &[u8]) -> Vec<f64> {
    let words = bytes.as_chunks::<4>().0.iter();
    match ty.dtype {
        DType::F32 => words.map(|word| f64::from(f32::from_le_bytes(*word))).collect(),
        DType::I32 => words.map(|word| f64::from(i32::from_le_bytes(*word))).collect(),
        DType::U32 | DType::Bool => words.map(|word| f64::from(u32::from_le_bytes(*word))).collect(),
        DType::U8 => bytes.iter().map(|&byte| f64::from(byte)).collect(),
    }
}
