//! From a recipe to graphs: components found, settings validated by their plugins, the experiment traced with the others behind handles.

use crate::loader::{Catalog, DatasetHandle, ExperimentHandle, Plugin, PluginError, TracedHandle};
use crate::recipe::{ComponentText, Recipe, RecipeError, ResolvedComponent, ResolvedRecipe, set_field};
use anyhow::{Context, Result};
use solstice_ir::{Graph, Op, Parameter, Role, TensorType};
use solstice_plugin_abi::wire::{DatasetSpec, Kind, StepRequest, StepTrace, TraceRequest};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A recipe with its components created.
pub struct Assembly {
    /// Canonical settings.
    pub resolved: ResolvedRecipe,
    /// The data set, not yet opened.
    pub dataset: Arc<DatasetHandle>,
    /// The plugins behind the components, each once.
    pub plugins: Vec<Arc<Plugin>>,
    experiment: ExperimentHandle,
    traced: BTreeMap<String, TracedHandle>,
    metric_names: Vec<(String, String)>,
}

impl Assembly {
    /// Validates every component and creates it. Reads no data.
    pub fn new(recipe: &Recipe, catalog: &Catalog) -> Result<Assembly> {
        let resolved = resolve(recipe, catalog)?;
        let text = |component: &ResolvedComponent| component.config.to_string();
        let part = |slot: &str| &resolved.components[slot];
        let mut plugins: Vec<Arc<Plugin>> = vec![];
        let mut plugin_of = |kind: Kind, id: &str| -> Result<Arc<Plugin>> {
            let plugin = catalog.plugin(kind, id)?;
            if !plugins.iter().any(|known| known.path == plugin.path) {
                plugins.push(plugin.clone());
            }
            Ok(plugin)
        };
        let dataset = part("dataset");
        let dataset = plugin_of(Kind::Dataset, &dataset.id)?.create_dataset(&dataset.id, &text(dataset))?;
        let experiment = part("experiment");
        let experiment = plugin_of(Kind::Experiment, &experiment.id)?.create_experiment(&experiment.id, &text(experiment))?;
        let mut traced = BTreeMap::new();
        for (slot, kind) in [("model", Kind::Model), ("optimizer", Kind::Optimizer), ("schedule", Kind::LrSchedule)] {
            let component = part(slot);
            let handle = plugin_of(kind, &component.id)?.create_traced(kind, &component.id, &text(component))?;
            traced.insert(slot.to_owned(), handle);
        }
        let mut metric_names = vec![];
        for (index, component) in resolved.metrics.iter().enumerate() {
            let slot = format!("metrics.{index}");
            let handle = plugin_of(Kind::Metric, &component.id)?.create_traced(Kind::Metric, &component.id, &text(component))?;
            traced.insert(slot.clone(), handle);
            // The accumulators of two metrics of one kind must not share a name.
            let repeated = resolved.metrics[..index].iter().any(|other| other.id == component.id);
            let name = if repeated { format!("{}.{index}", component.id) } else { component.id.clone() };
            metric_names.push((slot, name));
        }
        Ok(Assembly { resolved, dataset: Arc::new(dataset), plugins, experiment, traced, metric_names })
    }

    /// Finds, downloads and reads the data.
    pub fn open_data(&self) -> Result<DatasetSpec> {
        self.dataset.open()?;
        Ok(self.dataset.spec()?)
    }

    /// The experiment's graph for one split; `batch.*` are still plain inputs.
    pub fn step(&self, entry: &str, split: &str, spec: &DatasetSpec) -> Result<StepTrace> {
        let request = StepRequest {
            split: split.into(),
            batch_size: self.resolved.trainer.batch_size,
            fields: spec.fields.clone(),
            metrics: self.metric_names.clone(),
            facts: spec.facts.clone(),
            norms: self.resolved.trainer.norms,
        };
        let tracer = |slot: &str, entry: &str, request: &TraceRequest| -> Result<Graph, PluginError> {
            match self.traced.get(slot) {
                Some(handle) => handle.trace(entry, request),
                None => Err(PluginError::unknown_component(slot, self.traced.keys().map(String::as_str))),
            }
        };
        Ok(self.experiment.trace(entry, &request, &tracer)?)
    }
}

/// Checks every component's settings with its plugin and applies the overrides.
pub fn resolve(recipe: &Recipe, catalog: &Catalog) -> Result<ResolvedRecipe> {
    let kinds = [
        ("experiment", Kind::Experiment),
        ("model", Kind::Model),
        ("dataset", Kind::Dataset),
        ("optimizer", Kind::Optimizer),
        ("schedule", Kind::LrSchedule),
    ];
    let mut components = BTreeMap::new();
    for (slot, kind) in kinds {
        components.insert(slot.to_owned(), resolve_component(recipe, slot, kind, catalog)?);
    }
    let metrics = (0..recipe.metrics.len())
        .map(|index| resolve_component(recipe, &format!("metrics.{index}"), Kind::Metric, catalog))
        .collect::<Result<_>>()?;
    Ok(ResolvedRecipe { name: recipe.name.clone(), expect: recipe.expect.clone(), components, metrics, trainer: recipe.trainer.clone() })
}

fn resolve_component(recipe: &Recipe, slot: &str, kind: Kind, catalog: &Catalog) -> Result<ResolvedComponent> {
    let ComponentText { id, config } = recipe.component(slot);
    let plugin = catalog.plugin(kind, id).with_context(|| format!("recipe `{}`, {slot}", recipe.name))?;
    let mut value = plugin.validate_config(kind, id, config).with_context(|| format!("recipe `{}`, {slot}", recipe.name))?;
    let mut changed = false;
    for change in recipe.overrides.iter().filter(|change| change.slot == slot) {
        let place = format!("--set {slot}.{}={}", change.path.join("."), change.value);
        set_field(&mut value, &change.path, &change.value).map_err(|message| RecipeError(format!("{place}: `{id}`: {message}")))?;
        changed = true;
    }
    if changed {
        value = plugin.validate_config(kind, id, &value.to_string()).with_context(|| {
            let all: Vec<String> = recipe
                .overrides
                .iter()
                .filter(|change| change.slot == slot)
                .map(|change| format!("--set {slot}.{}={}", change.path.join("."), change.value))
                .collect();
            all.join(" ")
        })?;
    }
    Ok(ResolvedComponent { id: id.clone(), config: value })
}

/// Name of the resident table of a field.
pub fn table_name(split: &str, field: &str) -> String {
    format!("data.{split}.{field}")
}

/// Name of the input that carries the sample numbers of a resident batch: i32 `[batch]`.
pub const BATCH_INDEX: &str = "batch.index";

/// The graph with each input `batch.<field>` replaced by a gather from the resident table of that field (`[len, ..]`) at `batch.index`.
pub fn with_resident_tables(graph: &Graph, split: &str, len: u64, batch_size: usize) -> Graph {
    let mut out = Graph::new(graph.name.clone());
    let empty: Arc<str> = Arc::from("");
    let parameter = |name: String, role: Role| Op::Parameter(Parameter { name, role, init: None });
    let index_ty = TensorType::new(solstice_ir::DType::I32, [batch_size]);
    let index = out.push_typed(parameter(BATCH_INDEX.into(), Role::Input), vec![], index_ty, empty.clone(), empty.clone());
    let mut places = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let field = match &node.op {
            Op::Parameter(parameter) if parameter.role == Role::Input && parameter.name != "batch.mask" => {
                parameter.name.strip_prefix("batch.")
            }
            _ => None,
        };
        let place = match field {
            Some(field) => {
                let mut shape = node.ty.shape.clone();
                shape[0] = len as usize;
                let table_ty = TensorType::new(node.ty.dtype, shape);
                let table = out.push_typed(
                    parameter(table_name(split, field), Role::Table),
                    vec![],
                    table_ty,
                    node.scope.clone(),
                    node.location.clone(),
                );
                let gather = Op::Gather { axis: 0, batch_dims: 0 };
                out.push_typed(gather, vec![table, index], node.ty.clone(), node.scope.clone(), node.location.clone())
            }
            None => {
                let inputs = node.inputs.iter().map(|input| places[input.index()]).collect();
                out.push_typed(node.op.clone(), inputs, node.ty.clone(), node.scope.clone(), node.location.clone())
            }
        };
        places.push(place);
    }
    out.outputs = graph.outputs.iter().map(|output| solstice_ir::Output { node: places[output.node.index()], ..output.clone() }).collect();
    out.updates = graph.updates.iter().map(|update| solstice_ir::Update { node: places[update.node.index()], ..update.clone() }).collect();
    out
}
